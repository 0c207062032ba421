"""Mosaics of the photographs that scikit-image ships: large images with a label at every place."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import tifffile
from PIL import Image
from pydantic import Field, model_validator

from gim_bench import seeding
from gim_bench.contract import Dataset, Split, Target
from gim_bench.datasets.files import Checksums, KnownChecksums, checksums_of, reason
from gim_bench.datasets.images.photos import PHOTOGRAPHS, paths_of_photographs
from gim_bench.datasets.images.tiff import TiffImage
from gim_bench.errors import DataError
from gim_bench.large_images import LargeImages
from gim_bench.seals import sealed, unsealed
from gim_bench.settings.base import Settings
from gim_bench.settings.keys import keyed_options
from gim_bench.system.atomic import atomically, write_atomically


class Mosaics(Dataset):
    """Which of 16 photographs is this square from? Large gray mosaics of squares, one for a split.

    A square is a random part of a photograph: of its left half for training, of its right half for
    testing. The mosaics are made square by square, as TIFF files in tiles below the cache. Squares
    of a half overlap but count as examples of their own: validation squares share pixels with
    fitted ones, and intervals over test squares are too narrow.
    """

    class Options(Settings):
        """Pixels of a side of the unlabelled mosaic, of the two labelled mosaics, and of a square.

        TIFF wants the side of a tile to be a multiple of 16.
        """

        side: Annotated[int, Field(ge=16)] = 16_384
        labelled_side: Annotated[int, Field(ge=16)] = 4096
        place: Annotated[int, Field(ge=16, multiple_of=16)] = 128

        @model_validator(mode="after")
        def _whole_squares(self) -> "Mosaics.Options":
            """Raises: ValueError where a mosaic would be smaller than its side says."""
            for name in ("side", "labelled_side"):
                side = getattr(self, name)
                if side % self.place:
                    nearest = self.place * max(1, round(side / self.place))
                    raise ValueError(
                        f"{name} = {side} is no multiple of place = {self.place}: the nearest that "
                        f"works is {nearest}"
                    )
            return self

    options: Options

    def prepare(self) -> None:
        """Make the mosaics that are missing or damaged."""
        for split in Split:
            self._mosaic(split)

    def verify(self) -> None:
        """Read every mosaic again, and make a damaged one anew."""
        for split in Split:
            self._mosaic(split, fresh=True)

    def fingerprint(self) -> str:
        """sha256 of the photographs' files and of the options of the mosaics."""
        return self._fingerprint

    def targets(self) -> Sequence[Target]:
        return [Target(name="class", classes=list(PHOTOGRAPHS))]

    def split(self, split: Split) -> LargeImages:
        labels = {} if split is Split.UNLABELLED else {"class": self._classes(split).ravel()}
        return LargeImages(
            images=[TiffImage(self._mosaic(split))], place=self.options.place, labels=labels
        )

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(keyed_options(self.options, dataset="mosaics"))
        for path in paths_of_photographs():
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def _side(self, split: Split) -> tuple[str, int]:
        """The setting that says how large the split's mosaic is, and its pixels."""
        name = "side" if split is Split.UNLABELLED else "labelled_side"
        return name, getattr(self.options, name)

    def _classes(self, split: Split) -> np.ndarray:
        """Number of the photograph of each square, int64 [row column]."""
        squares = self._side(split)[1] // self.options.place
        draw = np.random.default_rng(seeding.derive("mosaics", split))
        return draw.integers(len(PHOTOGRAPHS), size=(squares, squares))

    def _mosaic(self, split: Split, *, fresh: bool = False) -> Path:
        """The file of a split's mosaic, which is made if it is missing or damaged.

        Raises: DataError if the disk has no room for it.
        """
        path = self.cache_dir / "mosaics" / f"{self.fingerprint()[:16]}-{split}.tif"
        try:
            expected = unsealed(path.with_suffix(".json").read_bytes())["file"]
            title = f"checking {path.name}"
            (found,) = self._known.of([path], title=title, progress=self.progress, fresh=fresh)
            if found.sha256 == expected:
                return path
        except (OSError, ValueError, KeyError, DataError):
            pass  # not there yet, or damaged
        try:
            checksums = self._make(split, path)
            content = json.dumps(sealed({"file": checksums.sha256})).encode()
            write_atomically(path.with_suffix(".json"), content)
        except OSError as error:
            name, side = self._side(split)
            raise DataError(
                f"mosaics: cannot write {reason(error)}: make room for {side**2 / 1e6:,.0f} MB in "
                f"{path.parent}, or lower dataset.{name}"
            ) from None
        self._known.remember(path, checksums, progress=self.progress)
        return path

    @cached_property
    def _known(self) -> KnownChecksums:
        return KnownChecksums(self.cache_dir / "mosaics" / "checksums.json")

    def _make(self, split: Split, path: Path) -> Checksums:
        """Write the mosaic square by square. Raises: OSError."""
        rows, columns = self._classes(split).shape
        place = self.options.place
        with atomically(path) as file:
            tifffile.imwrite(
                file,
                self._squares(split),
                shape=(rows * place, columns * place),
                dtype=np.uint8,
                tile=(place, place),
                photometric="minisblack",
                metadata=None,
            )
        return checksums_of(path)

    def _squares(self, split: Split) -> Iterator[np.ndarray]:
        """The squares of the mosaic, row by row. Raises: DataError."""
        place, classes = self.options.place, self._classes(split)
        halves = [_half(path, split=split, place=place) for path in paths_of_photographs()]
        draw = np.random.default_rng(seeding.derive("mosaics, places", split))
        title = f"making the {split} mosaic of {classes.shape[0] * place:,} pixels"
        with self.progress.task(title, total=len(classes), unit="row") as task:
            for row in classes:
                for number in row:
                    half = halves[number]
                    top, left = (draw.integers(size - place + 1) for size in half.shape)
                    yield half[top : top + place, left : left + place]
                task.advance()


def _half(path: Path, *, split: Split, place: int) -> np.ndarray:
    """The half of a photograph that serves the split, gray, uint8 [row column].

    Raises: DataError if a square does not fit into it.
    """
    whole = np.asarray(Image.open(path).convert("L"))
    middle = whole.shape[1] // 2
    half = whole[:, middle:] if split is Split.TEST else whole[:, :middle]
    if min(half.shape) < place:
        raise DataError(
            f"mosaics: squares of {place} pixels do not fit into half of {path.name}, "
            f"{half.shape[0]}×{half.shape[1]}: lower dataset.place"
        )
    return half
