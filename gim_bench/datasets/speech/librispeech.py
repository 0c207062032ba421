"""LibriSpeech train-clean-100: 100 hours of English read aloud by 251 speakers.

Source: Panayotov et al. 2015; address and checksum as in torchaudio's LIBRISPEECH. Phone labels
and the split into train and test: van den Oord et al. 2018 (CPC).
"""

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from gim_bench.contract import SAMPLE_RATE_HZ, Split
from gim_bench.datasets.files import (
    ArchiveError,
    UnusableError,
    download,
    reason,
    unpack,
    unreadable,
)
from gim_bench.datasets.speech.audio import read_audio, to_int16
from gim_bench.datasets.speech.audio_files import AudioFile, Recording, count
from gim_bench.datasets.speech.phone_labels import LIBRISPEECH_PHONES
from gim_bench.datasets.speech.recordings import SpeechFiles
from gim_bench.datasets.speech.remarks import Tell
from gim_bench.datasets.speech.splits import split_by_name
from gim_bench.datasets.walk import walk
from gim_bench.errors import DataError
from gim_bench.system.atomic import write_atomically
from gim_bench.texts import TextError, read_text

FOLDER = "train-clean-100"
ARCHIVE = f"{FOLDER}.tar.gz"
URL = f"http://www.openslr.org/resources/12/{ARCHIVE}"
UTTERANCES = 28_539
LABELS_FOLDER = "LibriSpeech100_labels_split"
TRANSCRIPTS = ".trans.txt"  # words beside each chapter, which nothing here reads
LABEL_FILE = "converted_aligned_phones.txt"
SPLIT_FILES = {Split.TRAIN: "train_split.txt", Split.TEST: "test_split.txt"}
TEST_FRACTION = 0.2  # CPC's own split is about 80 to 20
TOLERATED = 0.01  # share of the recordings that published splits and labels may lack

AUDIO = re.compile(
    r"(?P<folder>(?P<speaker>\d+)/(?P<chapter>\d+))/(?P<id>(?P=speaker)-(?P=chapter)-\d+)\.flac",
    re.ASCII,
)
UTTERANCE = re.compile(r"\d+-\d+-\d+", re.ASCII)


