"""Batches: a split as what learners and probes take, drawn alike for every method.

What is drawn depends on (dataset, seed, epoch) alone and is drawn on the CPU, so that every method
on every device sees the same examples, crops and windows at the same step.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import ClassVar
from weakref import WeakValueDictionary

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gim_bench import seeding
from gim_bench.contract import Batch


class Batches(ABC):
    """One split as batches: `epoch` for training, `in_order` for the probe."""

    noun: ClassVar[str]  # what an example is called
    noun_of_items: ClassVar[str]  # what the examples are cut from

    def __init__(
        self,
        *,
        batch_size: int,
        stream: tuple[str, int],
        device: torch.device,
        held_out: float = 0.0,
    ) -> None:
        """`stream` is (dataset, seed), which alone decides order, augmentation and what is held out
        of the epochs, a share of the items.
        """
        self.batch_size = batch_size
        self.held_out = held_out
        self.stream = stream
        self.device = device

    @property
    @abstractmethod
    def items(self) -> int:
        """Images or recordings: what an epoch visits once each."""

    @property
    @abstractmethod
    def labels(self) -> Mapping[str, Int[Tensor, "example *step"]]:
        """By target, the labels of all that `in_order` yields; -1 where unlabelled. On the CPU."""

    @property
    @abstractmethod
    def groups(self) -> Int[Tensor, "example"]:
        """Which item each example of `in_order` is from. On the CPU."""

    @abstractmethod
    def in_order(self) -> Iterator[Batch]:
        """Everything once, in the split's order, without augmentation."""

    def __len__(self) -> int:
        """Batches in an epoch; the last, incomplete one is left out in training."""
        return whole_batches(self.items, batch_size=self.batch_size, held_out=self.held_out)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number` in their random order, augmented at random."""
        draw = seeding.generator("data", *self.stream, number)
        trained, _ = self._parts
        order = trained[torch.randperm(len(trained), generator=draw)]
        for step in range(len(self)):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self._augmented(chosen, draw)

    def validation(self) -> Iterator[Batch]:
        """Whole batches of what is held out, augmented at random but always alike."""
        draw = seeding.generator("held out, augmented", *self.stream)
        _, held = self._parts
        for chosen in held.split(self.batch_size):
            if len(chosen) == self.batch_size:
                yield self._augmented(chosen, draw)

    @cached_property
    def _parts(self) -> tuple[Int[Tensor, "trained"], Int[Tensor, "held"]]:
        """The items that epochs visit, and those that they do not."""
        held = round(self.items * self.held_out)
        if not held:
            return torch.arange(self.items), torch.arange(0)
        order = torch.randperm(self.items, generator=seeding.generator("held out", *self.stream))
        return order[held:], order[:held]

    @abstractmethod
    def _augmented(self, chosen: Int[Tensor, "b"], draw: torch.Generator) -> Batch:
        """The chosen items as a batch, augmented by what is drawn from `draw`."""


def whole_batches(items: int, *, batch_size: int, held_out: float) -> int:
    """Batches in an epoch over `items`, of which the share `held_out` is never visited."""
    return (items - round(items * held_out)) // batch_size


def shared(array: np.ndarray) -> Tensor:
    """The array as a tensor over the same memory; it may be read-only, being only ever read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


# What is on a GPU at the moment, by where it came from, so that splits of one array share a copy.
_residents: WeakValueDictionary[tuple[int, int, str], Tensor] = WeakValueDictionary()


def resident(values: Tensor, *, device: torch.device) -> Tensor:
    """`values` moved to the GPU whole where they fill less than a third of its free memory.

    On the CPU, and where they are too large, they stay as they are (memory-mapped, if they were).
    """
    if device.type != "cuda":
        return values
    place = (values.data_ptr(), values.nbytes, str(device))
    if (there := _residents.get(place)) is not None:
        return there
    free_bytes, _ = torch.cuda.mem_get_info(device)
    if values.nbytes >= free_bytes / 3:
        return values
    moved = values.to(device)
    setattr(moved, "source", values)  # noqa: B010 - its address is not used again meanwhile
    _residents[place] = moved
    return moved
