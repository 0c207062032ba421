"""Worker processes on one machine that share the cells of a table.

A worker claims cells as any process does that is started by hand. The parent shows what the workers
report, yields the records, and runs what is left when workers were killed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gim_bench.cells.bench import Bench
from gim_bench.cells.cell import Cell
from gim_bench.cells.crew import at_work
from gim_bench.cells.fresh_process import run_apart
from gim_bench.cells.run import run_cell
from gim_bench.cells.shares import Share
from gim_bench.cells.table import found, records_of, run_table
from gim_bench.hardware import memory
from gim_bench.progress import Progress
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record


def run_by_workers(
    table: Sequence[Cell],
    bench: Bench,
    *,
    runs: RunsFolder,
    share: Share,
    rerun: bool = False,
    before: Mapping[str, Record | None] | None = None,
    logs: Sequence[Progress],
) -> Iterator[Record]:
    """Yield the records as `run_table` does; `share.workers` processes run the cells.

    `logs` has one progress for each worker, beside the one of `bench` that shows all of them.
    Raises: OSError.
    """
    if before is None:
        before = records_of(table, runs)
    left = {cell.key: cell for cell in table}
    job = _Unclaimed(table=table, before=before, rerun=rerun, runs=runs.root)
    with at_work(job, bench, share=share, logs=logs) as ended:
        for key in ended:
            if key in left and (record := found(left[key], runs)):
                del left[key]
                yield record
    if left:
        bench.progress.say(f"the workers left {len(left)} cell(s), which run one by one")
    # Each in a process of its own: a cell for which memory does not suffice is a failed cell.
    yield from run_table(
        list(left.values()), bench, runs=runs, run=run_apart, rerun=rerun, before=before
    )


@dataclass(frozen=True, kw_only=True)
class _Unclaimed:
    """A worker's job: the cells that nobody has claimed, until all have ended."""

    table: Sequence[Cell]
    before: Mapping[str, Record | None]
    rerun: bool
    runs: Path

    def __call__(self, bench: Bench) -> Iterator[str]:
        """Run cells; yields their keys."""
        memory.keep_freed_blocks()  # a shared process measures no cell's own memory
        runs = RunsFolder(self.runs)
        records = run_table(
            self.table,
            bench,
            runs=runs,
            run=run_cell,
            rerun=self.rerun,
            before=self.before,
            tell=False,
        )
        return (record.key for record in records)
