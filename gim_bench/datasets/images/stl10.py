"""STL-10 in its official binaries: 96×96 colour photographs, 100,000 of them without labels.

Source: Coates, Ng and Lee 2011; addresses and checksums are those of torchvision's STL10.
"""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from gim_bench.contract import Images, Split, Target
from gim_bench.datasets.files import (
    ArchiveError,
    FileDataset,
    download,
    fingerprint_of,
    reason,
    stamp_of,
    unpack,
    unreadable,
)
from gim_bench.errors import DataError
from gim_bench.settings.base import Settings
from gim_bench.texts import TextError, read_text

FOLDER = "stl10_binary"
CLASS_NAMES = "class_names.txt"
IMAGES = {
    Split.UNLABELLED: "unlabeled_X.bin",
    Split.TRAIN: "train_X.bin",
    Split.TEST: "test_X.bin",
}
LABELS = {Split.TRAIN: "train_y.bin", Split.TEST: "test_y.bin"}
COUNTS = {Split.UNLABELLED: 100_000, Split.TRAIN: 5_000, Split.TEST: 8_000}
# As stored, columns come before rows.
SHAPE = (3, 96, 96)
IMAGE_BYTES = 3 * 96 * 96
CLASSES = 10
# Numbers of the training images of each fold, a line for each fold.
FOLD_INDICES = "fold_indices.txt"
FOLDS, FOLD_IMAGES = 10, 1_000


