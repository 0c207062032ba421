"""Crops of the photographs that scikit-image ships: real image statistics, nothing downloaded."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from gim_bench import seeding
from gim_bench.contract import Dataset, Images, Split, Target
from gim_bench.errors import DataError
from gim_bench.settings.base import Settings
from gim_bench.settings.keys import keyed_options

# One class each. Of pairs and duplicates (motorcycle), one photograph is taken.
PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble": "hubble_deep_field.jpg",
    "ihc": "ihc.png",
    "moon": "moon.png",
    "motorcycle": "motorcycle_left.png",
    "page": "page.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
    "text": "text.png",
}


class Places(NamedTuple):
    """Stripe, first row and first column of each crop, int64 [crop]."""

    stripes: np.ndarray
    tops: np.ndarray
    lefts: np.ndarray


class Photos(Dataset):
    """Which of 16 photographs is this crop from? Train and test crops never share a pixel.

    Each photograph is cut into vertical stripes, alternately for training (labelled and
    unlabelled) and for testing. Every crop lies within one stripe.
    """

    class Options(Settings):
        """Sizes in pixels; numbers of crops for each photograph.

        With `stripes_are_sources`, crops of one stripe, which may share pixels, never serve both
        fitting and validation.
        """

        size: Annotated[int, Field(ge=8)] = 36
        stripes: Annotated[int, Field(ge=2)] = 8
        unlabelled_crops: Annotated[int, Field(gt=0)] = 300
        train_crops: Annotated[int, Field(gt=0)] = 100
        test_crops: Annotated[int, Field(gt=0)] = 100
        stripes_are_sources: bool = False

    options: Options

    def prepare(self) -> None:
        """Nothing to fetch: the photographs come with scikit-image."""

    def verify(self) -> None:
        """Check that every photograph is there and can be decoded. Raises: DataError."""
        _ = self._photographs

    def fingerprint(self) -> str:
        """sha256 of the photographs' files and of the options of the crops."""
        digest = hashlib.sha256(keyed_options(self.options, dataset="photos"))
        for path in self._paths:
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def targets(self) -> Sequence[Target]:
        return [Target(name="class", classes=list(PHOTOGRAPHS))]

    def split(self, split: Split) -> Images:
        crops = {
            Split.UNLABELLED: self.options.unlabelled_crops,
            Split.TRAIN: self.options.train_crops,
            Split.TEST: self.options.test_crops,
        }[split]
        places = [
            self._places(photograph, name=name, split=split, crops=crops)
            for name, photograph in zip(PHOTOGRAPHS, self._photographs, strict=True)
        ]
        images = [
            _cut(photograph, found, size=self.options.size)
            for photograph, found in zip(self._photographs, places, strict=True)
        ]
        labels = np.repeat(np.arange(len(images), dtype=np.int64), crops)
        stripes = np.concatenate([found.stripes for found in places])
        return Images(
            images=np.concatenate(images),
            labels={} if split is Split.UNLABELLED else {"class": labels},
            sources=labels * self.options.stripes + stripes
            if self.options.stripes_are_sources
            else None,
        )

    def _places(self, photograph: np.ndarray, *, name: str, split: Split, crops: int) -> Places:
        """`crops` random places in the stripes of the split. Raises: DataError without room."""
        size = self.options.size
        height, width = photograph.shape[1:]
        stripe = width // self.options.stripes
        if stripe < size or height < size:
            raise DataError(
                f"photos: {self.options.stripes} stripes of {name} ({height}×{width}) leave no "
                f"room for crops of {size} pixels: lower dataset.size or dataset.stripes"
            )
        ours = [i for i in range(self.options.stripes) if (i % 2 == 1) == (split is Split.TEST)]
        # The crops are part of the data, so they depend on no seed of the suite.
        draw = np.random.default_rng(seeding.derive("photos", name, split))
        stripes = draw.choice(ours, crops)
        lefts = stripe * stripes + draw.integers(stripe - size + 1, size=crops)
        return Places(stripes, draw.integers(height - size + 1, size=crops), lefts)

    @cached_property
    def _paths(self) -> list[Path]:
        return paths_of_photographs()

    @cached_property
    def _photographs(self) -> list[np.ndarray]:
        """All photographs as RGB, uint8 [channel row column]."""
        return [
            np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path in self._paths
        ]


def paths_of_photographs() -> list[Path]:
    """The files of the photographs, in their order. Raises: DataError if one is missing."""
    folder = Path(str(resources.files("skimage") / "data"))
    paths = [folder / file for file in PHOTOGRAPHS.values()]
    for path in paths:
        if not path.is_file():
            raise DataError(f"photos: {path} is missing: reinstall scikit-image, which ships it")
    return paths


def _cut(photograph: np.ndarray, places: Places, *, size: int) -> np.ndarray:
    """Squares of `size` pixels at the places, [crop channel size size]."""
    return np.stack(
        [
            photograph[:, top : top + size, left : left + size]
            for top, left in zip(places.tops, places.lefts, strict=True)
        ]
    )
