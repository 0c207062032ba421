"""Which records are mirrored to MLflow, and when.

While cells run, `mirror_cell`, `mirror_sweeps` and `summarise` mirror what has just been written.
The store itself is asked what it has, so that runs which were deleted there come back. A store that
fails is given up for the rest of the run with one line, so that its time-outs are paid once. `sync`
brings a store up to date with all records of a suite.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from gim_bench.errors import TrackingError
from gim_bench.progress import Progress
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record, Status
from gim_bench.records.statistics import by_settings
from gim_bench.tracking.addresses import sync_command
from gim_bench.tracking.client import Tracker
from gim_bench.tracking.entries import Entry, place_of, suite_entries
from gim_bench.tracking.live import LiveRuns


def mirror_cell(record: Record, *, runs: RunsFolder, tracker: Tracker, progress: Progress) -> None:
    """Mirror a cell as an MLflow run, unless the store has it already."""
    newest = _on_disk(record, runs)
    mirror = partial(tracker.mirror, newest, folder=runs.folder_of(newest))
    _send(mirror, runs=runs, tracker=tracker, progress=progress)


def mirror_sweeps(
    record: Record, *, runs: RunsFolder, tracker: Tracker, progress: Progress
) -> None:
    """Mirror the sweeps of a cell as an MLflow run with a child run for each trial.

    A cell that was run again since has none.
    """
    newest = _on_disk(record, runs)
    if newest.sweeps:
        mirror = partial(tracker.mirror_sweeps, newest, folder=runs.folder_of(newest))
        _send(mirror, runs=runs, tracker=tracker, progress=progress)


def _on_disk(record: Record, runs: RunsFolder) -> Record:
    """The record that the cell has now: another process may have run the cell again.

    It is the given one where none is whole on the disk, or where the cell is running.
    """
    found = runs.find(record.suite, record.method, seed=record.seed, key=record.key)
    return record if found is None or found.status is Status.RUNNING else found


def summarise(suite: str, *, runs: RunsFolder, tracker: Tracker, progress: Progress) -> None:
    """Mirror a summary of each method of a suite, unless the store has them already."""
    place = place_of(runs.root)
    summarised: list[list[Record]] | None = None
    # Another process may finish a cell meanwhile.
    while (groups := by_settings(runs.records(suite))) != summarised:
        records = [record for group in groups for record in group]
        mirror = partial(tracker.summarise, suite, records, place=place)
        _send(mirror, runs=runs, tracker=tracker, progress=progress)
        summarised = groups


def _send(
    send: Callable[[], None], *, runs: RunsFolder, tracker: Tracker, progress: Progress
) -> None:
    """Call `send` unless the store is given up; what fails costs one line."""
    if tracker.given_up:
        return
    had_artifacts = not tracker.artifacts_away
    later = sync_command(tracker.uri, runs_dir=runs.root)
    try:
        send()
    except TrackingError as error:
        tracker.given_up = True
        progress.say(f"not mirrored: {error}; this run mirrors nothing more; later run {later}")
        return
    if had_artifacts and tracker.artifacts_away:
        progress.say(
            f"mirrored without artifacts, which are out of reach ({tracker.artifacts_away}); "
            f"later run {later}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """The MLflow runs of a suite after `sync`."""

    new: Sequence[Entry]
    unchanged: Sequence[Entry]
    artifacts_away: str = ""  # the reason why artifacts are missing


def sync(
    suite: str,
    *,
    runs: RunsFolder,
    tracker: Tracker,
    wanted: Callable[[Record], bool] = lambda _: True,
    announce: Callable[[Entry], None] = lambda _: None,
) -> Synced:
    """Bring a store up to date with the records of a suite: cells, sweeps and summaries.

    `wanted` chooses the records. `announce` is called with each new MLflow run at once.

    Runs of cells that were killed as they trained become KILLED.

    Raises: TrackingError if the store cannot be used.
    """
    live = LiveRuns(tracker.uri, patience_seconds=tracker.patience_seconds)
    for record in runs.records(suite):
        if record.status is Status.RUNNING and wanted(record):
            live.mark_killed(runs.folder_of(record))
    entries: dict[tuple[str, ...], Entry] = {}
    new: set[tuple[str, ...]] = set()
    synced: list[Record] | None = None
    # Another process may finish a cell meanwhile.
    while (records := [r for r in runs.records(suite) if wanted(r)]) != synced:
        for entry in suite_entries(
            records,
            folder_of=runs.folder_of,
            place=place_of(runs.root),
            complete=tracker.complete,
        ):
            identity = tuple(entry.identity.values())
            entries[identity] = entry
            if tracker.put(suite, entry):
                new.add(identity)
                announce(entry)
        synced = records
    return Synced(
        new=[entry for identity, entry in entries.items() if identity in new],
        unchanged=[entry for identity, entry in entries.items() if identity not in new],
        artifacts_away=tracker.artifacts_away,
    )