class STL10(FileDataset):
    """The paper's data set, in `stl10_binary` below `--data-dir` or below the cache folder."""

    class Options(Settings):
        """With `fold` (0 to 9), the labelled split is one of the ten folds of 1,000 images.

        Source: Coates, Ng and Lee 2011, who report the mean test accuracy over the ten folds.
        """

        fold: Annotated[int, Field(ge=0, lt=FOLDS)] | None = None

    options: Options

    def prepare(self) -> None:
        """Download and unpack missing files (2.6 GB), then check them; no file is overwritten."""
        if self._missing():
            archive = self.folder.parent / f"{FOLDER}.tar.gz"
            was_there = archive.exists()
            self._fetch(archive)
            self._unpack(archive)
            if not was_there:
                archive.unlink()
        self.fingerprint()

    def verify(self) -> None:
        """Read every file again and check size and md5."""
        self._checked(fresh=True)

    def fingerprint(self) -> str:
        """sha256 of the files, after a check of their md5s."""
        return fingerprint_of(self._checked(fresh=False).items())

    def targets(self) -> Sequence[Target]:
        """The class, with the names in class_names.txt. Raises: DataError."""
        return [Target(name="class", classes=self._classes())]

    def _classes(self) -> list[str]:
        """The names in class_names.txt. Raises: DataError if the file does not hold ten names."""
        self._check_presence_and_sizes()
        path = self.folder / CLASS_NAMES
        try:
            names = read_text(path).split()
        except OSError as error:
            raise unreadable(error) from None
        except TextError:
            names = []
        if len(set(names)) != CLASSES:
            raise DataError(
                f"stl10: {path} holds {len(set(names))} class names where {CLASSES} are expected: "
                f"{self._replace_it}"
            )
        return names

    def split(self, split: Split) -> Images:
        """Images as a transposed view of the memory-mapped file, without a copy."""
        self._check_presence_and_sizes()
        try:
            # Copy-on-write: torch takes writable arrays only, and the file must never change.
            images = np.memmap(
                self.folder / IMAGES[split],
                dtype=np.uint8,
                mode="c",
                shape=(COUNTS[split], *SHAPE),
            )
        except OSError as error:
            raise unreadable(error) from None
        found = Images(
            images=images.transpose(0, 1, 3, 2),
            labels={"class": self._labels(self.folder / LABELS[split])} if split in LABELS else {},
        )
        if self.options.fold is None or split is not Split.TRAIN:
            return found
        chosen = self._folds()[self.options.fold]
        labels = {name: of_images[chosen] for name, of_images in found.labels.items()}
        return Images(images=found.images[chosen], labels=labels)

    def _folds(self) -> list[np.ndarray]:
        """Numbers of each fold's training images. Raises: DataError if the file is no such list."""
        path = self.folder / FOLD_INDICES
        try:
            lines = read_text(path).splitlines()
            folds = [np.array(line.split(), dtype=np.int64) for line in lines if line.strip()]
        except OSError as error:
            raise unreadable(error) from None
        except (ValueError, OverflowError):
            folds = []
        if len(folds) != FOLDS or not all(map(self._is_fold, folds)):
            raise DataError(
                f"stl10: {path} does not hold {FOLDS} lines of {FOLD_IMAGES:,} different numbers "
                f"from 0 to {COUNTS[Split.TRAIN] - 1:,}: {self._replace_it}"
            )
        return folds

    @staticmethod
    def _is_fold(numbers: np.ndarray) -> bool:
        known = (numbers >= 0) & (numbers < COUNTS[Split.TRAIN])
        return len(np.unique(numbers)) == len(numbers) == FOLD_IMAGES and bool(known.all())

    # -- files and their checksums ---------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """`stl10_binary` below the data folder, or the data folder itself if it holds the files."""
        base = self.data_dir or self.cache_dir / "stl10"
        is_it = base.name == FOLDER or any((base / name).is_file() for name in IMAGES.values())
        return base if is_it else base / FOLDER

    def _missing(self) -> list[str]:
        return [name for name in self._names() if not (self.folder / name).is_file()]

    def _names(self) -> list[str]:
        """The files that the data set is read from."""
        folds = [] if self.options.fold is None else [FOLD_INDICES]
        return [*_sizes(), CLASS_NAMES, *folds]

    def _check_presence_and_sizes(self) -> None:
        if missing := self._missing():
            raise DataError(
                f"stl10: {', '.join(missing)} missing in {self.folder}: fetch with "
                f"`{self._command}` (2.6 GB), or try `--suite quickstart`, which needs no download"
            )
        for name, expected in _sizes().items():
            found = stamp_of(self.folder / name).size
            if found != expected:
                raise DataError(
                    f"stl10: {self.folder / name} has {found:,} bytes where {expected:,} are "
                    f"expected: {self._replace_it}"
                )

    def _checked(self, *, fresh: bool) -> dict[str, str]:
        """sha256 of every file, by name. Raises: DataError if an md5 is not the official one."""
        self._check_presence_and_sizes()
        names = self._names()
        checksums = self.known.of(
            [self.folder / name for name in names],
            title="checking the files of stl10",
            progress=self.progress,
            fresh=fresh,
        )
        official = official_files().md5
        for name, found in zip(names, checksums, strict=True):
            expected = official.get(name, found.md5)  # no md5 of the text files is published
            if found.md5 != expected:
                raise DataError(
                    f"stl10: {self.folder / name} has md5 {found.md5} where {expected} is "
                    f"expected: {self._replace_it}"
                )
        self._classes()
        if self.options.fold is not None:
            self._folds()
        return {name: found.sha256 for name, found in zip(names, checksums, strict=True)}

    def _labels(self, path: Path) -> np.ndarray:
        """Labels as int64 in 0..9; the file counts from 1."""
        try:
            stored = np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise unreadable(error) from None
        wrong = stored[(stored < 1) | (stored > CLASSES)]
        if len(wrong):
            raise DataError(
                f"stl10: {path} holds the label {wrong[0]} where 1 to {CLASSES} are expected: "
                f"{self._replace_it}"
            )
        return stored.astype(np.int64) - 1

    @property
    def _command(self) -> str:
        where = f" --data-dir {self.data_dir}" if self.data_dir else ""
        return f"python -m gim_bench data prepare --suite stl10{where}"

    @property
    def _replace_it(self) -> str:
        return f"delete this file and fetch it again with `{self._command}`"

    # -- fetching --------------------------------------------------------------------------------

    def _fetch(self, archive: Path) -> None:
        """Download the archive unless it is there, and check its md5. Raises: DataError."""
        official = official_files()
        if not archive.exists():
            download(
                official.url,
                to=archive,
                md5=official.archive_md5,
                advice=(
                    f"connect this machine, or put a copy of the file at {archive} and run the "
                    f"same command again; `--suite quickstart` needs no download"
                ),
                progress=self.progress,
            )
            return
        title = f"checking {archive.name}"
        (found,) = self.known.of([archive], title=title, progress=self.progress)
        if found.md5 != official.archive_md5:
            raise DataError(
                f"stl10: {archive} has md5 {found.md5} where {official.archive_md5} is expected: "
                f"delete this file and run `{self._command}`, which downloads it"
            )

    def _unpack(self, archive: Path) -> None:
        """Unpack the missing files.

        Names in the archive select among the missing files and never become paths, so no member
        can be written elsewhere.
        """
        wanted = {f"{FOLDER}/{name}": self.folder / name for name in self._missing()}
        try:
            unpack(
                archive,
                place=lambda name: wanted.get(posixpath.normpath(name)),
                total_bytes=sum(_sizes().get(path.name, 0) for path in wanted.values()),
                progress=self.progress,
            )
        except ArchiveError as error:
            raise DataError(
                f"stl10: cannot unpack {archive} ({error}): delete it and run `{self._command}`"
            ) from None
        except OSError as error:
            raise DataError(
                f"stl10: cannot unpack {archive} into {self.folder} ({reason(error)}): free 3 GB "
                f"there, or name another folder with --data-dir"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficialFiles:
    """Address and md5 of the archive, and the md5s of its files."""

    url: str
    archive_md5: str
    md5: Mapping[str, str]  # by file name


def official_files() -> OfficialFiles:
    """Address and md5s of STL-10 from torchvision, whose import takes a second."""
    from torchvision import datasets

    official = datasets.STL10
    return OfficialFiles(
        url=official.url,
        archive_md5=official.tgz_md5,
        md5=dict([*official.train_list, *official.test_list]),
    )


def _sizes() -> dict[str, int]:
    """Size of each binary in bytes, by file name."""
    images = {name: COUNTS[split] * IMAGE_BYTES for split, name in IMAGES.items()}
    return images | {name: COUNTS[split] for split, name in LABELS.items()}
