"""The trainers of pipelines whose workers are on several machines, one for each rank."""

from typing import Any

from gim_bench.training.agents import CrewOfRanks
from gim_bench.training.pipeline.asynchronous import AsynchronousTrainer, Inboxes
from gim_bench.training.pipeline.network import DistantLosslessWorker, Seat
from gim_bench.training.pipeline.network_buffer import BufferSeat, DistantAsynchronousWorker
from gim_bench.training.pipeline.trainer import PipelinedTrainer
from gim_bench.training.pipeline.worker import Worker


class DistantTrainer(PipelinedTrainer):
    """Has every step taken by workers on the machines of the ranks."""

    kind: type[Worker] = DistantLosslessWorker
    _crew: CrewOfRanks

    def _hire(self) -> None:
        with self._crew.meeting() as self._meeting:
            super()._hire()

    def _linked(self, lower: int) -> tuple[Any, Any]:
        return self._seat(lower, lower + 1), self._seat(lower + 1, lower)

    def _seat(self, number: int, peer: int) -> Seat:
        return Seat(meeting=self._meeting, number=number, peer=peer)


class InboxesOfRanks(Inboxes, CrewOfRanks):
    """Workers of ranks that do not wait for each other."""


class DistantAsynchronousTrainer(DistantTrainer, AsynchronousTrainer):
    """Hears of workers on the machines of the ranks that do not wait for each other."""

    kind = DistantAsynchronousWorker
    _crew: InboxesOfRanks

    def _seat(self, number: int, peer: int) -> BufferSeat:
        return BufferSeat(
            meeting=self._meeting,
            number=number,
            peer=peer,
            buffer=self.buffer,
            last_step=self.ticks.steps - 1,
        )
