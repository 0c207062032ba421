"""Image files that were damaged, that lie about themselves, or that are rare."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from gim_bench.contract import Split
from gim_bench.datasets.images.image_folder import ImageFolder, decode
from gim_bench.errors import DataError
from tests.bad_input.feed import TEXTS, damaged, fed, folder_of_its_own, in_time, result_or_line

PIXELS = np.random.default_rng(0).integers(256, size=(12, 10, 4), dtype=np.uint8)
KINDS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
}
SIZE = 8


def _image(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(PIXELS, "RGBA").convert("RGB").convert(mode)


def _file(kind: str, mode: str, **how) -> bytes:
    written = io.BytesIO()
    _image(mode).save(written, kind, **how)
    return written.getvalue()


def _animated(kind: str) -> bytes:
    return _file(kind, "RGB", save_all=True, append_images=[_image("L").convert("RGB")])


def _png(width: int, height: int, *, depth: int = 8, colour: int = 2) -> bytes:
    """A header that promises so many pixels, and ten bytes of them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


GOOD = (
    *(_file(kind, mode) for kind, modes in KINDS.items() for mode in modes),
    *(_animated(kind) for kind in ("PNG", "WEBP")),
)
SIDES = st.one_of(
    st.sampled_from([0, 1, 9_000, 13_000, 2**16, 2**31 - 1, 2**32 - 1]), st.integers(0, 50)
)
HEADERS = st.builds(
    _png,
    SIDES,
    SIDES,
    depth=st.sampled_from([0, 1, 8, 16]),
    colour=st.sampled_from([0, 2, 3, 6, 9]),
)


def _check(content: bytes, *, name: str = "a.png") -> None:
    with folder_of_its_own() as folder:
        (folder / name).write_bytes(content)
        with result_or_line():
            pixels = decode(folder / name, size=SIZE)
            assert (pixels.shape, pixels.dtype) == ((3, SIZE, SIZE), np.uint8)


@fed(120, content=damaged(GOOD))
def test_a_damaged_image_is_decoded_or_refused_in_a_line(content):
    _check(content)


@fed(30, content=HEADERS)
def test_an_image_that_promises_more_than_it_holds_is_refused_in_a_line(content):
    _check(content)


def _folder(folder) -> ImageFolder:
    """The data set in the folder "mine", of two classes, with three different images."""
    for place, colour in (("train/cat", "red"), ("train/dog", "green"), ("test/cat", "blue")):
        (folder / "mine" / place).mkdir(parents=True)
        Image.new("RGB", (16, 16), colour).save(folder / "mine" / place / "a.png")
    return ImageFolder(
        options=ImageFolder.Options(), data_dir=folder / "mine", cache_dir=folder / "cache"
    )


NAMES = st.one_of(
    TEXTS,
    st.binary(min_size=1, max_size=8).map(os.fsdecode),
    st.sampled_from([".hidden", "-x", "*"]),
).filter(lambda name: not name.startswith("/"))  # no class: the file would lie outside


@fed(25, name=NAMES)
def test_a_class_of_any_name_is_read_or_refused_in_a_line(name):
    with folder_of_its_own() as folder:
        mine = _folder(folder)
        try:
            (folder / "mine" / "train" / name).mkdir(exist_ok=True)
            (folder / "mine" / "train" / name / "a.png").write_bytes(GOOD[0])
        except (OSError, ValueError):
            return  # the system has no such folders
        with result_or_line():
            mine.prepare()
            (target,) = mine.targets()
            assert len(mine.split(Split.TRAIN)) >= len(target.classes) >= 2


def test_an_image_of_more_pixels_than_pillow_allows_is_refused():
    """A few kilobytes may hold gigabytes of one colour."""
    with folder_of_its_own() as folder:
        (folder / "a.png").write_bytes(_png(10_000, 10_000))
        with pytest.raises(DataError, match="could be decompression bomb"):
            decode(folder / "a.png", size=SIZE)


def test_a_format_that_pillow_decodes_by_a_program_is_refused():
    with folder_of_its_own() as folder:
        _image("RGB").save(folder / "a.eps")
        (folder / "a.eps").rename(folder / "a.png")
        with pytest.raises(DataError, match="cannot identify image file"):
            decode(folder / "a.png", size=SIZE)


def test_a_pipe_among_the_images_is_left_out_and_not_waited_for():
    with folder_of_its_own() as folder, in_time():
        mine = _folder(folder)
        os.mkfifo(folder / "mine" / "train" / "dog" / "b.png")
        assert mine.notes() == ["left out: 1 pipe, socket or device: train/dog/b.png"]


@pytest.mark.parametrize("target", ["..", "../..", "../dog"])
def test_links_that_lead_in_a_circle_are_left_out_and_not_followed(target):
    """Followed as far as the system goes, two of them take longer than anybody waits."""
    with folder_of_its_own() as folder, in_time():
        mine = _folder(folder)
        for place in ("cat", "dog"):
            for name in ("x", "y"):
                (folder / "mine" / "train" / place / name).symlink_to(
                    target if place == "cat" else "../cat", target_is_directory=True
                )
        assert len(mine.split(Split.TRAIN)) == 2
        (note,) = mine.notes()
        assert "left out: " in note
