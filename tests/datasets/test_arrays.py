"""Arrays that are kept: made once, and anew where they are not what was written."""

import json
import os

import numpy as np
import pytest

from gim_bench.datasets.arrays import kept
from gim_bench.datasets.files import KnownChecksums
from gim_bench.progress import Silence
from tests.listener import Listener

PIECES = [np.array([1, -2, 3]), np.array([], dtype=int), np.array([[4, 5], [6, 7]])]


@pytest.fixture
def made():
    """How often the pieces were asked for."""
    return []


@pytest.fixture
def keep(tmp_path, made):
    """Keeps an array as the next start of the program does."""

    def make(pieces=PIECES, *, dtype=np.int16, progress=None):
        def produce():
            made.append(len(pieces))
            return (piece.astype(dtype) for piece in pieces)

        return kept(
            tmp_path / "cache" / "array.bin",
            dtype=dtype,
            pieces=produce,
            known=KnownChecksums(tmp_path / "known.json"),
            progress=progress or Silence(),
        )

    return make


def alter(path, *, at=-1):
    """Another byte, the same size, a later mtime."""
    content, mtime_ns = bytearray(path.read_bytes()), path.stat().st_mtime_ns + 10**9
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def test_pieces_lie_one_after_another(keep):
    array = keep()
    assert array.values.tolist() == [1, -2, 3, 4, 5, 6, 7]
    assert array.values.dtype == np.int16
    assert array.lengths.tolist() == [3, 0, 4]
    assert array.lengths.dtype == np.int64


def test_an_array_is_made_once(keep, made):
    first, second = keep(), keep()
    assert np.array_equal(first.values, second.values)
    assert np.array_equal(first.lengths, second.lengths)
    assert made == [3]


def test_a_warm_start_reads_no_byte_of_the_array(keep):
    keep()
    listener = Listener()
    keep(progress=listener)
    assert listener.tasks == []


def test_the_array_is_mapped_and_writing_to_it_never_reaches_the_file(keep):
    array = keep()
    assert isinstance(array.values, np.memmap)
    array.values[:] = 0
    assert keep().values.tolist() == [1, -2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("pieces", [[], [np.array([], dtype=int)] * 2], ids=["none", "all empty"])
def test_an_empty_array_is_kept_like_any_other(keep, made, pieces):
    for _ in range(2):
        array = keep(pieces)
        assert array.values.shape == (0,)
        assert array.values.dtype == np.int16
        assert array.lengths.tolist() == [0] * len(pieces)
    assert len(made) == 1


@pytest.mark.parametrize("damage", ["cut", "longer", "altered", "gone", "emptied"])
def test_a_damaged_array_is_made_anew(keep, made, tmp_path, damage):
    keep()
    path = tmp_path / "cache" / "array.bin"
    match damage:
        case "cut":
            os.truncate(path, 6)
        case "longer":
            path.write_bytes(path.read_bytes() + b"ab")
        case "altered":
            alter(path)
        case "gone":
            path.unlink()
        case "emptied":
            path.write_bytes(b"")
    assert keep().values.tolist() == [1, -2, 3, 4, 5, 6, 7]
    assert made == [3, 3]


@pytest.mark.parametrize(
    "damage",
    ["cut", "altered", "gone", "no JSON", "deep", "a list", "without lengths", "other lengths"],
)
def test_a_damaged_description_is_not_believed(keep, made, tmp_path, damage):
    keep()
    path = tmp_path / "cache" / "array.bin.json"
    content = json.loads(path.read_bytes())
    match damage:
        case "cut":
            os.truncate(path, 10)
        case "altered":
            alter(path, at=15)
        case "gone":
            path.unlink()
        case "no JSON":
            path.write_bytes(b"\xff\xfe")
        case "deep":
            path.write_text("[" * 100_000)
        case "a list":
            path.write_bytes(b"[1]")
        case "without lengths":
            path.write_text("{}")
        case "other lengths":  # that add up
            path.write_text(json.dumps(content | {"lengths": [2, 1, 4]}))
    assert keep().lengths.tolist() == [3, 0, 4]
    assert made == [3, 3]


def test_an_array_of_another_type_is_made_anew(keep, made):
    keep(dtype=np.int16)
    assert keep(dtype=np.uint16).values.dtype == np.uint16
    assert made == [3, 3]


def test_pieces_that_fail_leave_nothing(keep, tmp_path):
    def failing():
        yield np.zeros(1000, dtype=np.int16)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(
            tmp_path / "cache" / "array.bin",
            dtype=np.int16,
            pieces=failing,
            known=KnownChecksums(tmp_path / "known.json"),
            progress=Silence(),
        )
    assert list((tmp_path / "cache").iterdir()) == []
    assert keep().lengths.tolist() == [3, 0, 4]


def test_a_place_that_cannot_be_written_is_the_callers_to_tell(keep, tmp_path):
    (tmp_path / "cache").write_bytes(b"")  # a file where the folder belongs
    with pytest.raises(OSError, match="cache"):
        keep()
