"""What processes of a cell's own are told, so that each makes its part of the training itself."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from gim_bench import seeding
from gim_bench.cells.bench import Bench, maker_in, maker_of
from gim_bench.cells.build import Model, build, training_batches
from gim_bench.cells.cell import Cell
from gim_bench.cells.shares import device_of
from gim_bench.contract import Dataset, Learner
from gim_bench.datasets.batches import Batches
from gim_bench.progress import Silence
from gim_bench.training.agents import CrewOfRanks
from gim_bench.training.workers import Crew


def crew_of(bench: Bench) -> Crew:
    """Workers on this machine; those of the ranks where a launcher started several."""
    return Crew() if bench.ranks is None else CrewOfRanks(bench.ranks)


def devices_of_workers(bench: Bench, *, workers: int) -> list[str]:
    """The device of each worker: as named, else those that there are, in turn."""
    return list(bench.devices) or [device_of(number, bench.device) for number in range(workers)]


def told(
    cell: Cell, model: Model, bench: Bench, *, apart: Int[Tensor, "item"] | None, workers: int
) -> dict[str, Any]:
    """The fields of a `PartOfCell` for these workers."""
    return {
        "cell": cell,
        "model": model,
        "datasets": datasets_of_workers(bench, workers=workers),
        "devices": devices_of_workers(bench, workers=workers),
        "apart": None if apart is None else apart.tolist(),
    }


def datasets_of_workers(bench: Bench, *, workers: int) -> list[Callable[[], Dataset]]:
    """Makers of the data set: of each worker from its rank's own folder, where there are ranks."""
    own, agents = maker_of(bench.dataset), [] if bench.ranks is None else bench.ranks.agents
    theirs = [maker_in(agent.hello.data_dir, like=bench.dataset) for agent in agents]
    return [own, *theirs] if theirs else [own] * workers


@dataclass(frozen=True, kw_only=True)
class PartOfCell:
    """A part of a cell's training, made in the process that trains it; it goes through a pipe."""

    cell: Cell
    model: Model
    datasets: Sequence[Callable[[], Dataset]]  # of all processes
    devices: Sequence[str]  # of all processes
    apart: list[int] | None  # items that no process visits

    def bench(self, number: int) -> Bench:
        """The data on the device of the process with that number."""
        device = torch.device(self.devices[number])
        return Bench(self.datasets[number](), device=device, progress=Silence())

    def learner(
        self, bench: Bench, *stream: str | int, units: Collection[str] | None = None
    ) -> Learner:
        """The cell's learner, whose dropout and noise are drawn from a stream of this process.

        It has all units, or these alone.
        """
        learner = build(self.cell, bench, target=self.model.target, units=units)
        like = self.cell.config.method.like
        torch.manual_seed(seeding.derive("training", like, self.cell.seed, *stream))
        return learner

    def batches(self, bench: Bench) -> Batches:
        apart = None if self.apart is None else torch.tensor(self.apart)
        return training_batches(self.cell, self.model, bench, apart=apart)
