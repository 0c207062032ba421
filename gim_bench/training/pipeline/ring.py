"""A ring of shared buffers between two processes: batches go up, free buffers come back.

A buffer is made once for each shape, and reused. A process waits whose buffers are all full, or
all empty.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
from torch import Tensor

from gim_bench.contract import Batch
from gim_bench.system.children import of_neighbours
from gim_bench.training.pipeline.ends import End, batch_of, values_of

BUFFERS = 1  # of a ring; a second one took a tenth more memory and no less time


class Kind(StrEnum):
    """The work that a parcel asks for."""

    TRAIN = "train"
    VALIDATE = "validate"
    EPOCH_OVER = "epoch over"
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A batch with what is to be done with it; only TRAIN and VALIDATE have a batch."""

    kind: Kind
    batch: Batch | None = None
    step: int = 0  # of the training, counted from 0
    number: int = 0  # of a batch that may be dropped, among all that were made
    snapshot: bool = False  # report the state after this step


class _Header(NamedTuple):
    """A message of the pipe, beside the buffers."""

    parcel: Parcel  # without its batch
    buffer: int | None  # its number; None without a batch
    made: Sequence[Tensor] | None  # the views and labels of the buffer, where it is new
    targets: Sequence[str]  # of the labels
    encoded_by: str | None


class Outlet(End):
    """The end at which a worker hands batches to the worker above."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.bytes_trained_on = 0  # of the batches that were handed on to be trained on
        self._connection = connection
        self._free = deque(range(BUFFERS))
        self._buffers: dict[int, list[Tensor]] = {}

    def send(self, parcel: Parcel) -> None:
        """Copy the parcel's batch into a free buffer, once there is one.

        Raises: NeighbourGoneError.
        """
        batch = parcel.batch
        if batch is None:
            self._pass(_Header(parcel, None, None, (), None))
            return
        values = values_of(batch)
        number, is_new = self._buffer_for(values)
        buffer = self._buffers[number]
        for part, value in zip(buffer, values, strict=True):
            part.copy_(value)
        if parcel.kind is Kind.TRAIN:
            self.bytes_trained_on += sum(view.nbytes for view in batch.views)
        without, made = replace(parcel, batch=None), buffer if is_new else None
        self._pass(_Header(without, number, made, list(batch.labels), batch.encoded_by))

    def wait_until_read(self) -> None:
        """Wait until all buffers have come back: the process that made them must live so long."""
        with of_neighbours():
            while len(self._free) < BUFFERS:
                self._free.append(self._connection.recv())

    def _pass(self, header: _Header) -> None:
        with of_neighbours():
            self._connection.send(header)

    def _buffer_for(self, values: Sequence[Tensor]) -> tuple[int, bool]:
        """The number of a free buffer of the values' shapes, and whether it is new."""
        with self._waiting(), of_neighbours():
            while not self._free or self._connection.poll():
                self._free.append(self._connection.recv())
        number = self._free.popleft()
        buffer = self._buffers.get(number, [])
        fits = [_like(part) for part in buffer] == [_like(value) for value in values]
        if not fits:
            self._buffers[number] = [
                torch.empty_like(value, device="cpu").share_memory_() for value in values
            ]
        return number, not fits


class Inlet(End):
    """The end at which a worker is given batches by the worker below."""

    def __init__(self, connection: Connection, *, device: torch.device) -> None:
        super().__init__()
        self._connection = connection
        self._device = device
        self._buffers: dict[int, Sequence[Tensor]] = {}
        self._held: int | None = None

    def receive(self) -> Parcel:
        """The next parcel, whose batch lies in a buffer until `release` is called.

        Raises: NeighbourGoneError.
        """
        with self._waiting(), of_neighbours():
            header: _Header = self._connection.recv()
        if header.buffer is None:
            return header.parcel
        if header.made is not None:
            self._buffers[header.buffer] = header.made
        self._held = header.buffer
        batch = batch_of(
            self._buffers[header.buffer],
            targets=header.targets,
            encoded_by=header.encoded_by,
            device=self._device,
        )
        return replace(header.parcel, batch=batch)

    def release(self) -> None:
        """Give the buffer of the last batch back. Raises: NeighbourGoneError."""
        if self._held is not None:
            with of_neighbours():
                self._connection.send(self._held)
            self._held = None


def _like(values: Tensor) -> tuple[torch.Size, tuple[int, ...], torch.dtype]:
    return values.shape, values.stride(), values.dtype
