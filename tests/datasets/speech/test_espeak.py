"""Speech by eSpeak NG: labels exact to the sample, fair splits, the same bytes every time."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from gim_bench.contract import Modality, Split, label_frames
from gim_bench.datasets.speech import espeak
from gim_bench.datasets.speech.espeak import SILENCE, SPEAKERS, Espeak, Recording, frame_phones
from gim_bench.datasets.speech.synthesis import Speech, installation, synthesiser
from gim_bench.errors import ConfigError, DataError
from gim_bench.settings.suites import parse
from tests.listener import Listener

SMALL = {"speakers": 3, "train_sentences": 3, "test_sentences": 2}
VOWELS = tuple("aAeEiIoOuUV0@3")


def made(cache_dir, **options):
    options = Espeak.Options(**(SMALL | options))
    return Espeak(options=options, data_dir=None, cache_dir=cache_dir)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    """A cache that holds the small data set; tests that change it make their own."""
    folder = tmp_path_factory.mktemp("cache")
    made(folder).prepare()
    return folder


@pytest.fixture
def data(cache_dir):
    return made(cache_dir)


@pytest.fixture
def own(data, tmp_path):
    """A data set with a cache of its own, and its fingerprint."""
    shutil.copytree(data.cache_dir, tmp_path, dirs_exist_ok=True)
    own = made(tmp_path)
    return own, own.fingerprint()


@pytest.fixture
def forbidden(monkeypatch):
    """Within the test, to speak is an error."""

    def speak(self):
        raise AssertionError("spoke again")

    monkeypatch.setattr(Espeak, "_recordings", speak)


def recordings(examples):
    """(samples, phone labels) of each recording."""
    frames = np.cumsum([0, *(label_frames(length) for length in examples.lengths.tolist())])
    for i, (start, length) in enumerate(zip(examples.starts, examples.lengths, strict=True)):
        labels = examples.frames["phone"][frames[i] : frames[i + 1]]
        yield examples.samples[start : start + length], labels


# -- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "first"), [(0, "a"), (199, "a"), (200, "a"), (201, SILENCE), (360, SILENCE)]
)
def test_a_frame_bears_the_phone_that_sounds_at_its_sample_200(start, first):
    speech = Speech(
        samples=np.ones(800, np.int16),
        sample_rate_hz=16_000,
        phones=["a"],
        starts=np.array([start]),
    )
    assert frame_phones(speech, frames=2) == [first, "a"]


def sounding_at(speech, place):
    """The phone at a native sample, slowly: of the last event, or the silence before the next."""
    phone, following = SILENCE, len(speech.samples)
    for mnemonic, start in zip(speech.phones, speech.starts.tolist(), strict=True):
        if start > place:
            following = start
            break
        phone = SILENCE if mnemonic.startswith("_") else mnemonic.strip("',")
    if speech.samples[place:following].any():
        return phone
    silent = 0  # samples before the next event
    while following > silent and speech.samples[following - silent - 1] == 0:
        silent += 1
    return SILENCE if silent >= 0.005 * 22_050 else phone


def test_frames_agree_with_a_slow_search_through_the_events():
    with synthesiser(installation()) as voice:
        speech = voice.speak(SPEAKERS[0].utterance("Another boy picked up the thick, black fence."))
    frames = label_frames(len(speech.samples) * 16_000 // 22_050)
    slow = [sounding_at(speech, (160 * t + 200) * 22_050 // 16_000) for t in range(frames)]
    assert frame_phones(speech, frames=frames) == slow


def test_the_closure_of_a_plosive_is_silence():
    samples = np.ones(1200, np.int16)
    samples[500:900] = 0
    speech = Speech(
        samples=samples, sample_rate_hz=16_000, phones=["i:", "p"], starts=np.array([0, 900])
    )
    # Their middles: 200, 360, 520, 680, 840, 1000.
    assert frame_phones(speech, frames=6) == ["i:", "i:", SILENCE, SILENCE, SILENCE, "p"]


def test_a_waveform_that_crosses_zero_is_no_silence():
    samples = np.ones(800, np.int16)
    samples[190:210] = 0
    speech = Speech(
        samples=samples, sample_rate_hz=16_000, phones=["i:", "p"], starts=np.array([0, 210])
    )
    assert frame_phones(speech, frames=2) == ["i:", "p"]


def test_of_phones_that_begin_together_the_last_one_sounds():
    speech = Speech(
        samples=np.ones(400, np.int16),
        sample_rate_hz=16_000,
        phones=["l", "_:", "'aI"],
        starts=np.array([100, 100, 100]),
    )
    assert frame_phones(speech, frames=1) == ["aI"]


def test_each_recording_has_as_many_labels_as_the_contract_says(data):
    for split in (Split.TRAIN, Split.TEST):
        examples = data.split(split)
        expected = sum(label_frames(length) for length in examples.lengths.tolist())
        assert examples.frames["phone"].shape == (expected,)
        assert examples.frames["phone"].dtype == np.int16


def test_labels_fit_the_sound_and_fit_it_worse_when_shifted(data):
    """Vowels are louder than pauses by far, and by less with every label 50 ms off."""
    names = np.array(data.targets()[1].classes)
    vowels = np.char.startswith(names[:, None], np.array(VOWELS)).any(axis=1)
    level, phones = [], []  # decibels in the 10 ms about each label; labels
    for samples, labels in recordings(data.split(Split.TRAIN)):
        middles = samples[120 : 120 + 160 * len(labels)].astype(float).reshape(-1, 160)
        level.append(10 * np.log10((middles**2).mean(axis=1) + 1))
        phones.append(labels)

    def contrast(shift):
        told = [
            (np.roll(loud, shift)[6:-6], labels[6:-6])
            for loud, labels in zip(level, phones, strict=True)
        ]
        loud, labels = (np.concatenate(part) for part in zip(*told, strict=True))
        return loud[vowels[labels]].mean() - loud[names[labels] == SILENCE].mean()

    contrasts = {shift: contrast(shift) for shift in range(-6, 7)}
    assert contrasts[0] > 40  # decibels
    assert max(contrasts, key=contrasts.get) == 0
    assert max(contrasts[-5], contrasts[5]) < 0.5 * contrasts[0]


def test_conditions_move_no_sound_against_its_labels(data, tmp_path):
    """Same voices and labels as without conditions; vowels stand out most with labels in place."""
    noisy = made(tmp_path, channel_db=6.0, snr_db=(10.0, 20.0), level_db=(-30.0, -20.0))
    train, ideal = noisy.split(Split.TRAIN), data.split(Split.TRAIN)
    assert np.array_equal(train.frames["phone"], ideal.frames["phone"])
    assert np.array_equal(train.lengths, ideal.lengths)
    for (found, _), (expected, _) in zip(recordings(train), recordings(ideal), strict=True):
        envelopes = [
            np.abs(samples[: len(samples) // 80 * 80].astype(float)).reshape(-1, 80).mean(axis=1)
            for samples in (found, expected)
        ]
        one, other = (envelope - envelope.mean() for envelope in envelopes)
        correlation = [one @ np.roll(other, shift) for shift in range(-4, 5)]
        assert np.argmax(correlation) == 4


def test_conditions_differ_between_recordings_and_are_the_same_every_time(cache_dir, tmp_path):
    options = {"level_db": (-40.0, -20.0)}
    one, again = (made(folder, **options) for folder in (cache_dir, tmp_path))
    levels = [np.std(samples) for samples, _ in recordings(one.split(Split.TRAIN))]
    assert max(levels) > 1.5 * min(levels)
    assert again.fingerprint() == one.fingerprint()


def test_phone_classes_are_plain_sorted_and_all_in_use(data):
    classes = data.targets()[1].classes
    assert list(classes) == sorted(set(classes))
    assert not [name for name in classes if name.startswith(("'", ","))]
    assert [name for name in classes if name.startswith("_")] == [SILENCE]
    used = np.concatenate(
        [data.split(split).frames["phone"] for split in (Split.TRAIN, Split.TEST)]
    )
    assert np.unique(used).tolist() == list(range(len(classes)))


def test_speaker_labels_number_the_speakers_in_turn(data):
    assert data.split(Split.TRAIN).labels["speaker"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.split(Split.TEST).labels["speaker"].tolist() == [0, 0, 1, 1, 2, 2]
    assert data.split(Split.TEST).labels["speaker"].dtype == np.int64
    assert list(data.targets()[0].classes) == [speaker.name for speaker in SPEAKERS[:3]]


# -- splits --------------------------------------------------------------------------------------


def test_no_sentence_of_the_test_split_is_heard_in_training(cache_dir):
    data = made(cache_dir, speakers=20, train_sentences=30, test_sentences=10)
    texts = [utterance.text for utterance in data._utterances]
    assert len(texts) == len(set(texts)) == 800
    assert {utterance.voice for utterance in data._utterances[:600]} == {
        utterance.voice for utterance in data._utterances[600:]
    }


def test_recordings_lie_in_their_samples_one_after_another(data):
    for split in Split:
        examples = data.split(split)
        assert examples.samples.dtype == np.int16
        assert examples.starts.tolist() == [0, *np.cumsum(examples.lengths)[:-1].tolist()]
        assert len(examples.samples) == examples.lengths.sum()
        assert (examples.lengths > 16_000).all()


def test_train_and_test_recordings_are_those_that_were_spoken(data):
    spoken = iter(data._recordings())
    names = np.array(data.targets()[1].classes)
    for split in (Split.TRAIN, Split.TEST):
        for samples, labels in recordings(data.split(split)):
            recording = next(spoken)
            assert np.array_equal(samples, recording.samples)
            assert names[labels].tolist() == recording.phones
    assert next(spoken, None) is None


def test_the_unlabelled_split_is_the_training_speech_without_labels(data):
    unlabelled, train = data.split(Split.UNLABELLED), data.split(Split.TRAIN)
    assert np.array_equal(unlabelled.samples, train.samples)
    assert np.array_equal(unlabelled.lengths, train.lengths)
    assert unlabelled.labels == unlabelled.frames == {}


def test_sentences_for_the_unlabelled_split_alone_come_after_those_of_training(tmp_path):
    data = made(tmp_path, unlabelled_sentences=2)
    unlabelled, train = data.split(Split.UNLABELLED), data.split(Split.TRAIN)
    assert [len(data.split(split)) for split in Split] == [15, 9, 6]
    assert np.array_equal(unlabelled.samples[: len(train.samples)], train.samples)
    texts = [utterance.text for utterance in data._utterances]
    assert len(set(texts)) == 21
    assert data.split(Split.TEST).labels["speaker"].tolist() == [0, 0, 1, 1, 2, 2]


def test_joined_sentences_are_one_recording_of_the_unlabelled_split_alone(data, cache_dir):
    joined = made(cache_dir, joined=True)
    one, many = (each.split(Split.UNLABELLED) for each in (joined, data))
    assert (one.starts.tolist(), one.lengths.tolist()) == ([0], [many.lengths.sum()])
    assert np.array_equal(one.samples, many.samples)
    assert [len(joined.split(split)) for split in (Split.TRAIN, Split.TEST)] == [9, 6]


def test_it_is_speech_and_needs_no_folder():
    assert Espeak.modality is Modality.SPEECH
    assert not Espeak.needs_data_dir


# -- speakers ------------------------------------------------------------------------------------


def test_no_two_speakers_have_the_same_manner_or_name():
    assert len(set(SPEAKERS)) == len({speaker.name for speaker in SPEAKERS}) == 256


@pytest.mark.parametrize("pair", [(0, 1), (0, 32), (2, 9), (31, 255)])
def test_two_speakers_never_say_a_sentence_alike(pair):
    """From the same first state; 0 and 32, and 31 and 255, are one variant in two manners."""
    heard = []
    for number in pair:
        with synthesiser(installation()) as voice:
            speaker = SPEAKERS[number]
            heard.append(voice.speak(speaker.utterance("The quiet fox slept.")).samples)
    assert not np.array_equal(*heard)


def test_the_first_thirty_two_speakers_have_voices_of_their_own():
    assert len({speaker.variant for speaker in SPEAKERS[:32]}) == 32


def test_utterances_spread_about_the_pitch_and_rate_of_their_speaker(data, tmp_path):
    spread = made(tmp_path, train_sentences=60, pitch_spread=9, rate_spread=20)._utterances[:60]
    pitches, rates = ({getattr(u, name) for u in spread} for name in ("pitch", "rate"))
    mine = SPEAKERS[0]
    assert (min(pitches), max(pitches)) == (mine.pitch - 9, mine.pitch + 9)
    assert mine.rate - 20 <= min(rates) < mine.rate - 15
    assert mine.rate + 15 < max(rates) <= mine.rate + 20
    assert {(u.pitch, u.rate) for u in data._utterances[:3]} == {(mine.pitch, mine.rate)}


def test_no_spread_that_is_allowed_leaves_the_range_of_the_synthesiser():
    for speaker in SPEAKERS:
        assert speaker.pitch - espeak.LARGEST_PITCH_SPREAD >= 0
        assert speaker.pitch + espeak.LARGEST_PITCH_SPREAD <= 99
        assert speaker.rate - espeak.LARGEST_RATE_SPREAD >= 80


# -- the same bytes ------------------------------------------------------------------------------


def test_two_makings_are_the_same_bytes(data, tmp_path):
    again = made(tmp_path)
    for split in (Split.TRAIN, Split.TEST):
        one, other = data.split(split), again.split(split)
        assert np.array_equal(one.samples, other.samples)
        assert np.array_equal(one.frames["phone"], other.frames["phone"])
    assert again.fingerprint() == data.fingerprint()
    assert {path.name for path in (tmp_path / "espeak").glob("*.bin")} <= {
        path.name for path in (data.cache_dir / "espeak").glob("*.bin")
    }


@pytest.mark.slow
def test_another_process_with_more_threads_makes_the_same_bytes(data, tmp_path):
    program = f"""
