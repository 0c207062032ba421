"""A process of a pipeline: it trains its units, parcel by parcel."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from gim_bench.contract import Batch
from gim_bench.hardware import memory
from gim_bench.methods.stack import HandOn
from gim_bench.system.children import of_neighbours
from gim_bench.training.kept_outputs import Source
from gim_bench.training.pipeline.buffer import BufferInlet, BufferOutlet, Use
from gim_bench.training.pipeline.ring import Inlet, Kind, Outlet, Parcel
from gim_bench.training.trainer import Trainer
from gim_bench.training.workers import at_post, receive_state, send_state, tell

if TYPE_CHECKING:
    from gim_bench.training.pipeline.network import NetworkInlet, NetworkOutlet
    from gim_bench.training.pipeline.network_buffer import NetworkBufferInlet, NetworkBufferOutlet


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The units of a worker, and their batches where it is the lowest."""

    trainer: Trainer  # of the worker's share
    source: Source | None  # the batches of the lowest worker
    steps: int
    rates: Callable[[int], float] | None  # the factor of the learning rate at each step
    slowdown: float = 1.0  # how many times as long as its own step a worker takes, without waiting


class Begin(NamedTuple):
    """The step with which a training begins or goes on."""

    epoch: int
    position: int  # steps of that epoch that are done
    has_state: bool  # whether a state of the worker's units follows, after these steps


class Measured(NamedTuple):
    """Time, bytes and memory of a worker's own training."""

    units: tuple[str, ...]
    seconds: float
    seconds_without_batch: float  # waiting for the worker below
    seconds_without_room: float  # waiting for the worker above
    bytes_trained_on: int  # handed on, without those of held-out batches
    peaks: memory.Peaks
    uses: Sequence[Use] = ()  # of the batches of a buffer, step by step


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """What a worker begins with; its part is made in the worker's own process."""

    kind: "type[Worker]"
    make: Callable[[], Part]
    parent: Connection
    below: Any  # the end of its connection with the worker below, as its kind has it, or None
    above: Any


def serve(post: Post) -> None:
    """Train the worker's part; the parent hears of every step.

    Messages: ("ready", names of the state), ("losses", {unit: loss}, whether a state follows),
    ("validated", {unit: loss}), ("done", measured), after which a state follows, and those of
    `at_post`.
    """
    at_post(post.parent, lambda: post.kind(post).work())


# -- at work ---------------------------------------------------------------------------------------


class Worker(ABC):
    """A worker at its post."""

    below: "Inlet | NetworkInlet | BufferInlet | NetworkBufferInlet | None"
    above: "Outlet | NetworkOutlet | BufferOutlet | NetworkBufferOutlet | None"

    def __init__(self, post: Post) -> None:
        self.part, self.parent = post.make(), post.parent
        self.trainer = self.part.trainer
        self.uses: list[Use] = []

    def work(self) -> None:
        learner = self.trainer.learner
        learner.train()
        tell(self.parent, "ready", list(learner.state_dict()))
        begin = self._told_to_begin()
        memory.free(self.trainer.device)
        began = time.perf_counter()
        with memory.measure(self.trainer.device, learner=learner) as peaks:
            self.train(begin)
        tell(self.parent, "done", self._measured(time.perf_counter() - began, peaks))
        self.report_state()
        self.linger()

    @abstractmethod
    def train(self, begin: Begin) -> None:
        """Take all steps of the training from `begin`."""

    @abstractmethod
    def linger(self) -> None:
        """Stay until no other worker needs this one any more."""

    def step(self, batch: Batch, *, number: int, hand_on: HandOn | None) -> dict[str, float]:
        """Take a step; return its losses."""
        if self.part.rates is not None:
            self.trainer.set_rate(self.part.rates(number))
        losses = self.trainer.step(batch, hand_on=hand_on)
        return {unit: float(loss) for unit, loss in losses.items()}

    def report_state(self) -> None:
        with of_neighbours():
            send_state(self.parent, self.trainer.state())

    def _told_to_begin(self) -> Begin:
        with of_neighbours():
            begin: Begin = self.parent.recv()
            if begin.has_state:
                self.trainer.restore(receive_state(self.parent))
        return begin

    def _measured(self, seconds: float, peaks: memory.Peaks) -> Measured:
        return Measured(
            units=tuple(self.trainer.optimisers),
            seconds=seconds,
            seconds_without_batch=0.0 if self.below is None else self.below.seconds_waited,
            seconds_without_room=0.0 if self.above is None else self.above.seconds_waited,
            bytes_trained_on=0 if self.above is None else self.above.bytes_trained_on,
            peaks=peaks,
            uses=self.uses,
        )


