"""Batches of images: cropped, flipped, augmented and normalised as one batch on the device.

Letters: n = all images of a split, b = images of a batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Unpack

import torch
from jaxtyping import Bool, Float, Int, Int32, Shaped, UInt8
from torch import Tensor

from gim_bench.contract import Batch, Images
from gim_bench.datasets.batches import Batches, BatchOptions, ViewStreams, resident, shared
from gim_bench.datasets.images.augmentations import cut_out, photometric, random_boxes
from gim_bench.datasets.images.transforms import Boxes, resize, resized_crop
from gim_bench.errors import DataError
from gim_bench.hardware import process_group
from gim_bench.hardware.transfers import constant, moved
from gim_bench.settings.augmentations import (
    CropSettings,
    RegionSettings,
    ViewSettings,
)

# Rec. 601 luma in 65,536ths, the weights of PIL's (and so of torchvision's) grayscale.
RED, GREEN, BLUE = 19_595, 38_470, 7_471
HALF = 0x8000  # of 65,536: rounds to nearest
# Pixels converted to gray at a time: they stay in a core's cache.
SLICE_PIXELS = 2**18


class Places(NamedTuple):
    """First rows and columns of crops, and whether each crop is mirrored left to right."""

    top: Int[Tensor, "b"]
    left: Int[Tensor, "b"]
    flip: Bool[Tensor, "b"]


class ImageBatches(Batches):
    """Random crops, flips and photometric transforms in training; for the probe, centre crops.

    With a gray augmentation, colour images become gray when the batches are built, and with
    `resize` they are resized; images from `prepared` are shared.
    """

    noun = "image"
    noun_of_items = "image"

    def __init__(
        self,
        images: Images,
        *,
        augmentation: CropSettings,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        images = prepared(images, augmentation=augmentation)
        check_crop(images, crop=augmentation.crop, name="the images")
        self.images = resident(shared(images.images), device=self.device)
        self._labels = {name: shared(labels) for name, labels in images.labels.items()}
        self._sources = None if images.sources is None else shared(images.sources)
        self.augmentation = augmentation

    @property
    def items(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Mapping[str, Int[Tensor, "n"]]:
        return self._labels

    @property
    def sources(self) -> Int[Tensor, "n"]:
        return super().sources if self._sources is None else self._sources

    def in_order(self) -> Iterator[Batch]:
        height, width = self.images.shape[-2:]
        for chosen in torch.arange(self.items).split(self.batch_size):
            centre = Places(
                top=torch.full_like(chosen, (height - self.augmentation.crop) // 2),
                left=torch.full_like(chosen, (width - self.augmentation.crop) // 2),
                flip=torch.zeros_like(chosen, dtype=torch.bool),
            )
            pixels = self._crops(chosen, centre)
            yield self._batch(chosen, [normalise(pixels, augmentation=self.augmentation)])

    def _augmented(self, chosen: Int[Tensor, "b"], streams: Sequence[ViewStreams]) -> Batch:
        views = [
            self._view(chosen, settings=self.augmentation.view(number), streams=of_view)
            for number, of_view in enumerate(streams, start=1)
        ]
        return self._batch(chosen[process_group.own(len(chosen))], views)

    def _view(
        self, chosen: Int[Tensor, "b"], *, settings: ViewSettings, streams: ViewStreams
    ) -> Float[Tensor, "b channel size size"]:
        """One augmented view of the process's own among the chosen images, normalised.

        Places are drawn even where crops are resized, so that resizing moves neither the order of
        images nor a flip.
        """
        own = process_group.own(len(chosen))
        places = Places(
            *(of_all[own] for of_all in self._random_places(len(chosen), streams.place))
        )
        if settings.resized:
            height, width = self.images.shape[-2:]
            draw = streams.of("resized")
            boxes = random_boxes(
                len(chosen), height=height, width=width, settings=settings.resized, draw=draw
            )
            pixels = self._resized_crops(
                chosen[own], places.flip, boxes=Boxes(*(side[own] for side in boxes))
            )
        else:
            pixels = self._crops(chosen[own], places)
        if settings.photometric:
            pixels = pixels if pixels.is_floating_point() else pixels / 255
            pixels = photometric(pixels, settings=settings, streams=streams)
        normalised = normalise(pixels, augmentation=self.augmentation)
        if settings.cutout:
            return cut_out(normalised, side=settings.cutout, draw=streams.of("cutout"))
        return normalised

    def _random_places(self, images: int, draw: torch.Generator) -> Places:
        height, width = self.images.shape[-2:]
        top = torch.randint(height - self.augmentation.crop + 1, (images,), generator=draw)
        left = torch.randint(width - self.augmentation.crop + 1, (images,), generator=draw)
        # Drawn even where flips are off, so that turning them off moves no crop.
        flip = torch.randint(2, (images,), generator=draw).bool() & self.augmentation.flip
        return Places(top, left, flip)

    def _crops(
        self, chosen: Int[Tensor, "b"], places: Places
    ) -> UInt8[Tensor, "b channel size size"]:
        to = self.images.device
        pixels = crop(
            self.images,
            moved(chosen, device=to),
            top=moved(places.top, device=to),
            left=moved(places.left, device=to),
            flip=moved(places.flip, device=to),
            size=self.augmentation.crop,
        )
        return moved(pixels, device=self.device)

    def _resized_crops(
        self, chosen: Int[Tensor, "b"], flip: Bool[Tensor, "b"], *, boxes: Boxes
    ) -> Float[Tensor, "b channel size size"]:
        """The boxes of the images, resized, in 0..1."""
        whole = self.images.index_select(0, moved(chosen, device=self.images.device))
        return resized_crop(
            moved(whole, device=self.device),
            Boxes(*(moved(side, device=self.device) for side in boxes)),
            flip=moved(flip, device=self.device),
            size=self.augmentation.crop,
        )

    def _batch(self, chosen: Int[Tensor, "b"], views: Sequence[Tensor]) -> Batch:
        inputs, *further = views
        return Batch(
            inputs=inputs,
            labels={
                name: moved(labels[chosen], device=self.device)
                for name, labels in self._labels.items()
            },
            further=tuple(further),
        )


def check_crop(images: Images, *, crop: int, name: str) -> None:
    """Raises: DataError where a crop of `crop` pixels does not fit into the images."""
    height, width = images.images.shape[-2:]
    if crop > min(height, width):
        raise DataError(
            f"a crop of {crop} pixels does not fit into {name}, {height}×{width}: lower "
            f"augmentation.crop or use larger images"
        )


def prepared(images: Images, *, augmentation: CropSettings) -> Images:
    """The images as they are cropped: resized and in gray, where the augmentation says so.

    Copies are in memory. Images that are so already are returned as they are.
    """
    if augmentation.resize is not None:
        images = resized(images, side=augmentation.resize)
    return in_gray(images) if augmentation.grayscale else images


def resized(images: Images, *, side: int) -> Images:
    """The images with a shorter side of `side` pixels; images of this size unchanged."""
    whole = shared(images.images)
    if min(whole.shape[-2:]) == side:
        return images
    small = torch.empty(len(whole), *resize(whole[:1], side=side).shape[1:], dtype=torch.uint8)
    slice_images = max(1, SLICE_PIXELS // (whole.shape[-2] * whole.shape[-1]))
    for source, target in zip(whole.split(slice_images), small.split(slice_images), strict=True):
        target.copy_(resize(source, side=side))
    return replace(images, images=small.numpy())


def in_gray(images: Images) -> Images:
    """The images in one channel, each pixel as in PIL's convert("L"); gray images unchanged.

    The gray copy is in memory even for memory-mapped images, and takes a third of their bytes (1.0
    GB for all of STL-10). A copy on disk would have to be checked at every opening, and would save
    little of the three seconds that the conversion takes.
    """
    if images.images.shape[1] == 1:
        return images
    colour = shared(images.images)
    height, width = colour.shape[-2:]
    gray = torch.empty(len(colour), 1, height, width, dtype=torch.uint8)
    slice_images = max(1, SLICE_PIXELS // (height * width))
    for source, target in zip(colour.split(slice_images), gray.split(slice_images), strict=True):
        target.copy_(luma(source))
    return replace(images, images=gray.numpy())


def luma(pixels: UInt8[Tensor, "n 3 height width"]) -> Int32[Tensor, "n 1 height width"]:
    """Gray in 0..255, rounded as PIL rounds it."""
    red, green, blue = pixels.int().split(1, dim=1)
    return (RED * red + GREEN * green + BLUE * blue + HALF) >> 16


def crop(
    images: UInt8[Tensor, "n channel height width"],
    chosen: Int[Tensor, "b"],
    *,
    top: Int[Tensor, "b"],
    left: Int[Tensor, "b"],
    flip: Bool[Tensor, "b"],
    size: int,
) -> UInt8[Tensor, "b channel size size"]:
    """A square of `size` pixels from each chosen image, mirrored left to right where `flip`."""
    n, channels, height, width = images.shape
    by_image, by_channel, by_row, by_column = images.stride()
    # A view of the squares at all places, by where in memory their first pixel is. Only the chosen
    # squares are copied, whole rows at a time; indexing by image, row and column copies pixels.
    last = (n - 1) * by_image + (height - size) * by_row + (width - size) * by_column
    squares = images.as_strided(
        (last + 1, channels, size, size), (1, by_channel, by_row, by_column)
    )
    pixels = squares.index_select(0, chosen * by_image + top * by_row + left * by_column)
    # Choosing whole squares among both is many times faster than torch.where pixel by pixel.
    both = torch.cat([pixels, pixels.flip(3)])
    unflipped = torch.arange(len(chosen), device=flip.device)
    return both.index_select(0, unflipped + len(chosen) * flip)


def normalise(
    pixels: Shaped[Tensor, "b channel h w"], *, augmentation: CropSettings | RegionSettings
) -> Float[Tensor, "b c h w"]:
    """Intensities with the suite's mean 0 and standard deviation 1; one channel serves for three.

    Pixels are uint8 in 0..255 or floats in 0..1. Only the first step of the formula makes a copy.
    """
    full_scale = 1 if pixels.is_floating_point() else 255
    mean, std = (
        full_scale * constant(values, device=pixels.device).view(-1, 1, 1)
        for values in (augmentation.mean, augmentation.std)
    )
    return (pixels - mean).div_(std)
