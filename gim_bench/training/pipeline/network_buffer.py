"""A buffer between two processes that do not wait for each other and share no memory.

Each end has a courier, a thread that takes batches over the network while its worker trains. The
lower one sends the newest batch as soon as the one before is in the buffer, which lies at the upper
end: what was made meanwhile is dropped. After its last step the worker below is asked for no more
batches than the buffer has room for.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gim_bench.contract import Batch
from gim_bench.hardware.transfers import moved
from gim_bench.settings.schema import BufferSettings
from gim_bench.training.pipeline.asynchronous import AsynchronousWorker
from gim_bench.training.pipeline.buffer import Slots, Use
from gim_bench.training.pipeline.ends import End
from gim_bench.training.pipeline.network import DistantWorker, NetworkInlet, NetworkOutlet, Seat
from gim_bench.training.pipeline.ring import Kind, Parcel
from gim_bench.training.pipeline.worker import Begin

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferSeat(Seat):
    """The end of a connection with a buffer."""

    buffer: BufferSettings
    last_step: int  # of the worker below, counted from 0


class Courier(threading.Thread):
    """A thread whose error is raised in the worker's own thread."""

    def __init__(self, carry: Callable[[], None], changed: threading.Condition) -> None:
        """`changed` is notified of the end."""
        super().__init__(daemon=True)  # a worker that an error ends does not wait for it
        self._carry = carry
        self._changed = changed
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._carry()
        except Exception as error:
            with self._changed:
                self.error = error
                self._changed.notify_all()

    def check(self) -> None:
        """Raises: the courier's error."""
        if self.error is not None:
            raise self.error


class _SharedEnd(End, ABC):
    """An end that the worker and its courier share."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._closes = False
        self._courier = Courier(self._carry, self._changed)

    def open(self) -> None:
        """Let the courier begin; the process has joined the group."""
        self._courier.start()

    def close(self) -> None:
        """Wait until the courier has ended. Raises: NeighbourGoneError."""
        with self._changed:
            self._closes = True
            self._changed.notify_all()
        self._courier.join()
        self._courier.check()

    @abstractmethod
    def _carry(self) -> None:
        """The courier's work."""


class NetworkBufferOutlet(_SharedEnd):
    """The end at which a worker puts batches for the worker above."""

    def __init__(self, seat: BufferSeat) -> None:
        super().__init__()
        self._network = NetworkOutlet(seat)
        self._newest: Parcel | None = None  # that nobody has begun to send
        self._sends = False  # an older one, or waits for room for it
        self._made = 0

    @property
    def bytes_trained_on(self) -> int:
        """Of all batches that were sent."""
        return self._network.bytes_trained_on

    def put(self, batch: Batch, *, version: int) -> None:
        """Have the batch sent, made after `version` updates, in place of one that still waits.

        Raises: NeighbourGoneError.
        """
        parcel = Parcel(kind=Kind.TRAIN, batch=_copied(batch, CPU), step=version, number=self._made)
        self._made += 1
        with self._changed:
            self._courier.check()
            self._newest = parcel
            self._changed.notify_all()

    def has_room(self) -> bool:
        """Whether a batch can be put that is sent at once. Raises: NeighbourGoneError."""
        with self._changed:
            self._courier.check()
            return self._newest is None and not self._sends

    def _carry(self) -> None:
        while True:
            with self._changed:
                self._sends = False
                self._changed.wait_for(lambda: self._newest is not None or self._closes)
                parcel, self._newest = self._newest, None
                self._sends = True
            if parcel is None or self._closes:
                break
            self._network.send(parcel)
        self._network.send(Parcel(kind=Kind.END))
        self._network.wait_until_read()


class NetworkBufferInlet(_SharedEnd):
    """The end at which a worker takes batches of the worker below, and at which the buffer lies."""

    def __init__(self, seat: BufferSeat, *, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._last_step = seat.last_step
        self._network = NetworkInlet(seat, device=CPU)
        self._slots = Slots(size=seat.buffer.size, policy=seat.buffer.policy)
        self._batches: dict[int, Batch] = {}  # by slot

    def take(self) -> tuple[Batch, Use]:
        """The batch that is used next. Raises: NeighbourGoneError."""
        with self._waiting(), self._changed:
            self._changed.wait_for(lambda: self._batches or self._courier.error is not None)
            self._courier.check()
            slot, use = self._slots.take()
            batch = self._batches[slot]
            self._changed.notify_all()
        return _copied(batch, self._device), use

    def _carry(self) -> None:
        while (parcel := self._network.receive()).kind is not Kind.END:
            assert parcel.batch is not None
            batch = _copied(parcel.batch, CPU)
            with self._changed:
                slot = self._slots.put(version=parcel.step, number=parcel.number)
                self._batches[slot] = batch
                self._changed.notify_all()
                if parcel.step >= self._last_step:
                    self._changed.wait_for(lambda: self._slots.have_room() or self._closes)
            self._network.release()
        self._network.wait_until_sent()


def _copied(batch: Batch, device: torch.device) -> Batch:
    """The batch in memory of its own, on the device."""

    def copy(values: Tensor) -> Tensor:
        there = moved(values, device=device)
        return there.clone() if there is values else there

    first, *further = (copy(view) for view in batch.views)
    labels = {target: copy(values) for target, values in batch.labels.items()}
    return replace(batch, inputs=first, further=tuple(further), labels=labels)


class DistantAsynchronousWorker(DistantWorker, AsynchronousWorker):
    """A worker of a pipeline that neither waits nor shares memory."""

    inlet = NetworkBufferInlet
    outlet = NetworkBufferOutlet
    below: NetworkBufferInlet | None
    above: NetworkBufferOutlet | None

    @property
    def _ends(self) -> list[NetworkBufferInlet | NetworkBufferOutlet]:
        return [end for end in (self.below, self.above) if end is not None]

    def train(self, begin: Begin) -> None:
        for end in self._ends:
            end.open()
        super().train(begin)

    def linger(self) -> None:
        super().linger()
        for end in self._ends:
            end.close()
