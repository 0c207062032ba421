"""Recordings of the same samples in a folder of one's own recordings."""

import shutil

import numpy as np
import pytest
import soundfile

from gim_bench.contract import Split
from gim_bench.datasets.speech.audio_folder import AudioFolder
from gim_bench.datasets.speech.splits import draw
from gim_bench.errors import DataError
from tests.datasets.speech.speech_files import ramp, samples_of, write
from tests.listener import Listener

SPEAKERS, EACH = ("anna", "ben"), 10


@pytest.fixture
def root(tmp_path):
    """Two speakers of ten recordings each, all different."""
    for number, speaker in enumerate(SPEAKERS):
        for take in range(EACH):
            write(tmp_path / "mine" / speaker / f"{take}.wav", ramp(first=100 * number + take))
    return tmp_path / "mine"


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture
def data(root, tmp_path, listener):
    """Makes the data set anew, as the next start of the program does."""

    def make(**options):
        return AudioFolder(
            options=AudioFolder.Options(**options),
            data_dir=root,
            cache_dir=tmp_path / "cache",
            progress=listener,
        )

    return make


def splits(mine):
    """The samples of the recordings of TRAIN, and of TEST."""
    return [samples_of(mine.split(split)) for split in (Split.TRAIN, Split.TEST)]


def names_by_draw(root):
    """Names of all recordings below the folder, the surest test recording first."""
    names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.*"))]
    return sorted(names, key=draw)


def copy(root, name, to, **how):
    """Write the samples of the recording `name` to `to`, encoded anew."""
    dtype = "float32" if how.get("subtype") == "FLOAT" else "int16"
    samples, rate_hz = soundfile.read(root / name, dtype=dtype)
    return write(root / to, samples, rate_hz=rate_hz, **how)


# -- without duplicates --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test_fraction", "tested"),
    [(0.2, [0, 2, 3, 6, 105]), (0.5, [0, 1, 2, 3, 5, 6, 9, 105])],
)
def test_without_duplicates_the_splits_are_those_of_the_first_release(data, test_fraction, tested):
    """First samples of the recordings, as the code split them before it looked for duplicates."""
    mine = data(test_fraction=test_fraction)
    train, test = splits(mine)
    assert [samples[0] for samples in test] == tested
    everything = [*range(EACH), *range(100, 100 + EACH)]
    assert [samples[0] for samples in train] == [n for n in everything if n not in tested]
    assert [mine.split(split).sources for split in Split] == [None, None, None]
    assert mine.notes() == []


# -- copies share a split ------------------------------------------------------------------------


# case 24
@pytest.mark.parametrize(
    ("suffix", "how"),
    [
        ("wav", {}),
        ("flac", {}),
        ("wav", {"subtype": "PCM_24"}),
        ("wav", {"subtype": "FLOAT"}),
        ("wav", {"format": "RF64"}),
    ],
)
def test_copies_of_any_lossless_format_share_a_split_and_a_source(root, data, suffix, how):
    first, *_, last = names_by_draw(root)
    for number, name in enumerate((first, last)):
        speaker = name.partition("/")[0]
        for take in range(EACH):
            copy(root, name, f"{speaker}/copies/{number} of {take}.{suffix}", **how)
    mine = data()
    train, test = splits(mine)
    assert not [samples for samples in test if samples in train]
    for split, found in ((Split.TRAIN, train), (Split.TEST, test)):
        _, by_content = np.unique(found, axis=0, return_inverse=True)
        sources = mine.split(split).sources
        assert (sources[:, None] == sources).tolist() == (
            by_content[:, None] == by_content
        ).tolist()
    assert len(train) + len(test) == 4 * EACH


# case 24
def test_files_that_are_linked_by_name_and_by_samples_share_a_split_and_a_source(root, data):
    """0.flac is called like 0.wav and holds what 1.wav holds, and so on up to 4."""
    for take in range(4):
        copy(root, f"anna/{take + 1}.wav", f"anna/{take}.flac")
    mine = data()
    chained = range(5)  # first samples
    places = {
        split: [place for place, samples in enumerate(recordings) if samples[0] in chained]
        for split, recordings in zip((Split.TRAIN, Split.TEST), splits(mine), strict=True)
    }
    (split,) = (split for split, found in places.items() if found)
    assert len(places[split]) == 5 + 4
    assert len(set(mine.split(split).sources[places[split]])) == 1


# case 24
def test_copies_are_counted_with_an_example(root, data):
    copy(root, "anna/0.wav", "anna/again/1.flac")
    copy(root, "anna/0.wav", "anna/again/2.wav")
    (note,) = data().notes()
    split = "test" if draw("anna/0.wav") < 0.2 else "train"
    assert f"2 of {len(data().split(Split(split)))} {split} recordings repeat others" in note
    assert note.endswith("such as anna/again/1.flac (anna/0.wav)")


