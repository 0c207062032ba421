"""Your own images: `unlabeled/**`, `train/<class>/**` and `test/<class>/**` below one folder."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Annotated, Literal

import numpy as np
import PIL
from pydantic import Field

from gim_bench.contract import UNLABELLED as NO_LABEL
from gim_bench.contract import Images, Split, Target
from gim_bench.datasets.arrays import Kept, kept
from gim_bench.datasets.duplicates import Duplicates, first_of_same, remembered_first, sources
from gim_bench.datasets.files import FileDataset, fingerprint_of, in_threads, reason
from gim_bench.datasets.images.class_folders import LABELLED, ClassFolders, in_two_classes
from gim_bench.datasets.images.decoding import DECODER, SUFFIXES, Remark, decode
from gim_bench.datasets.walk import Reason, Walk, alike, count, nfc, walk
from gim_bench.errors import DataError
from gim_bench.settings.base import Settings

UNLABELLED = ("unlabeled", "unlabelled")
LAYOUT = "unlabeled/*.jpg (may be left out), train/<class>/*.jpg and test/<class>/*.jpg"
LOOSE = Reason("image beside the class folders", "images beside the class folders")
OUTSIDE = Reason("image outside of train/, test/ and unlabeled/",
                 "images outside of train/, test/ and unlabeled/")  # fmt: skip


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

    @property
    def labels(self) -> np.ndarray:
        """int64 [image], the number of the class, or -1."""
        labelled = [label for files in self.labelled.values() for _, label in files]
        return np.array([*[NO_LABEL] * len(self.unlabelled), *labelled], dtype=np.int64)

    @property
    def slices(self) -> Mapping[Split, slice]:
        """Places of each split in the array; a split without images of its own is left out."""
        counts = {Split.UNLABELLED: len(self.unlabelled)}
        counts |= {split: len(files) for split, files in self.labelled.items()}
        ends = zip(counts.items(), accumulate(counts.values()), strict=True)
        return {split: slice(end - count, end) for (split, count), end in ends if count}


class ImageFolder(FileDataset):
    """Photographs in folders named by class, as RGB squares of one size.

    The photographs are decoded once, into an array below the cache folder. An image is what a
    viewer shows: turned as its EXIF data say, in sRGB, and on white where it is transparent.
    Classes are compared by the composed form of their names.
    """

    class Options(Settings):
        """Size in pixels, and whether copies of one image in two classes are an error.

        The short side is resized to `size`, then the centre is cut out. `in_two_classes = "keep"`
        counts such copies and keeps them: 5,836 training images of ImageNet have a copy, nearly all
        of them in another class.

        Source: Flaws of ImageNet, ICLR blog posts 2025, "Exact Duplicate Search".
        """

        size: Annotated[int, Field(ge=8)] = 96
        in_two_classes: Literal["refuse", "keep"] = "refuse"

    options: Options

    def prepare(self) -> None:
        """Compute checksums, decode and look for duplicates, unless all is cached."""
        _ = self._duplicates

    def verify(self) -> None:
        """Read and decode every file again, and renew the remembered checksums."""
        self._sha256s(fresh=True)
        self._judged(first_of_same(self._decode(Remarks(self._root))))

    def fingerprint(self) -> str:
        """sha256 of the names and contents of all images, and of the decoder's version.

        Only files with new stamps are read.
        """
        return self._fingerprint

    def targets(self) -> Sequence[Target]:
        """The class, named after the train folders."""
        return [Target(name="class", classes=self._contents.classes)]

    def split(self, split: Split) -> Images:
        """Memory-mapped images. Without unlabelled images, the train images serve as unlabelled."""
        slices = self._contents.slices
        own = slices.get(split, slices[Split.TRAIN])
        labels = {} if split is Split.UNLABELLED else {"class": self._contents.labels[own]}
        shared = sources(self._duplicates.first[own])
        return Images(images=self._pixels[own], labels=labels, sources=shared)

    def notes(self) -> Sequence[str]:
        """Counts of files left out, of images changed, of duplicates; classes alike."""
        lines = [
            *self._duplicates.described(),
            in_two_classes(self._duplicates, labels=self._contents.labels),
            self._seen.note(),
            *self._array.notes,
            alike(self._contents.classes, noun="classes"),
        ]
        return [line for line in lines if line]

    # -- what is in the folder -------------------------------------------------------------------

    @property
    def _root(self) -> Path:
        if self.data_dir is None:
            raise DataError(
                f"image_folder: no folder was named: give --data-dir a folder that holds {LAYOUT}"
            )
        return self.data_dir

    @cached_property
    def _seen(self) -> Walk:
        if not self._root.is_dir():
            raise DataError(
                f"image_folder: no folder {self._root}: give --data-dir a folder that holds "
                f"{LAYOUT}"
            )
        return walk(self._root, suffixes=SUFFIXES, misplaced=_misplaced)

    @cached_property
    def _contents(self) -> Contents:
        folders = ClassFolders(
            dataset="image_folder", seen=self._seen, layout=LAYOUT, suffixes=SUFFIXES
        )
        by_class = folders.images()
        classes = sorted(by_class[Split.TRAIN])
        labelled = {
            split: [(path, classes.index(name)) for name in sorted(files) for path in files[name]]
            for split, files in by_class.items()
        }
        unlabelled = [
            path
            for folder in UNLABELLED
            if folder in self._seen.folders
            for path in folders.below(folder, kind="folder")
        ]
        if not unlabelled:
            self.progress.say(
                f"{self._root} has no {UNLABELLED[0]}/: its train images serve as unlabelled "
                f"images too"
            )
        return Contents(classes=classes, unlabelled=unlabelled, labelled=labelled)

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint_of([*self._sha256s(fresh=False), ("decoder", str(DECODER))])

    def _sha256s(self, *, fresh: bool) -> list[tuple[str, str]]:
        """(path below the folder, composed; sha256) of every image."""
        paths = self._contents.paths
        title = f"checksums of {self._root.name}"
        found = self.known.of(paths, title=title, progress=self.progress, fresh=fresh)
        return [
            (nfc(path.relative_to(self._root).as_posix()), checksums.sha256)
            for path, checksums in zip(paths, found, strict=True)
        ]

    # -- duplicates ------------------------------------------------------------------------------

    @cached_property
    def _duplicates(self) -> Duplicates:
        """The duplicates among the images. Raises: DataError."""
        first = remembered_first(
            self._array_path.with_suffix(".duplicates.json"),
            pieces=self._pixels,
            count=len(self._contents.paths),
            noun="image",
            progress=self.progress,
        )
        return self._judged(first)

    def _judged(self, first: np.ndarray) -> Duplicates:
        """The duplicates. Raises: DataError if copies of an image are in two classes."""
        paths = self._contents.paths
        found = Duplicates(
            first=first,
            name=lambda number: paths[number].relative_to(self._root).as_posix(),
            splits={
                split: np.arange(len(paths))[own] for split, own in self._contents.slices.items()
            },
            noun="image",
        )
        line = in_two_classes(found, labels=self._contents.labels)
        if line and self.options.in_two_classes == "refuse":
            raise DataError(
                f"image_folder: in {self._root}, {line}: remove the wrong ones, or keep them all "
                f"with --set dataset.in_two_classes=keep"
            )
        return found

    # -- decoded once ----------------------------------------------------------------------------

    @cached_property
    def _array(self) -> Kept:
        """All images, flat uint8, in the order of the folder's contents."""
        remarks = Remarks(self._root)
        try:
            return kept(
                self._array_path,
                dtype=np.uint8,
                pieces=lambda: self._decode(remarks),
                known=self.known,
                progress=self.progress,
                notes=remarks.described,
            )
        except OSError as error:
            raise DataError(
                f"image_folder: cannot keep the decoded images ({reason(error)}): make room "
                f"for {np.prod(self._shape) / 1e6:,.0f} MB in {self.cache_dir}"
            ) from None

    @property
    def _pixels(self) -> np.ndarray:
        """All images, uint8 [image channel row column], in the order of the folder's contents."""
        return self._array.values.reshape(self._shape)

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return len(self._contents.paths), 3, self.options.size, self.options.size

    @property
    def _array_path(self) -> Path:
        """Path of the array, named after everything that the pixels depend on."""
        identity = [
            self.fingerprint(),
            self.options.model_dump_json(include={"size"}),
            PIL.__version__,
            DECODER,
        ]
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        return self.cache_dir / "image_folder" / f"{name}.bin"

    def _decode(self, remarks: "Remarks") -> Iterator[np.ndarray]:
        """Each image's pixels, in the order of the folder's contents; threads decode ahead."""
        paths = self._contents.paths

        def pixels(path: Path) -> np.ndarray:
            return decode(path, size=self.options.size, remark=remarks.of(path))

        title = f"decoding {self._root.name}"
        with self.progress.task(title, total=len(paths), unit="image") as task:
            for decoded in in_threads(pixels, paths):
                yield decoded
                task.advance()


class Remarks:
    """What was said of images as they were decoded; threads may add to it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._said = dict[Reason, list[tuple[str, str]]]()  # (name, detail)
        self._lock = Lock()

    def of(self, path: Path) -> Remark:
        """The function that takes remarks on the image at `path`."""
        name = path.relative_to(self._root).as_posix()

        def say(reason: Reason, detail: str) -> None:
            with self._lock:
                self._said.setdefault(reason, []).append((name, detail))

        return say

    def described(self) -> list[str]:
        """A line for each reason, with the number of images, the details, and an example."""
        return sorted(
            count(
                reason,
                [name for name, _ in sorted(said)],
                details=[detail for _, detail in sorted(said) if detail],
            )
            for reason, said in self._said.items()
        )


# -- which files ---------------------------------------------------------------------------------


def _misplaced(name: str) -> Reason | None:
    """Why the image called `name` below the folder is not read; None if it is read."""
    top, _, rest = name.partition("/")
    if top in UNLABELLED:
        return None
    if top not in LABELLED:
        return OUTSIDE
    return None if "/" in rest else LOOSE
