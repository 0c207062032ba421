"""What processes of a cell's own are told, so that each makes its part of the training itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from gim_bench import seeding
from gim_bench.cells.bench import Bench, maker_of
from gim_bench.cells.build import Model, build, training_batches
from gim_bench.cells.cell import Cell
from gim_bench.cells.shares import device_of
from gim_bench.contract import Dataset, Learner
from gim_bench.datasets.batches import Batches
from gim_bench.progress import Silence


def told(
    cell: Cell, model: Model, bench: Bench, *, apart: Int[Tensor, "item"] | None
) -> dict[str, Any]:
    """The fields of a `PartOfCell`."""
    return {
        "cell": cell,
        "model": model,
        "dataset": maker_of(bench.dataset),
        "device": str(bench.device),
        "apart": None if apart is None else apart.tolist(),
    }


@dataclass(frozen=True, kw_only=True)
class PartOfCell:
    """A part of a cell's training, made in the process that trains it; it goes through a pipe."""

    cell: Cell
    model: Model
    dataset: Callable[[], Dataset]
    device: str
    apart: list[int] | None  # items that no process visits

    def bench(self, number: int) -> Bench:
        """The data on the device of the process with that number."""
        device = torch.device(self.device_of(number))
        return Bench(self.dataset(), device=device, progress=Silence())

    def device_of(self, number: int) -> str:
        """The device of the process with that number."""
        return device_of(number, torch.device(self.device))

    def learner(self, bench: Bench, *stream: str | int) -> Learner:
        """The cell's learner, whose dropout and noise are drawn from a stream of this process."""
        learner = build(self.cell, bench, target=self.model.target)
        like = self.cell.config.method.like
        torch.manual_seed(seeding.derive("training", like, self.cell.seed, *stream))
        return learner

    def batches(self, bench: Bench) -> Batches:
        apart = None if self.apart is None else torch.tensor(self.apart)
        return training_batches(self.cell, self.model, bench, apart=apart)