class LibriSpeech(SpeechFiles):
    """The paper's speech, in `LibriSpeech/` below `--data-dir` or below the cache folder.

    Without CPC's split files an utterance is for testing if the sha256 of its id, as a fraction, is
    below 0.2. A speaker with test utterances only keeps the first utterance for training.

    With `split = "chapters"` no chapter is in both TRAIN and TEST, and validation holds out whole
    chapters. The sha256 of "speaker-chapter" decides; split files are not used. Every speaker of
    two or more chapters is in both. A speaker of one chapter is in TRAIN only: the class stays, and
    TEST has nothing of it. As most speakers have two or three chapters, TEST is more than a fifth.
    """

    class Options(SpeechFiles.Options):
        """The unit that is for training or for testing as a whole."""

        split: Literal["utterances", "chapters"] = "utterances"

    options: Options

    name = "librispeech"
    suffixes = (".flac",)
    phones = LIBRISPEECH_PHONES

    def prepare(self) -> None:
        """Download and unpack missing files (6.3 GB), then decode; no file is overwritten."""
        if not self._has_audio or self._unfinished.exists():
            self._fetch_and_unpack()
        super().prepare()

    # -- files -----------------------------------------------------------------------------------

    @property
    def _base(self) -> Path:
        return self.data_dir or self.cache_dir / self.name

    @property
    def root(self) -> Path:
        """The folder `train-clean-100`: the data folder, or in it or in its `LibriSpeech`."""
        base = self._base
        if base.name == FOLDER:
            return base
        is_parent = base.name == "LibriSpeech" or (base / FOLDER).is_dir()
        return base / FOLDER if is_parent else base / "LibriSpeech" / FOLDER

    @property
    def _beside(self) -> Path:
        """The folder that holds `LibriSpeech`."""
        parent = self.root.parent
        return parent.parent if parent.name == "LibriSpeech" else parent

    def _find(self, name: str) -> Path | None:
        """Path of a file of labels or of a split; None if no possible place has the file."""
        places = [
            folder / name
            for base in (self._base, self._beside)
            for folder in (base, base / LABELS_FOLDER)
        ]
        return next((path for path in places if path.is_file()), None)

    @property
    def _has_audio(self) -> bool:
        return self.root.is_dir() and bool(walk(self.root, suffixes=self.suffixes).names)

    @property
    def _unfinished(self) -> Path:
        """Path of a file that exists while the archive is being unpacked."""
        return self.root.parent / f".{FOLDER}.unpacking"

    @property
    def _command(self) -> str:
        where = f" --data-dir {self.data_dir}" if self.data_dir else ""
        return f"python -m gim_bench data prepare --suite librispeech{where}"

    # -- reading ---------------------------------------------------------------------------------

    def check_presence(self) -> None:
        if self._unfinished.exists():
            raise DataError(
                f"librispeech: the unpacking into {self.root} was interrupted: run "
                f"`{self._command}`, which carries on"
            )
        if not self._has_audio:
            raise DataError(
                f"librispeech: no recordings in {self.root}: fetch them with `{self._command}` "
                f"(6.3 GB), or try `--suite quickstart-audio`, which needs no download"
            )

    def audio_file(self, path: Path, *, name: str) -> AudioFile:
        match = AUDIO.fullmatch(name)
        if match is None:
            raise UnusableError(
                f"{path} (its name is not <speaker>/<chapter>/<speaker>-<chapter>-<number>.flac)"
            )
        return AudioFile(path=path, name=name, id=match["id"], speaker=match["speaker"])

    def decode(self, path: Path, *, tell: Tell = lambda _: None) -> np.ndarray:
        samples, rate_hz = read_audio(path, tell=tell)
        if rate_hz != SAMPLE_RATE_HZ:
            raise UnusableError(
                f"{path} (it has {rate_hz:,} samples a second where LibriSpeech has "
                f"{SAMPLE_RATE_HZ:,}; the data set audio_folder takes any rate)"
            )
        return to_int16(samples)

    def belongs(self, name: str) -> bool:
        return name.endswith(TRANSCRIPTS)

    # -- labels ----------------------------------------------------------------------------------

    def label_ids(self) -> Collection[str]:
        return self._by_id

    def label_file(self) -> Path | None:
        return self._find(LABEL_FILE)

    def say_unlabelled(self) -> None:
        self.progress.say(
            f"librispeech: no {LABEL_FILE}, so phones are left out: the CPC authors publish it as "
            f"{LABELS_FOLDER}; put {LABEL_FILE} into {self._beside / LABELS_FOLDER}"
        )

    @cached_property
    def _by_id(self) -> Mapping[str, AudioFile]:
        return {file.id: file for file in self.files}

    def labelled_by(self, label_id: str) -> AudioFile | None:
        if not UTTERANCE.fullmatch(label_id):
            raise UnusableError(f"{label_id!r} is no utterance such as '2911-12359-0007'")
        return self._by_id.get(label_id)

    # -- splits ----------------------------------------------------------------------------------

    @property
    def _by_chapter(self) -> bool:
        return self.options.split == "chapters"

    @cached_property
    def _split_files(self) -> Mapping[Split, Path]:
        if self._by_chapter:
            return {}
        found = {split: self._find(name) for split, name in SPLIT_FILES.items()}
        present = {split: path for split, path in found.items() if path is not None}
        for split, path in found.items():
            if path is None and present:
                (other,) = present.values()
                raise DataError(
                    f"librispeech: {SPLIT_FILES[split]} is missing beside {other}: put it into the "
                    f"same folder, or remove {other.name}"
                )
        return present

    def split_files(self) -> Mapping[Split, Path]:
        return self._split_files

    def incomplete(self) -> str:
        own_split = f"split without CPC's {' and '.join(SPLIT_FILES.values())}"
        lacking = [self._part, self._unsplit if self._split_files else own_split, self._unlabelled]
        return ", ".join(filter(None, lacking))

    @property
    def _part(self) -> str:
        """The share of the utterances that is here; empty for all of them."""
        found = len(self.files)
        if found == UTTERANCES:
            return ""
        return f"{found:,} of the {UTTERANCES:,} utterances of {FOLDER}"

    @property
    def _unsplit(self) -> str:
        """The share of the recordings that the split files name; empty for nearly all of them."""
        used, found = sum(map(len, self._by_split.values())), len(self.files)
        if used >= (1 - TOLERATED) * found:
            return ""
        return f"{used:,} of {found:,} recordings in {' and '.join(SPLIT_FILES.values())}"

    @property
    def _unlabelled(self) -> str:
        """The share of the recordings without phones; empty for few, and where none has phones."""
        return self._phones.lacking(self._by_split, tolerated=TOLERATED) if self._phones else ""

    def assign(self, recordings: Sequence[Recording]) -> Mapping[Split, Sequence[Recording]]:
        """Splits by chapters; or by the split files; or by the utterances' ids."""
        if self._part:
            self.progress.say(f"librispeech: {self._part} are in {self.root}")
        if self._by_chapter:
            self._say_chapters(recordings)
            return split_by_name(
                recordings, test_fraction=TEST_FRACTION, test_every_speaker=True, unit=chapter
            )
        if not self._split_files:
            self.progress.say(
                f"librispeech: no {' and '.join(SPLIT_FILES.values())}: a fifth of the utterances "
                f"is for testing, chosen by their ids"
            )
            return split_by_name(recordings, test_fraction=TEST_FRACTION, test_every_speaker=False)
        ids = self._read_split_files()
        self._note_split(ids, recordings=recordings)
        return {split: [r for r in recordings if r.file.id in ids[split]] for split in ids}

    def _say_chapters(self, recordings: Sequence[Recording]) -> None:
        chapters = {chapter(recording.file) for recording in recordings}
        speakers = Counter(name.partition("-")[0] for name in chapters)
        single = sum(number == 1 for number in speakers.values())
        self.progress.say(
            f"librispeech: split by chapters; {count(single, 'speaker')} of one chapter, of "
            f"{len(speakers):,}, in the train split only"
        )

    def sources(self, files: Sequence[AudioFile]) -> np.ndarray | None:
        """Numbers of the chapters where the split is by chapters."""
        if not self._by_chapter:
            return None
        _, numbers = np.unique([chapter(file) for file in files], return_inverse=True)
        return numbers.astype(np.int64)

    def _read_split_files(self) -> dict[Split, set[str]]:
        """Ids of each split. Raises: DataError if an id is in both splits."""
        faults, ids = list[str](), dict[Split, set[str]]()
        for split, path in self._split_files.items():
            ids[split] = set()
            for place, utterance in _ids(path):
                if UTTERANCE.fullmatch(utterance):
                    ids[split].add(utterance)
                else:
                    fault = f"{place}: {utterance!r} is no utterance such as '2911-12359-0007'"
                    self.refuse_or(faults.append, UnusableError(fault))
        self.note_skipped(faults, kind="line")
        if both := sorted(ids[Split.TRAIN] & ids[Split.TEST]):
            train, test = self._split_files.values()
            raise DataError(
                f"librispeech: {both[0]} is in {train} and in {test.name}: remove it from one"
            )
        return ids

    def _note_split(
        self, ids: Mapping[Split, set[str]], *, recordings: Sequence[Recording]
    ) -> None:
        named, here = set[str]().union(*ids.values()), {r.file.id for r in recordings}
        self.progress.say(
            f"librispeech: split by {' and '.join(map(str, self._split_files.values()))}"
        )
        files = " and ".join(path.name for path in self._split_files.values())
        if absent := len(named - here):
            self.left_out.append(
                f"{count(absent, 'utterance')} in {files} without audio are not used"
            )
        if unnamed := len(here - named):
            self.left_out.append(
                f"{count(unnamed, 'recording')} in neither of {files} are not used"
            )

    def nothing_for(self, split: Split) -> str:
        if path := self._split_files.get(split):
            return (
                f"librispeech: {path} names no recording that is in {self.root}: put them there, "
                f"or remove the split files"
            )
        if self._by_chapter:
            return (
                f"librispeech: no speaker in {self.root} has two chapters, so none is for testing: "
                f"add chapters, or take dataset.split=utterances"
            )
        return super().nothing_for(split)

    # -- fetching --------------------------------------------------------------------------------

    @property
    def _archive(self) -> Path:
        """Path of the archive, which may have to be downloaded."""
        home = self._base if self._base != self.root else self.root.parent
        places = [home / ARCHIVE, self.root.parent / ARCHIVE, self._beside / ARCHIVE]
        return next((path for path in places if path.is_file()), places[0])

    def _fetch_and_unpack(self) -> None:
        """Fetch and unpack, or resume either. An archive that the user put there is kept."""
        archive = self._archive
        try:
            ours = not archive.exists() or self._unfinished.read_bytes() == b"downloaded"
        except OSError:
            ours = False
        self._fetch(archive)
        try:
            write_atomically(self._unfinished, b"downloaded" if ours else b"given")
            unpack(
                archive,
                place=self._place,
                total_bytes=archive.stat().st_size,  # FLAC hardly shrinks
                progress=self.progress,
            )
            self._unfinished.unlink()
        except ArchiveError as error:
            raise DataError(
                f"librispeech: cannot unpack {archive} ({error}): delete it and run "
                f"`{self._command}`"
            ) from None
        except OSError as error:
            raise DataError(
                f"librispeech: cannot unpack {archive} into {self.root} ({reason(error)}): free "
                f"7 GB there, or name another folder with --data-dir"
            ) from None
        if ours:
            archive.unlink()

    def _fetch(self, archive: Path) -> None:
        """Download the archive unless it is there, and check its sha256. Raises: DataError."""
        expected = official_sha256()
        if not archive.exists():
            download(
                URL,
                to=archive,
                sha256=expected,
                advice=(
                    f"connect this machine, or put a copy of the file at {archive} and run the "
                    f"same command again; `--suite quickstart-audio` needs no download"
                ),
                progress=self.progress,
            )
            return
        title = f"checking {archive.name}"
        (found,) = self.known.of([archive], title=title, progress=self.progress)
        if found.sha256 != expected:
            raise DataError(
                f"librispeech: {archive} has sha256 {found.sha256} where {expected} is expected: "
                f"delete this file and run `{self._command}`, which downloads it"
            )

    def _place(self, member: str) -> Path | None:
        """Path for a member of the archive; None unless the member is a recording."""
        prefix = f"LibriSpeech/{FOLDER}/"
        name = posixpath.normpath(member)
        match = AUDIO.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        return match and self.root / match["speaker"] / match["chapter"] / f"{match['id']}.flac"


def chapter(file: AudioFile) -> str:
    """Speaker and chapter of an utterance: "2911-12359"."""
    return file.id.rpartition("-")[0]


def official_sha256() -> str:
    """sha256 of the archive from torchaudio, whose import takes a second."""
    from torchaudio.datasets.librispeech import _CHECKSUMS

    return _CHECKSUMS[URL]


def _ids(path: Path) -> list[tuple[str, str]]:
    """(place, id) of every line that is not empty. Raises: DataError if `path` cannot be read."""
    try:
        lines = read_text(path).split("\n")
    except OSError as error:
        raise unreadable(error) from None
    except TextError as error:
        raise DataError(f"librispeech: {path}, {error}, or remove it") from None
    stripped = ((f"{path}, line {n}", line.strip()) for n, line in enumerate(lines, start=1))
    return [(place, line) for place, line in stripped if line]
