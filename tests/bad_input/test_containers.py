"""Sound in every container, cut off or with something behind it: read whole, or refused."""

import numpy as np
from hypothesis import strategies as st

from gim_bench.datasets.files import UnusableError
from gim_bench.datasets.speech.audio import read_audio
from gim_bench.datasets.speech.containers import MP3_SLACK_FRAMES, SLACK_BYTES
from tests.bad_input.feed import encoded, fed, folder_of_its_own, result_or_line

SAMPLES = 6_000
NOISE = np.random.default_rng(0).integers(-9_999, 9_999, size=SAMPLES, dtype=np.int16)
KINDS = (
    ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "IMA_ADPCM"), ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"),
    ("CAF", "PCM_16"), ("NIST", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"),
    ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
)  # fmt: skip
WHOLE = {kind: encoded(NOISE, kind=kind[0], subtype=kind[1]) for kind in KINDS}
# Samples that may be missing without a word: writers count the header or forget a padding byte,
# and an MP3 says of its length no more than its frames do.
SLACK = {"MP3": MP3_SLACK_FRAMES * 1_152, "FLAC": 0, "OGG": 0}
BLOCK = 505  # samples that IMA ADPCM codes together: the last block is filled up
TAILS = st.one_of(
    st.just(b""), st.binary(max_size=40), st.sampled_from([*WHOLE.values(), bytes(3_000)])
)


@st.composite
def _changed(draw: st.DrawFn) -> tuple[str, bytes]:
    """A kind of container, and such a file without its end or with something behind it."""
    kind = draw(st.sampled_from(KINDS))
    content = WHOLE[kind]
    if draw(st.booleans()):
        return kind[0], content + draw(TAILS)
    near_the_end = st.integers(max(0, len(content) - 40), len(content))
    return kind[0], content[: draw(st.one_of(st.integers(0, len(content)), near_the_end))]


@fed(150, changed=_changed())
def test_a_recording_that_was_cut_or_goes_on_is_read_whole_or_refused(changed):
    kind, content = changed
    with folder_of_its_own() as folder:
        (folder / "a.wav").write_bytes(content)
        with result_or_line(UnusableError):
            found, _ = read_audio(folder / "a.wav")
            assert -SLACK.get(kind, SLACK_BYTES // 2) <= len(found) - SAMPLES <= BLOCK