def test_a_copy_moves_no_other_recording(root, data):
    before = splits(data())
    copy(root, "ben/3.wav", "ben/9a.wav")
    after = splits(data())
    for old, new in zip(before, after, strict=True):
        assert [samples for samples in new if samples in old] == new
        assert all(samples in new for samples in old)


def test_two_copies_are_not_a_second_recording_to_test_on(root, data):
    copy(root, "ben/3.wav", "cleo/1.wav")
    samples = ramp(first=900)
    for name in ("1.wav", "2.wav", "3.flac"):
        write(root / "cleo" / name, samples)
    mine = data(test_fraction=0.9)
    _, test = splits(mine)
    assert samples.tolist() not in test
    assert mine.split(Split.TRAIN).sources is not None


# -- copies under two speakers -------------------------------------------------------------------


# case 24
def test_one_audio_under_two_speakers_is_refused_with_both_files(root, data):
    copy(root, "anna/4.wav", "ben/x/other.flac")
    with pytest.raises(DataError) as caught:
        data().prepare()
    line = str(caught.value)
    assert "\n" not in line
    assert f"{root}/anna/4.wav and {root}/ben/x/other.flac (the same audio under two" in line


def test_several_such_cases_are_counted(root, data):
    for take in (4, 5):
        copy(root, f"anna/{take}.wav", f"ben/other {take}.wav")
    with pytest.raises(DataError, match=r"under two speakers, the first of 2 such cases\)"):
        data().prepare()


def test_with_bad_files_skipped_no_recording_of_the_contradiction_is_used(root, data):
    samples = ramp(first=4).tolist()
    copy(root, "anna/4.wav", "ben/other.wav")
    copy(root, "anna/4.wav", "anna/again.wav")
    mine = data(skip_bad_files=True)
    train, test = splits(mine)
    assert samples not in train + test
    assert len(train + test) == len(SPEAKERS) * EACH - 1
    (line,) = (line for line in mine.notes() if line.startswith("skipped "))
    assert line.startswith("skipped 3 audio files, the first of them: anna/4.wav and ben/other.wav")


def test_verify_refuses_one_audio_under_two_speakers_as_well(root, data):
    shutil.copy(root / "anna" / "4.wav", root / "ben" / "44.wav")
    with pytest.raises(DataError, match="under two speakers"):
        data().verify()


# -- copies with other phone labels ---------------------------------------------------------------


def label(root, labels):
    """Label recordings by their names below the folder: a phone for each of their 8 frames."""
    lines = [f"{name} {' '.join(map(str, phones))}" for name, phones in labels.items()]
    (root / "phones.txt").write_text("\n".join(lines))


def labels_of_all(root):
    names = [path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.wav")]
    return {name: [1] * 8 for name in names}


def test_one_audio_with_two_phones_at_a_time_is_refused_with_both_files(root, data):
    copy(root, "anna/4.wav", "anna/again.wav")
    label(root, labels_of_all(root) | {"anna/again": [1] * 7 + [2]})
    with pytest.raises(DataError) as caught:
        data().prepare()
    line = str(caught.value)
    assert "\n" not in line
    assert f"{root}/anna/4.wav and {root}/anna/again.wav (the same audio with other phone" in line


def test_with_bad_files_skipped_all_copies_lose_labels_that_contradict(root, data):
    for name in ("again", "once more"):
        copy(root, "anna/4.wav", f"anna/{name}.wav")
    label(root, labels_of_all(root) | {"anna/again": [1] * 7 + [2]})
    mine = data(skip_bad_files=True)
    (line,) = (line for line in mine.notes() if line.startswith("skipped "))
    assert "skipped 3 label lines, the first of them: " in line
    assert "3 of 22 recordings have no phone labels" in mine.notes()


def test_copies_whose_labels_agree_as_far_as_they_go_keep_them(root, data):
    """One line may end a frame or two before the audio does."""
    copy(root, "anna/4.wav", "anna/again.wav")
    label(root, labels_of_all(root) | {"anna/again": [1] * 6})
    mine = data()
    mine.prepare()
    assert [target.name for target in mine.targets()] == ["speaker", "phone"]


# -- what is remembered --------------------------------------------------------------------------


def test_samples_are_compared_once(data, listener):
    data().prepare()
    assert ("comparing contents", len(SPEAKERS) * EACH, "recording") in listener.tasks
    listener.tasks.clear()
    data().prepare()
    assert listener.tasks == []
