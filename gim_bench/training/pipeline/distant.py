"""The trainer of a pipeline whose workers are on several machines, one for each rank."""

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gim_bench.hardware.threads import threads_asked_for
from gim_bench.training.pipeline.agents import Agent, Ranks, Start
from gim_bench.training.pipeline.network import DistantWorker, Seat
from gim_bench.training.pipeline.trainer import PipelinedTrainer
from gim_bench.training.workers import Crew, Employed


class CrewOfRanks(Crew):
    """Worker k of a training is started by rank k."""

    def __init__(self, ranks: Ranks, *, threads: int) -> None:
        super().__init__()
        self._ranks, self._threads = ranks, threads

    def hire(self, title: str, serve: Callable[[Any], None], post: Callable[..., Any]) -> None:
        if not self.workers:
            super().hire(f"{title}, rank 0,", serve, post)
            return
        agent: Agent = self._ranks.agents[len(self.workers) - 1]
        process, connection = self._ranks.worker(agent, Start(serve, post, self._threads))
        title = f"{title}, {agent.hello},"
        self.workers.append(Employed(title=title, process=process, connection=connection))


class DistantTrainer(PipelinedTrainer):
    """Has every step taken by workers on the machines of the ranks."""

    kind = DistantWorker

    def __init__(self, *args: Any, ranks: Ranks, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert len(self.shares) == ranks.rank.ranks, "a worker for each rank"
        self.ranks = ranks
        self._crew = CrewOfRanks(ranks, threads=self.threads)
        self._group = ""

    def step(self, *args: Any, **kwargs: Any) -> dict[str, Float[Tensor, ""]]:
        """Hear of the next step. A signal to another rank counts as one to this process."""
        if self.ranks.are_to_end():
            signal.raise_signal(signal.SIGTERM)
        return super().step(*args, **kwargs)

    @property
    def threads(self) -> int:
        """Threads of a worker: those asked for, else as many on all machines as fit on this one."""
        here = 1 if threads_asked_for() else self.ranks.rank.here
        return max(1, torch.get_num_threads() // here)

    def _hire(self) -> None:
        self._group = self.ranks.new_group()
        super()._hire()

    def _linked(self, lower: int) -> tuple[Seat, Seat]:
        def seat(number: int, peer: int) -> Seat:
            rank = replace(self.ranks.rank, number=number)
            return Seat(rank=rank, group=self._group, peer=peer)

        return seat(lower, lower + 1), seat(lower + 1, lower)
