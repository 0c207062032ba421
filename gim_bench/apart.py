"""A cell in a process of its own, so that its memory holds nothing of the cells before it."""

import multiprocessing
import signal
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
        kwargs={"device": str(bench.device), "runs": runs.root},
    )
    title = f"{cell.name}: in a process of its own"
    with bench.progress.task(title, total=1, unit="cell") as task:
        process.start()
        try:
            process.join()
        finally:
            process.terminate()
        task.advance()
    record = runs.find(cell.suite, cell.config.method.name, seed=cell.seed, key=cell.key)
    if record is None or record.status is Status.RUNNING:
        record = replace(
            record or begun(cell, bench), status=Status.FAILED, error=_why(process.exitcode)
        )
        runs.save(record)
    return record


def _run(
    cell: Cell,
    kind: type[Dataset],
    options: Settings,
    data_dir: Path | None,
    cache_dir: Path,
    *,
    device: str,
    runs: Path,
) -> None:
    """The other process's whole life."""
    dataset = kind(options=options, data_dir=data_dir, cache_dir=cache_dir)
    bench = Bench(dataset, device=torch.device(device), progress=Silence())
    run_cell(cell, bench, runs=RunsFolder(runs))


def _why(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return "does not fit: the process was killed by the system, as it does when memory is full"
    return f"its process ended with exit code {exit_code} and left no result"
