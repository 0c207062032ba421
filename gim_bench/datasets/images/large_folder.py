"""Your own large images: TIFF files and scans in folders named by class, read by windows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from gim_bench.contract import Split, Target
from gim_bench.datasets.files import FileDataset, fingerprint_of
from gim_bench.datasets.images import slides
from gim_bench.datasets.images.decoding import DEEP
from gim_bench.datasets.images.slides import SlideImage
from gim_bench.datasets.images.tiff import TiffImage
from gim_bench.datasets.walk import Reason, Walk, count, nfc, walk
from gim_bench.errors import DataError
from gim_bench.large_images import LargeImages
from gim_bench.settings.base import NotNegative, Settings

SUFFIXES = (".tif", ".tiff", *slides.SUFFIXES)
UNLABELLED = "unlabeled"
LAYOUT = (
    f"{UNLABELLED}/*.tif (may be left out), train/<class>/*.tif and test/<class>/*.tif, or scans "
    f"({', '.join(slides.SUFFIXES)})"
)
FIRST = Reason(
    "file of several images, of which the first is read",
    "files of several images, of which the first is read",
)
OUTSIDE = Reason("image outside of its folder", "images outside of their folders")


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The files of one split, each with the number of its class; -1 without a class."""

    paths: Sequence[Path]
    classes: Sequence[int]


class LargeImageFolder(FileDataset):
    """Large images in folders named by class: every place of an image has its class.

    Images, TIFF files or scans of microscopes, are read by windows and never whole. Places of one
    image never serve both fitting and validation.
    """

    class Options(Settings):
        """Pixels of a side of a place, and which resolution of pyramids is read: 0 is the full."""

        place: Annotated[int, Field(ge=16)] = 128
        level: NotNegative = 0

    options: Options

    def prepare(self) -> None:
        """Compute checksums, and look into every file's header."""
        self._sha256s(fresh=False)
        for split in Split:
            self.split(split)

    def verify(self) -> None:
        """Read every file again and decode each of its tiles."""
        self._sha256s(fresh=True)
        for files in self._files.values():
            for path in files.paths:
                self._opened(path).check_decodable()

    def fingerprint(self) -> str:
        """sha256 of the names and contents of all images."""
        return fingerprint_of(self._sha256s(fresh=False))

    def targets(self) -> Sequence[Target]:
        """The class, named after the train folders."""
        return [Target(name="class", classes=self._classes)]

    def split(self, split: Split) -> LargeImages:
        """Without unlabelled images, the train images serve as unlabelled images too.

        Raises: DataError, also where a labelled image is smaller than a place.
        """
        files = self._files[split if self._files[split].paths else Split.TRAIN]
        images = LargeImages(
            images=[self._images[path] for path in files.paths],
            place=self.options.place,
            labels={},
        )
        if split is Split.UNLABELLED:
            return images
        counts = [rows * columns for rows, columns in map(images.grid, range(len(files.paths)))]
        if 0 in counts:
            path = files.paths[counts.index(0)]
            _, height, width = images.images[counts.index(0)].shape
            raise DataError(
                f"large_images: {path} has no place of {images.place} pixels, for it is "
                f"{height}×{width} at level {self.options.level}: lower dataset.place, or remove it"
            )
        return LargeImages(
            images=images.images,
            place=images.place,
            labels={"class": np.repeat(np.array(files.classes, dtype=np.int64), counts)},
            sources=np.repeat(np.arange(len(counts)), counts),
        )

    def notes(self) -> Sequence[str]:
        """Counts of files left out, of images of 16 bits, and of files of several images."""
        names = {str(p.relative_to(self._seen.root)): image for p, image in self._images.items()}
        remarks = {
            DEEP: [name for name, image in names.items() if image.bits > 8],
            FIRST: [name for name, image in names.items() if image.further],
        }
        lines = [count(reason, found) for reason, found in remarks.items() if found]
        return [line for line in (self._seen.note(), *lines) if line]

    @cached_property
    def _seen(self) -> Walk:
        if self.data_dir is None or not self.data_dir.is_dir():
            found = "no folder was named" if self.data_dir is None else f"no folder {self.data_dir}"
            raise DataError(f"large_images: {found}: give --data-dir a folder that holds {LAYOUT}")
        return walk(self.data_dir, suffixes=SUFFIXES, misplaced=_misplaced)

    @cached_property
    def _classes(self) -> Sequence[str]:
        classes = sorted({name.split("/")[1] for name in self._seen.below(Split.TRAIN)})
        if len(classes) < 2:
            raise DataError(
                f"large_images: {self._seen.root / Split.TRAIN} holds {len(classes)} class "
                f"folder(s) with images where two or more are needed: it must hold {LAYOUT}"
            )
        return classes

    @cached_property
    def _files(self) -> Mapping[Split, Files]:
        unlabelled = self._seen.below(UNLABELLED)
        if not unlabelled:
            self.progress.say(
                f"{self._seen.root} has no images in {UNLABELLED}/: its train images serve as "
                f"unlabelled images too"
            )
        found = {
            Split.UNLABELLED: Files(
                paths=[self._seen.root / name for name in unlabelled],
                classes=[-1] * len(unlabelled),
            )
        }
        for split in (Split.TRAIN, Split.TEST):
            names = self._seen.below(split)
            classes = [name.split("/")[1] for name in names]
            if unknown := sorted(set(classes) - set(self._classes)):
                raise DataError(
                    f"large_images: the class {unknown[0]!r} is in {split}/ but not in train/: add "
                    f"training images of it, or remove it"
                )
            if not names:
                raise DataError(
                    f"large_images: {self._seen.root} has no images in {split}/<class>/: it must "
                    f"hold {LAYOUT}"
                )
            found[split] = Files(
                paths=[self._seen.root / name for name in names],
                classes=[self._classes.index(name) for name in classes],
            )
        return found

    @cached_property
    def _images(self) -> Mapping[Path, TiffImage | SlideImage]:
        """The images of all splits. Raises: DataError."""
        paths = (path for files in self._files.values() for path in files.paths)
        return {path: self._opened(path) for path in paths}

    def _opened(self, path: Path) -> TiffImage | SlideImage:
        """The image at the resolution that is read. Raises: DataError."""
        kind = SlideImage if path.suffix.lower() in slides.SUFFIXES else TiffImage
        return kind(path, level=self.options.level)

    def _sha256s(self, *, fresh: bool) -> list[tuple[str, str]]:
        """(path below the folder, composed; sha256) of every image."""
        paths = [path for files in self._files.values() for path in files.paths]
        title = f"checksums of {self._seen.root.name}"
        found = self.known.of(paths, title=title, progress=self.progress, fresh=fresh)
        return [
            (nfc(path.relative_to(self._seen.root).as_posix()), checksums.sha256)
            for path, checksums in zip(paths, found, strict=True)
        ]


def _misplaced(name: str) -> Reason | None:
    """Why the image called `name` below the folder is not read; None if it is read."""
    top, _, rest = name.partition("/")
    labelled = top in (Split.TRAIN, Split.TEST) and "/" in rest
    return None if labelled or (top == UNLABELLED and rest) else OUTSIDE
