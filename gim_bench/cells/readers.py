"""Finished cells under other protocols, read by one process or by several."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from gim_bench.cells.bench import Bench
from gim_bench.cells.cell import Cell
from gim_bench.cells.crew import SPAWN, at_work
from gim_bench.cells.exchange import read_again
from gim_bench.cells.shares import Share
from gim_bench.errors import BenchError, first_line, one_line
from gim_bench.hardware.memory import is_exhausted, keep_freed_blocks
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record
from gim_bench.settings.protocols import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A finished cell that is to be read."""

    cell: Cell
    record: Record
    protocols: Sequence[Protocol]


def read_all(
    readings: Sequence[Reading], bench: Bench, *, runs: RunsFolder, share: Share, rerun: bool
) -> Mapping[str, str]:
    """Read the cells; their results are on disk when this returns.

    Returns why cells could not be read, by key. `share.workers` processes take the cells in their
    order; cells of workers that were killed are read here.
    """
    job = _Untaken(readings=readings, taken=SPAWN.Value("i", 0), runs=runs.root, rerun=rerun)
    if share.workers == 1:
        return {key: error for key, error in job(bench) if error}
    with at_work(job, bench, share=share) as read:
        ended: dict[str, str] = dict(read)
    left = [reading for reading in readings if reading.cell.key not in ended]
    here = _Untaken(readings=left, taken=SPAWN.Value("i", 0), runs=runs.root, rerun=rerun)
    ended |= dict(here(bench))
    return {key: error for key, error in ended.items() if error}


@dataclass(frozen=True, kw_only=True)
class _Untaken:
    """A worker's job: the cells that no other worker has taken."""

    readings: Sequence[Reading]
    taken: "Synchronized[int]"  # how many of the cells are taken
    runs: Path
    rerun: bool

    def __call__(self, bench: Bench) -> Iterator[tuple[str, str]]:
        """Read cells; yields the key of each, and why it could not be read ("" if it was)."""
        keep_freed_blocks()
        runs = RunsFolder(self.runs)
        while (reading := self._next()) is not None:
            error = ""
            try:
                read_again(
                    reading.cell,
                    reading.record,
                    bench,
                    runs=runs,
                    protocols=reading.protocols,
                    rerun=self.rerun,
                )
            except BenchError as complaint:
                error = str(complaint)
            except (MemoryError, RuntimeError) as trouble:
                if not is_exhausted(trouble):
                    raise
                error = one_line(f"does not fit: {first_line(trouble)}")
            yield reading.cell.key, error

    def _next(self) -> Reading | None:
        with self.taken.get_lock():
            number = self.taken.value
            self.taken.value += 1
        return self.readings[number] if number < len(self.readings) else None
