"""Your own recordings: `<speaker>/**/*.wav` and other formats, at any sample rate."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile

from gim_bench.contract import SAMPLE_RATE_HZ, Split
from gim_bench.datasets.duplicates import Duplicates, contradictions, remembered_first, sources
from gim_bench.datasets.files import UnusableError
from gim_bench.datasets.speech.audio import SUFFIXES, read_audio, to_int16
from gim_bench.datasets.speech.audio_files import AudioFile, Recording, spelled
from gim_bench.datasets.speech.phone_labels import MOST_PHONES, LabelLine, contradict
from gim_bench.datasets.speech.recordings import SpeechFiles
from gim_bench.datasets.speech.remarks import Tell
from gim_bench.datasets.speech.splits import split_by_name
from gim_bench.datasets.walk import Reason, count
from gim_bench.errors import DataError
from gim_bench.settings import base

LAYOUT = "<speaker>/**/*.wav (or .flac, .mp3, .ogg, …)"
LABEL_FILES = ("phones.txt", "converted_aligned_phones.txt")  # the first that exists counts
TWINS = Reason(
    "recording has the name of another in another format",
    "recordings have the names of others in other formats",
)
RATES_HZ = range(1_000, 1_000_001)  # any other rate is an error of the header
# Largest term of a resampling ratio: the filter has as many phases. The ratios of all usual rates
# are exact. A ratio that is off by 1e-5 moves the sound by one label of 10 ms in 16 minutes.
LARGEST_TERM = 1_000
MOST_OFF = Fraction(1, 100_000)


class AudioFolder(SpeechFiles):
    """Recordings in folders named by speaker, resampled to 16 kHz.

    A recording is for testing if the sha256 of its path below the folder, as a fraction, is below
    `test_fraction`. Every speaker has a train recording and, with two or more recordings, a test
    recording. Recordings of the same samples, or of the same name in several formats, go where the
    first of them goes; the same samples under two speakers are an error. Phone labels may lie in
    `phones.txt` at the top of the folder, in CPC's format; an id is a file's name, or its path
    below the folder, without the suffix.
    """

    class Options(SpeechFiles.Options):
        """The share of test recordings; whether files that cannot be used are skipped."""

        test_fraction: base.Fraction = 0.2

    options: Options

    name = "audio_folder"
    suffixes = SUFFIXES
    phones = MOST_PHONES

    @property
    def root(self) -> Path:
        if self.data_dir is None:
            raise DataError(
                f"audio_folder: no folder was named: give --data-dir a folder that holds {LAYOUT}"
            )
        return self.data_dir

    def check_presence(self) -> None:
        if not self.root.is_dir():
            raise DataError(
                f"audio_folder: no folder {self.root}: give --data-dir a folder that holds {LAYOUT}"
            )

    def audio_file(self, path: Path, *, name: str) -> AudioFile:
        speaker, _, rest = name.partition("/")
        if not rest:
            raise UnusableError(f"{path} (it lies in no folder named after its speaker)")
        return AudioFile(path=path, name=name, id=name, speaker=speaker)

    def belongs(self, name: str) -> bool:
        return name in LABEL_FILES

    def decode(self, path: Path, *, tell: Tell = lambda _: None) -> np.ndarray:
        samples, rate_hz = read_audio(path, tell=tell)
        if rate_hz not in RATES_HZ:
            raise UnusableError(f"{path} (it claims {rate_hz:,} samples a second)")
        if abs(ratio_to_16_khz(rate_hz) * rate_hz / SAMPLE_RATE_HZ - 1) > MOST_OFF:
            raise UnusableError(
                f"{path} (its rate of {rate_hz:,} Hz has no simple ratio to {SAMPLE_RATE_HZ:,} Hz: "
                f"bring it to {SAMPLE_RATE_HZ:,} Hz first)"
            )
        return to_int16(resample(samples, rate_hz=rate_hz))

    def decoder_versions(self) -> Sequence[str]:
        return [version("torchaudio"), soundfile.__libsndfile_version__]

    def assign(self, recordings: Sequence[Recording]) -> Mapping[Split, Sequence[Recording]]:
        return split_by_name(
            recordings,
            test_fraction=self.options.test_fraction,
            test_every_speaker=True,
            unit=lambda file: self.files[self._group_by_id[file.id]].id,
        )

    # -- duplicates ------------------------------------------------------------------------------

    @cached_property
    def _first(self) -> np.ndarray:
        """int64 [file], number of the first file of the same samples."""
        values, lengths = self._array.values, self._array.lengths
        ends = np.cumsum(lengths)
        return remembered_first(
            self._array_path.with_suffix(".duplicates.json"),
            # Silence is the copy of no other silence, and tells nothing of a speaker.
            pieces=(
                values[e - n : e if values[e - n : e].any() else e - n]
                for e, n in zip(ends, lengths, strict=True)
            ),
            count=len(lengths),
            noun="recording",
            progress=self.progress,
        )

    @cached_property
    def _first_of_name(self) -> Sequence[int]:
        """Number of the first file of the same name but for its suffix, by the number of a file."""
        first = dict[str, int]()
        names = (spelled(file.name.rpartition(".")[0]) for file in self.files)
        return [first.setdefault(name, number) for number, name in enumerate(names)]

    @cached_property
    def _group_by_id(self) -> Mapping[str, int]:
        """Number of the first file of a recording that several files may hold, by the file's id.

        Files of one name or of the same samples hold one recording, and so do all that are linked
        by these.
        """
        before, groups = np.array([]), np.arange(len(self.files))
        while not np.array_equal(before, groups):
            before = groups
            for first in (self._first, self._first_of_name):
                lowest = groups.copy()
                np.minimum.at(lowest, first, groups)  # of all files with that first
                groups = lowest[first]
        return dict(zip((file.id for file in self.files), groups.tolist(), strict=True))

    def sources(self, files: Sequence[AudioFile]) -> np.ndarray | None:
        """Alike for files that hold one recording; None without such files."""
        return sources(np.array([self._group_by_id[file.id] for file in files], dtype=np.int64))

    def contradicted(self) -> Mapping[str, str]:
        """Recordings whose samples are under two speakers."""
        _, speakers = np.unique([file.speaker for file in self.files], return_inverse=True)
        cases, found = contradictions(self._first, labels=speakers), dict[str, str]()
        for numbers in cases:
            one, other = (self.files[number].path for number in numbers[:2])
            more = f", the first of {len(cases)} such cases" if len(cases) > 1 else ""
            fault = f"{one} and {other} (the same audio under two speakers{more})"
            found |= {self.files[number].id: fault for number in numbers}
        return found

    def contradicted_labels(self, by_id: Mapping[str, np.ndarray]) -> Mapping[str, str]:
        """Recordings of the same samples with different phone labels."""
        by_content, found = defaultdict[int, list[AudioFile]](list), dict[str, str]()
        for number, file in enumerate(self.files):
            if file.id in by_id:
                by_content[int(self._first[number])].append(file)
        for one, *others in by_content.values():
            for other in others:
                if contradict(by_id[one.id], by_id[other.id]):
                    fault = f"{one.path} and {other.path} (the same audio with other phone labels)"
                    found |= {file.id: fault for file in (one, *others)}
                    break
        return found

    def notes(self) -> Sequence[str]:
        """The notes of speech files, and counts of recordings of the same samples."""
        numbers = {file.id: number for number, file in enumerate(self.files)}
        found = Duplicates(
            first=self._first,
            name=lambda number: self.files[number].name,
            splits={
                split: np.array([numbers[each.file.id] for each in recordings], dtype=np.int64)
                for split, recordings in self._by_split.items()
            },
            noun="recording",
        )
        twins = [f.name for n, f in enumerate(self.files) if self._first_of_name[n] != n]
        named = [f"{count(TWINS, twins)}: they share a split"] if twins else []
        return [*super().notes(), *found.described(), *named]

    # -- labels ----------------------------------------------------------------------------------

    def label_file(self) -> Path | None:
        paths = (self.root / name for name in LABEL_FILES)
        return next((path for path in paths if path.is_file()), None)

    def phone_classes(self, lines: Sequence[LabelLine]) -> int:
        """Number of classes: the largest label plus one."""
        return 1 + max(int(line.phones.max()) for line in lines)

    @cached_property
    def _by_label_id(self) -> Mapping[str, Sequence[AudioFile]]:
        """Audio files by each id that the label file may use for them."""
        files = dict[str, list[AudioFile]]()
        for file in self.files:
            path, _, _ = file.name.rpartition(".")
            # The two ids of a file always differ, because every file lies in a folder.
            for label_id in (path, path.rpartition("/")[2]):
                files.setdefault(spelled(label_id), []).append(file)
        return files

    def label_ids(self) -> Collection[str]:
        return self._by_label_id

    def labelled_by(self, label_id: str) -> AudioFile | None:
        files = self._by_label_id.get(label_id, [])
        if len(files) > 1:
            one, other = (spelled(file.name.rpartition(".")[0]) for file in files[:2])
            remedy = "remove or rename one" if one == other else "label them by their paths"
            raise UnusableError(
                f"{label_id!r} is the name of {files[0].name} and of {files[1].name}: {remedy}"
            )
        return files[0] if files else None


def ratio_to_16_khz(rate_hz: int) -> Fraction:
    """The ratio of 16 kHz to a rate, or the nearest ratio of small terms."""
    return Fraction(SAMPLE_RATE_HZ, rate_hz).limit_denominator(LARGEST_TERM)


def resample(samples: np.ndarray, *, rate_hz: int) -> np.ndarray:
    """The sound at 16 kHz; unchanged if it has that rate, or no samples."""
    if rate_hz == SAMPLE_RATE_HZ or not len(samples):
        return samples
    import torch
    from torchaudio.functional import resample as resampled

    ratio = ratio_to_16_khz(rate_hz)
    found = resampled(torch.from_numpy(samples), ratio.denominator, ratio.numerator)
    return found.numpy()
