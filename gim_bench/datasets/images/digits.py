"""Handwritten digits in noise: real handwriting from scikit-learn, nothing downloaded.

Letters: n = images, d = digits on an image, i = digit instances, s = pixels of a side.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from pydantic import Field
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from gim_bench import seeding
from gim_bench.contract import Dataset, Images, Split, Target
from gim_bench.datasets.arrays import kept
from gim_bench.datasets.files import KnownChecksums, reason
from gim_bench.errors import DataError
from gim_bench.settings.base import PositiveFloat, PositiveInt, Settings
from gim_bench.settings.keys import keyed_options

# Part of the fingerprint and of the files' names: raise it when images are drawn differently.
GENERATOR_VERSION = 1

CLASSES = 10
FIELD = 8  # pixels of a side of scikit-learn's digits
MARGIN = 3  # background around a digit, so that a turned digit fades out
SHARES = {Split.UNLABELLED: 0.4, Split.TRAIN: 0.3, Split.TEST: 0.3}  # of the instances of a class

# Ranges of the deformations of every digit: ± degrees, ± shear, ± log of a factor, ± pixels.
ROTATION_DEGREES, SHEAR, LOG_SCALE, LOG_ASPECT = 12.0, 0.15, 0.15, 0.1
JITTER_PIXELS = 1.5
# Ranges of an image: ± log of the contrast and of the noise's deviation.
LOG_CONTRAST, LOG_NOISE = 0.3, 0.2
# Noise has no coarse grain: white noise less its own blur, whose deviation is this many pixels.
GRAIN_PIXELS = 1.5

CHUNK_IMAGES = 500  # rendered at a time


class Digits(Dataset):
    """Which digit fills this image? Several digits of one class, bright or dark, in strong noise.

    The 1,797 handwritten digits of scikit-learn (8×8) are split by instance: no instance of
    UNLABELLED, TRAIN or TEST occurs in another split. Within a split, the instances of a class lie
    in groups, and an image shows instances of one group. The group is the image's source: images of
    different sources share no digit instance. Writers are not separated: 13 people wrote them all.

    Grey levels are ranks: all images have the same, uniform histogram of intensities.

    Source: E. Alpaydin and C. Kaynak 1998, optical recognition of handwritten digits (UCI).
    """

    class Options(Settings):
        """Sizes in pixels; `noise` is the deviation of the noise, where a stroke's contrast is 1.

        An image shows `digits_per_side`² whole digits, and parts of the digits around them.
        """

        size: Annotated[int, Field(ge=8)] = 40
        digits_per_side: PositiveInt = 2
        digit_size: PositiveFloat = 20.0
        noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.8
        groups: Annotated[int, Field(ge=2, le=40)] = 20
        unlabelled_images: PositiveInt = 4800
        train_images: PositiveInt = 3200
        test_images: PositiveInt = 3000

    options: Options

    def prepare(self) -> None:
        """Draw the images, unless they are cached."""
        for split in Split:
            self._pixels(split)

    def verify(self) -> None:
        """Draw all images again and compare. Raises: DataError naming a damaged file."""
        for split in Split:
            drawn = np.concatenate(list(self._rendered(split)))
            if not np.array_equal(drawn, self._pixels(split)):
                raise DataError(
                    f"digits: {self._path(split)} differs from what scikit-learn's digits "
                    f"give: remove the file, which is then made again"
                )

    def fingerprint(self) -> str:
        """sha256 of the digits, of the options and of the version of this generator."""
        return self._fingerprint

    def targets(self) -> Sequence[Target]:
        return [Target(name="class", classes=[str(digit) for digit in range(CLASSES)])]

    def split(self, split: Split) -> Images:
        """Memory-mapped images of the classes in turn."""
        labels = self._labels(split)
        return Images(
            images=self._pixels(split),
            labels={} if split is Split.UNLABELLED else {"class": labels},
            sources=self._sources(split),
        )

    # -- which instance goes where ---------------------------------------------------------------

    def _images(self, split: Split) -> int:
        return {
            Split.UNLABELLED: self.options.unlabelled_images,
            Split.TRAIN: self.options.train_images,
            Split.TEST: self.options.test_images,
        }[split]

    def _labels(self, split: Split) -> Int64[np.ndarray, "n"]:
        return np.arange(self._images(split), dtype=np.int64) % CLASSES

    def _sources(self, split: Split) -> Int64[np.ndarray, "n"]:
        """Number of the group of each image: groups of different classes or splits differ."""
        labels = self._labels(split)
        turns = np.arange(len(labels), dtype=np.int64) // CLASSES
        first = CLASSES * self.options.groups * list(Split).index(split)
        return first + self.options.groups * labels + turns % self.options.groups

    def _instances(self, source: int) -> Int64[np.ndarray, "i"]:
        """Numbers of the digits of a group, at least one: a split has 52 or more of a class."""
        part, group = divmod(source, self.options.groups)
        place, digit = divmod(part, CLASSES)
        own = self._by_class[digit]
        ends = np.cumsum([0.0, *SHARES.values()])
        low, high = (round(len(own) * end) for end in ends[place : place + 2])
        return own[low:high][group :: self.options.groups]

    @cached_property
    def _by_class(self) -> Sequence[Int64[np.ndarray, "i"]]:
        """Numbers of the digits of each class, in an order that no seed of a suite changes."""
        order = np.random.default_rng(seeding.derive("digits", "instances"))
        _, labels = scanned_digits()
        return [order.permutation(np.flatnonzero(labels == digit)) for digit in range(CLASSES)]

    # -- drawn once ------------------------------------------------------------------------------

    def _pixels(self, split: Split) -> UInt8[np.ndarray, "n 1 s s"]:
        size = self.options.size
        with self._room():
            found = kept(
                self._path(split),
                dtype=np.uint8,
                pieces=lambda: self._rendered(split),
                known=self._known,
                progress=self.progress,
            )
        return found.values.reshape(-1, 1, size, size)

    def _rendered(self, split: Split) -> Iterator[UInt8[np.ndarray, "n 1 s s"]]:
        """All images of a split in chunks."""
        sources, options = self._sources(split), self.options
        draw = np.random.default_rng(seeding.derive("digits", "images", split))
        with self.progress.task(f"drawing {split}", total=len(sources), unit="image") as task:
            for chosen in np.split(sources, range(CHUNK_IMAGES, len(sources), CHUNK_IMAGES)):
                instances = {source: self._instances(source) for source in set(chosen.tolist())}
                grid = options.digits_per_side + 2
                shown = np.stack(
                    [draw.choice(instances[each], grid**2) for each in chosen.tolist()]
                )
                yield render(
                    torch.from_numpy(self._digits[shown]),
                    size=options.size,
                    digits_per_side=options.digits_per_side,
                    digit_size=options.digit_size,
                    noise=options.noise,
                    draw=draw,
                ).numpy()
                task.advance(len(chosen))

    @cached_property
    def _digits(self) -> Float64[np.ndarray, "i 8 8"]:
        """All digits, strokes towards 1."""
        return scanned_digits()[0] / 16

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Within the block, an OSError becomes a DataError that asks for room."""
        try:
            yield
        except OSError as error:
            images = sum(map(self._images, Split))
            raise DataError(
                f"digits: cannot keep the images ({reason(error)}): make room for "
                f"{images * self.options.size**2 / 1e6:,.0f} MB in {self.cache_dir}"
            ) from None

    def _path(self, split: Split) -> Path:
        return self.cache_dir / "digits" / f"{self._fingerprint[:16]}-{split}.bin"

    @cached_property
    def _known(self) -> KnownChecksums:
        return KnownChecksums(
            self.cache_dir / "digits" / f"{self._fingerprint[:16]}-checksums.json"
        )

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(keyed_options(self.options, dataset="digits"))
        digest.update(f"version {GENERATOR_VERSION}".encode())
        digest.update(self._digits.tobytes())
        for own in self._by_class:
            digest.update(own.tobytes())
        return digest.hexdigest()


