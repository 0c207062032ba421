"""Headers of sound against the bytes of the file, in every container that is read."""

import io
import re
import struct

import numpy as np
import pytest
import soundfile

from gim_bench.datasets.files import UnusableError
from gim_bench.datasets.speech.audio import FORMATS, SUFFIXES, read_audio
from gim_bench.datasets.speech.containers import extent_of, flac_frames, mp3_frames

RATE_HZ = 8_000
SECONDS = 20
FRAMES = RATE_HZ * SECONDS
NOISE = np.random.default_rng(0).integers(-9_999, 9_999, size=FRAMES, dtype=np.int16)


def encoded(kind, subtype=None, *, endian="FILE", samples=NOISE):
    written = io.BytesIO()
    samples = samples / 2**15 if subtype == "FLOAT" else samples
    soundfile.write(written, samples, RATE_HZ, format=kind, subtype=subtype, endian=endian)
    return written.getvalue()


@pytest.fixture
def read(tmp_path):
    """Samples in a file of that content, or the reason for which the file is refused."""

    def make(content):
        path = tmp_path / "a.wav"
        path.write_bytes(content)
        try:
            return len(read_audio(path)[0])
        except UnusableError as error:
            line = str(error)
            assert line.startswith(f"{path} (")
            assert "\n" not in line
            return line

    return make


# Where each container counts the bytes of its sound: what precedes the number, the number's
# format, and how many bytes the container counts beside the sound.
SIZES = {
    ("WAV", "PCM_16", "FILE"): (b"data", "<I", 0),
    ("WAV", "PCM_16", "BIG"): (b"data", ">I", 0),
    ("WAV", "PCM_24", "FILE"): (b"data", "<I", 0),
    ("WAV", "ULAW", "FILE"): (b"data", "<I", 0),
    ("WAV", "IMA_ADPCM", "FILE"): (b"data", "<I", 0),
    ("WAV", "GSM610", "FILE"): (b"data", "<I", 0),
    ("WAV", "G721_32", "FILE"): (b"data", "<I", 0),
    ("WAV", "NMS_ADPCM_24", "FILE"): (b"data", "<I", 0),
    ("WAVEX", "FLOAT", "FILE"): (b"data", "<I", 0),
    ("RF64", "PCM_16", "FILE"): (rb"ds64.{12}", "<Q", 0),
    ("W64", "PCM_16", "FILE"): (rb"data\xf3.{11}", "<Q", 24),
    ("AIFF", "PCM_16", "FILE"): (b"SSND", ">I", 8),
    ("AIFF", "FLOAT", "FILE"): (b"SSND", ">I", 8),
    ("CAF", "PCM_16", "FILE"): (b"data", ">Q", 4),
    ("AU", "PCM_16", "BIG"): (rb"\.snd.{4}", ">I", 0),
    ("AU", "PCM_16", "LITTLE"): (rb"dns\..{4}", "<I", 0),
}
CONTAINERS = pytest.mark.parametrize("kind", SIZES, ids="-".join)


def claiming(kind, share):
    """A file whose header counts that share of its sound."""
    before, form, beside = SIZES[kind]
    content = encoded(*kind[:2], endian=kind[2])
    place = re.search(before, content, re.DOTALL).end()
    (size,) = struct.unpack_from(form, content, place)
    claimed = struct.pack(form, int((size - beside) * share) + (beside if share else 0))
    return content[:place] + claimed + content[place + len(claimed) :]


@CONTAINERS
def test_whole_files_are_read(kind, read):
    assert read(claiming(kind, 1)) == pytest.approx(FRAMES, abs=400)


# case 16
@CONTAINERS
def test_a_header_that_counts_less_than_the_file_holds_is_refused_with_both_lengths(kind, read):
    line = read(claiming(kind, 1 / 20))
    assert re.search(r"its header counts 1\.0 s where the file holds 2[01] s: encode it anew", line)


# case 16
@CONTAINERS
def test_a_header_that_counts_more_than_the_file_holds_is_refused(kind, read):
    assert "it breaks off before its end" in read(claiming(kind, 2))


# case 16
@CONTAINERS
def test_a_quarter_of_a_file_is_refused(kind, read):
    content = claiming(kind, 1)
    assert "it breaks off before its end" in read(content[: len(content) // 4])


# case 16
@CONTAINERS
def test_a_size_of_0_loses_nothing(kind, read):
    """Programs that were killed leave such headers; some decoders read on to the end."""
    found = read(claiming(kind, 0))
    known = kind[1] in ("PCM_16", "PCM_24", "ULAW", "FLOAT")
    if kind[0] in ("AIFF", "W64"):
        assert found == FRAMES
    elif kind[0] == "CAF":
        assert "it cannot be decoded" in found
    else:
        zero = "its header counts 0.0 s where the file holds 20 s" if known else "counts nothing"
        assert zero in found


@CONTAINERS
@pytest.mark.parametrize("after", [b"TAG" + bytes(125), bytes(5_000)], ids=["tag", "padding"])
def test_tags_and_padding_after_the_sound_are_no_sound(kind, read, after):
    assert read(claiming(kind, 1) + after) == pytest.approx(FRAMES, abs=400)


def test_chunks_after_the_sound_are_no_sound(read):
    content = encoded("WAV", "PCM_U8", samples=NOISE[:-1])
    odd = content[: 44 + FRAMES - 1]
    title = (
        b"LIST" + struct.pack("<I", 26) + b"INFOINAM" + struct.pack("<I", 14) + b"A title of 14 "
    )
    for padding in (b"\0", b""):  # some writers forget the padding byte
        assert read(odd + padding + title) == FRAMES - 1


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "FLAC", "OGG", "MP3"])
def test_a_second_file_behind_the_first_is_not_lost_without_a_word(kind, read):
    assert isinstance(read(encoded(kind) * 2), str)


