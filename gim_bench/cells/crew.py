"""Worker processes on one machine, each with a bench of its own, that do one job together."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from gim_bench.cells.bench import Bench, maker_of
from gim_bench.cells.shares import Share, device_of
from gim_bench.contract import Dataset
from gim_bench.hardware.threads import asking_for
from gim_bench.progress import Progress
from gim_bench.system.children import deaf_to_interrupts, end, end_with_parent, how_it_ended
from gim_bench.system.interrupts import terminate_as_interrupt
from gim_bench.system.relay import Displays, Reports, listen
from gim_bench.system.streams import forgive

SPAWN = multiprocessing.get_context("spawn")
Job = Callable[[Bench], Iterator[Any]]  # what a worker does; yields what the parent must know


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What a worker needs to know."""

    job: Job
    dataset: Callable[[], Dataset]
    device: str
    checkpoint_seconds: float
    cell_timeout: float | None
    workers: int
    live_seconds: float


@contextmanager
def at_work(
    job: Job, bench: Bench, *, share: Share, logs: Sequence[Progress] = ()
) -> Iterator[Iterator[Any]]:
    """`share.workers` processes that do `job`, each on a bench like `bench`, within the block.

    Yields what their jobs yield, until the last process has ended. The progress of `bench` shows
    that of all processes, and names a process that ends with an error. `logs` may have one more
    progress for each process.
    """
    crew: dict[Connection, BaseProcess] = {}

    def tell(connection: Connection) -> None:
        if how := how_it_ended(crew[connection]):
            bench.progress.say(f"{crew[connection].name} {how}; the others take its work over")

    try:
        for number in range(share.workers):
            order = _Order(
                job=job,
                dataset=maker_of(bench.dataset),
                device=device_of(number, bench.device),
                checkpoint_seconds=bench.checkpoint_seconds,
                cell_timeout=bench.cell_timeout,
                workers=share.workers,
                live_seconds=bench.live_seconds,
            )
            here, there = SPAWN.Pipe(duplex=False)
            # A daemon: it ends with this process even if a signal comes before it is listed.
            process = SPAWN.Process(
                target=_work, args=(order, there), name=f"worker {number + 1}", daemon=True
            )
            with deaf_to_interrupts(), asking_for(share.threads):
                process.start()
            there.close()  # the worker's own end; the pipe closes with the worker
            crew[here] = process
        displays = [Displays([bench.progress, *logs[n : n + 1]]) for n in range(share.workers)]
        yield listen(dict(zip(crew, displays, strict=True)), gone=tell)
    finally:
        end(*crew.values())


def _work(order: _Order, connection: Connection) -> None:
    """Do the job, and report what it yields."""
    terminate_as_interrupt()
    forgive()
    end_with_parent()
    reports = Reports(connection)
    bench = Bench(
        order.dataset(),
        device=torch.device(order.device),
        progress=reports,
        checkpoint_seconds=order.checkpoint_seconds,
        cell_timeout=order.cell_timeout,
        workers=order.workers,
        live_seconds=order.live_seconds,
    )
    try:
        for piece in order.job(bench):
            reports.ended(piece)
    except (KeyboardInterrupt, OSError):
        return  # the parent says what there is to say