# -- rendering -----------------------------------------------------------------------------------


def render(
    digits: Float64[Tensor, "n d 8 8"],
    *,
    size: int,
    digits_per_side: int,
    digit_size: float,
    noise: float,
    draw: np.random.Generator,
) -> UInt8[Tensor, "n 1 s s"]:
    """Images of `size` pixels, tiled with the digits, in noise; grey levels are ranks."""
    images, shown = digits.shape[:2]
    maps = _deformations(images, shown, digit_size=digit_size, draw=draw)
    centres = _centres(images, size=size, digits_per_side=digits_per_side, draw=draw)
    strokes = torch.zeros(images, size, size, dtype=torch.float64)
    reach = digit_size  # a digit that is further away than this touches no pixel of the image
    for place in range(shown):  # where digits overlap, the strongest stroke is seen
        middle = centres[:, place]
        near = ((middle > -reach) & (middle < size + reach)).all(dim=1).nonzero()[:, 0]
        drawn = _drawn(digits[near, place], maps[near, place], middle[near], size=size)
        strokes[near] = torch.maximum(strokes[near], drawn)
    contrast = draw.choice([-1.0, 1.0], images) * np.exp(draw.uniform(-1, 1, images) * LOG_CONTRAST)
    deviation = noise * np.exp(draw.uniform(-1, 1, images) * LOG_NOISE)
    pixels = _scaled(contrast, strokes.numpy()) + _scaled(
        deviation, _grain(images, size, draw=draw)
    )
    return _ranks(torch.from_numpy(pixels))


