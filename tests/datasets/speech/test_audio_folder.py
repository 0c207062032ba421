"""A folder of one's own recordings."""

import os
import shutil
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from pydantic import ValidationError

from gim_bench.contract import Modality, Split
from gim_bench.datasets.speech import audio_folder
from gim_bench.datasets.speech.audio_folder import AudioFolder, ratio_to_16_khz, resample
from gim_bench.errors import DataError
from tests.datasets.speech.speech_files import frames_of, ramp, samples_of, write
from tests.listener import Listener

SAMPLE = (
    Path(__file__).resolve().parents[4]
    / "shared/data/librispeech-sample/LibriSpeech/train-clean-100"
)

FILES = [
    *(f"anna/{number}.wav" for number in range(6)),
    *(f"ben/session {number // 3}/take{number}.FLAC" for number in range(6)),
    "cleo/only.flac",
]


@pytest.fixture
def root(tmp_path):
    """Three speakers, one of whom has a single recording; 8 frames each."""
    root = tmp_path / "mine"
    for number, name in enumerate(FILES):
        write(root / name, ramp(first=100 * number), format=name[-4:].lstrip(".").upper())
    return root


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture
def data(tmp_path, listener):
    """Makes the data set anew, as the next start of the program does."""

    def make(data_dir=tmp_path / "mine", **options):
        return AudioFolder(
            options=AudioFolder.Options(**options),
            data_dir=data_dir,
            cache_dir=tmp_path / "cache",
            progress=listener,
        )

    return make


def refusal(mine, use=AudioFolder.prepare):
    """The one line with which the data set refuses."""
    with pytest.raises(DataError) as caught:
        use(mine)
    line = str(caught.value)
    assert "\n" not in line
    return line


def whose(mine, split):
    """The speaker of each recording."""
    speaker = mine.targets()[0].classes
    return [speaker[label] for label in mine.split(split).labels["speaker"]]


# -- splits --------------------------------------------------------------------------------------


def test_every_recording_is_for_training_or_for_testing(root, data):
    mine = data()
    assert mine.modality is Modality.SPEECH
    found = samples_of(mine.split(Split.TRAIN)) + samples_of(mine.split(Split.TEST))
    assert sorted(found) == sorted(ramp(first=100 * n).tolist() for n in range(len(FILES)))
    assert samples_of(mine.split(Split.UNLABELLED)) == samples_of(mine.split(Split.TRAIN))
    assert mine.split(Split.UNLABELLED).labels == {}


@pytest.mark.parametrize("test_fraction", [0.01, 0.2, 0.99])
def test_every_speaker_is_trained_on_and_tested_who_has_two_recordings(root, data, test_fraction):
    mine = data(test_fraction=test_fraction)
    assert mine.targets()[0].classes == ["anna", "ben", "cleo"]
    assert set(whose(mine, Split.TRAIN)) == {"anna", "ben", "cleo"}
    assert set(whose(mine, Split.TEST)) == {"anna", "ben"}


def test_the_test_fraction_is_an_option_between_0_and_1(root, data):
    assert len(data(test_fraction=0.9).split(Split.TEST)) > len(data().split(Split.TEST))
    for wrong in (0.0, 1.0):
        with pytest.raises(ValidationError):
            data(test_fraction=wrong)


def test_the_split_depends_on_no_folder_above_and_on_no_start(root, data, tmp_path):
    before = samples_of(data().split(Split.TEST))
    assert samples_of(data(root.rename(tmp_path / "elsewhere")).split(Split.TEST)) == before


def test_links_are_followed(root, data, tmp_path):
    (root / "anna").rename(tmp_path / "anna")
    (root / "anna").symlink_to(tmp_path / "anna")
    assert data().targets()[0].classes == ["anna", "ben", "cleo"]


def test_hidden_files_and_other_files_are_ignored(root, data):
    before = data().fingerprint()
    (root / "anna" / "._0.wav").write_bytes(b"")
    write(root / ".trash" / "0.wav")
    (root / "anna" / "notes.txt").write_text("hoarse")
    assert data().fingerprint() == before


# -- samples -------------------------------------------------------------------------------------


