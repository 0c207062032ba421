"""Batches of images, cropped, flipped and normalised all at once on the device.

Letters: n = all images of a split, b = images of a batch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int, Int32, UInt8
from torch import Tensor

from gim_bench.contract import Batch, Images
from gim_bench.datasets.batches import Batches, resident, shared
from gim_bench.errors import DataError
from gim_bench.settings.augmentations import CropSettings

# Rec. 601 luma in 65,536ths, the weights of PIL's (and so of torchvision's) grayscale.
RED, GREEN, BLUE = 19_595, 38_470, 7_471
HALF = 0x8000  # of 65,536: rounds to nearest
# Converted to gray at a time: few enough to stay in a core's cache, and far fewer than a split has.
SLICE_PIXELS = 2**18


class ImageBatches(Batches):
    """Random crops and flips in training; for the probe every image's unflipped centre crop.

    Where the augmentation is gray, colour images are converted when the batches are built; those
    that `in_gray` converted before are shared.
    """

    noun = "image"
    noun_of_items = "image"

    def __init__(
        self,
        images: Images,
        *,
        augmentation: CropSettings,
        batch_size: int,
        stream: tuple[str, int],
        device: torch.device,
        held_out: float = 0.0,
    ) -> None:
        super().__init__(batch_size=batch_size, stream=stream, device=device, held_out=held_out)
        images = in_gray(images) if augmentation.grayscale else images
        self.images = resident(shared(images.images), device=device)
        self._labels = {name: shared(labels) for name, labels in images.labels.items()}
        self.augmentation = augmentation
        height, width = self.images.shape[-2:]
        if augmentation.crop > min(height, width):
            raise DataError(
                f"a crop of {augmentation.crop} pixels does not fit into images of "
                f"{height}×{width}: lower augmentation.crop or use larger images"
            )

    @property
    def items(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Mapping[str, Int[Tensor, "n"]]:
        return self._labels

    @property
    def groups(self) -> Int[Tensor, "n"]:
        return torch.arange(self.items)

    def in_order(self) -> Iterator[Batch]:
        height, width = self.images.shape[-2:]
        for chosen in torch.arange(self.items).split(self.batch_size):
            top = torch.full_like(chosen, (height - self.augmentation.crop) // 2)
            left = torch.full_like(chosen, (width - self.augmentation.crop) // 2)
            flip = torch.zeros_like(chosen, dtype=torch.bool)
            yield self._batch(chosen, top=top, left=left, flip=flip)

    def _augmented(self, chosen: Int[Tensor, "b"], draw: torch.Generator) -> Batch:
        height, width = self.images.shape[-2:]
        shape = (len(chosen),)
        top = torch.randint(height - self.augmentation.crop + 1, shape, generator=draw)
        left = torch.randint(width - self.augmentation.crop + 1, shape, generator=draw)
        # Drawn even where flips are off, so that turning them off moves no crop.
        flip = torch.randint(2, shape, generator=draw).bool() & self.augmentation.flip
        return self._batch(chosen, top=top, left=left, flip=flip)

    def _batch(self, chosen: Tensor, *, top: Tensor, left: Tensor, flip: Tensor) -> Batch:
        to = self.images.device
        pixels = crop(
            self.images,
            chosen.to(to),
            top=top.to(to),
            left=left.to(to),
            flip=flip.to(to),
            size=self.augmentation.crop,
        ).to(self.device, non_blocking=True)
        return Batch(
            inputs=normalise(pixels, augmentation=self.augmentation),
            labels={name: labels[chosen].to(self.device) for name, labels in self._labels.items()},
        )


def in_gray(images: Images) -> Images:
    """The images in one channel, pixel by pixel as PIL's convert("L"); gray ones as they are.

    The gray copy is in memory, even of images that are memory-mapped: a third of their bytes (of
    all of STL-10, 1.0 GB). Kept in a file it would have to be checked whenever it is opened, which
    saves little of the three seconds that it takes to make.
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
    # A view of the squares at all places, by where in memory their first pixel is. Only chosen ones
    # are copied, whole rows at a time; indexing by image, row and column would copy single pixels.
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
    pixels: UInt8[Tensor, "b channel h w"], *, augmentation: CropSettings
) -> Float[Tensor, "b c h w"]:
    """Intensities with the suite's mean 0 and standard deviation 1; one channel serves for three.

    In one pass and one in place, without a copy as large for every step of the formula.
    """
    mean, std = (
        255 * torch.tensor(values, device=pixels.device).view(-1, 1, 1)
        for values in (augmentation.mean, augmentation.std)
    )
    return (pixels - mean).div_(std)
