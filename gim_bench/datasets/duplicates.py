"""Duplicates: examples of the same decoded content under several names.

Contents are compared by the sha256 of decoded values: of pixels at the size that the encoder gets,
or of samples at 16 kHz. So a copy is found in any lossless format. A copy that was encoded anew by
a lossy format, cut, scaled or turned has other values and is not found.

Comparing 11,000 images takes 0.8 s at 32 pixels and 2.6 s at 96, where checksums and decoding take
24 and 37 s (CIFAR-10 slice on one of two busy cores, 2026-11-27).
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gim_bench.contract import UNLABELLED, Split
from gim_bench.datasets.files import reason
from gim_bench.errors import one_line
from gim_bench.progress import Progress, Task
from gim_bench.records.record import SEEN_IN_TRAINING
from gim_bench.seals import sealed, unsealed
from gim_bench.system.atomic import write_atomically

# A test example that training saw, labelled or not, makes the accuracy a measure of memory.
LEAKS = ((Split.TEST, Split.TRAIN), (Split.TEST, Split.UNLABELLED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """The duplicates among the examples of a data set, each of which has a number."""

    first: np.ndarray  # int64 [example], number of the first example of the same content
    name: Callable[[int], str]  # of an example, for messages
    splits: Mapping[Split, np.ndarray]  # int64 [example of the split], numbers of the examples
    noun: str  # singular name of an example

    def described(self) -> list[str]:
        """A line on each pair of splits that share content, and on each split that repeats some."""
        across = [self._across(*pair) for pair in LEAKS if pair[1] in self.splits]
        within = [self._within(split) for split in self.splits]
        return [one_line(line) for line in [*across, *within] if line]

    def _across(self, split: Split, other: Split) -> str:
        ours, theirs = self.splits[split], self.splits[other]
        shared = np.isin(self.first[ours], self.first[theirs])
        if not shared.any():
            return ""
        one = int(ours[shared.argmax()])
        same = int(theirs[(self.first[theirs] == self.first[one]).argmax()])
        return (
            f"{SEEN_IN_TRAINING}: {shared.sum():,} of {len(ours):,} {split} {self.noun}s are also "
            f"{other} {self.noun}s, such as {self.name(one)} ({self.name(same)})"
        )

    def _within(self, split: Split) -> str:
        numbers = self.splits[split]
        _, place, source = np.unique(self.first[numbers], return_index=True, return_inverse=True)
        repeats = place[source] != np.arange(len(numbers))
        if not repeats.any():
            return ""
        at = int(repeats.argmax())
        one, same = int(numbers[at]), int(numbers[place[source[at]]])
        return (
            f"{repeats.sum():,} of {len(numbers):,} {split} {self.noun}s repeat others of the "
            f"split, such as {self.name(one)} ({self.name(same)})"
        )


def sources(first: np.ndarray) -> np.ndarray | None:
    """Sources of a split, by the `first` of its examples: alike for duplicates, None without any.

    Validation takes whole sources, so duplicates never serve both fitting and validation.
    """
    return first if len(np.unique(first)) < len(first) else None


def contradictions(first: np.ndarray, *, labels: np.ndarray) -> list[list[int]]:
    """Numbers of the labelled examples of each content that has several labels.

    The first two of a list differ in their labels. `first` is as in `Duplicates`; `labels` is int64
    [example], -1 without a label.
    """
    repeated = np.bincount(first, minlength=len(first))[first] > 1
    by_content = defaultdict[int, list[int]](list)
    for number in np.flatnonzero(repeated & (labels != UNLABELLED)).tolist():
        by_content[first[number]].append(number)
    found = []
    for one, *others in by_content.values():
        against = [number for number in others if labels[number] != labels[one]]
        if against:
            found.append([one, against[0], *(n for n in others if n != against[0])])
    return found


def first_of_same(pieces: Iterable[np.ndarray]) -> np.ndarray:
    """int64 [piece], number of the first piece of the same content: its own without a duplicate.

    Pieces are of one type, and flat or of one shape. An empty piece is a duplicate of none.
    """
    digests = (
        hashlib.sha256(np.ravel(piece).data).hexdigest() if piece.size else str(number)
        for number, piece in enumerate(pieces)
    )
    found = np.fromiter((each.encode() for each in digests), dtype="S64")
    _, first, source = np.unique(found, return_index=True, return_inverse=True)
    return first[source].astype(np.int64)


def remembered_first(
    path: Path, *, pieces: Iterable[np.ndarray], count: int, noun: str, progress: Progress
) -> np.ndarray:
    """As `first_of_same` of `count` pieces, which are read once: the file at `path` remembers."""
    if (known := _remembered(path, count=count)) is not None:
        return known
    with progress.task("comparing contents", total=count, unit=noun) as task:
        first = first_of_same(_counted(pieces, task=task))
    repeats = np.flatnonzero(first != np.arange(count))
    table = {"count": count, "repeats": repeats.tolist(), "first": first[repeats].tolist()}
    try:
        write_atomically(path, json.dumps(sealed(table)).encode())
    except OSError as error:
        progress.say(f"contents will be compared again next time: {reason(error)}")
    return first


def _remembered(path: Path, *, count: int) -> np.ndarray | None:
    """The numbers in the file at `path`; None if the file is missing, damaged or of other data."""
    try:
        table = unsealed(path.read_bytes())
    except (OSError, ValueError):
        return None
    if table["count"] != count:
        return None
    first = np.arange(count)
    first[np.array(table["repeats"], np.int64)] = np.array(table["first"], np.int64)
    return first


def _counted(pieces: Iterable[np.ndarray], *, task: Task) -> Iterator[np.ndarray]:
    for piece in pieces:
        yield piece
        task.advance()
