"""Phone labels in the format of CPC: a line per utterance, a number for every 10 ms.

    2911-12359-0007 0 0 0 31 31 31 5 5 …

Source: van den Oord et al. 2018, `converted_aligned_phones.txt`: forced alignments by Kaldi.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gim_bench.contract import UNLABELLED, Split
from gim_bench.datasets.files import MEGABYTE, Megabytes, UnusableError, stamp_of, unreadable
from gim_bench.datasets.speech.audio_files import Recording, count, spelled
from gim_bench.progress import Progress
from gim_bench.texts import check_text, text_lines

LIBRISPEECH_PHONES = 41
MOST_PHONES = 1000  # more than any language has; a larger number is a slip
# The published labels are as many as the audio has frames. Other aligners differ by a window at the
# end; a larger difference means that the labels are of other audio.
TOLERANCE_FRAMES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelLine:
    """The labels of one utterance."""

    place: str  # file and line number, for messages
    id: str
    phones: np.ndarray  # int16 [frame]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFile:
    """The usable lines, and the faults of all other lines."""

    lines: Sequence[LabelLine]
    faults: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phones:
    """Labels that fit their recordings."""

    classes: int
    by_id: Mapping[str, np.ndarray]  # int16 [frame], by the id of the audio file

    def lacking(
        self, by_split: Mapping[Split, Sequence[Recording]], *, tolerated: float = 0.0
    ) -> str:
        """A line on the recordings without labels; empty where their share is tolerated."""
        ids = [recording.file.id for recordings in by_split.values() for recording in recordings]
        number = sum(name not in self.by_id for name in ids)
        if number <= tolerated * len(ids):
            return ""
        return f"{number:,} of {count(len(ids), 'recording')} have no phone labels"


def read_phone_labels(
    path: Path, *, phones: int, progress: Progress, known: Collection[str] = ()
) -> LabelFile:
    """All lines of the file; labels are 0 to `phones` - 1.

    A line begins with one of the `known` ids, which may hold blanks, or with another word.

    Raises: DataError if the file cannot be read.
    """
    numbers, seen, ids = _Numbers(phones), dict[str, int](), _Ids(known)
    lines, faults = list[LabelLine](), list[str]()
    total = math.ceil(stamp_of(path).size / MEGABYTE)
    try:
        with (
            path.open("rb") as file,
            progress.task(f"reading {path.name}", total=total, unit="MB") as task,
        ):
            done = Megabytes(task)
            for number, content in enumerate(text_lines(file), start=1):
                done.add(len(content))
                place = f"{path}, line {number}"
                try:
                    if line := _parse(content, ids=ids, numbers=numbers, place=place):
                        _refuse_second(line.id, seen=seen, number=number)
                        lines.append(line)
                except ValueError as error:
                    faults.append(f"{place}: {error}")
    except OSError as error:
        raise unreadable(error) from None
    return LabelFile(lines=lines, faults=faults)


def fitted(phones: np.ndarray, *, frames: int) -> np.ndarray | None:
    """`frames` labels, cut or filled with -1 at the end; None if more than two are off."""
    if abs(len(phones) - frames) > TOLERANCE_FRAMES:
        return None
    missing = max(0, frames - len(phones))
    return np.pad(phones[:frames], (0, missing), constant_values=UNLABELLED)


def contradict(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether a frame has two labels in two labellings of the same frames."""
    both = (one != UNLABELLED) & (other != UNLABELLED)
    return bool((one[both] != other[both]).any())


def add_labels(by_id: dict[str, np.ndarray], recording: Recording, *, phones: np.ndarray) -> None:
    """Add the labels of a recording to `by_id`. Raises: UnusableError if they do not fit."""
    if recording.file.id in by_id:
        raise UnusableError(f"{recording.file.name} is labelled in an earlier line too")
    labels = fitted(phones, frames=recording.frames)
    if labels is None:
        raise UnusableError(
            f"{recording.file.id} has {count(len(phones), 'label')} where its audio has "
            f"{count(recording.frames, 'frame')} of 10 ms"
        )
    by_id[recording.file.id] = labels


class _Numbers(dict[str, int]):
    """Numbers of phones by their text, each parsed once. Raises: ValueError for other texts."""

    def __init__(self, phones: int) -> None:
        self._phones = phones

    def __missing__(self, text: str) -> int:
        is_number = text.isascii() and text.isdecimal() and len(text) <= 5
        if not is_number or int(text) >= self._phones:
            raise ValueError(f"{text!r} is no phone: numbers from 0 to {self._phones - 1} are")
        self[text] = int(text)
        return self[text]


class _Ids:
    """Ids of recordings, the longest of which begins a line."""

    def __init__(self, known: Collection[str]) -> None:
        self._known = known
        self._most_words = max((name.count(" ") + 1 for name in known), default=1)

    def words(self, line: Sequence[str], *, numbers: _Numbers) -> int:
        """Number of words of the line's id. Raises: ValueError if a shorter id fits as well."""
        counts = range(1, min(self._most_words, len(line)) + 1)
        *shorter, longest = [n for n in counts if " ".join(line[:n]) in self._known] or [1]
        for words in shorter:
            if _are_numbers(line[words:longest], numbers=numbers):
                one, other = (" ".join(line[:n]) for n in (words, longest))
                raise ValueError(
                    f"{one!r} and {other!r} are both recordings, and the line fits both: rename one"
                )
        return longest


def _are_numbers(words: Sequence[str], *, numbers: _Numbers) -> bool:
    try:
        return bool([numbers[word] for word in words])
    except ValueError:
        return False


def _parse(content: str, *, ids: _Ids, numbers: _Numbers, place: str) -> LabelLine | None:
    """The line's id and labels; None for an empty line. Raises: ValueError with the fault."""
    check_text(content)
    line = spelled(content).split()
    if not line:
        return None
    words = ids.words(line, numbers=numbers)
    utterance, labels = " ".join(line[:words]), line[words:]
    if not labels:
        raise ValueError(f"no numbers follow {utterance!r}")
    phones = np.fromiter(map(numbers.__getitem__, labels), dtype=np.int16, count=len(labels))
    return LabelLine(place=place, id=utterance, phones=phones)


def _refuse_second(utterance: str, *, seen: dict[str, int], number: int) -> None:
    """Raises: ValueError if an earlier line labels the utterance."""
    if utterance in seen:
        raise ValueError(f"{utterance!r} is labelled in line {seen[utterance]} already")
    seen[utterance] = number
