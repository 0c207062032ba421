"""Lines about recordings whose channels cancel, which are clipped, silent or short."""

import numpy as np
import pytest

from gim_bench.contract import Split
from gim_bench.datasets.speech.audio_folder import AudioFolder
from gim_bench.datasets.speech.remarks import CANCELLING, CLIPPED, SHORT, SILENT, remarks_on
from tests.datasets.speech.speech_files import ramp, write
from tests.listener import Listener

TONE = (0.5 * np.sin(np.arange(8_000) / 9)).astype(np.float32)


def kinds(channels, *, rate_hz=16_000):
    channels = np.asarray(channels, np.float32)
    return [remark.kind for remark in remarks_on(channels, rate_hz=rate_hz)]


@pytest.mark.parametrize("gain", [-1.0, -0.9])
def test_an_inverted_channel_cancels_the_other(gain):
    assert kinds(np.stack([TONE, gain * TONE], axis=1)) == [CANCELLING]


@pytest.mark.parametrize("other", [TONE, 0 * TONE, -0.5 * TONE, np.roll(TONE, 20)])
def test_channels_that_leave_sound_do_not_cancel(other):
    assert kinds(np.stack([TONE, other], axis=1)) == []


def test_unrelated_channels_of_an_array_of_microphones_do_not_cancel():
    assert kinds(np.random.default_rng(0).normal(0, 0.1, size=(4_000, 32))) == []


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_a_constant_is_silence_and_so_is_dither(level):
    dither = np.arange(8_000) % 2 / 2**15
    assert kinds((level + dither)[:, None]) == [SILENT]


def test_the_share_of_samples_at_the_limit_is_what_is_clipped():
    (remark,) = remarks_on(np.clip(2 * TONE, -0.5, 0.5)[:, None] * 2, rate_hz=16_000)
    assert remark.kind is CLIPPED
    assert remark.share == pytest.approx(2 / 3, abs=0.01)  # |sin| is above 1/2 for 2/3 of the time


def test_a_recording_at_full_level_is_not_clipped():
    assert kinds((TONE / np.abs(TONE).max())[:, None]) == []


def test_a_tenth_of_a_second_is_not_short():
    assert kinds(TONE[:1_600, None]) == []
    assert kinds(TONE[:1_599, None]) == [SHORT]


def test_a_file_without_samples_has_no_remarks():
    assert kinds(np.empty((0, 2))) == []


# -- notes of a folder ----------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    """A folder of two speakers, made anew as at the next start of the program."""
    for number, speaker in enumerate(("anna", "ben")):
        for take in range(3):
            write(tmp_path / "mine" / speaker / f"{take}.wav", ramp(first=100 * number + take))

    def make(**options):
        return AudioFolder(
            options=AudioFolder.Options(**options),
            data_dir=tmp_path / "mine",
            cache_dir=tmp_path / "cache",
            progress=Listener(),
        )

    return make


# case 23
def test_each_kind_is_counted_with_its_worst_example_at_every_start(tmp_path, data):
    mine = tmp_path / "mine"
    for take in range(3):
        tone = (0.1 * (take + 1)) * TONE
        stereo = np.stack([tone, -tone], axis=1)
        write(mine / ("anna", "ben")[take % 2] / f"inverted {take}.wav", stereo)
    write(mine / "ben" / "loud.wav", 40 * TONE, subtype="FLOAT")
    write(mine / "ben" / "louder.wav", np.clip(2 * TONE, -0.5, 0.5) * 2, subtype="FLOAT")
    write(mine / "ben" / "still.wav", np.zeros(4_000))
    expected = [
        "3 recordings average to silence (their channels cancel), such as anna/inverted 0.wav",
        "1 silent recording: ben/still.wav",
        "2 clipped recordings, such as ben/loud.wav (97 % of its samples clipped)",
    ]
    for _ in range(2):  # silence is the copy of no other silence
        assert data().notes() == expected


def test_a_folder_of_good_recordings_has_no_notes(data):
    assert data().notes() == []
    assert len(data().split(Split.TRAIN)) + len(data().split(Split.TEST)) == 6
