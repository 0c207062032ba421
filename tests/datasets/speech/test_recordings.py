"""What data sets of speech files share: decoding, and splits that depend on names."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from gim_bench.contract import Split
from gim_bench.datasets.files import UnusableError
from gim_bench.datasets.speech.recordings import (
    AudioFile,
    Recording,
    draw,
    in_threads,
    read_audio,
    split_by_name,
    to_int16,
)
from tests.datasets.speech.speech_files import ramp, write

# -- samples -------------------------------------------------------------------------------------


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
def test_a_wav_whose_size_was_left_open_or_counts_its_header_is_read(tmp_path, claimed):
    path = write(tmp_path / "a.wav")
    content = path.read_bytes()
    path.write_bytes(content[:4] + claimed.to_bytes(4, "little") + content[8:])
    assert to_int16(read_audio(path)[0]).tolist() == ramp().tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path, value):
    assert "not finite" in refusal(
        write(tmp_path / "a.wav", np.array([0.1, value]), subtype="FLOAT")
    )


# -- threads -------------------------------------------------------------------------------------


def test_results_keep_the_order_of_their_items():
    assert list(in_threads(lambda n: n * n, range(500))) == [n * n for n in range(500)]


def test_threads_work_only_a_little_ahead():
    begun, limit = [], 5 * (os.cpu_count() or 1) + 2
    results = in_threads(begun.append, range(10 * limit))
    next(results)
    assert len(begun) <= limit
    results.close()
    assert threading.active_count() < limit


# -- splits --------------------------------------------------------------------------------------


def recordings(names):
    """Of speakers a, b, … by the first letter of each name."""
    return [
        Recording(
            file=AudioFile(path=Path(name), name=name, id=name, speaker=name[0]),
            start=0,
            length=1,
        )
        for name in names
    ]


def split(names, *, test_fraction=0.2, test_every_speaker=False):
    found = split_by_name(
        recordings(names), test_fraction=test_fraction, test_every_speaker=test_every_speaker
    )
    train, test = ([r.file.id for r in found[part]] for part in (Split.TRAIN, Split.TEST))
    assert sorted([*train, *test]) == sorted(names)
    return train, test


MANY = [f"{speaker}{number}" for speaker in "abcde" for number in range(400)]


def test_a_fifth_is_for_testing():
    _, test = split(MANY)
    assert len(test) == pytest.approx(400, rel=0.1)


def test_a_draw_is_the_names_sha256_as_a_fraction():
    """sha256("abc") begins with ba7816bf 8f01."""
    assert draw("abc") == 0xBA7816BF8F01 / 2**48


def test_a_recording_stays_in_its_split_whatever_others_come_and_go():
    _, test = split(MANY)
    _, of_half = split(MANY[::2])
    assert set(of_half) == set(test) & set(MANY[::2])


def test_the_order_of_recordings_is_kept():
    train, test = split(MANY)
    assert train == [name for name in MANY if name not in set(test)]
    assert test == [name for name in MANY if name in set(test)]


def drawn(*, testing):
    """Names of one speaker that all are drawn for testing, or for training."""
    return [name for name in MANY if name[0] == "a" and (draw(name) < 0.2) == testing]


def test_a_speaker_drawn_for_testing_alone_keeps_the_first_for_training():
    names = drawn(testing=True)[:4]
    assert split(names) == (names[:1], names[1:])


def test_a_single_recording_is_for_training():
    for name in (drawn(testing=True)[0], drawn(testing=False)[0]):
        for every in (True, False):
            assert split([name], test_every_speaker=every) == ([name], [])


def test_where_every_speaker_is_to_be_tested_the_lowest_draw_is():
    names = drawn(testing=False)[:4]
    assert split(names) == (names, [])
    train, test = split(names, test_every_speaker=True)
    assert test == [min(names, key=draw)]
    assert len(train) == 3
