"""MLflow runs of cells that train.

A cell that trains appends points to a file, and waits for nobody. `LiveRuns` brings the run of each
such cell up to date with its file. The record, once it is there, completes the run.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from gim_bench.records.claims import seems_held
from gim_bench.records.folder import RECORD
from gim_bench.records.live import Attempt, read_live
from gim_bench.records.record import Record, Status
from gim_bench.records.sealed import read_record
from gim_bench.tracking.client import Tracker
from gim_bench.tracking.entries import ATTEMPT, SENT, Entry, cell_entry, is_live, place_of


@dataclass(slots=True, kw_only=True)
class _Run:
    """The MLflow run of an attempt, and how many of its points are there."""

    run_id: str
    sent: int


class LiveRuns(Tracker):
    """Writes points of cells under way to an MLflow store."""

    def __init__(self, uri: str, *, patience_seconds: float | None) -> None:
        super().__init__(uri, patience_seconds=patience_seconds)
        self._runs: dict[str, _Run] = {}  # by the name of the attempt

    def send(self, folder: Path) -> None:
        """Log what the cell in `folder` has measured since the last call, 900 points at most.

        The first call finds the run of an earlier process, or creates a run; each further call asks
        the store once. Raises: TrackingError.
        """
        record, attempt = read_record(folder / RECORD), read_live(folder)
        if record is None or attempt is None:
            return
        under_way = replace(record, status=Status.RUNNING, error=None, metrics={}, losses=())
        entry = replace(cell_entry(under_way), attempt=attempt, place=place_of(folder))
        with self._prepared():
            self._within_patience(lambda: self._send(record.suite, entry, attempt, folder=folder))

    def mark_killed(self, folder: Path) -> bool:
        """Complete the points of a cell's run, and mark it as KILLED, if no process works there.

        Return whether there was such a run. Raises: TrackingError.
        """
        record, attempt = read_record(folder / RECORD), read_live(folder)
        if record is None or record.status is not Status.RUNNING or attempt is None:
            return False
        if seems_held(folder):
            return False
        with self._prepared():
            return self._within_patience(lambda: self._mark_killed(record, attempt))

    def _send(self, suite: str, entry: Entry, attempt: Attempt, *, folder: Path) -> bool:
        # A call that fails may have reached the store: the next one looks what is there.
        run = self._runs.pop(attempt.name, None) or self._found(suite, entry)
        if run is None:
            run = self._begun(suite, entry, folder=folder)
        if run is not None and run.sent < len(attempt.points):
            run.sent = self._log_points(run.run_id, attempt, sent=run.sent)
        if run is not None:
            self._runs[attempt.name] = run
        return run is not None

    def _found(self, suite: str, entry: Entry) -> _Run | None:
        """The run of an earlier process, which is running again; runs of other attempts go."""
        experiment = self._experiment(suite)
        there = [r for r in self._search(experiment, entry.identity) if is_live(r)]
        mine = [run for run in there if entry.completes(run)]
        for run in there:
            if entry.replaces(run) and run not in mine[:1]:
                self._delete(experiment, run.run_id)
        if not mine:
            return None
        if mine[0].status != "RUNNING":
            self._client.update_run(mine[0].run_id, status="RUNNING")
        return _Run(run_id=mine[0].run_id, sent=int(mine[0].tags.get(SENT, 0)))

    def _begun(self, suite: str, entry: Entry, *, folder: Path) -> _Run | None:
        """A new run; None if the cell has ended meanwhile, whose record has a run of its own."""
        experiment = self._experiment(suite)
        run_id: str = self._begin(experiment, entry).run_id
        if not seems_held(folder):
            self._delete(experiment, run_id)
            return None
        self._log_data(run_id, entry)
        self._fill(run_id, replace(entry, points=()))
        return _Run(run_id=run_id, sent=0)

    def _mark_killed(self, record: Record, attempt: Attempt) -> bool:
        identity = cell_entry(record).identity | {ATTEMPT: attempt.name}
        left = [
            run
            for run in self._search(self._experiment(record.suite), identity)
            if is_live(run) and run.status == "RUNNING"
        ]
        for run in left:
            self._catch_up(run.run_id, attempt, sent=int(run.tags.get(SENT, 0)))
            self._client.set_terminated(run.run_id, status="KILLED")
        return bool(left)
