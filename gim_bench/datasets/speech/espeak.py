"""Speech made offline by eSpeak NG, with speakers and phones known to the sample."""

import hashlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, FiniteFloat

from gim_bench import seeding
from gim_bench.contract import (
    FRAME_WINDOW_SAMPLES,
    SAMPLE_RATE_HZ,
    Dataset,
    Modality,
    Recordings,
    Split,
    Target,
    label_frames,
)
from gim_bench.datasets.arrays import Kept, kept
from gim_bench.datasets.files import KnownChecksums, reason
from gim_bench.datasets.speech.audio import FULL_SCALE
from gim_bench.datasets.speech.conditions import Conditions
from gim_bench.datasets.speech.sentences import sentences
from gim_bench.datasets.speech.synthesis import (
    Speech,
    Synthesiser,
    Utterance,
    installation,
    synthesiser,
)
from gim_bench.errors import DataError
from gim_bench.settings.augmentations import FRAME_SAMPLES
from gim_bench.settings.base import NotNegative, Settings
from gim_bench.settings.keys import keyed_options

# Part of the cached files' names: raise it when samples or labels are made in another way.
GENERATOR_VERSION = 1

# Variants of American English that sound like people: no robots, no whispers and no echo. So
# eSpeak's silence is zero to the last sample.
VARIANTS = (
    *("f1", "m1", "Annie", "m3", "aunty", "m4", "belinda", "m5", "grandma", "m6", "linda", "m7"),
    *("shelby", "m8", "steph", "Alex", "Andrea", "Andy", "anika", "Denis", "zac", "Gene"),
    *("steph3", "Lee", "Michael", "Mike", "Nguyen", "boris", "grandpa", "marcelo", "quincy", "max"),
)
# Pitch (50: the variant's own) and rate (words per minute) tell speakers of one variant apart.
MANNERS = ((50, 175), (40, 160), (60, 190), (35, 185), (65, 165), (45, 195), (55, 155), (30, 170))

SILENCE = "_"  # the class of all pauses; eSpeak has several, by length
GAP_SECONDS = 0.005  # shorter silence before a phone is a zero crossing of the waveform
STRESS_MARKS = "',"
MEGABYTES_PER_UTTERANCE = 0.12

# With these, every utterance of every speaker stays within eSpeak's own range.
LARGEST_PITCH_SPREAD = min(min(pitch, 99 - pitch) for pitch, _ in MANNERS)
LARGEST_RATE_SPREAD = min(rate for _, rate in MANNERS) - 80


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"[{bounds[0]:g}, {bounds[1]:g}] begins above its end: swap the two")
    return bounds


Decibels = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_ascending)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """A voice, pitch and rate that no other speaker has."""

    variant: str
    pitch: int
    rate: int

    @property
    def name(self) -> str:
        return f"{self.variant}_pitch{self.pitch}_rate{self.rate}"

    def utterance(self, text: str, *, pitch_spread: int = 0, rate_spread: int = 0) -> Utterance:
        """The text in the speaker's voice, at a pitch and a rate that the text draws."""
        draw = np.random.default_rng(seeding.derive("espeak", "manner", text))
        return Utterance(
            text=text,
            voice=f"en-us+{self.variant}",
            pitch=self.pitch + int(draw.integers(-pitch_spread, pitch_spread, endpoint=True)),
            rate=self.rate + int(draw.integers(-rate_spread, rate_spread, endpoint=True)),
        )


def _speakers() -> Iterator[Speaker]:
    """All variants in turn, in another manner each time."""
    for turn, (place, variant) in itertools.product(range(len(MANNERS)), enumerate(VARIANTS)):
        pitch, rate = MANNERS[(place + turn) % len(MANNERS)]
        yield Speaker(variant=variant, pitch=pitch, rate=rate)


SPEAKERS = tuple(_speakers())


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One utterance at 16 kHz."""

    samples: np.ndarray  # int16 [sample]
    phones: Sequence[str]  # the phone of each labelled frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """All recordings: each speaker's TRAIN sentences, those of UNLABELLED alone, then TEST."""

    samples: Kept  # int16
    phones: Kept  # int16, numbers of names
    names: Sequence[str]  # of the phones


