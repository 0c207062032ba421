"""Audio files and phone labels that were damaged, that lie about themselves, or that are rare."""

import numpy as np
import pytest
from hypothesis import strategies as st

from gim_bench.contract import Split
from gim_bench.datasets.files import UnusableError
from gim_bench.datasets.speech.audio_folder import AudioFolder
from gim_bench.datasets.speech.librispeech import LibriSpeech
from gim_bench.errors import DataError
from tests.bad_input.feed import TEXTS, damaged, encoded, fed, folder_of_its_own, result_or_line
from tests.datasets.speech.speech_files import ramp, write

KINDS = {
    "WAV": ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "GSM610"),
    "FLAC": ("PCM_16",), "AIFF": ("PCM_16",), "AU": ("PCM_16",), "RF64": ("PCM_16",),
    "W64": ("PCM_16",), "CAF": ("PCM_16",), "OGG": ("VORBIS",), "MP3": ("MPEG_LAYER_III",),
}  # fmt: skip
GOOD = tuple(
    encoded(ramp(400)[:, None].repeat(channels, 1), rate_hz=rate_hz, kind=kind, subtype=subtype)
    for kind, subtypes in KINDS.items()
    for subtype in subtypes
    for rate_hz, channels in ((16_000, 1), (22_050, 2))
    if (subtype, channels) != ("GSM610", 2)
)
LEVELS = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 2.0, 3e38, -3e38, float("nan"), float("inf")]),
    st.floats(width=32),
)
WAVEFORMS = st.builds(
    lambda levels, rate_hz, channels: encoded(
        np.array(levels, np.float32)[:, None].repeat(channels, 1),
        kind="WAV",
        subtype="FLOAT",
        rate_hz=rate_hz,
    ),
    st.lists(LEVELS, max_size=30),
    st.sampled_from([1, 999, 1_000, 8_000, 15_999, 16_000, 44_100, 999_983, 2**31 - 1]),
    st.sampled_from([1, 2, 7, 1_024]),
)


def _folder(folder, **options) -> AudioFolder:
    """The data set in the folder "mine"."""
    return AudioFolder(
        options=AudioFolder.Options(**options),
        data_dir=folder / "mine",
        cache_dir=folder / "cache",
    )


def _check(content: bytes, *, suffix: str) -> None:
    with folder_of_its_own() as folder:
        path = folder / f"a{suffix}"
        path.write_bytes(content)
        speech = {"data_dir": folder, "cache_dir": folder}
        for kind in (AudioFolder, LibriSpeech):
            with result_or_line(UnusableError):
                samples = kind(options=kind.Options(), **speech).decode(path)
                assert (samples.ndim, samples.dtype) == (1, np.int16)


@fed(200, content=damaged(GOOD), suffix=st.sampled_from([".wav", ".flac"]))
def test_a_damaged_recording_is_decoded_or_refused_in_a_line(content, suffix):
    _check(content, suffix=suffix)


@fed(60, content=WAVEFORMS)
def test_samples_of_any_size_and_rate_are_decoded_or_refused_in_a_line(content):
    _check(content, suffix=".wav")


def test_a_recording_without_samples_is_refused_at_any_rate():
    """The resampler divides by their number."""
    with folder_of_its_own() as folder:
        path = write(folder / "mine" / "ann" / "a.wav", np.zeros(0, np.int16), rate_hz=8_000)
        mine = _folder(folder)
        with pytest.raises(DataError, match=rf"cannot use {path} \(it holds no samples\)"):
            mine.prepare()


@pytest.mark.parametrize("level", [2.0**15, 3e38])
def test_samples_in_other_units_are_refused_with_their_size(level):
    """Clipped, they would be noise."""
    with folder_of_its_own() as folder:
        path = write(
            folder / "mine" / "ann" / "a.wav", np.full(9, level, np.float32), subtype="FLOAT"
        )
        with pytest.raises(DataError, match=r"its samples reach [\de,.+]+ where 1 is full scale"):
            _folder(folder).prepare()
        assert path.is_file()


# -- phone labels ----------------------------------------------------------------------------------

WORDS = st.one_of(
    TEXTS,
    st.sampled_from(["0", "-1", "999", "1000", "٣", "1" * 5_000, "1.0", "a/0", "b/0", "0\x00"]),
)
LINES = st.lists(st.lists(WORDS, max_size=8).map(" ".join), max_size=4).map(
    lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
)
LABELS = b"".join(b"%c/%d %s\n" % (s, n, b"3 " * 8) for s in b"ab" for n in range(3))


@fed(60, content=st.one_of(LINES, damaged((LABELS,)), st.binary()), skip=st.booleans())
def test_labels_that_make_no_sense_are_used_or_refused_in_a_line(content, skip):
    with folder_of_its_own() as folder:
        for name in ("a/0", "a/1", "a/2", "b/0", "b/1", "b/2"):
            write(folder / "mine" / f"{name}.wav", ramp(1_600))
        (folder / "mine" / "phones.txt").write_bytes(content)
        mine = _folder(folder, skip_bad_files=skip)
        with result_or_line():
            mine.prepare()
            found = mine.split(Split.TRAIN).frames.get("phone")
            classes = len(mine.targets()[-1].classes)
            assert found is None or (found.min() >= -1 and found.max() < classes)
