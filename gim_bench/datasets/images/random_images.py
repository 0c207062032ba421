"""Images of random pixels with random labels, for measurements of speed and memory."""

import hashlib
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from gim_bench import seeding
from gim_bench.contract import Dataset, Images, Split, Target
from gim_bench.settings.base import Settings

CLASSES = 10


class RandomImages(Dataset):
    """RGB images of random pixels, the same at every call."""

    class Options(Settings):
        """Size in pixels, and the number of images in each of the three splits."""

        size: Annotated[int, Field(ge=8)] = 96
        images: Annotated[int, Field(gt=0)] = 64

    options: Options

    def prepare(self) -> None:
        """Nothing to fetch."""

    def verify(self) -> None:
        """Nothing to check."""

    def fingerprint(self) -> str:
        """sha256 of all pixels and labels."""
        digest = hashlib.sha256()
        for split in Split:
            found = self.split(split)
            digest.update(found.images.tobytes())
            for labels in found.labels.values():
                digest.update(labels.tobytes())
        return digest.hexdigest()

    def targets(self) -> Sequence[Target]:
        return [Target(name="class", classes=[str(number) for number in range(CLASSES)])]

    def split(self, split: Split) -> Images:
        draw = np.random.default_rng(seeding.derive("random images", split))
        size, images = self.options.size, self.options.images
        pixels = draw.integers(256, size=(images, 3, size, size), dtype=np.uint8)
        labels = draw.integers(CLASSES, size=images)
        return Images(images=pixels, labels={} if split is Split.UNLABELLED else {"class": labels})
