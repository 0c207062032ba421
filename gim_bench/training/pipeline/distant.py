"""The trainer of a pipeline whose workers are on several machines, one for each rank."""

from gim_bench.training.agents import CrewOfRanks
from gim_bench.training.pipeline.network import DistantWorker, Seat
from gim_bench.training.pipeline.trainer import PipelinedTrainer


class DistantTrainer(PipelinedTrainer):
    """Has every step taken by workers on the machines of the ranks."""

    kind = DistantWorker
    _crew: CrewOfRanks

    def _hire(self) -> None:
        with self._crew.meeting() as self._meeting:
            super()._hire()

    def _linked(self, lower: int) -> tuple[Seat, Seat]:
        def seat(number: int, peer: int) -> Seat:
            return Seat(meeting=self._meeting, number=number, peer=peer)

        return seat(lower, lower + 1), seat(lower + 1, lower)