@pytest.mark.parametrize(
    "kind",
    [
        ("WAV", "PCM_16", "BIG"),
        ("WAV", "PCM_16", "FILE"),
        ("WAVEX", "FLOAT", "FILE"),
        ("AU", "PCM_16", "BIG"),
    ],
    ids="-".join,
)
def test_a_size_that_a_pipe_left_open_is_the_rest_of_the_file(kind, read):
    before, form, _ = SIZES[kind]
    content = encoded(*kind[:2], endian=kind[2])
    place = re.search(before, content, re.DOTALL).end()
    assert read(content[:place] + struct.pack(form, 2**32 - 1) + content[place + 4 :]) == FRAMES


@pytest.mark.parametrize("content", [b"RIFF", b"RIFF\0\0\0\0WAVEdata", b".snd\0", b"NIST_1A\n  x"])
def test_a_header_that_is_cut_off_has_no_extent(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with (tmp_path / "a.wav").open("rb") as file:
        assert extent_of(file) is None


# -- NIST -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "why"), [(8_000, "its header counts 1.0 s where"), (320_000, "it breaks off before")]
)
def test_the_sample_count_of_nist_is_compared(read, count, why):
    before, after = (b"sample_count -i %d" % number for number in (FRAMES, count))
    content = encoded("NIST", "PCM_16")
    assert before in content
    assert read(content) == FRAMES
    assert why in read(content.replace(before, after.ljust(len(before))))


# -- FLAC -----------------------------------------------------------------------------------------


def flac(total):
    """A FLAC file whose header counts `total` samples."""
    content = bytearray(encoded("FLAC"))
    content[21] &= 0xF0
    content[22:26] = struct.pack(">I", total)
    return bytes(content)


# case 21
def test_a_flac_from_a_pipe_says_what_to_do(read):
    assert "(its header does not say how long it is: encode it anew)" in read(flac(0))


# case 16
def test_a_flac_whose_header_counts_less_is_refused(read):
    assert "its header counts 1.0 s where the file holds 20 s" in read(flac(RATE_HZ))


@pytest.mark.parametrize("total", [2 * FRAMES, FRAMES + 1])
def test_a_flac_whose_header_counts_more_is_refused(read, total):
    assert "(it " in read(flac(total))


@pytest.mark.parametrize("samples", [1, 4_095, 4_096, 4_097, 20_480])
def test_the_blocks_of_a_whole_flac_are_as_many_as_its_header_counts(samples):
    assert flac_frames(encoded("FLAC", samples=NOISE[:samples])) == samples


# -- OGG and MP3 ----------------------------------------------------------------------------------


# case 26
@pytest.mark.parametrize("kind", [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_compressed_files_are_read_whole_and_refused_where_they_are_cut(read, kind):
    content = encoded(*kind)
    assert read(content) == FRAMES
    assert "it breaks off before its end" in read(content[: len(content) // 4])


def test_an_mp3_whose_header_counts_less_is_refused(read):
    content = encoded("MP3")
    place = content.index(b"Xing") + 8
    less = struct.pack(">II", 20, len(content) // 20)
    assert "where the file holds 20 s" in read(content[:place] + less + content[place + 8 :])


def test_an_mp3_without_a_header_is_not_half_read(read):
    """libsndfile guesses the length from the first frame, whose rate is another."""
    content = encoded("MP3")
    assert isinstance(read(content.replace(b"Xing", bytes(4))), str)


def test_a_title_of_an_mp3_is_not_taken_for_the_header_that_counts_its_frames(read):
    """Without the header libsndfile estimates the length from the bytes, those of titles too."""
    written = io.BytesIO()
    constant = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
    soundfile.write(written, NOISE, RATE_HZ, format="MP3", **constant)
    header, content = written.getvalue()[:288], written.getvalue()[288:]  # frames of 64 kbit/s
    assert b"Info" in header
    title = b"ID3\3\0\0\0\0\0\x13" + b"TIT2\0\0\0\x09\0\0" + b"\0Infobox."
    assert read(title + content) == read(content) == pytest.approx(FRAMES, abs=4 * 576)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_frames_of_an_mp3_are_counted_at_every_rate(rate_hz):
    written = io.BytesIO()
    soundfile.write(written, NOISE, rate_hz, format="MP3")
    assert 0 <= mp3_frames(written.getvalue()) - FRAMES <= 4 * 1_152


# -- codings and formats --------------------------------------------------------------------------


# case 21
@pytest.mark.parametrize("subtype", ["GSM610", "G721_32", "NMS_ADPCM_16", "NMS_ADPCM_32"])
def test_codings_whose_decoders_cannot_seek_are_read(tmp_path, subtype):
    tone = 0.5 * np.sin(np.arange(FRAMES) / 9)
    path = tmp_path / "a.wav"
    soundfile.write(path, tone, RATE_HZ, subtype=subtype)
    found, _ = read_audio(path)
    assert np.corrcoef(found[:8_000], tone[:8_000])[0, 1] > 0.9


# case 26
@pytest.mark.parametrize("kind", sorted(soundfile.available_formats().keys() - {"RAW", "SD2"}))
def test_every_format_of_soundfile_is_read_or_refused_by_its_name(read, kind):
    found = read(encoded(kind, "DPCM_16" if kind == "XI" else None))
    if kind in FORMATS:
        assert found == pytest.approx(FRAMES, abs=2_000)
    else:
        assert f"its format is {kind}: encode it anew as WAV or FLAC" in found


def test_suffixes_are_in_lower_case_and_begin_with_a_dot():
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in SUFFIXES)
