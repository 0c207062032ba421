"""A cell in a fresh process, whose memory holds nothing of earlier cells."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from gim_bench.cells.bench import Bench, maker_of
from gim_bench.cells.cell import Cell
from gim_bench.cells.outcome import NOT_WRITTEN, begun
from gim_bench.cells.pipelines import has_workers
from gim_bench.cells.run import run_cell
from gim_bench.contract import Dataset
from gim_bench.errors import TimeLimitError
from gim_bench.hardware import memory
from gim_bench.hardware.memory import MMAP_THRESHOLD
from gim_bench.hardware.threads import asking_for
from gim_bench.progress import Silence
from gim_bench.records import provenance
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record, Status
from gim_bench.system.children import (
    Process,
    deaf_to_interrupts,
    end,
    end_with_parent,
    how_it_ended,
)
from gim_bench.system.interrupts import terminate_as_interrupt, time_limit
from gim_bench.system.streams import forgive

# Exit codes of a process whose record could not be written, and of one that ran out of memory
# where no record is written.
WITHOUT_RECORD, WITHOUT_MEMORY = 74, 71
# Signals that may end a process whose allocation failed, where nobody handles the failure.
OF_FAILED_ALLOCATIONS = (-signal.SIGABRT, -signal.SIGSEGV)


def run_apart(cell: Cell, bench: Bench, *, runs: RunsFolder) -> Record:
    """Run a cell as `run_cell` does, in a fresh process.

    A process that is killed leaves a record of status "failed".
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_run,
        args=(cell, maker_of(bench.dataset)),
        kwargs={
            "device": str(bench.device),
            "runs": runs.root,
            "checkpoint_seconds": bench.checkpoint_seconds,
            "memory_limit": bench.memory_limit,
            "live_seconds": bench.live_seconds,
            "devices": bench.devices,
        },
        # A daemon ends with this process even if a signal comes before the watch begins, but it
        # can be nobody's parent.
        daemon=not has_workers(cell),
    )
    started = begun(cell, bench)
    kills = memory.kills_for_memory()
    title = f"{cell.name}: in a process of its own"
    fits = True
    with bench.progress.task(title, total=1, unit="cell") as task:
        try:
            with deaf_to_interrupts(), _giving_back(), asking_for(torch.get_num_threads()):
                process.start()
            with time_limit(bench.cell_timeout):
                process.join()
            error, fits = _why(
                process,
                memory_limit=bench.memory_limit,
                kills=memory.kills_for_memory() - kills,
            )
        except TimeLimitError as late:
            error = str(late)
        finally:
            if process.pid is not None:
                end(process)
        task.advance()
    if process.exitcode == 0:
        found = runs.find(cell.suite, cell.config.method.name, seed=cell.seed, key=cell.key)
        assert found is not None
        return found
    ended = {**started.provenance, "finished_at": provenance.now()}
    failed = replace(started, status=Status.FAILED, error=error, fits=fits, provenance=ended)
    runs.save(failed)
    return failed


@contextmanager
def _giving_back() -> Iterator[None]:
    """Within the block, started processes return large blocks to the system as soon as possible.

    By default glibc keeps free blocks below a threshold that grows up to 32 MiB, and the peaks of
    repeated runs of a cell differ by a tenth and more.
    """
    if MMAP_THRESHOLD in os.environ:
        yield
        return
    os.environ[MMAP_THRESHOLD] = str(memory.RETURNED_BYTES)
    try:
        yield
    finally:
        del os.environ[MMAP_THRESHOLD]


def _run(
    cell: Cell,
    dataset: Callable[[], Dataset],
    *,
    device: str,
    runs: Path,
    checkpoint_seconds: float,
    memory_limit: int | None,
    live_seconds: float,
    devices: Sequence[str],
) -> None:
    """Run the cell in the fresh process, which ends when its parent ends."""
    terminate_as_interrupt()
    forgive()
    end_with_parent()
    try:
        bench = Bench(
            dataset(),
            device=torch.device(device),
            progress=Silence(),
            checkpoint_seconds=checkpoint_seconds,
            memory_limit=memory_limit,
            live_seconds=live_seconds,
            devices=devices,
        )
        if memory_limit is not None:
            memory.limit(memory_limit)
        try:
            run_cell(cell, bench, runs=RunsFolder(runs))
        except OSError:  # the other process says what there is to say, or meets the same
            sys.exit(WITHOUT_RECORD)
    except KeyboardInterrupt:  # so it does here
        sys.exit(128 + signal.SIGTERM)
    except Exception as error:
        if memory.is_exhausted(error):
            sys.exit(WITHOUT_MEMORY)
        raise


def _why(process: Process, *, memory_limit: int | None, kills: int) -> tuple[str, bool]:
    """Why a process left no result, and whether its cell fits into memory as far as that says.

    The system killed so many processes meanwhile because memory was full. No other end says
    anything of memory: neither a signal that somebody sent nor an error of another kind.
    """
    code, limited = process.exitcode, memory_limit is not None
    if code == WITHOUT_RECORD:
        return f"{NOT_WRITTEN}: its record; is there room on the disk?", True
    how = how_it_ended(process)
    if code == -signal.SIGKILL and kills:
        return f"does not fit: its process {how}, as by the system when memory is full", False
    if code == WITHOUT_MEMORY or (limited and code in OF_FAILED_ALLOCATIONS):
        at = f" at the limit of {memory_limit / 1e9:.2f} GB" if memory_limit is not None else ""
        return f"does not fit: its process {how}{at}", False
    return f"its process {how} and left no result", True
