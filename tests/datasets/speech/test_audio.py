"""Samples of audio files."""

import os

import numpy as np
import pytest

from gim_bench.datasets.files import UnusableError
from gim_bench.datasets.speech.audio import read_audio, to_int16
from tests.datasets.speech.speech_files import ramp, write


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_16_bit_samples_come_back_as_they_were(tmp_path, suffix):
    samples = np.array([-(2**15), -1, 0, 1, 2**15 - 1], dtype=np.int16)
    found, rate_hz = read_audio(write(tmp_path / f"a.{suffix}", samples, rate_hz=8_000))
    assert to_int16(found).tolist() == samples.tolist()
    assert rate_hz == 8_000


@pytest.mark.parametrize(
    ("subtype", "step"), [("PCM_U8", 2**-7), ("PCM_24", 0), ("PCM_32", 0), ("FLOAT", 0)]
)
def test_other_samples_come_back_to_within_their_own_step(tmp_path, subtype, step):
    samples = np.sin(np.arange(1_000) / 9)
    found, _ = read_audio(write(tmp_path / "a.wav", samples, subtype=subtype))
    np.testing.assert_allclose(to_int16(found) / 2**15, samples, rtol=0, atol=step + 2**-15)


def test_channels_are_averaged(tmp_path):
    stereo = np.array([[100, 300], [-50, 50]], dtype=np.int16)
    found, _ = read_audio(write(tmp_path / "a.wav", stereo))
    assert to_int16(found).tolist() == [200, 0]


def test_what_is_too_loud_is_clipped_and_never_wraps_around(tmp_path):
    loud = np.array([1.5, -1.5, 1.0, -1.0])
    found, _ = read_audio(write(tmp_path / "a.wav", loud, subtype="FLOAT"))
    assert to_int16(found).tolist() == [32767, -32768, 32767, -32768]


def refusal(path):
    """Why the file is refused."""
    with pytest.raises(UnusableError) as caught:
        read_audio(path)
    line = str(caught.value)
    assert line.startswith(f"{path} (")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("content", [b"", b"no audio\n", b"fLaC", b"RIFF"])
@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_what_is_no_audio_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    assert "cannot be decoded" in refusal(path)


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_a_truncated_file_is_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(-999, 999, size=16_000, dtype=np.int16)
    path = write(tmp_path / f"a.{suffix}", noise)
    os.truncate(path, path.stat().st_size // 2)
    refusal(path)


def test_a_flac_with_a_changed_byte_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(-999, 999, size=16_000, dtype=np.int16)
    path = write(tmp_path / "a.flac", noise)
    content = bytearray(path.read_bytes())
    content[-1_000] ^= 1
    path.write_bytes(content)
    assert "cannot be decoded" in refusal(path)


@pytest.mark.parametrize("claimed", [2**32 - 1, 2**31 - 1, 1_600 * 2 + 44])
def test_a_wav_is_read_whatever_size_its_first_header_claims(tmp_path, claimed):
    path = write(tmp_path / "a.wav")
    content = path.read_bytes()
    path.write_bytes(content[:4] + claimed.to_bytes(4, "little") + content[8:])
    assert to_int16(read_audio(path)[0]).tolist() == ramp().tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path, value):
    assert "not finite" in refusal(
        write(tmp_path / "a.wav", np.array([0.1, value]), subtype="FLOAT")
    )
