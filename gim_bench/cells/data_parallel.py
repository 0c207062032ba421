"""Cells whose batches are shared by processes (training.processes)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from gim_bench import seeding
from gim_bench.cells.bench import Bench, maker_of
from gim_bench.cells.build import (
    Model,
    build,
    planned_steps,
    trainer_settings,
    training_batches,
)
from gim_bench.cells.cell import Cell
from gim_bench.cells.shares import device_of
from gim_bench.contract import Dataset, GradientFlow, Learner
from gim_bench.hardware import memory
from gim_bench.hardware.threads import cores
from gim_bench.progress import Silence
from gim_bench.training.data_parallel import AveragingTrainer, DataParallelTrainer, Part
from gim_bench.training.kept_outputs import Source
from gim_bench.training.workers import Ticks, threads_of_each


def shares_batches(cell: Cell) -> bool:
    """Whether processes of its own train the cell, each with a part of every batch."""
    trains = cell.config.method.gradient_flow != GradientFlow.NONE
    return trains and cell.config.training.processes > 1


def data_parallel_trainer_of(
    cell: Cell,
    model: Model,
    learner: Learner,
    bench: Bench,
    *,
    batches: Source,
    apart: Int[Tensor, "item"] | None,
) -> DataParallelTrainer:
    """The trainer of a learner whose batches processes share; they visit no items `apart`."""
    make = _PartOf(
        cell=cell,
        model=model,
        dataset=maker_of(bench.dataset),
        device=str(bench.device),
        apart=None if apart is None else apart.tolist(),
    )
    return DataParallelTrainer(
        learner,
        device=bench.device,
        processes=cell.config.training.processes,
        make=make,
        ticks=Ticks(batches, steps=planned_steps(cell, bench)),
        **trainer_settings(cell),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PartOf:
    """Makes a process's part of a cell, in that process."""

    cell: Cell
    model: Model
    dataset: Callable[[], Dataset]
    device: str
    apart: list[int] | None

    def __call__(self, rank: int) -> Part:
        cell = self.cell
        device = torch.device(device_of(rank, torch.device(self.device)))
        if device.type == "cuda":
            torch.cuda.set_device(device)
        bench = Bench(self.dataset(), device=device, progress=Silence())
        learner = build(cell, bench, target=self.model.target)
        # Dropout and noise of layers: every process draws its own.
        like = cell.config.method.like
        torch.manual_seed(seeding.derive("training", like, cell.seed, "process", rank))
        apart = None if self.apart is None else torch.tensor(self.apart)
        return Part(
            trainer=AveragingTrainer(learner, device=device, **trainer_settings(cell)),
            source=training_batches(cell, self.model, bench, apart=apart),
        )


def of_a_process(cell: Cell) -> Cell:
    """The cell with batches as small as a process's part of a batch, to be timed."""
    training = cell.config.training
    part = {"batch_size": training.batch_size // training.processes, "processes": 1}
    smaller = {"training": training.model_copy(update=part)}
    return replace(cell, config=cell.config.model_copy(update=smaller))


def rounds(processes: int, device: torch.device) -> float:
    """Steps that the hardware takes one after the other where each process takes one."""
    if device.type != "cpu":
        return 1.0
    return max(1.0, processes * threads_of_each(processes) / cores())


def costs_of(measured: Sequence[memory.Peaks]) -> dict[str, float]:
    """The number of processes, and the peaks of each, as metrics."""
    found: dict[str, float] = {"data_parallel/processes": len(measured)}
    for number, peaks in enumerate(measured, start=1):
        found |= {
            f"data_parallel/{name.removeprefix('memory/')}/process_{number}": value
            for name, value in peaks.metrics.items()
        }
    return found