from pathlib import Path
from gim_bench.datasets.speech.espeak import Espeak
options = Espeak.Options(**{SMALL})
print(Espeak(options=options, data_dir=None, cache_dir=Path({str(tmp_path)!r})).fingerprint())
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == data.fingerprint() + "\n"


@pytest.mark.parametrize(
    "change",
    [
        {"speakers": 2},
        {"train_sentences": 2},
        {"test_sentences": 1},
        {"unlabelled_sentences": 1},
        {"joined": True},
        {"pitch_spread": 9},
        {"rate_spread": 20},
        {"channel_db": 3.0},
        {"snr_db": (10.0, 20.0)},
        {"level_db": (-30.0, -20.0)},
    ],
)
def test_every_option_changes_the_fingerprint(data, cache_dir, change):
    assert made(cache_dir, **change).fingerprint() != data.fingerprint()


def test_other_samples_give_another_fingerprint(data, tmp_path, monkeypatch):
    """As another version of the library would make them."""
    speak = Espeak._recordings

    def louder(self):
        for recording in speak(self):
            yield Recording(samples=recording.samples + np.int16(1), phones=recording.phones)

    monkeypatch.setattr(Espeak, "_recordings", louder)
    assert made(tmp_path).fingerprint() != data.fingerprint()


# -- kept ----------------------------------------------------------------------------------------