class LosslessWorker(Worker):
    """Every batch is handed on once, in order; with the parcel END a worker has taken its steps."""

    inlet: "ClassVar[type[Inlet | NetworkInlet]]" = Inlet
    outlet: "ClassVar[type[Outlet | NetworkOutlet]]" = Outlet
    below: "Inlet | NetworkInlet | None"
    above: "Outlet | NetworkOutlet | None"

    def __init__(self, post: Post) -> None:
        super().__init__(post)
        device = self.trainer.device
        self.below = None if post.below is None else self.inlet(post.below, device=device)
        self.above = None if post.above is None else self.outlet(post.above)

    def train(self, begin: Begin) -> None:
        parcels = self._own(begin) if self.below is None else self._given()
        for parcel in parcels:
            if parcel.kind is Kind.TRAIN:
                self._train(parcel)
            elif parcel.kind is not Kind.END:
                self._validate(parcel, parcels)
            else:
                self._hand_on(parcel)

    def linger(self) -> None:
        if self.above is not None:
            self.above.wait_until_read()

    def _train(self, parcel: Parcel) -> None:
        assert parcel.batch is not None
        losses = self.step(parcel.batch, number=parcel.step, hand_on=self._upwards(parcel))
        tell(self.parent, "losses", losses, parcel.snapshot)
        if parcel.snapshot:
            self.report_state()

    def _validate(self, first: Parcel, parcels: Iterator[Parcel]) -> None:
        """Evaluate the parcels from `first` to the end of the epoch."""

        def held_out() -> Iterator[Batch]:
            parcel = first
            while parcel.batch is not None:
                yield parcel.batch
                parcel = next(parcels)

        upwards = self._upwards(Parcel(kind=Kind.VALIDATE))
        validated = self.trainer.evaluate(held_out(), hand_on=upwards)
        self._hand_on(Parcel(kind=Kind.EPOCH_OVER))
        tell(self.parent, "validated", validated)

    def _upwards(self, parcel: Parcel) -> Callable[[Batch], None] | None:
        """A function that hands a batch to the worker above, with the rest of the parcel."""
        above = self.above
        return None if above is None else lambda batch: above.send(replace(parcel, batch=batch))

    def _hand_on(self, parcel: Parcel) -> None:
        if self.above is not None:
            self.above.send(parcel)

    def _given(self) -> Iterator[Parcel]:
        """Parcels of the worker below, up to the last one."""
        assert self.below is not None
        parcel = self.below.receive()
        while parcel.kind is not Kind.END:
            yield parcel
            del parcel
            self.below.release()
            parcel = self.below.receive()
        yield parcel

    def _own(self, begin: Begin) -> Iterator[Parcel]:
        """Parcels of the lowest worker, from the source; as the loop of `fit` visits it."""
        source, steps = self.part.source, self.part.steps
        assert source is not None
        epoch, position = begin.epoch, begin.position
        step = (epoch - 1) * len(source) + position
        while True:
            for batch in islice(source.epoch(epoch), position, None):
                if step >= steps:
                    break
                yield Parcel(kind=Kind.TRAIN, batch=batch, step=step, snapshot=self._is_asked())
                step += 1
            for batch in source.validation():
                yield Parcel(kind=Kind.VALIDATE, batch=batch)
            yield Parcel(kind=Kind.EPOCH_OVER)
            if step >= steps:
                break
            epoch, position = epoch + 1, 0
        yield Parcel(kind=Kind.END)

    def _is_asked(self) -> bool:
        """Whether the parent asks for the state."""
        with of_neighbours():
            asked = self.parent.poll()
            if asked:
                self.parent.recv()
        return asked
