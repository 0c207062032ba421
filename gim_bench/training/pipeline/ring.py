"""A ring of shared buffers between two processes: batches go up, free buffers come back.

A buffer is made once for each shape, and reused. A process waits whose buffers are all full, or
all empty.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gim_bench.contract import Batch
from gim_bench.hardware.transfers import moved
from gim_bench.system.children import of_neighbours
from gim_bench.training.pipeline.ends import End

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
    snapshot: bool = False  # report the state after this step


class _Header(NamedTuple):
    """A message of the pipe, beside the buffers."""

    parcel: Parcel  # without its batch
    buffer: int | None  # its number; None without a batch
    made: Sequence[Tensor] | None  # the tensors of the buffer, where it is new
    labels: Mapping[str, np.ndarray]
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
        if parcel.batch is None:
            self._pass(_Header(parcel, None, None, {}, None))
            return
        views = parcel.batch.views
        number, made = self._buffer_for(views)
        for part, view in zip(self._buffers[number], views, strict=True):
            part.copy_(view)
            if parcel.kind is Kind.TRAIN:
                self.bytes_trained_on += part.nbytes
        self._pass(
            _Header(
                replace(parcel, batch=None),
                number,
                self._buffers[number] if made else None,
                {target: labels.cpu().numpy() for target, labels in parcel.batch.labels.items()},
                parcel.batch.encoded_by,
            )
        )

    def wait_until_read(self) -> None:
        """Wait until all buffers have come back: the process that made them must live so long."""
        with of_neighbours():
            while len(self._free) < BUFFERS:
                self._free.append(self._connection.recv())

    def _pass(self, header: _Header) -> None:
        with of_neighbours():
            self._connection.send(header)

    def _buffer_for(self, views: Sequence[Tensor]) -> tuple[int, bool]:
        """The number of a free buffer of the views' shapes, and whether it is new."""
        with self._waiting(), of_neighbours():
            while not self._free or self._connection.poll():
                self._free.append(self._connection.recv())
        number = self._free.popleft()
        buffer = self._buffers.get(number, [])
        fits = [_like(part) for part in buffer] == [_like(view) for view in views]
        if not fits:
            self._buffers[number] = [
                torch.empty_like(view, device="cpu").share_memory_() for view in views
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
        first, *further = (
            moved(part, device=self._device) for part in self._buffers[header.buffer]
        )
        batch = Batch(
            inputs=first,
            labels={
                target: moved(torch.from_numpy(labels), device=self._device)
                for target, labels in header.labels.items()
            },
            further=tuple(further),
            encoded_by=header.encoded_by,
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