def test_what_is_kept_is_not_spoken_again(data, cache_dir, forbidden):
    warm = made(cache_dir)
    warm.prepare()
    assert warm.fingerprint() == data.fingerprint()


@pytest.mark.parametrize("name", ["samples", "phones", "names"])
def test_a_file_that_was_lost_is_made_again(own, tmp_path, name):
    data, fingerprint = own
    data._path(name).unlink()
    assert made(tmp_path).fingerprint() == fingerprint


@pytest.mark.parametrize("name", ["samples", "phones", "names"])
def test_a_file_that_was_cut_is_made_again(own, tmp_path, name):
    data, fingerprint = own
    content = data._path(name).read_bytes()
    data._path(name).write_bytes(content[:-10])
    assert made(tmp_path).fingerprint() == fingerprint
    assert data._path(name).read_bytes() == content


def test_whole_files_verify(data):
    data.verify()


@pytest.mark.parametrize("name", ["samples", "phones"])
def test_verifying_speaks_again_and_names_the_file_that_differs(own, tmp_path, name):
    """As if another synthesiser had spoken what is kept; damage is noticed without this."""
    data, _ = own
    spoken = [piece.copy() for piece in espeak._pieces(getattr(data._corpus, name))]
    spoken[-1][-1] -= 1
    data._path(name).unlink()
    data._kept(name, np.int16, pieces=lambda: spoken)
    with pytest.raises(DataError, match=f"{name}.bin differs from what the synthesiser says"):
        made(tmp_path).verify()


