"""A buffer of batches between two processes that do not wait for each other.

The worker below puts its batches into slots, and a batch makes room for the next one whether it
was used or not. The worker above takes a batch whenever it is ready for one, and takes batches
again where no new ones are there: the replay buffer of asynchronous decoupled greedy learning
(Belilovsky, Eickenberg and Oyallon 2020, "Decoupled Greedy Learning of CNNs"). Each of them holds
the lock for as long as a copy takes; the worker above waits for the very first batch only.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Lock
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from gim_bench.contract import Batch
from gim_bench.settings.schema import BufferPolicy
from gim_bench.system.children import of_neighbours
from gim_bench.training.pipeline.ends import End, batch_of, values_of

EMPTY = -1


class Use(NamedTuple):
    """A batch of a buffer that a step was taken with."""

    made: int  # batches that were made until the newest one in the buffer
    number: int  # of the batch, counted from 0 as batches are made
    version: int  # updates of the worker below before it made the batch
    # Updates of the worker below between its making of this batch and of the newest one in the
    # buffer: 0 where the newest one is used, as without a buffer.
    staleness: int


class Slots:
    """Which batch lies in which slot; a table that two processes share, under a lock of theirs."""

    def __init__(self, *, size: int, policy: BufferPolicy) -> None:
        self.policy = policy
        # [slot field]: the batch's number, updates of the worker below before it, its uses.
        self.table: Int[Tensor, "slot field"] = torch.tensor([[EMPTY, 0, 0]] * size).share_memory_()

    def put(self, *, number: int, version: int) -> int:
        """The slot for a new batch, which was made after `version` updates of the worker below.

        It is the one of that number which was made. What lies in the slot is dropped.
        """
        rows = self._rows()
        slot = min(rows, key=lambda s: self._makes_room(*rows[s]))
        self.table[slot] = torch.tensor([number, version, 0])
        return slot

    def take(self) -> tuple[int, Use]:
        """The slot of the batch that is used next, and what is recorded of its use."""
        rows = {slot: row for slot, row in self._rows().items() if row[0] != EMPTY}
        slot = min(rows, key=lambda s: self._is_next(*rows[s]))
        number, version, _ = rows[slot]
        self.table[slot, 2] += 1
        newest, latest, _ = max(rows.values())
        return slot, Use(newest + 1, number, version, latest - version)

    def have_room(self) -> bool:
        """Whether a batch can be put without an unused one being dropped, or passed over.

        With `freshest`, every older batch is passed over already.
        """
        rows = list(self._rows().values())
        if self.policy is BufferPolicy.FRESHEST:
            rows = [max(rows)]
        return any(number == EMPTY or uses for number, _, uses in rows)

    def _rows(self) -> dict[int, tuple[int, int, int]]:
        return {slot: tuple(row) for slot, row in enumerate(self.table.tolist())}

    def _makes_room(self, number: int, version: int, uses: int) -> tuple[int, ...]:
        """The slot that sorts first makes room: an empty one, if there is one."""
        if number == EMPTY or self.policy is BufferPolicy.FRESHEST:
            return (EMPTY if number == EMPTY else 0, number)
        return (0, -uses, number)

    def _is_next(self, number: int, version: int, uses: int) -> tuple[int, ...]:
        """The slot that sorts first is used next."""
        return (-number,) if self.policy is BufferPolicy.FRESHEST else (uses, number)


class _Contents(NamedTuple):
    """Told to the worker above once, when the first batch is there."""

    slots: list[list[Tensor]]  # by slot: the views of a batch, then its labels
    targets: Sequence[str]  # of the labels
    encoded_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One end of a connection with a buffer, made in the parent of both workers."""

    connection: Connection
    slots: Slots
    lock: Lock

    def close(self) -> None:
        self.connection.close()


class _LockedEnd(End):
    """An end whose table and batches are under a lock."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self._contents: _Contents | None = None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._waiting():
            self._link.lock.acquire()
        try:
            yield
        finally:
            self._link.lock.release()


class BufferOutlet(_LockedEnd):
    """The end at which a worker puts batches for the worker above."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.bytes_trained_on = 0  # of all batches that were put
        self._made = 0

    def put(self, batch: Batch, *, version: int) -> None:
        """Copy the batch, made after `version` updates, into a slot. Raises: NeighbourGoneError."""
        values = values_of(batch)
        contents = self._contents
        if contents is None:
            made = [
                [torch.empty_like(value, device="cpu").share_memory_() for value in values]
                for _ in range(len(self._link.slots.table))
            ]
            contents = _Contents(made, list(batch.labels), batch.encoded_by)
        if values[0].is_cuda:  # the batch is still computed, and its copy would wait for that
            torch.cuda.current_stream(values[0].device).synchronize()
        with self._locked():
            slot = contents.slots[self._link.slots.put(number=self._made, version=version)]
            for part, value in zip(slot, values, strict=True):
                part.copy_(value)
        self._made += 1
        self.bytes_trained_on += sum(view.nbytes for view in batch.views)
        if self._contents is None:
            self._contents = contents
            with of_neighbours():
                self._link.connection.send(contents)

    def has_room(self) -> bool:
        """Whether a batch can be put without an unused one being dropped, or passed over."""
        with self._locked():
            return self._link.slots.have_room()


class BufferInlet(_LockedEnd):
    """The end at which a worker takes batches of the worker below."""

    def __init__(self, link: Link, *, device: torch.device) -> None:
        super().__init__(link)
        self._device = device

    def take(self) -> tuple[Batch, Use]:
        """The batch that is used next. Raises: NeighbourGoneError."""
        if self._contents is None:
            with self._waiting(), of_neighbours():
                self._contents = self._link.connection.recv()
        contents = self._contents
        assert contents is not None
        with self._locked():
            slot, use = self._link.slots.take()
            values = [part.clone() for part in contents.slots[slot]]
        batch = batch_of(
            values,
            targets=contents.targets,
            encoded_by=contents.encoded_by,
            device=self._device,
        )
        return batch, use
