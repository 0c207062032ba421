"""Worker processes on one machine that share the trials of sweeps over settings of training."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gim_bench.cells.bench import Bench
from gim_bench.cells.cell import Cell
from gim_bench.cells.crew import at_work
from gim_bench.cells.shares import Share
from gim_bench.errors import BenchError
from gim_bench.hardware import memory
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record
from gim_bench.sweep.pretraining import Pretraining, work_off
from gim_bench.sweep.studies import Studies


def work_off_by_workers(
    sweeps: Sequence[tuple[Cell, Pretraining]],
    bench: Bench,
    *,
    runs: RunsFolder,
    studies: Studies,
    share: Share,
    mirror: Callable[[Record], None],
) -> None:
    """As `work_off`, by `share.workers` processes.

    Trials that a worker leaves, because it was killed or because of an error, are left to the
    caller.
    """
    job = _Trials(sweeps=sweeps, runs=runs.root, database=studies.url)
    with at_work(job, bench, share=share) as ended:
        for record in ended:
            mirror(record)


@dataclass(frozen=True, kw_only=True)
class _Trials:
    """A worker's job: trials that nobody has claimed, of one sweep after the other."""

    sweeps: Sequence[tuple[Cell, Pretraining]]
    runs: Path
    database: str

    def __call__(self, bench: Bench) -> Iterator[Record]:
        """Run trials; yields their records, sweep by sweep."""
        memory.keep_freed_blocks()  # a shared process measures no cell's own memory
        runs, studies = RunsFolder(self.runs), Studies(self.database)
        for sweep in self.sweeps:
            found: list[Record] = []
            with suppress(BenchError):  # the parent comes upon it, too, and says it
                work_off([sweep], bench, runs=runs, studies=studies, mirror=found.append)
            yield from found
