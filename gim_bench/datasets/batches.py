"""Batches of a split for learners and probes, alike for every method.

Every draw depends on (dataset, seed, epoch) alone and is made on the CPU. So every method on every
device sees the same examples, crops and windows at the same step. View 1 is the same however many
views a method takes; each further view has random streams of its own.

Where processes share batches (hardware/process_group.py), each augments its own examples alone. It
draws for all of them, so that all processes together have the batch that one process has.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import ClassVar, NotRequired, TypedDict
from weakref import WeakValueDictionary

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gim_bench import seeding
from gim_bench.contract import Batch


class ViewStreams:
    """The random streams of one augmented view, for one epoch; all of them are on the CPU.

    `place` decides which part of an example the view shows. Every other transform has a stream of
    its own, so that turning one transform on moves no draw of another.
    """

    def __init__(self, place: torch.Generator, *, names: tuple[str | int, ...]) -> None:
        """The streams of transforms are named after `names`, which name the view."""
        self.place = place
        self._names = names
        self._of_transforms: dict[str, torch.Generator] = {}

    def of(self, transform: str) -> torch.Generator:
        """The stream of a transform, which continues from batch to batch."""
        if transform not in self._of_transforms:
            self._of_transforms[transform] = seeding.generator(*self._names, transform)
        return self._of_transforms[transform]


class BatchOptions(TypedDict):
    """What all batches are told, whatever their examples are."""

    batch_size: int
    stream: tuple[str, int]  # (dataset, seed): decides order, augmentation and the items held out
    device: torch.device
    held_out: NotRequired[float]  # the share of the items whose loss `validation` gives
    without: NotRequired[Int[Tensor, "item"] | None]  # items that no epoch visits
    views: NotRequired[int]  # augmented views of every example


class Batches(ABC):
    """One split as batches: `epoch` for training, `in_order` for the probe."""

    noun: ClassVar[str]  # singular name of an example, for messages
    noun_of_items: ClassVar[str]  # singular name of an item that examples are cut from

    def __init__(
        self,
        *,
        batch_size: int,
        stream: tuple[str, int],
        device: torch.device,
        held_out: float = 0.0,
        without: Int[Tensor, "item"] | None = None,
        views: int = 1,
    ) -> None:
        """Batches of `views` augmented views.

        No epoch visits the share `held_out` of the items, whose loss `validation` gives, or the
        items `without`. Whole sources are held out, at least as many items as the share says.
        `stream` is (dataset, seed), which alone decides order, augmentation and the items held out.
        """
        assert views > 0
        self.batch_size = batch_size
        self.held_out = held_out
        self.without = torch.arange(0) if without is None else without
        self.views = views
        self.stream = stream
        self.device = device

    @property
    @abstractmethod
    def items(self) -> int:
        """Number of images or recordings; an epoch visits each of them once."""

    @property
    @abstractmethod
    def labels(self) -> Mapping[str, Int[Tensor, "example *step"]]:
        """Labels of all examples of `in_order`, by target, on the CPU; -1 where unlabelled."""

    @property
    def sources(self) -> Int[Tensor, "item"]:
        """Number of the source of each item: of the chapter that a recording is from, or of the
        photograph or instance that an image is made from. On the CPU. Items are their own sources
        where the data set names no other.
        """
        return torch.arange(self.items)

    @cached_property
    def groups(self) -> Int[Tensor, "example"]:
        """Number of the source of each example of `in_order`, on the CPU."""
        return self.sources[self.items_of_examples]

    @property
    def items_of_examples(self) -> Int[Tensor, "example"]:
        """Number of the image or recording that each example of `in_order` is cut from."""
        return torch.arange(self.items)

    @abstractmethod
    def in_order(self) -> Iterator[Batch]:
        """All items once, in the split's order, in one view without augmentation."""

    def __len__(self) -> int:
        """Number of batches in an epoch, without the last, incomplete batch."""
        trained, _ = self._parts
        return len(trained) // self.batch_size

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number` in their random order, augmented at random."""
        streams = self._streams("data", *self.stream, number)
        trained, _ = self._parts
        order = trained[torch.randperm(len(trained), generator=streams[0].place)]
        for step in range(len(self)):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self._augmented(chosen, streams)

    def augmented_copies(self, number: int) -> Iterator[tuple[Int[Tensor, "b"], Batch]]:
        """All items once, in order and augmented at random: (numbers of the items, their batch).

        Each `number` gives other copies, in the first view alone.
        """
        streams = self._streams("copies", *self.stream, number)[:1]
        for chosen in torch.arange(self.items).split(self.batch_size):
            yield chosen, self._augmented(chosen, streams)

    def validation(self) -> Iterator[Batch]:
        """Whole batches of the held-out items, augmented at random but always alike."""
        streams = self._streams("held out, augmented", *self.stream)
        _, held = self._parts
        for chosen in held.split(self.batch_size):
            if len(chosen) == self.batch_size:
                yield self._augmented(chosen, streams)

    def fixed(self, examples: int) -> Batch:
        """Items that epochs visit, drawn and augmented at random but always alike.

        As many as `examples`, or all if there are fewer. The draws are no other batch's.
        """
        streams = self._streams("fixed", *self.stream)
        trained, _ = self._parts
        order = trained[torch.randperm(len(trained), generator=streams[0].place)]
        return self._augmented(order[:examples], streams)

    def _streams(self, *names: str | int) -> Sequence[ViewStreams]:
        """The random streams of each view; view 1 goes on in the stream of the epoch's order."""
        of_view = [(*names, "view", view) for view in range(1, self.views + 1)]
        places = [names, *of_view[1:]]
        return [
            ViewStreams(seeding.generator(*place), names=of_transforms)
            for place, of_transforms in zip(places, of_view, strict=True)
        ]

    @cached_property
    def _parts(self) -> tuple[Int[Tensor, "trained"], Int[Tensor, "held"]]:
        """The items that epochs visit, and the held-out items."""
        held = round(self.items * self.held_out)
        order = torch.arange(self.items)
        is_held = torch.zeros_like(order, dtype=torch.bool)
        if held:
            order = torch.randperm(
                self.items, generator=seeding.generator("held out", *self.stream)
            )
            # Sources come in the order of their first items, each with all its items.
            _, source = self.sources[order].unique(return_inverse=True)
            first = torch.full_like(order, self.items).scatter_reduce_(
                0, source, torch.arange(self.items), reduce="amin"
            )[source]
            last = first.sort().values[held - 1]
            is_held = first <= last
        kept = ~torch.isin(order, self.without) & ~is_held
        return order[kept], order[is_held]

    @abstractmethod
    def _augmented(self, chosen: Int[Tensor, "b"], streams: Sequence[ViewStreams]) -> Batch:
        """The chosen items as a batch with a view for each of `streams`.

        Where processes share the batch, it is drawn for all items and has the process's own.
        """


def whole_batches(items: int, *, batch_size: int, held_out: float) -> int:
    """Number of batches in an epoch over `items`, without the share `held_out`."""
    return (items - round(items * held_out)) // batch_size


def shared(array: np.ndarray) -> Tensor:
    """The array as a tensor over the same memory. A read-only array may be given: nobody writes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


# Tensors on GPUs at the moment, by the address of their source: splits of one array share a copy.
_residents: WeakValueDictionary[tuple[int, int, str], Tensor] = WeakValueDictionary()


def resident(values: Tensor, *, device: torch.device) -> Tensor:
    """`values` on the GPU as a whole, where they fill less than a third of its free memory.

    Larger values, and values for the CPU, stay as they are (memory-mapped, if they were).
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
    setattr(moved, "source", values)  # noqa: B010 - keeps the source's address in use
    _residents[place] = moved
    return moved
