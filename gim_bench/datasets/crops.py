"""Batches of images, cropped, flipped and normalised all at once on the device.

Letters: n = all images of a split, b = images of a batch.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gim_bench.config import CropSettings
from gim_bench.contract import Batch, Images
from gim_bench.datasets.batches import Batches, resident, shared
from gim_bench.errors import DataError

# Rec. 601 luma, the weights of PIL's (and so of torchvision's) grayscale.
LUMA = (0.299, 0.587, 0.114)


class ImageBatches(Batches):
    """Random crops and flips in training; for the probe every image's unflipped centre crop."""

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
    pixels: UInt8[Tensor, "b channel h w"], *, augmentation: CropSettings
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