def tone(rate_hz, *, hz=440.0, seconds=0.5):
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate_hz * seconds)) / rate_hz)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_a_tone_keeps_its_pitch_at_16_khz_whatever_its_rate(rate_hz):
    found = resample(tone(rate_hz).astype(np.float32), rate_hz=rate_hz)
    assert len(found) == pytest.approx(8_000, abs=2)
    length = min(len(found), 8_000)
    middle = slice(200, length - 200)
    np.testing.assert_allclose(found[:length][middle], tone(16_000)[:length][middle], atol=5e-3)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 12_000, 22_050, 44_100, 48_000, 96_000])
def test_the_ratio_of_a_usual_rate_is_exact(rate_hz):
    assert ratio_to_16_khz(rate_hz) * rate_hz == 16_000


@pytest.mark.parametrize("rate_hz", [22_254, 44_101, 47_952])
def test_an_odd_rate_is_met_to_within_a_thousandth_of_a_percent(tmp_path, data, rate_hz):
    """22,254 Hz is an old Macintosh's, 47,952 Hz that of a film slowed down for television."""
    assert ratio_to_16_khz(rate_hz) * rate_hz / 16_000 == pytest.approx(1, abs=1e-5)
    path = write(tmp_path / "a.wav", tone(rate_hz, seconds=1), rate_hz=rate_hz)
    found = data().decode(path)
    assert len(found) == pytest.approx(16_000, abs=1)
    assert np.abs(np.fft.rfft(found)).argmax() == 440


@pytest.mark.parametrize("rate_hz", [15_993, 15_999, 47_999])
def test_a_rate_at_which_labels_would_drift_is_refused(root, data, rate_hz):
    """The nearest ratio of small terms is off: at 15,993 Hz by 10 ms in 23 s."""
    write(root / "anna" / "0.wav", tone(rate_hz), rate_hz=rate_hz)
    line = refusal(data())
    assert f"anna/0.wav (its rate of {rate_hz:,} Hz has no simple ratio to 16,000 Hz" in line
    assert "bring it to 16,000 Hz first" in line


def test_what_is_at_16_khz_is_untouched(tmp_path, data):
    path = write(tmp_path / "a.wav")
    assert data().decode(path).tolist() == ramp().tolist()


def test_loud_sounds_do_not_wrap_around_when_they_are_resampled(tmp_path, data):
    square = np.sign(tone(44_100)).astype(np.float32)
    found = data().decode(write(tmp_path / "a.wav", square, rate_hz=44_100, subtype="FLOAT"))
    steps = np.abs(np.diff(found.astype(int)))
    assert found.max() == 32_767
    assert found.min() == -32_768
    assert (steps > 40_000).sum() <= 2 * 440  # no more than the square wave's own


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_every_kind_of_wav_is_read(tmp_path, data, subtype):
    path = write(tmp_path / "a.wav", tone(22_050), rate_hz=22_050, subtype=subtype)
    found = data().decode(path)
    assert found.dtype == np.int16
    np.testing.assert_allclose(found[200:-200] / 2**15, tone(16_000)[200:-200], atol=0.02)


def test_stereo_becomes_mono(tmp_path, data):
    stereo = np.stack([tone(16_000), np.zeros(8_000)], axis=1)
    found = data().decode(write(tmp_path / "a.wav", stereo))
    np.testing.assert_allclose(found / 2**15, tone(16_000) / 2, atol=1e-4)


@pytest.mark.parametrize("rate_hz", [1, 2_000_000])
def test_a_rate_that_cannot_be_is_refused(root, data, rate_hz):
    write(root / "anna" / "0.wav", rate_hz=rate_hz)
    assert f"it claims {rate_hz:,} samples a second" in refusal(data())


# -- what is remembered --------------------------------------------------------------------------


def test_recordings_are_decoded_once(root, data, listener, monkeypatch):
    first = samples_of(data().split(Split.TRAIN))
    listener.tasks.clear()
    monkeypatch.setattr(audio_folder, "read_audio", None)  # nothing would be decoded with this
    assert samples_of(data().split(Split.TRAIN)) == first
    assert listener.tasks == []


def test_another_test_fraction_costs_no_decoding(root, data, monkeypatch):
    data().prepare()
    monkeypatch.setattr(audio_folder, "read_audio", None)
    data(test_fraction=0.5).prepare()


