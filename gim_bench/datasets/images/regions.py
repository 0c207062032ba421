"""Batches of large images, which are read by windows: random windows, or every labelled place.

Letters: b = windows of a batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gim_bench.contract import Batch
from gim_bench.datasets.batches import Batches, BatchOptions, ViewStreams, shared
from gim_bench.datasets.images.crops import luma, normalise
from gim_bench.datasets.large import LargeBatches, Windows
from gim_bench.hardware import process_group
from gim_bench.hardware.transfers import moved
from gim_bench.large_images import LargeImages, ReadByWindows
from gim_bench.settings.augmentations import RegionSettings


class RegionBatches(LargeBatches):
    """Windows at random places of the regions of unlabelled images."""

    dimensions = 2
    side_setting = "augmentation.side"

    def __init__(
        self,
        images: LargeImages,
        *,
        augmentation: RegionSettings,
        grid: int = 1,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(
            examples=len(images.images),
            side=augmentation.side,
            window=augmentation.window,
            windows=augmentation.windows,
            grid=grid,
            **options,
        )
        self.images = images
        self.augmentation = augmentation

    def read(
        self, example: int, corner: Sequence[int], *, size: Sequence[int]
    ) -> Float[Tensor, "1 channel height width"]:
        return rectangle(
            self.images.images[example],
            corner,
            size=size,
            augmentation=self.augmentation,
            device=self.device,
        )


class PlaceBatches(Batches):
    """Every labelled place as an example of its own, without augmentation."""

    noun = "place"
    noun_of_items = "place"

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
        size = [self.images.place] * 2
        places = zip(*(values.tolist() for values in self._windows(chosen)), strict=True)
        squares = [
            rectangle(
                self.images.images[image],
                corner,
                size=size,
                augmentation=self.augmentation,
                device=self.device,
            )
            for image, corner in places
        ]
        return Batch(
            inputs=torch.cat(squares),
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
        corners = torch.stack([within // columns, within % columns], dim=1)
        return Windows(images, self.images.place * corners)


def rectangle(
    image: ReadByWindows,
    corner: Sequence[int],
    *,
    size: Sequence[int],
    augmentation: RegionSettings,
    device: torch.device,
) -> Float[Tensor, "1 channel height width"]:
    """A normalised rectangle of an image, on the device. Raises: DataError."""
    (top, left), (height, width) = corner, size
    found = image.window(top, left, height=height, width=width)
    pixels = moved(torch.from_numpy(found)[None], device=device)
    if augmentation.grayscale and len(found) == 3:
        pixels = luma(pixels).to(torch.uint8)
    return normalise(pixels, augmentation=augmentation)
