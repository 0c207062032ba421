"""Which records are mirrored to MLflow, and when.

While cells run, `mirror_cell`, `mirror_sweeps` and `summarise` mirror what has just been written.
A record that the store has already is not sent again. A store that fails is given up for the rest
of the run with one line, so that its time-outs are paid once. `sync` brings a store up to date with
all records of a suite.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gim_bench.errors import TrackingError
from gim_bench.progress import Progress
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record
from gim_bench.records.statistics import by_settings
from gim_bench.tracking.client import Tracker
from gim_bench.tracking.entries import Entry, suite_entries


def mirror_cell(record: Record, *, runs: RunsFolder, tracker: Tracker, progress: Progress) -> None:
    """Mirror a cell as an MLflow run, unless the store has it already."""
    folder = runs.folder_of(record)
    _send_once(
        [record],
        partial(tracker.mirror, record, folder=folder),
        folder=folder,
        runs=runs,
        tracker=tracker,
        progress=progress,
    )


def mirror_again(record: Record, *, runs: RunsFolder, tracker: Tracker, progress: Progress) -> None:
    """Mirror a cell whose folder has got new files; the MLflow run of the cell is replaced."""
    mirror = partial(tracker.mirror, record, folder=runs.folder_of(record))
    _send(mirror, tracker=tracker, progress=progress)


def mirror_sweeps(record: Record, *, tracker: Tracker, progress: Progress) -> None:
    """Mirror the sweeps of a cell as an MLflow run with a child run for each trial."""
    _send(partial(tracker.mirror_sweeps, record), tracker=tracker, progress=progress)


def summarise(suite: str, *, runs: RunsFolder, tracker: Tracker, progress: Progress) -> None:
    """Mirror a summary of each method of a suite, unless the store has them already."""
    summarised: list[list[Record]] | None = None
    # Another process may finish a cell meanwhile.
    while (groups := by_settings(runs.records(suite))) != summarised:
        records = [record for group in groups for record in group]
        _send_once(
            records,
            partial(tracker.summarise, suite, records),
            folder=runs.root / suite,
            runs=runs,
            tracker=tracker,
            progress=progress,
        )
        summarised = groups


def _send_once(
    records: Sequence[Record],
    send: Callable[[], None],
    *,
    folder: Path,
    runs: RunsFolder,
    tracker: Tracker,
    progress: Progress,
) -> None:
    """Send `records` and note it in `folder`, unless the folder says that the store has them."""
    if runs.is_mirrored(records, folder=folder, to=tracker.destination):
        return
    if _send(send, tracker=tracker, progress=progress):
        runs.note_mirrored(records, folder=folder, to=tracker.destination)


def _send(send: Callable[[], None], *, tracker: Tracker, progress: Progress) -> bool:
    """Call `send` unless the store is given up. Return whether it succeeded."""
    if tracker.given_up:
        return False
    try:
        send()
    except TrackingError as error:
        tracker.given_up = True
        progress.say(f"not mirrored: {error}; this run mirrors nothing more")
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """The MLflow runs of a suite after `sync`."""

    new: Sequence[Entry]
    unchanged: Sequence[Entry]


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

    Raises: TrackingError if the store cannot be used.
    """
    entries: dict[tuple[str, ...], Entry] = {}
    new: set[tuple[str, ...]] = set()
    synced: list[Record] | None = None
    # Another process may finish a cell meanwhile.
    while (records := [r for r in runs.records(suite) if wanted(r)]) != synced:
        for entry in suite_entries(records, folder_of=runs.folder_of):
            identity = tuple(entry.identity.values())
            entries[identity] = entry
            if tracker.put(suite, entry):
                new.add(identity)
                announce(entry)
        synced = records
    return Synced(
        new=[entry for identity, entry in entries.items() if identity in new],
        unchanged=[entry for identity, entry in entries.items() if identity not in new],
    )