def test_progress_counts_utterances(tmp_path):
    data = made(tmp_path)
    data.progress = listener = Listener()
    data.prepare()
    assert listener.tasks == [("speaking", 15, "utterance")]
    assert listener.steps == 15


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("speakers", 1),
        ("speakers", 257),
        ("speakers", "many"),
        ("train_sentences", 0),
        ("test_sentences", -1),
        ("words", 10),
        ("unlabelled_sentences", -1),
        ("pitch_spread", 31),
        ("rate_spread", 76),
        ("channel_db", -1.0),
        ("snr_db", [20.0, 10.0]),
        ("level_db", [-20.0]),
    ],
)
def test_an_option_that_cannot_be_is_one_line_that_names_it(option, value):
    with pytest.raises(ConfigError, match=option) as error:
        parse(Espeak.Options, {option: value}, origin="speech.toml")
    assert "\n" not in str(error.value)


def test_a_missing_synthesiser_is_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(DataError, match="pip install espeakng-loader"):
        made(tmp_path).prepare()


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "espeak").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot keep the speech .*make room for 2 MB") as error:
        made(tmp_path).prepare()
    assert "\n" not in str(error.value)


def test_a_disk_that_is_full_is_one_line(tmp_path, monkeypatch):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device", "samples.bin")

    monkeypatch.setattr(espeak, "kept", full)
    with pytest.raises(DataError, match=r"samples\.bin \(No space left on device\)"):
        made(tmp_path).prepare()
