"""CPC's phone labels: what a line may be, and how labels are made to fit."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from gim_bench.contract import label_frames
from gim_bench.datasets.speech.phone_labels import MOST_PHONES, fitted, read_phone_labels
from gim_bench.errors import DataError
from gim_bench.progress import Silence
from tests.listener import Listener

SAMPLE = Path(__file__).resolve().parents[4] / "shared" / "data" / "librispeech-sample"


@pytest.fixture
def read(tmp_path):
    """Reads a label file of that content."""

    def make(content, *, phones=41):
        path = tmp_path / "phones.txt"
        path.write_bytes(content)
        return read_phone_labels(path, phones=phones, progress=Silence())

    return make


def fault(file):
    """The one thing that is wrong with the file."""
    (line,) = file.faults
    assert "\n" not in line
    return line


# -- lines ---------------------------------------------------------------------------------------


def test_a_line_is_an_id_and_its_numbers(read):
    first, second = read(b"19-198-0001 0 40 7\n103-1240-0000 3\n").lines
    assert (first.id, first.phones.tolist()) == ("19-198-0001", [0, 40, 7])
    assert (second.id, second.phones.tolist()) == ("103-1240-0000", [3])
    assert first.phones.dtype == np.int16
    assert second.place.endswith("phones.txt, line 2")


@pytest.mark.parametrize(
    "content",
    [b"a 1 2", b"a 1 2 \n\n", b"a 1 2\r\n", b"\xef\xbb\xbfa 1 2\n", b"\n  \na\t1   2\n"],
    ids=["no last newline", "spaces", "Windows", "byte order mark", "empty lines"],
)
def test_what_editors_make_of_a_file_is_read_all_the_same(read, content):
    file = read(content)
    (line,) = file.lines
    assert (line.id, line.phones.tolist(), file.faults) == ("a", [1, 2], [])


def test_an_empty_file_has_no_lines(read):
    assert read(b"").lines == []


@pytest.mark.parametrize("number", ["41", "-1", "1.5", "x", "1e3", "٣", "1_0", "99999999999"])
def test_what_is_no_phone_is_named_with_file_and_line(read, number):
    file = read(f"a 1 2\nb 0 {number} 3\nc 4\n".encode())
    assert fault(file).endswith(
        f"phones.txt, line 2: {number!r} is no phone: numbers from 0 to 40 are"
    )
    assert [line.id for line in file.lines] == ["a", "c"]


def test_without_a_known_number_of_phones_any_that_fits_is_one(read):
    (line,) = read(b"a 0 999", phones=MOST_PHONES).lines
    assert line.phones.tolist() == [0, 999]
    assert "'32768' is no phone" in fault(read(b"a 32768", phones=MOST_PHONES))


def test_a_line_without_numbers_is_named(read):
    assert fault(read(b"a\nb 1\n")).endswith("line 1: no numbers follow 'a'")


def test_an_utterance_that_comes_twice_is_named_with_both_lines(read):
    file = read(b"a 1\nb 1\na 2\n")
    assert fault(file).endswith("line 3: 'a' is labelled in line 1 already")
    assert [line.phones.tolist() for line in file.lines] == [[1], [1]]


def test_a_line_that_is_not_utf8_is_named(read):
    line = fault(read(b"a 1\n\xe9 1\n"))
    assert line.endswith("line 2: byte 0xe9 is not UTF-8 text: save the file as UTF-8")


def test_every_fault_is_counted(read):
    assert len(read(b"a\nb x\nc 1\nc 2\n").faults) == 3


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*gone\.txt"):
        read_phone_labels(tmp_path / "gone.txt", phones=41, progress=Silence())


def test_progress_counts_megabytes(tmp_path):
    (tmp_path / "phones.txt").write_text("".join(f"{n} {'1 ' * 999}\n" for n in range(600)))
    listener = Listener()
    read_phone_labels(tmp_path / "phones.txt", phones=41, progress=listener)
    assert listener.tasks == [("reading phones.txt", 2, "MB")]
    assert listener.steps == 1


# -- fitting -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (5, [1, 2, 3, -1, -1]),
        (4, [1, 2, 3, -1]),
        (3, [1, 2, 3]),
        (2, [1, 2]),
        (1, [1]),
    ],
)
def test_two_labels_more_or_fewer_are_cut_or_filled_at_the_end(frames, expected):
    found = fitted(np.array([1, 2, 3], dtype=np.int16), frames=frames)
    assert found.tolist() == expected
    assert found.dtype == np.int16


@pytest.mark.parametrize("frames", [0, 6, 1_000])
def test_labels_that_are_further_off_do_not_fit(frames):
    assert fitted(np.array([1, 2, 3], dtype=np.int16), frames=frames) is None


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no LibriSpeech sample in {SAMPLE}")
def test_published_labels_are_exactly_as_many_as_the_audio_has_frames():
    """Kaldi counts whole windows of 25 ms."""
    path = SAMPLE / "LibriSpeech100_labels_split" / "converted_aligned_phones.txt"
    lines = read_phone_labels(path, phones=41, progress=Silence()).lines
    labels = {line.id: len(line.phones) for line in lines}
    samples = {
        path.stem: soundfile.info(path).frames for path in (SAMPLE / "LibriSpeech").rglob("*.flac")
    }
    both = sorted(labels.keys() & samples.keys())
    assert [labels[name] for name in both] == [508, 1119]
    assert [label_frames(samples[name]) for name in both] == [508, 1119]
