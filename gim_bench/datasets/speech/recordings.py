"""Parts that data sets of speech files share: decoding, labels that fit the audio, splits."""

import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from gim_bench.contract import UNLABELLED, Modality, Recordings, Split, Target
from gim_bench.datasets.arrays import Kept, kept
from gim_bench.datasets.files import (
    FileDataset,
    UnusableError,
    fingerprint_of,
    in_threads,
    reason,
)
from gim_bench.datasets.speech.audio_files import (
    AudioFile,
    Recording,
    count,
    with_one_form,
    without_folders,
)
from gim_bench.datasets.speech.phone_labels import LabelLine, Phones, add_labels, read_phone_labels
from gim_bench.datasets.speech.remarks import Remarks, Tell
from gim_bench.datasets.walk import Walk, alike, walk
from gim_bench.errors import DataError
from gim_bench.settings.base import Settings

# Version of reading, in the names of the decoded arrays: 2 has remarks on the recordings, 3 refuses
# rates that are not resampled well.
READING = 3


class SpeechFiles(FileDataset):
    """Speech in files of the user, decoded once into one array of 16 kHz below the cache folder.

    Subclasses define which files belong to the data set, how to decode a file, and the splits.
    """

    class Options(Settings):
        """Whether files and labels that cannot be used are skipped and counted, or an error."""

        skip_bad_files: bool = False

    options: Options
    modality = Modality.SPEECH

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    phones: ClassVar[int]  # labels are numbers below this

    # -- what subclasses define ------------------------------------------------------------------

    @property
    @abstractmethod
    def root(self) -> Path:
        """The folder above all audio files."""

    @abstractmethod
    def check_presence(self) -> None:
        """Raises: DataError if there is nothing to read, with what to do."""

    @abstractmethod
    def audio_file(self, path: Path, *, name: str) -> AudioFile:
        """The file at `path`, called `name` below the root. Raises: UnusableError."""

    @abstractmethod
    def decode(self, path: Path, *, tell: Tell = lambda _: None) -> np.ndarray:
        """Samples of a file, int16 [sample] at 16 kHz; `tell` hears of their faults.

        Raises: UnusableError.
        """

    def belongs(self, name: str) -> bool:
        """Hook: whether the data set uses the file `name` below the root, though not as audio."""
        return False

    @abstractmethod
    def label_file(self) -> Path | None:
        """Path of the phone labels; None if there are none."""

    def split_files(self) -> Mapping[Split, Path]:
        """Files that list the recordings of each split; empty if there are none."""
        return {}

    def say_unlabelled(self) -> None:
        """Hook: without phone labels, say how to get them."""

    @abstractmethod
    def label_ids(self) -> Collection[str]:
        """The ids that label files may use for the audio files, as `spelled` writes them."""

    @abstractmethod
    def labelled_by(self, label_id: str) -> AudioFile | None:
        """The audio file of a line of labels; None if the file is absent. Raises: UnusableError."""

    @abstractmethod
    def assign(self, recordings: Sequence[Recording]) -> Mapping[Split, Sequence[Recording]]:
        """Recordings of TRAIN and of TEST. Raises: DataError."""

    def sources(self, files: Sequence[AudioFile]) -> np.ndarray | None:
        """Hook: int64 [file], numbers of what the files were cut from; None: each is its own."""
        return None

    def contradicted(self) -> Mapping[str, str]:
        """Hook: places and faults of recordings whose speakers contradict others', by id."""
        return {}

    def contradicted_labels(self, by_id: Mapping[str, np.ndarray]) -> Mapping[str, str]:
        """Hook: places and faults of recordings whose phone labels contradict others', by id."""
        return {}

    # -- the contract ----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Compute checksums, decode and read the labels, unless all is cached."""
        _ = self._phones

    def verify(self) -> None:
        """Read and decode every file again, and renew the remembered checksums."""
        self.check_presence()
        self._sha256s(self._all_files, fresh=True)
        self.prepare()
        for _ in self._decoded(Remarks()):
            pass

    def notes(self) -> Sequence[str]:
        """Counts of what was left out, of faults of recordings, and of speakers alike."""
        _ = self._phones  # all has been read, so that `left_out` is whole
        names = alike(sorted({file.speaker for file in self.files}), noun="speakers")
        lines = [self._seen.note(), *self.left_out, *self._array.notes, names]
        return [line for line in lines if line]

    def fingerprint(self) -> str:
        """sha256 of the names and contents of all files; only files with new stamps are read."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint_of(self._sha256s(self._all_files))

    def targets(self) -> Sequence[Target]:
        """The speaker and, with phone labels, the phone of every 10 ms."""
        speaker = Target(name="speaker", classes=self._speakers)
        if self._phones is None:
            return [speaker]
        phones = [str(phone) for phone in range(self._phones.classes)]
        return [speaker, Target(name="phone", classes=phones, per_step=True)]

    def split(self, split: Split) -> Recordings:
        """Recordings in the memory-mapped samples; UNLABELLED is TRAIN without labels."""
        chosen = self._by_split[Split.TEST if split is Split.TEST else Split.TRAIN]
        labelled = split is not Split.UNLABELLED
        return Recordings(
            samples=self._array.values,
            starts=np.array([recording.start for recording in chosen], dtype=np.int64),
            lengths=np.array([recording.length for recording in chosen], dtype=np.int64),
            labels={"speaker": self._speaker_labels(chosen)} if labelled else {},
            frames={"phone": self._phone_labels(chosen)} if labelled and self._phones else {},
            sources=self.sources([recording.file for recording in chosen]),
        )

    def _speaker_labels(self, recordings: Sequence[Recording]) -> np.ndarray:
        number = {speaker: number for number, speaker in enumerate(self._speakers)}
        return np.array([number[r.file.speaker] for r in recordings], dtype=np.int64)

    def _phone_labels(self, recordings: Sequence[Recording]) -> np.ndarray:
        """Labels of all frames of all recordings in order, int16; -1 where there is no label."""
        assert self._phones is not None
        by_id = self._phones.by_id
        labels = [
            by_id[r.file.id] if r.file.id in by_id else np.full(r.frames, UNLABELLED, np.int16)
            for r in recordings
        ]
        return np.concatenate(labels)

    # -- which files -----------------------------------------------------------------------------

    @cached_property
    def _seen(self) -> Walk:
        self.check_presence()
        return walk(self.root, suffixes=self.suffixes, belongs=self.belongs)

    @cached_property
    def _listing(self) -> tuple[Sequence[AudioFile], Sequence[str]]:
        """Audio files in the order of their paths, and the faults of the skipped files."""
        files, faults = list[AudioFile](), list[str]()
        for path in self._seen.paths:
            try:
                files.append(self._listed(path))
            except UnusableError as error:
                self.refuse_or(faults.append, error)
        return with_one_form(files), faults

    def _listed(self, path: Path) -> AudioFile:
        """The audio file at `path`. Raises: UnusableError."""
        if not os.access(path, os.R_OK):
            raise UnusableError(f"{path} (it cannot be read)")
        name = path.relative_to(self.root).as_posix()
        if os.fsencode(name).decode(errors="replace") != name:
            raise UnusableError(f"{path} (its name is not UTF-8: rename it)")
        return self.audio_file(path, name=name)

    @property
    def files(self) -> Sequence[AudioFile]:
        return self._listing[0]

    @property
    def _all_files(self) -> list[tuple[str, Path]]:
        """(name, path) of every file that decides the splits."""
        beside = [(path.name, path) for path in self._beside_audio]
        return [(f.name, f.path) for f in self.files] + beside

    @property
    def _beside_audio(self) -> list[Path]:
        """The files of splits and of labels."""
        label_file = self.label_file()
        return [*self.split_files().values(), *([label_file] if label_file else [])]

    def _sha256s(
        self, files: Sequence[tuple[str, Path]], *, fresh: bool = False
    ) -> list[tuple[str, str]]:
        """(name, sha256) of each file. Raises: DataError."""
        found = self.known.of(
            [path for _, path in files],
            title=f"checksums of {self.root.name}",
            progress=self.progress,
            fresh=fresh,
        )
        return [(name, sums.sha256) for (name, _), sums in zip(files, found, strict=True)]

    # -- unusable files and lines ----------------------------------------------------------------

    def refuse_or(self, note: Callable[[str], None], error: UnusableError) -> None:
        """Note the fault if unusable files may be skipped. Raises: DataError if not."""
        if not self.options.skip_bad_files:
            raise DataError(
                f"{self.name}: cannot use {error}: mend or remove it, or go on without such files "
                f"and lines with --skip-bad-files"
            ) from None
        note(str(error))

    @cached_property
    def left_out(self) -> list[str]:
        """Counts of files, lines and labels that were left out as they were read, for `notes`."""
        return []

    def note_skipped(self, faults: Sequence[str], *, kind: str) -> None:
        """Note how many files or lines were skipped, if any, and the first."""
        if faults:
            folders = [self.root, *(path.parent for path in self._beside_audio)]
            first = without_folders(faults[0], folders)
            self.left_out.append(f"skipped {count(len(faults), kind)}, the first of them: {first}")

    # -- decoded once ----------------------------------------------------------------------------

    @cached_property
    def _array(self) -> Kept:
        """The samples: a piece for every file, empty for a skipped file."""
        remarks = Remarks()
        try:
            return kept(
                self._array_path,
                dtype=np.int16,
                pieces=lambda: self._decoded(remarks),
                known=self.known,
                progress=self.progress,
                notes=remarks.lines,
            )
        except OSError as error:
            raise DataError(
                f"{self.name}: cannot keep the decoded recordings ({reason(error)}): make room for "
                f"115 MB for every hour of speech in {self.cache_dir}"
            ) from None

    @property
    def _array_path(self) -> Path:
        """Path of the array, named after everything that the samples depend on."""
        audio = fingerprint_of(self._sha256s([(file.name, file.path) for file in self.files]))
        identity = json.dumps([audio, READING, *self.decoder_versions()])
        name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        return self.cache_dir / self.name / f"{name}.bin"

    def decoder_versions(self) -> Sequence[str]:
        """Versions that samples depend on; none for lossless files at 16 kHz."""
        return ()

    def _decoded(self, remarks: Remarks) -> Iterator[np.ndarray]:
        """Samples of each file; an empty array for a skipped file."""
        title, total = f"decoding {self.root.name}", len(self.files)

        def attempt(file: AudioFile) -> np.ndarray | UnusableError:
            return self._attempt(file.path, tell=remarks.about(file.name))

        with self.progress.task(title, total=total, unit="recording") as task:
            for found in in_threads(attempt, self.files):
                if isinstance(found, UnusableError):
                    self.refuse_or(lambda _: None, found)  # `_recordings` reports the fault
                    yield np.empty(0, dtype=np.int16)
                else:
                    yield found
                task.advance()

    def _attempt(self, path: Path, *, tell: Tell = lambda _: None) -> np.ndarray | UnusableError:
        try:
            samples = self.decode(path, tell=tell)
        except UnusableError as error:
            return error
        return samples if len(samples) else UnusableError(f"{path} (it holds no samples)")

    def _fault(self, path: Path) -> str:
        """The fault of a file that could not be decoded."""
        found = self._attempt(path)
        if isinstance(found, UnusableError):
            return str(found)
        return f"{path} (it failed once: delete {self._array_path} to have it tried again)"

    @cached_property
    def _recordings(self) -> Sequence[Recording]:
        """The decoded files. Raises: DataError if a file is unusable and may not be skipped."""
        lengths = self._array.lengths
        starts = np.cumsum(lengths) - lengths
        found = [
            Recording(file=file, start=int(start), length=int(length))
            for file, start, length in zip(self.files, starts, lengths, strict=True)
        ]
        faults = [*self._listing[1]]
        for empty in (recording for recording in found if not recording.length):
            # Faults are not kept. Only the first is shown, so only the first is found again.
            why = str(empty.file.path) if faults else self._fault(empty.file.path)
            self.refuse_or(faults.append, UnusableError(why))
        contradicted = self.contradicted()
        for why in contradicted.values():
            self.refuse_or(faults.append, UnusableError(why))
        self.note_skipped(faults, kind="audio file")
        return [r for r in found if r.length and r.file.id not in contradicted]

    # -- splits ----------------------------------------------------------------------------------

    @cached_property
    def _by_split(self) -> Mapping[Split, Sequence[Recording]]:
        """Recordings of TRAIN and TEST: of two or more speakers, all of whom are in TRAIN."""
        speakers = len({recording.file.speaker for recording in self._recordings})
        if speakers < 2:
            left_out = f"; {note}" if (note := self._seen.note()) else ""
            raise DataError(
                f"{self.name}: {self.root} holds usable recordings of {count(speakers, 'speaker')} "
                f"where two or more are needed{left_out}: add recordings of others"
            )
        by_split = self.assign(self._recordings)
        for split, recordings in by_split.items():
            if not recordings:
                raise DataError(self.nothing_for(split))
        trained = {recording.file.speaker for recording in by_split[Split.TRAIN]}
        for recording in by_split[Split.TEST]:
            if recording.file.speaker not in trained:
                raise DataError(
                    f"{self.name}: the speaker {recording.file.speaker} has test recordings but no "
                    f"train recording: add one, or remove {recording.file.id} from the test split"
                )
        return by_split

    def nothing_for(self, split: Split) -> str:
        """The message for an empty split."""
        return (
            f"{self.name}: {self.root} leaves no {split} recording: add recordings, two or more of "
            f"each speaker"
        )

    @cached_property
    def _speakers(self) -> Sequence[str]:
        return sorted({recording.file.speaker for recording in self._by_split[Split.TRAIN]})

    # -- phone labels ----------------------------------------------------------------------------

    @cached_property
    def _phones(self) -> Phones | None:
        """Labels that fit the audio; None if TRAIN or TEST has none. Raises: DataError."""
        by_split, path = self._by_split, self.label_file()
        if path is None:
            self.say_unlabelled()
            return None
        labels = read_phone_labels(
            path, phones=self.phones, known=self.label_ids(), progress=self.progress
        )
        faults = list[str]()
        for fault in labels.faults:
            self.refuse_or(faults.append, UnusableError(fault))
        by_id = self._matched(labels.lines, faults=faults)
        for contradicted, why in self.contradicted_labels(by_id).items():
            self.refuse_or(faults.append, UnusableError(why))
            del by_id[contradicted]
        self.note_skipped(faults, kind="label line")
        if not by_id:
            self._refuse_foreign(path, lines=labels.lines)
        for split, recordings in by_split.items():
            if not any(recording.file.id in by_id for recording in recordings):
                self.left_out.append(
                    f"no {split} recording is labelled in {path.name}: phones are left out"
                )
                return None
        phones = Phones(classes=self.phone_classes(labels.lines), by_id=by_id)
        if lacking := phones.lacking(by_split):
            self.left_out.append(lacking)
        return phones

    def phone_classes(self, lines: Sequence[LabelLine]) -> int:
        return self.phones

    def _matched(self, lines: Sequence[LabelLine], *, faults: list[str]) -> dict[str, np.ndarray]:
        """Labels that fit, by recording; labels without a recording are counted."""
        recordings = {recording.file.id: recording for recording in self._recordings}
        by_id, without_audio = dict[str, np.ndarray](), 0
        for line in lines:
            try:
                file = self.labelled_by(line.id)
                recording = None if file is None else recordings.get(file.id)
                if recording is None:
                    without_audio += 1
                else:
                    add_labels(by_id, recording, phones=line.phones)
            except UnusableError as error:
                self.refuse_or(faults.append, UnusableError(f"{line.place}: {error}"))
        if without_audio and by_id:
            self.left_out.append(
                f"labels of {count(without_audio, 'utterance')} without audio are not used"
            )
        return by_id

    def _refuse_foreign(self, path: Path, *, lines: Sequence[LabelLine]) -> None:
        """Raises: DataError naming an id of the labels and an id of the recordings."""
        labelled = f"labels {lines[0].id!r}" if lines else "labels nothing"
        raise DataError(
            f"{self.name}: {path} {labelled} and none of the recordings, which are such as "
            f"{self._recordings[0].file.id.removesuffix(self._recordings[0].file.path.suffix)!r} "
            f"(without suffix): is it the labels of another data set? Replace or remove it"
        )
