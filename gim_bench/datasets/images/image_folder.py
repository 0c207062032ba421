"""Your own images: `unlabeled/**`, `train/<class>/**` and `test/<class>/**` below one folder."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated

import numpy as np
import PIL
from PIL import Image, ImageOps
from pydantic import Field

from gim_bench.contract import Images, Split, Target
from gim_bench.datasets.arrays import kept
from gim_bench.datasets.files import FileDataset, files_below, fingerprint_of, folders_in, reason
from gim_bench.errors import DataError
from gim_bench.settings.base import Settings

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
# Formats that files may have, whatever their suffix. Pillow's other decoders are little used, and
# one of them runs a program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
# An image of more than Pillow's 89 million pixels is refused; by default it warns up to twice that.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
UNLABELLED = ("unlabeled", "unlabelled")
LAYOUT = "unlabeled/*.jpg (may be left out), train/<class>/*.jpg and test/<class>/*.jpg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The image files of a folder, in the order of the decoded array."""

    classes: Sequence[str]
    unlabelled: Sequence[Path]
    labelled: Mapping[Split, Sequence[tuple[Path, int]]]  # TRAIN and TEST, with the class's number

    @property
    def paths(self) -> list[Path]:
        labelled = (path for files in self.labelled.values() for path, _ in files)
        return [*self.unlabelled, *labelled]


class ImageFolder(FileDataset):
    """Photographs in folders named by class, as RGB squares of one size.

    The photographs are decoded once, into an array below the cache folder. Rotations in EXIF data
    are not applied and transparency is dropped, as in torchvision's ImageFolder.
    """

    class Options(Settings):
        """Size in pixels: the short side is resized to `size`, then the centre is cut out."""

        size: Annotated[int, Field(ge=8)] = 96

    options: Options

    def prepare(self) -> None:
        """Compute checksums and decode, unless both are cached."""
        _ = self._pixels

    def verify(self) -> None:
        """Read and decode every file again, and renew the remembered checksums."""
        self._sha256s(fresh=True)
        for _ in self._decode():
            pass

    def fingerprint(self) -> str:
        """sha256 of the names and contents of all images; only files with new stamps are read."""
        return self._fingerprint

    def targets(self) -> Sequence[Target]:
        """The class, named after the train folders."""
        return [Target(name="class", classes=self._contents.classes)]

    def split(self, split: Split) -> Images:
        """Memory-mapped images. Without unlabelled images, the train images serve as unlabelled."""
        unlabelled, labelled = len(self._contents.unlabelled), self._contents.labelled
        train_end = unlabelled + len(labelled[Split.TRAIN])
        pixels = {
            Split.UNLABELLED: self._pixels[: unlabelled or train_end],
            Split.TRAIN: self._pixels[unlabelled:train_end],
            Split.TEST: self._pixels[train_end:],
        }[split]
        if split is Split.UNLABELLED:
            return Images(images=pixels, labels={})
        labels = np.array([label for _, label in labelled[split]], dtype=np.int64)
        return Images(images=pixels, labels={"class": labels})

    # -- what is in the folder -------------------------------------------------------------------

    @property
    def _root(self) -> Path:
        if self.data_dir is None:
            raise DataError(
                f"image_folder: no folder was named: give --data-dir a folder that holds {LAYOUT}"
            )
        return self.data_dir

    @cached_property
    def _contents(self) -> Contents:
        root = self._root
        if not root.is_dir():
            raise DataError(
                f"image_folder: no folder {root}: give --data-dir a folder that holds {LAYOUT}"
            )
        by_class = {split: _files_by_class(root / split) for split in (Split.TRAIN, Split.TEST)}
        classes = sorted(by_class[Split.TRAIN])
        _check_classes(classes, tested=sorted(by_class[Split.TEST]), root=root)
        labelled = {
            split: [(path, classes.index(name)) for name in sorted(files) for path in files[name]]
            for split, files in by_class.items()
        }
        unlabelled = _unlabelled_files(root)
        if not unlabelled:
            self.progress.say(
                f"{root} has no {UNLABELLED[0]}/: its train images serve as unlabelled images too"
            )
        return Contents(classes=classes, unlabelled=unlabelled, labelled=labelled)

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint_of(self._sha256s(fresh=False))

    def _sha256s(self, *, fresh: bool) -> list[tuple[str, str]]:
        """(path below the folder, sha256) of every image."""
        paths = self._contents.paths
        title = f"checksums of {self._root.name}"
        found = self.known.of(paths, title=title, progress=self.progress, fresh=fresh)
        return [
            (path.relative_to(self._root).as_posix(), checksums.sha256)
            for path, checksums in zip(paths, found, strict=True)
        ]

    # -- decoded once ----------------------------------------------------------------------------

    @cached_property
    def _pixels(self) -> np.ndarray:
        """All images, uint8 [image channel row column], in the order of the folder's contents."""
        try:
            array = kept(
                self._array_path,
                dtype=np.uint8,
                pieces=self._decode,
                known=self.known,
                progress=self.progress,
            )
        except OSError as error:
            raise DataError(
                f"image_folder: cannot keep the decoded images ({reason(error)}): make room "
                f"for {np.prod(self._shape) / 1e6:,.0f} MB in {self.cache_dir}"
            ) from None
        return array.values.reshape(self._shape)

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return len(self._contents.paths), 3, self.options.size, self.options.size

    @property
    def _array_path(self) -> Path:
        """Path of the array, named after everything that the pixels depend on."""
        identity = [self.fingerprint(), self.options.model_dump_json(), PIL.__version__]
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        return self.cache_dir / "image_folder" / f"{name}.bin"

    def _decode(self) -> Iterator[np.ndarray]:
        """Each image's pixels, in the order of the folder's contents."""
        paths = self._contents.paths
        title = f"decoding {self._root.name}"
        with self.progress.task(title, total=len(paths), unit="image") as task:
            for pixels in _decoded(paths, size=self.options.size):
                yield pixels
                task.advance()