class Espeak(Dataset):
    """Who speaks, and which phone is it? Synthetic speech by up to 256 speakers.

    The split is by sentence: every speaker speaks in TRAIN and in TEST, each sentence is spoken
    once by one speaker, and no text of TEST occurs in TRAIN. UNLABELLED is TRAIN without labels,
    and the sentences that are spoken for UNLABELLED alone.

    A frame's label is the phone at the middle of the frame, from the synthesiser's own timing.
    Phones have eSpeak's names ("aI", "tS") without stress marks. All silence is one class, the
    closures of plosives included, as in TIMIT's usual 39 classes. The classes are the phones of all
    recordings, those of UNLABELLED alone included.
    """

    class Options(Settings):
        """Number of speakers, and of sentences of about ten words for each speaker.

        `unlabelled_sentences` are spoken for UNLABELLED alone, which is a single recording with
        `joined`: all its sentences end to end. An utterance's pitch and rate differ
        from the speaker's own by at most `pitch_spread` and `rate_spread`, in eSpeak's units. Every
        recording draws its channel, noise and level: see conditions.py.
        """

        speakers: Annotated[int, Field(ge=2, le=len(SPEAKERS))] = 20
        train_sentences: Annotated[int, Field(gt=0)] = 30
        test_sentences: Annotated[int, Field(gt=0)] = 10
        unlabelled_sentences: NotNegative = 0
        joined: bool = False
        pitch_spread: Annotated[int, Field(ge=0, le=LARGEST_PITCH_SPREAD)] = 0
        rate_spread: Annotated[int, Field(ge=0, le=LARGEST_RATE_SPREAD)] = 0
        channel_db: Annotated[float, Field(ge=0, le=40)] = 0.0
        snr_db: Decibels | None = None
        level_db: Decibels | None = None

    modality = Modality.SPEECH
    options: Options

    def prepare(self) -> None:
        """Synthesise the speech, unless it is cached."""
        _ = self._corpus

    def verify(self) -> None:
        """Synthesise everything again and compare. Raises: DataError naming a damaged file."""
        corpus = self._corpus
        pieces = zip(_pieces(corpus.samples), _pieces(corpus.phones), strict=True)
        for recording, (samples, phones) in zip(self._recordings(), pieces, strict=True):
            if not np.array_equal(recording.samples, samples):
                raise self._damaged("samples")
            if not np.array_equal(recording.phones, np.array(corpus.names)[phones]):
                raise self._damaged("phones")

    def fingerprint(self) -> str:
        """sha256 of the options, samples and labels; another eSpeak may speak differently."""
        return self._fingerprint

    def targets(self) -> Sequence[Target]:
        return [
            Target(name="speaker", classes=[speaker.name for speaker in self._speakers]),
            Target(name="phone", classes=self._corpus.names, per_step=True),
        ]

    def split(self, split: Split) -> Recordings:
        """Recordings, speaker by speaker, in memory-mapped samples."""
        samples, lengths = _part(self._corpus.samples, self._parts[split])
        starts = np.cumsum(lengths) - lengths
        if split is Split.UNLABELLED:
            if self.options.joined:
                starts, lengths = starts[:1], lengths.sum(keepdims=True)
            return Recordings(samples=samples, starts=starts, lengths=lengths, labels={}, frames={})
        speakers = np.arange(len(self._speakers), dtype=np.int64)
        return Recordings(
            samples=samples,
            starts=starts,
            lengths=lengths,
            labels={"speaker": np.repeat(speakers, len(lengths) // len(speakers))},
            frames={"phone": _part(self._corpus.phones, self._parts[split])[0]},
        )

    @property
    def _parts(self) -> Mapping[Split, slice]:
        """The recordings of each split, by their numbers in the corpus."""
        options, speakers = self.options, len(self._speakers)
        train = speakers * options.train_sentences
        unlabelled = train + speakers * options.unlabelled_sentences
        return {
            Split.TRAIN: slice(train),
            Split.UNLABELLED: slice(unlabelled),
            Split.TEST: slice(unlabelled, None),
        }

    # -- utterances ------------------------------------------------------------------------------

    @property
    def _speakers(self) -> Sequence[Speaker]:
        return SPEAKERS[: self.options.speakers]

    @cached_property
    def _utterances(self) -> list[Utterance]:
        """Utterances in the order of the corpus; all texts differ."""
        options = self.options
        parts = (options.train_sentences, options.unlabelled_sentences, options.test_sentences)
        # The sentences are part of the data, so they depend on no seed of the suite.
        draw = np.random.default_rng(seeding.derive("espeak", "sentences"))
        texts = iter(sentences(len(self._speakers) * sum(parts), draw=draw))
        return [
            speaker.utterance(
                text, pitch_spread=options.pitch_spread, rate_spread=options.rate_spread
            )
            for count in parts
            for speaker in self._speakers
            for text in itertools.islice(texts, count)
        ]

    @property
    def _conditions(self) -> Conditions:
        options = self.options
        return Conditions(
            channel_db=options.channel_db, snr_db=options.snr_db, level_db=options.level_db
        )

    def _recordings(self) -> Iterator[Recording]:
        """All utterances, synthesised now."""
        utterances = self._utterances
        with (
            synthesiser(installation()) as voice,
            self.progress.task("speaking", total=len(utterances), unit="utterance") as task,
        ):
            for recording in _recorded(utterances, voice=voice, conditions=self._conditions):
                yield recording
                task.advance()

    # -- synthesised once ------------------------------------------------------------------------

    @cached_property
    def _corpus(self) -> Corpus:
        frames: list[Sequence[str]] = []  # by recording; small beside the samples

        def samples() -> Iterator[np.ndarray]:
            frames.clear()
            for recording in self._recordings():
                frames.append(recording.phones)
                yield recording.samples

        def phones() -> list[Sequence[str]]:
            if not frames:  # the samples were cached, the phones were not
                deque(samples(), maxlen=0)
            return frames

        def names() -> list[str]:
            return sorted(set(itertools.chain.from_iterable(phones())))

        with self._room():
            return Corpus(
                samples=self._kept("samples", np.int16, pieces=samples),
                phones=self._kept("phones", np.int16, pieces=lambda: _numbered(phones(), names())),
                names=_as_names(self._kept("names", np.uint8, pieces=lambda: _as_bytes(names()))),
            )

    def _kept(self, name: str, dtype: type, *, pieces: Callable[[], Iterable[np.ndarray]]) -> Kept:
        known, progress = self._known, self.progress
        return kept(self._path(name), dtype=dtype, pieces=pieces, known=known, progress=progress)

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Within the block, an OSError becomes a DataError that asks for room."""
        try:
            yield
        except OSError as error:
            if error.errno is None:  # of a library that cannot be loaded
                raise
            megabytes = MEGABYTES_PER_UTTERANCE * len(self._utterances)
            raise DataError(
                f"espeak: cannot keep the speech ({reason(error)}): make room for "
                f"{megabytes:,.0f} MB in {self.cache_dir}"
            ) from None

    def _damaged(self, name: str) -> DataError:
        return DataError(
            f"espeak: {self._path(name)} differs from what the synthesiser says: remove the file, "
            f"which is then made again"
        )

    def _path(self, name: str) -> Path:
        return self.cache_dir / "espeak" / f"{self._identity}-{name}.bin"

    @cached_property
    def _known(self) -> KnownChecksums:
        return KnownChecksums(self.cache_dir / "espeak" / f"{self._identity}-checksums.json")

    @cached_property
    def _identity(self) -> str:
        """Hash of everything that the bytes depend on: the library, the texts and the voices."""
        said = [asdict(utterance) for utterance in self._utterances]
        identity: list[Any] = [GENERATOR_VERSION, installation().sha256(), said]
        if not self._conditions.are_ideal:
            identity.append({"conditions": asdict(self._conditions)})
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]

    @cached_property
    def _fingerprint(self) -> str:
        corpus = self._corpus
        digest = hashlib.sha256(keyed_options(self.options, dataset="espeak"))
        digest.update(json.dumps(list(corpus.names)).encode())
        for array in (corpus.samples, corpus.phones):
            digest.update(array.lengths.tobytes())
            digest.update(array.values.data)
        return digest.hexdigest()


# -- from speech to recordings -------------------------------------------------------------------


def _recorded(
    utterances: Iterable[Utterance], *, voice: Synthesiser, conditions: Conditions
) -> Iterator[Recording]:
    """Recordings of the utterances at 16 kHz, with the phone of each labelled frame."""
    import torch
    from torchaudio.transforms import Resample

    # In double precision, the rounding of sums is too small to change a sample.
    resample = Resample(voice.sample_rate_hz, SAMPLE_RATE_HZ, dtype=torch.float64)
    for utterance in utterances:
        speech = voice.speak(utterance)
        samples = resample(torch.from_numpy(speech.samples.astype(np.float64))).numpy()
        # Conditions are part of the data too: the text alone draws them.
        draw = np.random.default_rng(seeding.derive("espeak", "conditions", utterance.text))
        samples = conditions.applied(samples, full_scale=FULL_SCALE, draw=draw)
        limits = np.iinfo(np.int16)
        yield Recording(
            samples=samples.round().clip(limits.min, limits.max).astype(np.int16),
            phones=frame_phones(speech, frames=label_frames(len(samples))),
        )


def frame_phones(speech: Speech, *, frames: int) -> list[str]:
    """The phone at the middle of each frame: for frame t, at sample 160·t + 200 of 16 kHz."""
    phones, starts = _with_gaps(speech)
    middles = FRAME_SAMPLES * np.arange(frames) + FRAME_WINDOW_SAMPLES // 2
    # Both sides are times in 1 / (16,000 · the speech's rate) s: whole numbers, which are exact.
    # Of phones that start together, the last phone sounds.
    begun = np.searchsorted(starts * SAMPLE_RATE_HZ, middles * speech.sample_rate_hz, side="right")
    return [phones[index - 1] if index else SILENCE for index in begun]


def _with_gaps(speech: Speech) -> tuple[list[str], np.ndarray]:
    """All phones and their starts, each preceded by silence, which may have no length.

    eSpeak reports the pauses between words, but not the pauses before single phones, most of which
    are closures of plosives (7 % of all speech).
    """
    sounding = np.flatnonzero(speech.samples)
    ends = np.append(0, sounding + 1)[np.searchsorted(sounding, speech.starts)]
    is_gap = speech.starts - ends >= GAP_SECONDS * speech.sample_rate_hz
    earliest = np.append(0, speech.starts[:-1])
    gaps = np.where(is_gap, np.maximum(ends, earliest), speech.starts)
    phones = [name for mnemonic in speech.phones for name in (SILENCE, _plain(mnemonic))]
    return phones, np.stack([gaps, speech.starts], axis=1).ravel()


def _plain(mnemonic: str) -> str:
    """The phone's class: eSpeak's mnemonic without stress; pauses of all lengths are one class."""
    return SILENCE if mnemonic.startswith(SILENCE) else mnemonic.lstrip(STRESS_MARKS)


# -- as arrays -----------------------------------------------------------------------------------


def _numbered(frames: Iterable[Sequence[str]], names: Sequence[str]) -> list[np.ndarray]:
    """Phones of each recording as int16 indices into `names`."""
    numbers = {name: number for number, name in enumerate(names)}
    return [np.array([numbers[phone] for phone in phones], dtype=np.int16) for phones in frames]


def _as_bytes(names: Iterable[str]) -> list[np.ndarray]:
    return [np.frombuffer(name.encode(), dtype=np.uint8) for name in names]


def _as_names(pieces: Kept) -> list[str]:
    return [piece.tobytes().decode() for piece in _pieces(pieces)]


def _pieces(array: Kept) -> Iterator[np.ndarray]:
    return iter(np.split(array.values, np.cumsum(array.lengths)[:-1]))


def _part(array: Kept, part: slice) -> tuple[np.ndarray, np.ndarray]:
    """Values (not copied) and lengths of adjacent pieces."""
    ends = np.cumsum(array.lengths)
    first = (ends - array.lengths)[part][0]
    return array.values[first : ends[part][-1]], array.lengths[part]
