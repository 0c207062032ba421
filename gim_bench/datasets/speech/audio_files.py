"""Files of speech, their speakers, and the recordings in them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gim_bench.contract import label_frames
from gim_bench.datasets.walk import nfc


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFile:
    """A file of speech, its speaker, and its id in labels and splits."""

    path: Path
    name: str  # below the data set's folder, with "/"
    id: str
    speaker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A decoded audio file, and the place of its samples in the array."""

    file: AudioFile
    start: int
    length: int  # samples

    @property
    def frames(self) -> int:
        return label_frames(self.length)


def spelled(label_id: str) -> str:
    """An id as ids are compared: in the composed form, with single blanks between its words."""
    return " ".join(nfc(label_id).split())


def with_one_form(files: Sequence[AudioFile]) -> list[AudioFile]:
    """The files, where a speaker whose folders differ in Unicode form has the composed name."""
    forms = defaultdict[str, set[str]](set)
    for file in files:
        forms[nfc(file.speaker)].add(file.speaker)
    several = {name for names in forms.values() if len(names) > 1 for name in names}
    return [
        replace(file, speaker=nfc(file.speaker)) if file.speaker in several else file
        for file in files
    ]


def count(number: int, noun: str) -> str:
    """The number and its noun.

    >>> count(1, "line"), count(28_539, "utterance")
    ('1 line', '28,539 utterances')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def without_folders(text: str, folders: Iterable[Path]) -> str:
    """The text, with paths in these folders from the folder on: records go to others.

    >>> without_folders("/home/anna/speech/1.wav (it is empty)", [Path("/home/anna/speech")])
    '1.wav (it is empty)'
    """
    for folder in sorted({f"{each}/" for each in folders}, key=len, reverse=True):
        text = text.replace(folder, "")
    return text