def _files_by_class(folder: Path) -> dict[str, list[Path]]:
    """Image files of each class. Raises: DataError if the folder or a class is missing."""
    if not folder.is_dir():
        raise DataError(
            f"image_folder: {folder.parent} has no {folder.name}/: it must hold {LAYOUT}"
        )
    return {name: _images_below(folder / name, kind="class") for name in folders_in(folder)}


def _unlabelled_files(root: Path) -> list[Path]:
    folders = [root / name for name in UNLABELLED if (root / name).is_dir()]
    return [path for folder in folders for path in _images_below(folder, kind="folder")]


def _images_below(folder: Path, *, kind: str) -> list[Path]:
    """All images at any depth, sorted by path. Raises: DataError if there is none."""
    paths = files_below(folder, suffixes=SUFFIXES)
    if not paths:
        raise DataError(
            f"image_folder: the {kind} {folder} is empty: put images into it "
            f"({', '.join(SUFFIXES)}), or remove it"
        )
    return paths


def _check_classes(classes: Sequence[str], *, tested: Sequence[str], root: Path) -> None:
    if len(classes) < 2:
        raise DataError(
            f"image_folder: {root / Split.TRAIN} holds {len(classes)} class folder(s) where two "
            f"or more are needed: sort its images into train/<class>/"
        )
    if unknown := [name for name in tested if name not in classes]:
        raise DataError(
            f"image_folder: the class {unknown[0]!r} is in {root / Split.TEST} but not in "
            f"{root / Split.TRAIN}: add training images of it, or remove it from test/"
        )
    if not tested:
        raise DataError(
            f"image_folder: {root / Split.TEST} holds no class folder: sort its images into "
            f"test/<class>/"
        )


# -- pixels --------------------------------------------------------------------------------------


def _decoded(paths: Sequence[Path], *, size: int) -> Iterator[np.ndarray]:
    """Each decoded image, in order; several threads decode ahead."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        yield from pool.map(partial(decode, size=size), paths)


def decode(path: Path, *, size: int) -> np.ndarray:
    """A square of `size` pixels, uint8 [channel row column]; an image of that size is unchanged.

    Raises: DataError naming a file that cannot be decoded.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            # Bilinear weights cover the whole source area of a pixel: no aliasing.
            square = ImageOps.fit(_rgb(image), (size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise DataError(
            f"image_folder: cannot decode {path} ({error}): replace it or remove it"
        ) from None
    return np.asarray(square).transpose(2, 0, 1)


def _rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits, from grayscale of 1, 8 or 16 bits, palettes, RGBA and CMYK."""
    if image.mode.startswith("I"):  # 16 bits; convert() would clip them instead of scaling
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:  # convert() warns of palettes that go straight to RGB
        image = image.convert("RGBA")
    return image.convert("RGB")
