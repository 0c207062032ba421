"""Your own large images: TIFF files and scans in folders named by class, read by windows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from gim_bench.contract import Split, Target
from gim_bench.datasets.duplicates import Duplicates, first_of_same
from gim_bench.datasets.files import FileDataset, fingerprint_of
from gim_bench.datasets.images import slides
from gim_bench.datasets.images.class_folders import ClassFolders, in_two_classes
from gim_bench.datasets.images.decoding import DARK, DEEP
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
    image never serve both fitting and validation, nor do places of identical files. Classes are
    compared by the composed form of their names.
    """

    class Options(Settings):
        """Pixels of a side of a place, and which resolution of pyramids is read: 0 is the full."""

        place: Annotated[int, Field(ge=16)] = 128
        level: NotNegative = 0

    options: Options

    def prepare(self) -> None:
        """Compute checksums, look for identical files, and look into every file's header."""
        for split in Split:
            self.split(split)

    def verify(self) -> None:
        """Read every file again, look for identical files, and decode each file's tiles."""
        self._sha256s(fresh=True)
        _ = self._duplicates
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
            sources=np.repeat(self._sources(split), counts),
        )

    def notes(self) -> Sequence[str]:
        """Counts of identical files, of files left out, of 16 bits, and of several images."""
        names = {str(p.relative_to(self._seen.root)): image for p, image in self._images.items()}
        remarks = {
            DEEP: [name for name, image in names.items() if image.bits > 8 and not image.dark],
            DARK: [name for name, image in names.items() if image.dark],
            FIRST: [name for name, image in names.items() if image.further],
        }
        lines = [count(reason, found) for reason, found in remarks.items() if found]
        found = [*self._duplicates.described(), self._seen.note(), *lines]
        return [line for line in found if line]

    @cached_property
    def _seen(self) -> Walk:
        if self.data_dir is None or not self.data_dir.is_dir():
            found = "no folder was named" if self.data_dir is None else f"no folder {self.data_dir}"
            raise DataError(f"large_images: {found}: give --data-dir a folder that holds {LAYOUT}")
        return walk(self.data_dir, suffixes=SUFFIXES, misplaced=_misplaced)

    @property
    def _classes(self) -> Sequence[str]:
        return sorted(self._by_class[Split.TRAIN])

    @cached_property
    def _by_class(self) -> Mapping[Split, Mapping[str, Sequence[Path]]]:
        return ClassFolders(
            dataset="large_images", seen=self._seen, layout=LAYOUT, suffixes=SUFFIXES
        ).images()

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
        numbers = {name: number for number, name in enumerate(self._classes)}
        for split, by_class in self._by_class.items():
            labelled = sorted(
                (path.relative_to(self._seen.root).as_posix(), numbers[name])
                for name, paths in by_class.items()
                for path in paths
            )
            found[split] = Files(
                paths=[self._seen.root / name for name, _ in labelled],
                classes=[number for _, number in labelled],
            )
        return found

    @cached_property
    def _duplicates(self) -> Duplicates:
        """The identical files. Raises: DataError if a file is in two classes."""
        sums = self._sha256s(fresh=False)
        counts = [len(files.paths) for files in self._files.values()]
        found = Duplicates(
            first=first_of_same(np.frombuffer(bytes.fromhex(sha), np.uint8) for _, sha in sums),
            name=lambda number: sums[number][0],
            splits={
                split: np.arange(end - number, end)
                for split, number, end in zip(self._files, counts, accumulate(counts), strict=True)
                if number
            },
            noun="image",
        )
        labels = np.array([number for files in self._files.values() for number in files.classes])
        if line := in_two_classes(found, labels=labels):
            raise DataError(f"large_images: in {self._seen.root}, {line}: remove the wrong ones")
        return found

    def _sources(self, split: Split) -> np.ndarray:
        """int64 [image of the split], number of the split's first identical image."""
        own = self._duplicates.first[self._duplicates.splits[split]]
        _, first, source = np.unique(own, return_index=True, return_inverse=True)
        return first[source]

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
