"""Batches of images, cropped, flipped and normalised all at once on the device.

What is drawn depends on (dataset, seed, epoch) alone and is drawn on the CPU, so that every method
on every device sees the same images, crops and flips at the same step.

Letters: n = all images of a split, b = images of a batch.
"""

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gim_bench import seeding
from gim_bench.config import AugmentationSettings
from gim_bench.contract import Batch, Examples
from gim_bench.errors import DataError

# Rec. 601 luma, the weights of PIL's (and so of torchvision's) grayscale.
LUMA = (0.299, 0.587, 0.114)


class ImageBatches:
    """One split as batches: `epoch` for training, `in_order` for feature extraction."""

    def __init__(
        self,
        examples: Examples,
        *,
        augmentation: AugmentationSettings,
        batch_size: int,
        stream: tuple[str, int],
        device: torch.device,
    ) -> None:
        """`stream` is (dataset, seed), which alone decides order and augmentation."""
        self.images = resident(_shared(examples.images), device=device)
        self.labels = None if examples.labels is None else torch.from_numpy(examples.labels)
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.stream = stream
        self.device = device
        height, width = self.images.shape[-2:]
        if augmentation.crop > min(height, width):
            raise DataError(
                f"a crop of {augmentation.crop} pixels does not fit into images of "
                f"{height}×{width}: lower augmentation.crop or use larger images"
            )

    def __len__(self) -> int:
        """Batches in an epoch; the last, incomplete one is left out in training."""
        return len(self.images) // self.batch_size

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number` in their random order, each image randomly cropped."""
        draw = seeding.generator("data", *self.stream, number)
        order = torch.randperm(len(self.images), generator=draw)
        for step in range(len(self)):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            top, left, flip = self._draw_crops(draw)
            yield self._batch(chosen, top=top, left=left, flip=flip)

    def in_order(self) -> Iterator[Batch]:
        """Every image once, in the split's order, as its unflipped centre crop."""
        height, width = self.images.shape[-2:]
        for start in range(0, len(self.images), self.batch_size):
            chosen = torch.arange(start, min(start + self.batch_size, len(self.images)))
            top = torch.full_like(chosen, (height - self.augmentation.crop) // 2)
            left = torch.full_like(chosen, (width - self.augmentation.crop) // 2)
            flip = torch.zeros_like(chosen, dtype=torch.bool)
            yield self._batch(chosen, top=top, left=left, flip=flip)

    def _draw_crops(self, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        height, width = self.images.shape[-2:]
        shape = (self.batch_size,)
        top = torch.randint(height - self.augmentation.crop + 1, shape, generator=draw)
        left = torch.randint(width - self.augmentation.crop + 1, shape, generator=draw)
        # Drawn even where flips are off, so that turning them off moves no crop.
        flip = torch.randint(2, shape, generator=draw).bool() & self.augmentation.flip
        return top, left, flip

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
        labels = None if self.labels is None else self.labels[chosen].to(self.device)
        return Batch(inputs=normalise(pixels, augmentation=self.augmentation), labels=labels)


def _shared(array: np.ndarray) -> Tensor:
    """The array as a tensor over the same memory; it may be read-only, being only ever read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def resident(images: Tensor, *, device: torch.device) -> Tensor:
    """`images` moved to the GPU whole where they fill less than a third of its free memory.

    On the CPU, and where they are too large, they stay as they are (memory-mapped, if they were).
    """
    if device.type != "cuda":
        return images
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return images.to(device) if images.nbytes < free_bytes / 3 else images


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
    # A view of all places that a crop can have; only the chosen ones are copied, row by row.
    windows = images.unfold(2, size, 1).unfold(3, size, 1)
    pixels = windows[chosen, :, top, left]
    return torch.where(flip[:, None, None, None], pixels.flip(3), pixels)


def normalise(
    pixels: UInt8[Tensor, "b channel h w"], *, augmentation: AugmentationSettings
) -> Float[Tensor, "b c h w"]:
    """Intensities with the suite's mean 0 and standard deviation 1, in gray where it says so."""
    if augmentation.grayscale and pixels.shape[1] == 3:
        values = torch.zeros_like(pixels[:, :1], dtype=torch.float32)
        for channel, weight in enumerate(LUMA):
            values.add_(pixels[:, channel : channel + 1], alpha=weight / 255)
    else:
        values = pixels.float() / 255
    if not augmentation.grayscale and values.shape[1] == 1:
        values = values.expand(-1, 3, -1, -1)
    mean = torch.tensor(augmentation.mean, device=values.device).view(1, -1, 1, 1)
    std = torch.tensor(augmentation.std, device=values.device).view(1, -1, 1, 1)
    return (values - mean) / std
