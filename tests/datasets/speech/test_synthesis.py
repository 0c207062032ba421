"""eSpeak NG behind its pipe: exact phones, the same bytes each time, errors in one line."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from gim_bench.datasets.speech.synthesis import (
    Installation,
    Synthesiser,
    Utterance,
    installation,
    synthesiser,
)
from gim_bench.errors import DataError

SEVEN = Utterance(text="Seven grey horses sleep.", voice="en-us+f2", pitch=50, rate=175)
OTHER = Utterance(text="Who sings? The wind.", voice="en-us+m3", pitch=30, rate=200)


def spoken(*utterances):
    with synthesiser(installation()) as voice:
        return [voice.speak(utterance) for utterance in utterances]


def one_line(error):
    return "\n" not in str(error.value)


@pytest.fixture(scope="module")
def seven():
    return spoken(SEVEN)[0]


def test_a_sentence_comes_as_its_phones_in_order(seven):
    spelled = "s 'E v @ n g r 'eI h 'O@ s I# z s l 'i: p"
    assert [phone for phone in seven.phones if not phone.startswith("_")] == spelled.split()


def test_phones_begin_in_order_and_cover_all_of_the_speech(seven):
    assert len(seven.starts) == len(seven.phones)
    assert (np.diff(seven.starts) >= 0).all()
    # Before the first phone at most the closure of a plosive, after the last one nothing.
    assert 0 <= seven.starts[0] < 0.05 * seven.sample_rate_hz
    assert seven.starts[-1] <= len(seven.samples)


def test_starts_go_on_counting_from_one_piece_of_speech_to_the_next(seven):
    """The library hands out 60 ms at a time, and clause by clause."""
    with synthesiser(installation()) as voice:
        speech = voice.speak(
            replace(SEVEN, text="Seven grey horses sleep. Seven grey horses sleep.")
        )
    pause = len(seven.samples)  # about; the first clause ends near here
    again = len(speech.phones) // 2
    assert speech.phones[again] == "s"
    assert abs(speech.starts[again] - pause) < 0.4 * speech.sample_rate_hz


def test_pauses_are_silent(seven):
    quiet = [
        np.abs(seven.samples[start:end].astype(int)).max()
        for phone, start, end in zip(seven.phones, seven.starts, seven.starts[1:], strict=False)
        if phone == "_:" and end > start
    ]
    assert quiet
    assert max(quiet) < 0.05 * np.abs(seven.samples.astype(int)).max()


def test_two_fresh_synthesisers_say_the_same_bytes(seven):
    """The library on its own would seed its breath with the time, and f2 breathes."""
    again, *_ = spoken(SEVEN)
    assert np.array_equal(again.samples, seven.samples)
    assert np.array_equal(again.starts, seven.starts)
    first, second = spoken(OTHER, SEVEN), spoken(OTHER, SEVEN)
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("change", [{"pitch": 40}, {"rate": 160}, {"voice": "en-us+m1"}])
def test_pitch_rate_and_voice_are_heard(seven, change):
    other, *_ = spoken(replace(SEVEN, **change))
    assert not np.array_equal(other.samples, seven.samples)


def test_a_faster_rate_takes_less_time(seven):
    slow, fast = spoken(replace(SEVEN, rate=140))[0], spoken(replace(SEVEN, rate=220))[0]
    assert len(fast.samples) < len(seven.samples) < len(slow.samples)


def test_speech_is_22050_hz_as_the_library_says(seven):
    assert seven.sample_rate_hz == 22_050
    assert seven.samples.dtype == np.int16


def test_the_process_ends_with_the_block():
    with synthesiser(installation()) as voice:
        voice.speak(SEVEN)
    with pytest.raises(ValueError, match="closed"):
        voice.speak(SEVEN)


def test_nothing_is_printed(capfd):
    spoken(SEVEN)
    assert capfd.readouterr() == ("", "")


def test_voices_may_lie_at_the_end_of_a_long_path(tmp_path, seven):
    """The library cuts paths at 160 characters; virtual environments may lie deeper."""
    deep = tmp_path / ("long" * 50)
    deep.mkdir()
    voices = deep / "voices"
    voices.symlink_to(installation().voices)
    with synthesiser(replace(installation(), voices=voices)) as voice:
        assert np.array_equal(voice.speak(SEVEN).samples, seven.samples)


def test_a_missing_package_is_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(DataError, match=r"missing.*pip install espeakng-loader") as error:
        installation()
    assert one_line(error)


def test_a_missing_library_is_one_line_that_names_it(monkeypatch, tmp_path):
    loader = pytest.importorskip("espeakng_loader")
    monkeypatch.setattr(loader, "get_library_path", lambda: str(tmp_path / "gone.so"))
    with pytest.raises(DataError, match=r"gone\.so is missing: pip install espeakng-loader"):
        installation()


def test_a_library_that_cannot_be_loaded_is_one_line(tmp_path):
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"no library")
    broken = replace(installation(), library=damaged)
    with (
        pytest.raises(DataError, match=r"damaged\.so.*pip install espeakng-loader") as error,
        synthesiser(broken),
    ):
        pass
    assert one_line(error)


def test_voices_that_cannot_be_read_are_one_line(tmp_path):
    broken = replace(installation(), voices=tmp_path)
    with pytest.raises(DataError, match="cannot read its voices") as error, synthesiser(broken):
        pass
    assert one_line(error)


def test_an_unknown_voice_is_one_line_that_names_it():
    with pytest.raises(DataError, match="no voice 'xx-none'") as error:
        spoken(replace(SEVEN, voice="xx-none"))
    assert one_line(error)


def test_a_synthesiser_that_breaks_off_is_one_line(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        pytest.raises(DataError, match=r"it broke off.*--force-reinstall") as error,
        synthesiser(installation()),
    ):
        pass
    assert one_line(error)


def test_speech_that_is_cut_off_is_one_line(tmp_path):
    head = {"bytes": 8, "phones": [], "starts": []}
    lines = (json.dumps(each).encode() + b"\n" for each in ({"sample_rate_hz": 22_050}, head))
    (tmp_path / "answers").write_bytes(b"".join(lines) + bytes(6))
    with (
        (tmp_path / "requests").open("wb") as requests,
        (tmp_path / "answers").open("rb") as answers,
        pytest.raises(DataError, match=r"failed at 'Seven .* \(it broke off\)") as error,
    ):
        Synthesiser(requests=requests, answers=answers).speak(SEVEN)
    assert one_line(error)


def test_the_fingerprint_of_an_installation_covers_library_and_voices(tmp_path):
    library, voices = tmp_path / "lib.so", tmp_path / "voices"
    voices.mkdir()
    library.write_bytes(b"code")
    (voices / "f1").write_bytes(b"pitch")
    found = Installation(library=library, voices=voices)
    fingerprints = [found.sha256()]
    (voices / "f1").write_bytes(b"pitcH")
    fingerprints.append(found.sha256())
    library.write_bytes(b"codE")
    fingerprints.append(found.sha256())
    (voices / "f1").rename(voices / "f2")
    fingerprints.append(found.sha256())
    assert len(set(fingerprints)) == 4
