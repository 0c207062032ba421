"""Images of any kind in folders named by class: `train/<class>/**` and `test/<class>/**`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gim_bench.contract import Split
from gim_bench.datasets.duplicates import Duplicates, contradictions
from gim_bench.datasets.walk import Walk, lookalike, nfc
from gim_bench.errors import DataError

LABELLED = (Split.TRAIN, Split.TEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFolders:
    """The class folders of a data set, which messages name."""

    dataset: str
    seen: Walk
    layout: str
    suffixes: Sequence[str]

    def images(self) -> dict[Split, dict[str, list[Path]]]:
        """Files of TRAIN and TEST by class, whose name is composed.

        Raises: DataError if a folder is missing or empty, a class is there twice or is only tested,
        or if there are fewer than two.
        """
        found = {split: self._by_class(split) for split in LABELLED}
        self._check(sorted(found[Split.TRAIN]), tested=sorted(found[Split.TEST]))
        return found

    def below(self, folder: str, *, kind: str) -> list[Path]:
        """Files in `folder`, in the order of their composed names. Raises: DataError if none."""
        names = self.seen.below(folder)
        if not names:
            note = self.seen.note(below=folder)
            raise DataError(
                f"{self.dataset}: the {kind} {self.seen.root / folder} is empty"
                f"{f' ({note})' if note else ''}: put images into it ({', '.join(self.suffixes)}), "
                f"or remove it"
            )
        return [self.seen.root / name for name in sorted(names, key=nfc)]

    def _by_class(self, split: Split) -> dict[str, list[Path]]:
        root = self.seen.root
        if split not in self.seen.folders:
            raise DataError(f"{self.dataset}: {root} has no {split}/: it must hold {self.layout}")
        by_class = dict[str, str]()
        for folder in self.seen.folders:
            top, _, written = folder.partition("/")
            if top != split or not written or "/" in written:
                continue
            other = by_class.setdefault(nfc(written), folder)
            if other != folder:
                raise DataError(
                    f"{self.dataset}: {root / split} holds the class {nfc(written)!r} twice, as "
                    f"{other.partition('/')[2]!a} and as {written!a}, which differ in their "
                    f"Unicode form only: merge the two folders"
                )
        return {name: self.below(folder, kind="class") for name, folder in by_class.items()}

    def _check(self, classes: Sequence[str], *, tested: Sequence[str]) -> None:
        root = self.seen.root
        if len(classes) < 2:
            raise DataError(
                f"{self.dataset}: {root / Split.TRAIN} holds {len(classes)} class folder(s) where "
                f"two or more are needed: sort its images into train/<class>/"
            )
        if unknown := [name for name in tested if name not in classes]:
            similar = [name for name in classes if lookalike(name) == lookalike(unknown[0])]
            raise DataError(
                f"{self.dataset}: the class {unknown[0]!r} is in {root / Split.TEST} but not in "
                f"{root / Split.TRAIN}{f', which has {similar[0]!r}' if similar else ''}: add "
                f"training images of it, or remove it from test/"
            )
        if not tested:
            raise DataError(
                f"{self.dataset}: {root / Split.TEST} holds no class folder: sort its images into "
                f"test/<class>/"
            )


def in_two_classes(found: Duplicates, *, labels: np.ndarray) -> str:
    """A line on images with a copy in another class; empty without such images."""
    cases = contradictions(found.first, labels=labels)
    if not cases:
        return ""
    one, other = map(found.name, cases[0][:2])
    number = sum(map(len, cases))
    return f"{number:,} images have a copy in another class, such as {one} and {other}"
