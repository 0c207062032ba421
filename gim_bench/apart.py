"""A cell in a process of its own, so that its memory holds nothing of the cells before it."""

import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from gim_bench.config import Settings
from gim_bench.contract import Dataset, Record, Silence, Status
from gim_bench.run import Bench, Cell, begun, run_cell
from gim_bench.store import RunsFolder


def run_apart(cell: Cell, bench: Bench, *, runs: RunsFolder) -> Record:
    """As `run_cell`, in a fresh process; one that is killed leaves a record of status "failed"."""
    dataset = bench.dataset
    process = multiprocessing.get_context("spawn").Process(
        target=_run,
        args=(cell, type(dataset), dataset.options, dataset.data_dir, dataset.cache_dir),
        kwargs={
            "device": str(bench.device),
            "runs": runs.root,
            "checkpoint_seconds": bench.checkpoint_seconds,
        },
    )
    started = begun(cell, bench)
    runs.save(started)  # so that no earlier record passes for this one's
    title = f"{cell.name}: in a process of its own"
    with bench.progress.task(title, total=1, unit="cell") as task:
        try:
            with _deaf_to_interrupts():
                process.start()
            process.join()
        finally:
            process.terminate()
        task.advance()
    found = runs.find(cell.suite, cell.config.method.name, seed=cell.seed, key=cell.key)
    if found is not None and found.status is not Status.RUNNING:
        return found
    killed = process.exitcode == -signal.SIGKILL
    failed = replace(started, status=Status.FAILED, error=_why(process.exitcode), fits=not killed)
    runs.save(failed)
    return failed


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What is started within inherits it: Ctrl-C is for this process, which then ends the other."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run(
    cell: Cell,
    kind: type[Dataset],
    options: Settings,
    data_dir: Path | None,
    cache_dir: Path,
    *,
    device: str,
    runs: Path,
    checkpoint_seconds: float,
) -> None:
    """The other process's whole life."""
    dataset = kind(options=options, data_dir=data_dir, cache_dir=cache_dir)
    bench = Bench(
        dataset,
        device=torch.device(device),
        progress=Silence(),
        checkpoint_seconds=checkpoint_seconds,
    )
    try:
        run_cell(cell, bench, runs=RunsFolder(runs))
    except KeyboardInterrupt:  # the other process says what there is to say
        sys.exit(128 + signal.SIGTERM)


def _why(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return "does not fit: the process was killed by the system, as it does when memory is full"
    return f"its process ended with exit code {exit_code} and left no result"