def _deformations(
    images: int, shown: int, *, digit_size: float, draw: np.random.Generator
) -> Float64[Tensor, "n d 2 2"]:
    """Maps from offsets on the canvas to offsets on a digit, both in pixels (row, column)."""
    angle, shear, scale, aspect = draw.uniform(-1, 1, (4, images, shown))
    angle = np.deg2rad(ROTATION_DEGREES) * angle
    cos, sin, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    turned = _matrices(cos, -sin, sin, cos)
    sheared = _matrices(one, zero, SHEAR * shear, one)
    zoom = FIELD / digit_size * np.exp(-LOG_SCALE * scale)
    wide = np.exp(LOG_ASPECT * aspect)
    return torch.from_numpy(turned @ sheared @ _matrices(zoom * wide, zero, zero, zoom / wide))


def _matrices(*entries: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n d 2 2"]:
    return np.stack(entries, axis=-1).reshape(*entries[0].shape, 2, 2)


def _centres(
    images: int, *, size: int, digits_per_side: int, draw: np.random.Generator
) -> Float64[Tensor, "n d 2"]:
    """Places of the digits (row, column) in pixels: a shifted grid that goes on past the edges."""
    pitch = size / digits_per_side
    steps = (np.arange(-1, digits_per_side + 1) + 0.5) * pitch - 0.5
    grid = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(1, -1, 2)
    shift = draw.uniform(-pitch / 2, pitch / 2, (images, 1, 2))
    jitter = draw.uniform(-JITTER_PIXELS, JITTER_PIXELS, (images, grid.shape[1], 2))
    return torch.from_numpy(grid + shift + jitter)


def _drawn(
    digits: Float64[Tensor, "n 8 8"],
    maps: Float64[Tensor, "n 2 2"],
    centres: Float64[Tensor, "n 2"],
    *,
    size: int,
) -> Float64[Tensor, "n s s"]:
    """Each digit on a canvas of its own, deformed, bilinear."""
    line = torch.arange(size, dtype=torch.float64)
    canvas = torch.cartesian_prod(line, line)
    on_digit = (canvas - centres[:, None]) @ maps.mT  # from the digit's centre
    half = (FIELD + 2 * MARGIN - 1) / 2
    grid = (on_digit / half).flip(2).view(-1, size, size, 2)  # torch wants (column, row)
    return grid_sample(
        pad(digits, [MARGIN] * 4)[:, None], grid, padding_mode="zeros", align_corners=True
    )[:, 0]


def _scaled(
    factors: Float64[np.ndarray, "n"], values: Float64[np.ndarray, "n s s"]
) -> Float64[np.ndarray, "n s s"]:
    return factors[:, None, None] * values


def scanned_digits() -> tuple[Float64[np.ndarray, "i 8 8"], Int64[np.ndarray, "i"]]:
    """scikit-learn's images, of 17 grey levels, and their labels.

    They are read from the file that `load_digits` reads, for its import takes seconds.
    """
    package = find_spec("sklearn")
    folders = [] if package is None else package.submodule_search_locations or []
    for path in (Path(folder) / "datasets" / "data" / "digits.csv.gz" for folder in folders):
        if path.exists():
            table = np.loadtxt(path, delimiter=",")
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


def _grain(images: int, size: int, *, draw: np.random.Generator) -> Float64[np.ndarray, "n s s"]:
    """Fine noise of deviation 1."""
    from scipy.ndimage import gaussian_filter  # type: ignore[attr-defined]

    white = draw.standard_normal((images, size, size))
    fine = white - gaussian_filter(white, (0, GRAIN_PIXELS, GRAIN_PIXELS), mode="wrap")
    return fine / fine.std()


def _ranks(values: Float64[Tensor, "n s s"]) -> UInt8[Tensor, "n 1 s s"]:
    """The ranks of an image's pixels, spread over 0..255: a uniform histogram."""
    flat = values.flatten(1)
    ranks = flat.argsort(dim=1, stable=True).argsort(dim=1)
    levels = ranks * 256 // flat.shape[1]
    return levels.to(torch.uint8).view(-1, 1, *values.shape[1:])
