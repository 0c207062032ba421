"""Batches of large images, which are read by windows: random windows, or every labelled place.

Letters: b = windows of a batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gim_bench import seeding
from gim_bench.contract import Batch
from gim_bench.datasets.batches import Batches, BatchOptions, ViewStreams, shared
from gim_bench.datasets.images.crops import luma, normalise
from gim_bench.hardware import process_group
from gim_bench.hardware.transfers import moved
from gim_bench.large_images import LargeImages
from gim_bench.settings.augmentations import RegionSettings


class Windows(NamedTuple):
    """Windows of images: number of the image, first row and first column."""

    images: Int[Tensor, "b"]
    tops: Int[Tensor, "b"]
    lefts: Int[Tensor, "b"]


class _LargeBatches(Batches):
    """Batches that read rectangles of large images."""

    def __init__(
        self,
        images: LargeImages,
        *,
        augmentation: RegionSettings,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        self.images = images
        self.augmentation = augmentation

    def pixels(
        self, image: int, top: int, left: int, *, height: int, width: int
    ) -> Float[Tensor, "1 channel height width"]:
        """A normalised rectangle of an image, on the device."""
        found = self.images.images[image].window(top, left, height=height, width=width)
        pixels = moved(torch.from_numpy(found)[None], device=self.device)
        if self.augmentation.grayscale and len(found) == 3:
            pixels = luma(pixels).to(torch.uint8)
        return normalise(pixels, augmentation=self.augmentation)

    def _squares(self, windows: Windows, *, size: int) -> Float[Tensor, "b channel size size"]:
        places = zip(*(values.tolist() for values in windows), strict=True)
        return torch.cat([self.pixels(*place, height=size, width=size) for place in places])


class RegionBatches(_LargeBatches):
    """Windows at random places of the regions of unlabelled images, `windows` of them an epoch.

    The corner of a window lies on a grid of `grid` pixels. A module whose stride divides the grid
    then hands on the same encodings of a window and of the whole image.
    """

    noun = "window"
    noun_of_items = "window"

    def __init__(
        self,
        images: LargeImages,
        *,
        augmentation: RegionSettings,
        grid: int = 1,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(images, augmentation=augmentation, **options)
        self.grid = grid

    @property
    def items(self) -> int:
        return self.augmentation.windows

    @property
    def labels(self) -> Mapping[str, Int[Tensor, "b"]]:
        return {}

    def in_order(self) -> Iterator[Batch]:
        yield from self.epoch(1)

    def epoch(self, number: int) -> Iterator[Batch]:
        for windows in self.places(number):
            yield self._batch(windows)

    def places(self, number: int) -> Iterator[Windows]:
        """The windows of every batch of epoch `number`."""
        draw = seeding.generator("data", *self.stream, number)
        for _ in range(len(self)):
            yield self._drawn(self.batch_size, draw)

    def _augmented(self, chosen: Int[Tensor, "b"], streams: Sequence[ViewStreams]) -> Batch:
        return self._batch(self._drawn(len(chosen), streams[0].place))

    def _drawn(self, windows: int, draw: torch.Generator) -> Windows:
        images = torch.randint(len(self.images.images), (windows,), generator=draw)
        corners = (self.augmentation.side - self.augmentation.window) // self.grid + 1
        tops, lefts = self.grid * torch.randint(corners, (2, windows), generator=draw)
        return Windows(images, tops, lefts)

    def _batch(self, windows: Windows) -> Batch:
        """A batch of the process's own among the windows."""
        own = process_group.own(len(windows.images))
        ours = Windows(*(values[own] for values in windows))
        return Batch(inputs=self._squares(ours, size=self.augmentation.window), labels={})


class PlaceBatches(_LargeBatches):
    """Every labelled place as an example of its own, without augmentation."""

    noun = "place"
    noun_of_items = "place"

    @property
    def items(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Mapping[str, Int[Tensor, "n"]]:
        return {name: shared(labels) for name, labels in self.images.labels.items()}

    @property
    def sources(self) -> Int[Tensor, "n"]:
        sources = self.images.sources
        return super().sources if sources is None else shared(sources)

    def in_order(self) -> Iterator[Batch]:
        for chosen in torch.arange(self.items).split(self.batch_size):
            yield self._batch(chosen)

    def _augmented(self, chosen: Int[Tensor, "b"], streams: Sequence[ViewStreams]) -> Batch:
        return self._batch(chosen[process_group.own(len(chosen))])

    def _batch(self, chosen: Int[Tensor, "b"]) -> Batch:
        return Batch(
            inputs=self._squares(self._windows(chosen), size=self.images.place),
            labels={
                name: moved(labels[chosen], device=self.device)
                for name, labels in self.labels.items()
            },
        )

    def _windows(self, chosen: Int[Tensor, "b"]) -> Windows:
        """The images and corners of places, which are numbered image by image and row by row."""
        grids = torch.tensor([self.images.grid(i) for i in range(len(self.images.images))])
        ends = grids.prod(dim=1).cumsum(0)
        images = torch.searchsorted(ends, chosen, right=True)
        within = chosen - (ends - grids.prod(dim=1))[images]
        columns = grids[images, 1]
        place = self.images.place
        return Windows(images, within // columns * place, within % columns * place)
