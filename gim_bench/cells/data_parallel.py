"""Cells whose batches are shared by processes (training.processes)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from gim_bench.cells.bench import Bench
from gim_bench.cells.build import (
    Model,
    planned_steps,
    trainer_settings,
)
from gim_bench.cells.cell import Cell
from gim_bench.cells.parts import PartOfCell, crew_of, told
from gim_bench.contract import Batch, GradientFlow, Learner
from gim_bench.hardware import memory
from gim_bench.hardware.threads import cores
from gim_bench.settings.schema import CellConfig
from gim_bench.training.data_parallel import AveragingTrainer, DataParallelTrainer, Part
from gim_bench.training.kept_outputs import Source
from gim_bench.training.workers import Ticks, threads_of_each


def shares_batches(cell: Cell) -> bool:
    """Whether processes of its own train the cell, each with a part of every batch."""
    return processes_of(cell.config) > 0


def processes_of(config: CellConfig) -> int:
    """Processes that share each batch of a cell; 0 where a single one has whole batches."""
    trains = config.method.gradient_flow != GradientFlow.NONE
    return config.training.processes if trains and config.training.processes > 1 else 0


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
    processes = cell.config.training.processes
    return DataParallelTrainer(
        learner,
        device=bench.device,
        processes=processes,
        make=_PartOf(**told(cell, model, bench, apart=apart, workers=processes)),
        ticks=Ticks(batches, steps=planned_steps(cell, bench)),
        crew=crew_of(bench),
        **trainer_settings(cell),
    )


class _PartOf(PartOfCell):
    """Makes a process's part of a cell: all units, and a share of every batch."""

    def __call__(self, number: int) -> Part:
        bench = self.bench(number)
        if bench.device.type == "cuda":
            torch.cuda.set_device(bench.device)
        learner = self.learner(bench, "process", number)
        settings = trainer_settings(self.cell)
        return Part(
            trainer=AveragingTrainer(learner, device=bench.device, **settings),
            source=self.batches(bench),
        )


def part_of(batch: Batch, config: CellConfig) -> tuple[Batch, int]:
    """The examples of the first process that shares the batch, and the number of such parts.

    It is the whole batch without such processes, and where each has a single example: batch norm
    in one process alone has no variance then.
    """
    parts = processes_of(config)
    if not parts or parts == len(batch.inputs):
        return batch, 1
    own = slice(len(batch.inputs) // parts)
    part = replace(
        batch,
        inputs=batch.inputs[own],
        labels={target: labels[own] for target, labels in batch.labels.items()},
        further=tuple(view[own] for view in batch.further),
    )
    return part, parts


def of_a_process(cell: Cell) -> Cell:
    """The cell with batches as small as a process's part of a batch, to be timed.

    A part of a single example is timed as two: batch norm in one process alone has no variance.
    """
    training = cell.config.training
    size = max(2, training.batch_size // training.processes)
    part = {"batch_size": size, "processes": 1}
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
