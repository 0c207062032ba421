"""Which records are mirrored to MLflow, and when."""

from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gim_bench.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from gim_bench.errors import TrackingError
    from gim_bench.progress import Progress
    from gim_bench.records.folder import RunsFolder
    from gim_bench.records.record import Record
    from gim_bench.settings.schema import Suite
    from gim_bench.tracking.client import Tracker


def mirror_cell(
    record: "Record", *, runs: "RunsFolder", tracker: "Tracker", progress: "Progress"
) -> None:
    """The record as an MLflow run, unless it is there already."""
    folder = runs.folder_of(record)
    with _noted([record], folder=folder, runs=runs, tracker=tracker, progress=progress) as needed:
        if needed:
            tracker.mirror(record, folder=folder)


def summarise(suite: str, *, runs: "RunsFolder", tracker: "Tracker", progress: "Progress") -> None:
    """Summary runs of all that is finished in the suite, unless they are there already."""
    from gim_bench.records.statistics import by_settings

    folder = runs.root / suite
    summed, found = None, by_settings(runs.records(suite))
    while found != summed:  # a process beside this one may finish a cell meanwhile
        records = [record for alike in found for record in alike]
        with _noted(records, folder=folder, runs=runs, tracker=tracker, progress=progress) as new:
            if new:
                tracker.summarise(suite, records)
        summed, found = found, by_settings(runs.records(suite))


@contextmanager
def _noted(
    records: "Sequence[Record]",
    *,
    folder: Path,
    runs: "RunsFolder",
    tracker: "Tracker",
    progress: "Progress",
) -> "Iterator[bool]":
    """Whether the block must mirror; a store that is away costs one line a run, never a cell."""
    from gim_bench.errors import TrackingError

    mirrored = runs.is_mirrored(records, folder=folder, to=tracker.destination)
    needed = not mirrored and not tracker.given_up
    try:
        yield needed
    except TrackingError as error:
        give_up(tracker, error, progress=progress)
    else:
        if needed:
            runs.note_mirrored(records, folder=folder, to=tracker.destination)


def give_up(tracker: "Tracker", error: "TrackingError", *, progress: "Progress") -> None:
    """Its time-outs are paid once, not at every cell."""
    tracker.given_up = True
    progress.say(f"not mirrored: {error}; the rest of this run is left for that, too")


def readers(
    suite: str | None, overrides: "Sequence[str]", *, runs: "RunsFolder"
) -> "Mapping[str, Callable[[], list[Record]]]":
    """What reads the records of each suite: all of them, with `--set` those with these settings.

    Raises: ConfigError where there is no record.
    """
    from gim_bench.settings.suites import load_suite

    if suite is None and overrides:
        raise ConfigError("--set is for the settings of one suite: add --suite")
    if suite is None:
        readers = {name: partial(runs.records, name) for name in runs.suites()}
    else:
        loaded = load_suite(suite, overrides=overrides)
        readers = {loaded.name: partial(_records_to_sync, loaded, runs, overrides)}
    if not any(read() for read in readers.values()):
        which = "" if suite is None else f" of suite {suite!r}"
        with_ = " with these settings" if overrides else ""
        raise ConfigError(
            f"no records{which}{with_} in {runs.root}: name the folder with --runs-dir"
        )
    return readers


def _records_to_sync(
    suite: "Suite", runs: "RunsFolder", overrides: "Sequence[str]"
) -> "list[Record]":
    from gim_bench.cells.resolve import describes

    return [
        record
        for record in runs.records(suite.name)
        if not overrides or describes(suite, record.config)
    ]


def sync_suite(
    suite: str, read: "Callable[[], list[Record]]", *, runs: "RunsFolder", tracker: "Tracker"
) -> None:
    """Prints a line for every run that is new in MLflow, and how many were there."""
    from gim_bench.tracking.entries import suite_entries

    written: dict[tuple[str, ...], bool] = {}  # by identity
    synced, records = None, read()
    while records != synced:  # a process beside this one may finish a cell meanwhile
        for entry in suite_entries(records, folder_of=runs.folder_of):
            identity = tuple(entry.identity.values())
            new = tracker.put(suite, entry)
            written[identity] = new or written.get(identity, False)
            if new:
                print(f"{suite}: new in MLflow: {entry.name}")
        synced, records = records, read()
    new_runs = sum(written.values())
    print(f"{suite}: {new_runs} new in MLflow, {len(written) - new_runs} there already")
