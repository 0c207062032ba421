"""Batches between two processes that share no memory: over torch.distributed, by gloo.

The ends do what those of `ring` do: batches go up, room comes back, and a process waits that is
given no room. A batch is a header as JSON and its tensors, each as bytes in their order in memory,
which decides the last bits of sums.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import UInt8
from torch import Tensor

from gim_bench.hardware.process_group import connected, exchange
from gim_bench.hardware.ranks import RankMeeting
from gim_bench.training.pipeline.ends import End, batch_of, values_of
from gim_bench.training.pipeline.ring import BUFFERS, Kind, Parcel
from gim_bench.training.pipeline.worker import LosslessWorker, Post, Worker

FACTS = [each.name for each in fields(Parcel) if each.name != "batch"]  # of a parcel's header


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """The end of a connection between workers, one for each rank; made in their parent."""

    meeting: RankMeeting  # of all workers
    number: int  # rank of this end
    peer: int  # rank of the other end

    def close(self) -> None:
        """Nothing is open before a worker has joined the group."""


class _MemberEnd(End):
    """An end at work, in a process that has joined the group."""

    def __init__(self, seat: Seat) -> None:
        super().__init__()
        self._peer = seat.peer
        self._under_way: list[tuple[dist.Work, Tensor]] = []  # what is sent must stay until then

    def wait_until_sent(self) -> None:
        """Wait until the other end has everything. Raises: NeighbourGoneError."""
        with exchange():
            for work, _ in self._under_way:
                work.wait()
        self._under_way = []

    def _send(self, values: Tensor) -> None:
        """Begin to send the values, which must not change until they are sent."""
        with exchange():
            work = dist.isend(values, self._peer)
        assert work is not None
        self._under_way = [each for each in self._under_way if not each[0].is_completed()]
        self._under_way.append((work, values))

    def _receive(self, values: Tensor) -> Tensor:
        with exchange():
            dist.recv(values, self._peer)
        return values


class NetworkOutlet(_MemberEnd):
    """The end at which a worker hands batches to the worker above; it waits for room."""

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        self.bytes_trained_on = 0  # of the batches that were handed on to be trained on
        self._room = BUFFERS
        self._buffers: list[Tensor] = []

    def send(self, parcel: Parcel) -> None:
        """Send the parcel, once there is room for its batch. Raises: NeighbourGoneError."""
        batch = parcel.batch
        if batch is None:
            self._send_header(parcel)
            return
        with self._waiting():
            self._take_room()
        values = values_of(batch)
        self._buffers = _buffers_like([_like(each) for each in values], old=self._buffers)
        for buffer, each in zip(self._buffers, values, strict=True):
            buffer.copy_(each)
        self._send_header(
            parcel,
            tensors=[_like(each) for each in self._buffers],
            targets=list(batch.labels),
            encoded_by=batch.encoded_by,
        )
        for buffer in self._buffers:
            self._send(_flat(buffer))
        if parcel.kind is Kind.TRAIN:
            self.bytes_trained_on += sum(view.nbytes for view in batch.views)

    def wait_until_read(self) -> None:
        """Wait until the other end is done with every batch. Raises: NeighbourGoneError."""
        self.wait_until_sent()
        while self._room < BUFFERS:
            self._hear_of_room()

    def _take_room(self) -> None:
        """Wait for room; what was sent in it before has then been read, so buffers are free."""
        while not self._room:
            self._hear_of_room()
        self._room -= 1
        self.wait_until_sent()

    def _hear_of_room(self) -> None:
        self._receive(torch.empty(1, dtype=torch.uint8))
        self._room += 1

    def _send_header(self, parcel: Parcel, **facts: Any) -> None:
        of_parcel = {name: getattr(parcel, name) for name in FACTS}
        header = {**of_parcel, **facts}
        text = torch.frombuffer(bytearray(json.dumps(header).encode()), dtype=torch.uint8)
        self._send(torch.tensor([len(text)]))
        self._send(text)


class NetworkInlet(_MemberEnd):
    """The end at which a worker is given batches by the worker below."""

    def __init__(self, seat: Seat, *, device: torch.device) -> None:
        super().__init__(seat)
        self._device = device
        self._buffers: list[Tensor] = []
        self._holds = False

    def receive(self) -> Parcel:
        """The next parcel, whose batch lies in buffers until `release` is called.

        Raises: NeighbourGoneError.
        """
        with self._waiting():
            size = self._receive(torch.empty(1, dtype=torch.int64))
            text = self._receive(torch.empty(int(size), dtype=torch.uint8))
            header = json.loads(text.numpy().tobytes())
            likes = [tuple(like) for like in header.get("tensors", [])]
            if likes:
                self._buffers = _buffers_like(likes, old=self._buffers)
                for buffer in self._buffers:
                    self._receive(_flat(buffer))
        parcel = Parcel(**{name: header[name] for name in FACTS} | {"kind": Kind(header["kind"])})
        if not likes:
            return parcel
        self._holds = True
        batch = batch_of(
            self._buffers,
            targets=header["targets"],
            encoded_by=header["encoded_by"],
            device=self._device,
        )
        return replace(parcel, batch=batch)

    def release(self) -> None:
        """Give room for another batch. Raises: NeighbourGoneError."""
        if self._holds:
            self._send(torch.zeros(1, dtype=torch.uint8))
            self._holds = False


class DistantWorker(Worker):
    """A worker of a pipeline whose workers share no memory."""

    def __init__(self, post: Post) -> None:
        super().__init__(post)
        self._seat: Seat = post.below or post.above

    def work(self) -> None:
        seat, cpu = self._seat, torch.device("cpu")  # batches go over the host
        processes = seat.meeting.rank.ranks
        with connected(seat.meeting, number=seat.number, processes=processes, device=cpu):
            super().work()


class DistantLosslessWorker(DistantWorker, LosslessWorker):
    """Hands every batch on once and in order."""

    inlet = NetworkInlet
    outlet = NetworkOutlet
    below: NetworkInlet | None
    above: NetworkOutlet | None

    def linger(self) -> None:
        super().linger()
        if self.below is not None:
            self.below.wait_until_sent()  # the worker below waits for the last room


# -- tensors as bytes ------------------------------------------------------------------------------

# Shape, stride and number format of a tensor whose values lie densely in memory.
Like = tuple[Sequence[int], Sequence[int], str]


def _like(values: Tensor) -> Like:
    """Shape, stride and format of a dense copy, which keeps the order of the values in memory."""
    copy = torch.empty_like(values, device="meta")
    return list(copy.shape), list(copy.stride()), str(copy.dtype).removeprefix("torch.")


def _buffers_like(likes: Sequence[Like], *, old: list[Tensor]) -> list[Tensor]:
    """Buffers that look so: the old ones, if they do."""
    if [_like(each) for each in old] == [tuple(like) for like in likes]:
        return old
    return [
        torch.empty_strided(shape, stride, dtype=getattr(torch, dtype))
        for shape, stride, dtype in likes
    ]


def _flat(values: Tensor) -> UInt8[Tensor, "byte"]:
    """All bytes of a dense tensor, in their order in memory."""
    return values.as_strided([math.prod(values.shape)], [1]).view(torch.uint8)
