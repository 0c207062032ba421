"""Worker processes on one machine that share the cells of a table.

A worker claims cells as any process does that is started by hand. The parent shows what the workers
report, yields the records, and runs what is left when workers were killed.
"""

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from gim_bench.cells.bench import Bench
from gim_bench.cells.cell import Cell
from gim_bench.cells.fresh_process import run_apart
from gim_bench.cells.run import run_cell
from gim_bench.cells.table import found, run_table
from gim_bench.contract import Dataset
from gim_bench.hardware.threads import asking_for, available_bytes, cores, threads_asked_for
from gim_bench.progress import Progress
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record
from gim_bench.registry import encoder as encoder_class
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import CellConfig
from gim_bench.system.children import deaf_to_interrupts, end, end_with_parent
from gim_bench.system.interrupts import terminate_as_interrupt
from gim_bench.system.relay import Displays, Reports, listen
from gim_bench.system.streams import forgive

ANY_GPU = "cuda"  # a device without a number
SMALL_PARAMETERS = 10**6  # of an encoder whose step is too short for threads to pay
WORKER_BYTES = 2 * 2**30  # of memory that a worker of small cells may need


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How the cores of this machine are shared out."""

    workers: int
    threads: int  # of each worker

    def settle(self) -> None:
        """Compute with a worker's threads in this process, too."""
        torch.set_num_threads(self.threads)

    def __str__(self) -> str:
        return (
            f"{self.workers} worker{'s' if self.workers > 1 else ''} of {self.threads} "
            f"thread{'s' if self.threads > 1 else ''}"
        )


def share_out(
    waiting: Sequence[Cell], *, device: torch.device, workers: int | None, alone: bool
) -> Share:
    """Workers and threads for the cells; `workers` None: as many as serve.

    Small cells are computed by one thread each, however many cores there are: two such workers are
    faster than two threads, and numbers do not depend on the machine's number of cores. Larger
    cells take all cores. OMP_NUM_THREADS overrules the threads. Without `alone`, cells may run
    beside each other.
    """
    small = device.type == "cpu" and all(is_small(config) for config in _distinct(waiting))
    asked = threads_asked_for()
    if workers is None:
        workers = 1
        if str(device) == ANY_GPU:
            workers = torch.cuda.device_count()
        elif small:
            room = available_bytes() // WORKER_BYTES
            workers = min(cores() // (asked or 1), room)
    workers = 1 if alone else max(1, min(workers, len(waiting)))
    if asked is not None:
        return Share(workers=workers, threads=asked)
    return Share(workers=workers, threads=1 if small else max(1, cores() // workers))


def is_small(config: CellConfig) -> bool:
    """Whether threads would wait for each other longer than they save in a step of the encoder.

    An encoder that cannot be sketched without memory is not small, as far as is known.
    """
    try:
        with torch.device("meta"):
            encoder = encoder_class(config.encoder.kind)(
                config.encoder, shape=config.augmentation.shape
            )
    except Exception:  # of absurd sizes, or of a plug-in that computes with numbers; the cell tells
        return False
    return sum(weights.numel() for weights in encoder.parameters()) < SMALL_PARAMETERS


def _distinct(cells: Sequence[Cell]) -> list[CellConfig]:
    """One cell's settings for each encoder among the cells."""
    return list(
        {(str(c.config.encoder), c.config.augmentation.shape): c.config for c in cells}.values()
    )


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What a worker needs to know."""

    table: Sequence[Cell]
    before: Mapping[str, Record | None]
    rerun: bool
    dataset: type[Dataset]
    options: Settings
    data_dir: Path | None
    cache_dir: Path | None
    device: str
    runs: Path
    checkpoint_seconds: float
    cell_timeout: float | None
    workers: int


def run_by_workers(
    table: Sequence[Cell],
    bench: Bench,
    *,
    runs: RunsFolder,
    share: Share,
    rerun: bool = False,
    logs: Sequence[Progress],
) -> Iterator[Record]:
    """Yield the records as `run_table` does; `share.workers` processes run the cells.

    `logs` has one progress for each worker, beside the one of `bench` that shows all of them.
    Raises: OSError.
    """
    before = {cell.key: found(cell, runs) for cell in table}
    left = {cell.key: cell for cell in table}
    with _crew(table, bench, runs=runs, share=share, rerun=rerun, before=before) as connections:
        displays = [Displays([bench.progress, log]) for log in logs]
        for key in listen(dict(zip(connections, displays, strict=True))):
            if key in left and (record := found(left[key], runs)):
                del left[key]
                yield record
    if left:
        bench.progress.say(f"the workers left {len(left)} cell(s), which run one by one")
    # Each in a process of its own: a cell for which memory does not suffice is a failed cell.
    yield from run_table(
        list(left.values()), bench, runs=runs, run=run_apart, rerun=rerun, before=before
    )


@contextmanager
def _crew(
    table: Sequence[Cell],
    bench: Bench,
    *,
    runs: RunsFolder,
    share: Share,
    rerun: bool,
    before: Mapping[str, Record | None],
) -> Iterator[list[Connection]]:
    """Worker processes at work; yields the ends of their pipes at which they are heard."""
    context = multiprocessing.get_context("spawn")
    crew, connections = [], []
    try:
        for number in range(share.workers):
            order = _Order(
                table=table,
                before=before,
                rerun=rerun,
                dataset=type(bench.dataset),
                options=bench.dataset.options,
                data_dir=bench.dataset.data_dir,
                cache_dir=bench.dataset.given_cache_dir,
                device=_device_of(number, bench.device),
                runs=runs.root,
                checkpoint_seconds=bench.checkpoint_seconds,
                cell_timeout=bench.cell_timeout,
                workers=share.workers,
            )
            here, there = context.Pipe(duplex=False)
            # A daemon: it ends with this process even if a signal comes before it is listed.
            process = context.Process(target=_work, args=(order, there), daemon=True)
            with deaf_to_interrupts(), asking_for(share.threads):
                process.start()
            there.close()  # the worker's own end; the pipe closes with the worker
            crew.append(process)
            connections.append(here)
        yield connections
    finally:
        end(*crew)


def _device_of(number: int, device: torch.device) -> str:
    """The device of a worker: GPUs are shared out, unless one was named."""
    if str(device) == ANY_GPU:
        return f"cuda:{number % torch.cuda.device_count()}"
    return str(device)


def _work(order: _Order, connection: Connection) -> None:
    """Run the cells that nobody has claimed, until all have ended."""
    terminate_as_interrupt()
    forgive()
    end_with_parent()
    reports = Reports(connection)
    bench = Bench(
        order.dataset(options=order.options, data_dir=order.data_dir, cache_dir=order.cache_dir),
        device=torch.device(order.device),
        progress=reports,
        checkpoint_seconds=order.checkpoint_seconds,
        cell_timeout=order.cell_timeout,
        workers=order.workers,
    )
    try:
        for record in run_table(
            order.table,
            bench,
            runs=RunsFolder(order.runs),
            run=run_cell,
            rerun=order.rerun,
            before=order.before,
            tell=False,
        ):
            reports.ended(record.key)
    except (KeyboardInterrupt, OSError):
        return  # the parent says what there is to say