@pytest.mark.parametrize("change", ["byte", "rename", "speaker", "add", "labels"])
def test_names_and_contents_are_part_of_the_fingerprint(root, data, change):
    before, one = data().fingerprint(), root / "anna" / "3.wav"
    match change:
        case "byte":
            content = one.read_bytes()
            one.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) + b"\\0")
        case "rename":
            one.rename(one.with_name("33.wav"))
        case "speaker":
            one.rename(root / "ben" / "3.wav")
        case "add":
            shutil.copy(one, one.with_name("33.wav"))
        case "labels":
            (root / "phones.txt").write_text("3 1 1 1 1 1 1 1 1\n")
    assert data().fingerprint() != before


# -- errors --------------------------------------------------------------------------------------


def test_no_folder_given_names_the_option_and_the_layout(data):
    line = refusal(data(None))
    assert "--data-dir" in line
    assert "<speaker>/**/*.wav" in line


@pytest.mark.parametrize("kind", ["missing", "a file"])
def test_a_missing_folder_is_named(tmp_path, data, kind):
    if kind == "a file":
        (tmp_path / "mine").write_bytes(b"")
    assert f"no folder {tmp_path / 'mine'}" in refusal(data())


def test_fewer_than_two_speakers_are_refused(root, data):
    for speaker in ("ben", "cleo"):
        shutil.rmtree(root / speaker)
    assert "recordings of 1 speaker where two or more are needed" in refusal(data())
    shutil.rmtree(root / "anna")
    assert "recordings of 0 speakers where two or more" in refusal(data())


def test_speakers_of_one_recording_each_leave_nothing_to_test_on(tmp_path, data):
    for number, speaker in enumerate("abc"):
        write(tmp_path / "mine" / speaker / "1.wav", ramp(first=number))
    assert "leaves no test recording" in refusal(data())


def test_a_recording_outside_the_speakers_folders_is_named_or_skipped(root, data):
    write(root / "intro.wav")
    line = refusal(data())
    assert f"{root / 'intro.wav'} (it lies in no folder named after its speaker)" in line
    assert any("skipped 1 audio file" in line for line in data(skip_bad_files=True).notes())


@pytest.mark.parametrize("content", [b"", b"no audio\n"])
def test_a_bad_file_is_named_or_skipped(root, data, content):
    (root / "anna" / "3.wav").write_bytes(content)
    line = refusal(data())
    assert f"audio_folder: cannot use {root / 'anna' / '3.wav'} (" in line
    assert "--skip-bad-files" in line
    mine = data(skip_bad_files=True)
    assert sum(len(mine.split(split)) for split in (Split.TRAIN, Split.TEST)) == len(FILES) - 1
    (line,) = (line for line in mine.notes() if line.startswith("skipped "))
    assert line.startswith("skipped 1 audio file, the first of them: anna/3.wav (")


def test_a_speaker_of_bad_files_alone_is_no_class(root, data):
    (root / "cleo" / "only.flac").write_bytes(b"")
    assert data(skip_bad_files=True).targets()[0].classes == ["anna", "ben"]


def test_the_cut_off_end_of_a_wav_is_noticed(root, data):
    os.truncate(root / "anna" / "3.wav", 1_000)
    assert "it breaks off before its end" in refusal(data())


# -- phone labels --------------------------------------------------------------------------------


def label(root, lines, *, name="phones.txt"):
    (root / name).write_text("".join(f"{key} {value}\n" for key, value in lines.items()))


def eight(phone):
    return " ".join([str(phone)] * 8)


STEMS = {Path(name).stem: n for n, name in enumerate(FILES)}


