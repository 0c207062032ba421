"""What each process of a pipeline does: it trains its units, parcel by parcel."""

import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from gim_bench.contract import Batch
from gim_bench.hardware import memory
from gim_bench.system.children import end_with_parent
from gim_bench.system.streams import forgive
from gim_bench.training.kept_outputs import Source
from gim_bench.training.pipeline.ring import Kind, Lower, Parcel, Upper
from gim_bench.training.trainer import Trainer

NEIGHBOUR_GONE = 76  # exit code of a worker whose neighbour or parent has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a worker trains, and on what."""

    trainer: Trainer  # of the worker's share
    source: Source | None  # the batches of the lowest worker
    steps: int
    rates: Callable[[int], float] | None  # the factor of the learning rate at each step


class Begin(NamedTuple):
    """Where a training begins or goes on."""

    epoch: int
    position: int  # steps of that epoch that are done
    state: bytes | None  # of the worker's units, after these steps; None at the start


class Measured(NamedTuple):
    """What a worker measured of its own training."""

    units: tuple[str, ...]
    seconds: float
    seconds_without_batch: float  # waiting for the worker below
    seconds_without_room: float  # waiting for the worker above
    bytes_sent: int
    peaks: memory.Peaks


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """The ends of a worker's connections, and what makes its part in the worker's own process."""

    make: Callable[[], Part]
    parent: Connection
    below: Connection | None
    above: Connection | None


def serve(post: Post) -> None:
    """Train until the parcel END; the parent hears of every step.

    Messages: ("ready", names of the state), ("losses", {unit: loss}, state), ("validated", {unit:
    loss}), ("done", state, measured), and ("failed", error), which is the last one.
    """
    forgive()
    end_with_parent()
    try:
        _Worker(post).work()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(NEIGHBOUR_GONE)
    except Exception as error:  # the parent raises it
        _report(post.parent, error)


def packed(state: Mapping[str, Any]) -> bytes:
    """A state of tensors, numbers, lists and mappings as bytes."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    return file.getvalue()


def unpacked(state: bytes) -> dict[str, Any]:
    """The state that `packed` was given, on the CPU."""
    return torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)


def _report(parent: Connection, error: Exception) -> None:
    try:
        parent.send(("failed", error))
    except OSError:
        sys.exit(NEIGHBOUR_GONE)
    except Exception:  # an error that cannot be pickled
        parent.send(("failed", RuntimeError(f"{type(error).__name__}: {error}")))


class _Worker:
    """A worker at its post."""

    def __init__(self, post: Post) -> None:
        part = post.make()
        self.part, self.parent = part, post.parent
        self.trainer = part.trainer
        device = part.trainer.device
        self.below = None if post.below is None else Lower(post.below, device=device)
        self.above = None if post.above is None else Upper(post.above)

    def work(self) -> None:
        learner = self.trainer.learner
        learner.train()
        self.parent.send(("ready", list(learner.state_dict())))
        begin: Begin = self.parent.recv()
        if begin.state is not None:
            self.trainer.restore(unpacked(begin.state))
        began = time.perf_counter()
        with memory.measure(self.trainer.device, learner=learner) as peaks:
            parcels = self._own(begin) if self.below is None else self._given()
            for parcel in parcels:
                if parcel.kind is Kind.TRAIN:
                    self._train(parcel)
                elif parcel.kind is not Kind.END:
                    self._validate(parcel, parcels)
                else:
                    self._hand_on(parcel)
        measured = self._measured(time.perf_counter() - began, peaks)
        self.parent.send(("done", packed(self.trainer.state()), measured))
        if self.above is not None:
            self.above.wait_until_read()

    def _train(self, parcel: Parcel) -> None:
        assert parcel.batch is not None
        if self.part.rates is not None:
            self.trainer.set_rate(self.part.rates(parcel.step))
        losses = self.trainer.step(parcel.batch, hand_on=self._upwards(parcel))
        state = packed(self.trainer.state()) if parcel.snapshot else None
        values = {unit: float(loss) for unit, loss in losses.items()}
        self.parent.send(("losses", values, state))

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
        self.parent.send(("validated", validated))

    def _upwards(self, parcel: Parcel) -> Callable[[Batch], None] | None:
        """What hands a batch to the worker above, with the rest of the parcel."""
        return None if self.above is None else partial(self._hand_on_batch, parcel)

    def _hand_on_batch(self, parcel: Parcel, batch: Batch) -> None:
        self._hand_on(replace(parcel, batch=batch))

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
                if step == steps:
                    break
                yield Parcel(kind=Kind.TRAIN, batch=batch, step=step, snapshot=self._is_asked())
                step += 1
            for batch in source.validation():
                yield Parcel(kind=Kind.VALIDATE, batch=batch)
            yield Parcel(kind=Kind.EPOCH_OVER)
            if step == steps:
                break
            epoch, position = epoch + 1, 0
        yield Parcel(kind=Kind.END)

    def _is_asked(self) -> bool:
        """Whether the parent asks for the state."""
        asked = self.parent.poll()
        if asked:
            self.parent.recv()
        return asked

    def _measured(self, seconds: float, peaks: memory.Peaks) -> Measured:
        return Measured(
            units=tuple(self.trainer.optimisers),
            seconds=seconds,
            seconds_without_batch=0.0 if self.below is None else self.below.seconds_waited,
            seconds_without_room=0.0 if self.above is None else self.above.seconds_waited,
            bytes_sent=0 if self.above is None else self.above.bytes_sent,
            peaks=peaks,
        )