@pytest.mark.parametrize("name", ["phones.txt", "converted_aligned_phones.txt"])
def test_labels_by_file_name_make_a_target_up_to_the_largest_number(root, data, name):
    label(root, {stem: eight(n) for stem, n in STEMS.items()}, name=name)
    mine = data()
    _, phone = mine.targets()
    assert (phone.name, phone.per_step) == ("phone", True)
    assert phone.classes == [str(n) for n in range(len(FILES))]
    train = mine.split(Split.TRAIN)
    # Each recording's samples begin with a hundred times the number that labels it.
    first = [samples[0] // 100 for samples in samples_of(train)]
    assert [labels[0] for labels in frames_of(train, "phone")] == first


def test_labels_by_path_do_as_well(root, data):
    names = [name for name in FILES if " " not in name]  # an id ends at the first space
    label(root, {name.rpartition(".")[0]: eight(2) for name in names})
    assert len(data().targets()) == 2


def test_recordings_of_one_name_are_told_apart_by_their_paths(root, data):
    write(root / "ben" / "0.wav", ramp(first=50))
    write(root / "ben" / "1.wav", ramp(first=51))
    data().prepare()  # without labels nothing is ambiguous
    label(root, {"0": eight(1), "1": eight(2)})
    line = refusal(data())
    assert "phones.txt, line 1: '0' is the name of anna/0.wav and of ben/0.wav" in line
    assert "label them by their paths" in line
    paths = [f"{speaker}/{number}" for speaker in ("anna", "ben") for number in (0, 1)]
    label(root, {path: eight(1) for path in [*paths, "anna/2", "anna/3", "anna/4", "anna/5"]})
    assert data().targets()[1].classes == ["0", "1"]


def test_a_recording_labelled_by_name_and_by_path_is_refused(root, data):
    label(root, {"0": eight(1), "anna/0": eight(1)})
    assert "line 2: anna/0.wav is labelled in an earlier line too" in refusal(data())


@pytest.mark.parametrize("number", ["-1", "1.0", "x"])
def test_what_is_no_number_is_named_or_skipped(root, data, number):
    label(root, {stem: eight(1) for stem in STEMS} | {"0": f"1 {number}"})
    line = refusal(data())
    assert f"phones.txt, line 1: {number!r} is no phone" in line
    assert "--skip-bad-files" in line
    assert any("skipped 1 label line" in line for line in data(skip_bad_files=True).notes())


def test_labels_of_other_recordings_are_refused(root, data):
    label(root, {"2911-12359-0007": eight(1)})
    line = refusal(data())
    assert "labels '2911-12359-0007' and none of the recordings" in line
    assert "'anna/0' (without suffix)" in line


def test_an_empty_label_file_is_refused(root, data):
    label(root, {})
    assert "labels nothing and none of the recordings" in refusal(data())


def test_without_labels_there_is_the_speaker_alone(root, data, listener):
    mine = data()
    assert [target.name for target in mine.targets()] == ["speaker"]
    assert mine.split(Split.TRAIN).frames == {}
    assert listener.lines == []


# case 25
def test_ids_may_hold_blanks(root, data):
    write(root / "ben" / "session 0" / "a  long name.wav", ramp(first=5_000))
    name = "ben/session 0/a long name"
    label(root, {name: eight(7)} | {stem: eight(1) for stem in STEMS})
    mine = data()
    found = np.concatenate(
        [mine.split(split).frames["phone"] for split in (Split.TRAIN, Split.TEST)]
    )
    assert sorted(found.tolist()) == sorted([7] * 8 + [1] * 8 * len(FILES))


# case 25
def test_a_line_that_fits_two_recordings_is_refused(root, data):
    for number, name in enumerate(("take", "take 1")):
        write(root / "ben" / f"{name}.wav", ramp(first=5_000 + number))
    label(root, {"take 1": eight(1), "0": eight(1)})
    line = refusal(data())
    assert "phones.txt, line 1: 'take' and 'take 1' are both recordings" in line


FORMS = pytest.mark.parametrize(("on_disk", "in_text"), [("NFD", "NFC"), ("NFC", "NFD")])


# case 22
@FORMS
def test_labels_and_names_meet_in_either_unicode_form(root, data, on_disk, in_text):
    write(root / "anna" / f"{normalize(on_disk, 'été')}.wav", ramp(first=7_000))
    label(root, {normalize(in_text, "été"): eight(5)} | {stem: eight(1) for stem in STEMS})
    mine = data()
    splits = (Split.TRAIN, Split.TEST)
    found = np.concatenate([mine.split(split).frames["phone"] for split in splits])
    assert np.count_nonzero(found == 5) == 8


# case 22
def test_a_speaker_in_two_unicode_forms_is_one(root, data):
    for take, form in enumerate(("NFC", "NFD")):
        write(root / normalize(form, "zoë") / f"{take}.wav", ramp(first=5_000 + take))
    mine = data()
    assert mine.targets()[0].classes == ["anna", "ben", "cleo", normalize("NFC", "zoë")]
    assert whose(mine, Split.TEST).count(normalize("NFC", "zoë")) == 1


def test_a_speaker_in_one_form_keeps_it(root, data):
    (root / "anna").rename(root / normalize("NFD", "änna"))
    assert normalize("NFD", "änna") in data().targets()[0].classes


def test_speakers_that_look_alike_are_said_to(root, data):
    write(root / "Anna" / "7.wav", ramp(first=5_000))
    (note,) = data().notes()
    assert note == "2 speakers have names that look alike, such as 'Anna' and 'anna'"


def test_labels_saved_by_windows_are_read(root, data):
    text = "".join(f"{stem} {eight(3)}\r\n" for stem in STEMS)
    (root / "phones.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert data().targets()[1].classes == ["0", "1", "2", "3"]


def test_a_name_that_is_not_utf8_is_refused(root, data):
    other = root / "anna" / os.fsdecode(b"caf\xe9.wav")
    (root / "anna" / "0.wav").rename(other)
    assert "(its name is not UTF-8: rename it)" in refusal(data())


# -- formats -------------------------------------------------------------------------------------


LOSSLESS, LOSSY = 0, 1_200  # steps of 16 bits by which a sample may be off


# case 26
@pytest.mark.parametrize(
    ("suffix", "steps"),
    [
        *((each, LOSSLESS) for each in ("aiff", "flac", "au", "caf", "w64", "rf64", "nist")),
        *((each, LOSSY) for each in ("mp3", "MP3", "ogg")),
    ],
)
def test_other_formats_sound_like_wav(tmp_path, data, suffix, steps):
    """A tone that rises and swells is alike at its own place alone."""
    time = np.arange(8_000) / 16_000
    rising = time * np.sin(2 * np.pi * (200 + 400 * time) * time)
    names = [f"{speaker}/{take}" for speaker in "ab" for take in range(4)]
    sounds = [(2**15 * gain * rising).astype(np.int16) for gain in np.linspace(0.6, 1, 8)]
    for name, sound in zip(names, sounds, strict=True):
        write(tmp_path / "mine" / f"{name}.{suffix}", sound)
    mine = data()
    assert mine.targets()[0].classes == ["a", "b"]
    assert len(mine.split(Split.TRAIN)) + len(mine.split(Split.TEST)) == 8
    found = mine.decode(tmp_path / "mine" / "a" / f"0.{suffix}")
    np.testing.assert_allclose(found.astype(int), sounds[0], atol=steps)


# case 26
def test_files_that_are_not_read_are_counted_and_named(root, data):
    for take in range(3):
        (root / "anna" / f"{take}.m4a").write_bytes(b"")
    (note,) = data().notes()
    assert note == "left out: 3 files that are not read (.m4a), such as anna/0.m4a"


# case 26
def test_a_folder_of_unread_files_alone_says_so(tmp_path, data):
    for speaker in "ab":
        (tmp_path / "mine" / speaker).mkdir(parents=True)
        (tmp_path / "mine" / speaker / "0.m4a").write_bytes(b"")
    line = refusal(data())
    assert "0 speakers where two or more are needed; left out: 2 files that are not read" in line


@pytest.mark.parametrize("test_fraction", [0.1, 0.5, 0.9])
def test_a_recording_in_two_formats_is_in_one_split(root, data, test_fraction):
    for take in range(6):
        samples = ramp(8_000, first=100 * take)
        write(root / "ben" / f"both{take}.wav", samples)
        write(root / "ben" / f"both{take}.mp3", samples)
    mine = data(test_fraction=test_fraction)
    for split in (Split.TRAIN, Split.TEST):
        lengths, sources = (getattr(mine.split(split), name) for name in ("lengths", "sources"))
        both = [] if sources is None else sources[lengths == 8_000].tolist()
        assert all(both.count(source) == 2 for source in both)
        assert sources is not None or (lengths != 8_000).all()
    assert mine.notes()[-1] == (
        "6 recordings have the names of others in other formats, such as ben/both0.wav: "
        "they share a split"
    )


# -- real recordings -----------------------------------------------------------------------------


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no LibriSpeech sample in {SAMPLE}")
def test_librispeech_is_a_folder_of_speakers_too(data):
    mine = data(SAMPLE)
    assert len(mine.targets()[0].classes) == 6
    assert [len(mine.split(split)) for split in (Split.TRAIN, Split.TEST)] == [7, 2]
