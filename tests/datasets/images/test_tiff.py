"""TIFF files read by windows: every layout gives its pixels, and damage is one line."""

import logging
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile

from gim_bench.datasets.images import tiff
from gim_bench.datasets.images.tiff import TiffImage
from gim_bench.errors import DataError

ROWS, COLUMNS = 100, 131
TILED = {"tile": (32, 48)}
LAYOUTS = {
    "tiles": ((ROWS, COLUMNS), TILED),
    "compressed tiles in colour": ((ROWS, COLUMNS, 3), TILED | {"compression": "zlib"}),
    "strips": ((ROWS, COLUMNS), {"rowsperstrip": 7}),
    "colour and transparency": ((ROWS, COLUMNS, 4), TILED | {"extrasamples": ["unassalpha"]}),
    "gray and transparency": ((ROWS, COLUMNS, 2), TILED | {"extrasamples": ["assocalpha"]}),
}


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def written(folder, pixels, **layout):
    path = folder / "image.tif"
    is_gray = pixels.ndim == 2 or pixels.shape[2] == 2
    photometric = "minisblack" if is_gray else "rgb"
    tifffile.imwrite(path, pixels, photometric=photometric, planarconfig="contig", **layout)
    return path


def channels_first(pixels):
    """Without transparency."""
    if pixels.ndim == 2:
        return pixels[None]
    return pixels.transpose(2, 0, 1)[: 1 if pixels.shape[2] == 2 else 3]


@pytest.mark.parametrize(("shape", "layout"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_window_is_that_part_of_the_image(tmp_path, shape, layout):
    pixels = noise(shape)
    image = TiffImage(written(tmp_path, pixels, **layout))
    expected = channels_first(pixels)
    assert image.shape == expected.shape
    for top, left, height, width in [(0, 0, ROWS, COLUMNS), (31, 47, 2, 2), (99, 130, 1, 1)]:
        found = image.window(top, left, height=height, width=width)
        assert found.dtype == np.uint8
        assert np.array_equal(found, expected[:, top : top + height, left : left + width])


def test_an_image_of_16_bits_is_dark_unless_a_tile_is_bright(tmp_path):
    pixels = np.full((160, 160), 4_095, np.uint16)
    assert TiffImage(written(tmp_path, pixels, tile=(16, 16))).dark
    pixels[64:96, :] = 4_096  # of a microscope whose corners are black
    assert not TiffImage(written(tmp_path, pixels, tile=(16, 16))).dark
    assert not TiffImage(written(tmp_path, np.zeros((160, 160), np.uint8), tile=(16, 16))).dark


def test_pixels_of_16_bits_keep_their_upper_8(tmp_path):
    pixels = noise((ROWS, COLUMNS), np.uint16)
    image = TiffImage(written(tmp_path, pixels, **TILED))
    found = image.window(0, 0, height=ROWS, width=COLUMNS)
    assert np.array_equal(found[0], pixels // 256)


def test_a_level_of_a_pyramid_is_read_by_its_number(tmp_path):
    path = tmp_path / "pyramid.tif"
    full, half = noise((ROWS, COLUMNS)), noise((ROWS // 2, COLUMNS // 2))
    with tifffile.TiffWriter(path) as file:
        file.write(full, subifds=1, photometric="minisblack", **TILED)
        file.write(half, subfiletype=1, photometric="minisblack", **TILED)
    for level, expected in enumerate((full, half)):
        image = TiffImage(path, level=level)
        rows, columns = expected.shape
        assert np.array_equal(image.window(0, 0, height=rows, width=columns)[0], expected)
    with pytest.raises(DataError, match=r"no page 2: it has 2, counted from 0"):
        TiffImage(path, level=2)


def test_a_window_decodes_the_tiles_that_it_touches_and_no_other(tmp_path, monkeypatch):
    image = TiffImage(written(tmp_path, noise((ROWS, COLUMNS)), **TILED))
    touched = []
    monkeypatch.setattr(
        image, "_segment", lambda *place: touched.append(place) or image._decoded(*place)
    )
    image.window(32, 47, height=32, width=2)
    assert touched == [(1, 0), (1, 1)]


@pytest.mark.parametrize(("limit", "value"), [("CACHED", 2), ("CACHED_BYTES", 2 * 32 * 48)])
def test_decoded_tiles_of_all_images_together_are_few(tmp_path, monkeypatch, limit, value):
    """The two tiles that were used last are kept, of whichever image."""
    monkeypatch.setattr(tiff, limit, value)
    path = written(tmp_path, noise((ROWS, COLUMNS)), **TILED)
    images = [TiffImage(path) for _ in range(3)]
    decoded = []
    for image in images:
        decode = image._decoded
        monkeypatch.setattr(
            image, "_decoded", lambda *place, of=decode: decoded.append(of(*place)) or decoded[-1]
        )
    for number, decoded_by_now in [(0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4)]:
        images[number].window(0, 0, height=1, width=1)
        assert len(decoded) == decoded_by_now
    kept = tiff._RECENT._found
    assert [place[0] for place in kept] == [images[0], images[1]]


def test_images_may_be_more_than_a_process_may_have_open(tmp_path):
    """No file stays open, whether a window of the image was read or not."""
    path = written(tmp_path, noise((ROWS, COLUMNS)), **TILED)
    images = [TiffImage(path) for _ in range(2)]
    images[0].window(0, 0, height=ROWS, width=COLUMNS)
    assert path not in [Path(found.path) for found in psutil.Process().open_files()]


# -- files that cannot be read by windows ----------------------------------------------------------


@pytest.fixture
def refused(capfd, monkeypatch):
    """A function that checks the line with which a file is refused, and that no other is printed.

    It takes pytest's handlers of logs away, so that Python prints what has no handler.
    """

    def check(path, match):
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        with pytest.raises(DataError, match=match) as caught:
            TiffImage(path).check_decodable()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert capfd.readouterr().err == ""

    return check


def test_a_file_that_is_cut_off_names_the_tile_and_the_bytes(tmp_path, refused):
    path = written(tmp_path, noise((ROWS, COLUMNS)), **TILED)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    refused(path, r"it is cut off: segment 12 of 12 ends at byte [\d,]+, and the file has [\d,]+")


def test_a_file_that_ends_within_its_header_is_refused(tmp_path, refused):
    path = written(tmp_path, noise((ROWS, COLUMNS)), **TILED)
    path.write_bytes(path.read_bytes()[:20])
    refused(path, "by windows: ")


@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_file_that_ends_before_its_directory_is_cut_off(tmp_path, refused, bigtiff):
    """Some programs write the pixels first."""
    path = tmp_path / "cut.tif"
    width, start = (8, b"II+\0\10\0\0\0") if bigtiff else (4, b"II*\0")
    path.write_bytes(start + (9_999).to_bytes(width, "little") + bytes(100))
    refused(path, r"it is cut off: its directory begins at byte 9,999, and the file has 1[01]\d;")


def test_a_file_without_pages_is_refused(tmp_path, refused):
    path = tmp_path / "empty.tif"
    path.write_bytes(b"II*\0" + bytes(4))
    refused(path, "by windows: it has 0 pages;")


def test_several_pages_of_one_size_are_refused(tmp_path, refused):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, noise((3, ROWS, COLUMNS)), photometric="minisblack", **TILED)
    refused(path, "3 pages of one size: save each as a file of its own")


@pytest.mark.parametrize("imagej", [False, True])
def test_pages_that_share_a_directory_are_refused(tmp_path, refused, imagej):
    """So ImageJ saves stacks above 4 GB."""
    path = tmp_path / "stack.tif"
    pages = noise((3, ROWS, COLUMNS))
    tifffile.imwrite(path, pages, photometric="minisblack", truncate=True, imagej=imagej)
    refused(path, "3 pages of one size: save each as a file of its own")


@pytest.mark.parametrize(
    ("photometric", "channels"), [("minisblack", 2), ("minisblack", 3), ("rgb", 4), ("rgb", 5)]
)
def test_channels_that_would_not_be_read_are_refused(tmp_path, refused, photometric, channels):
    """As those of fluorescence. Transparency is known by its tag."""
    path = tmp_path / "channels.tif"
    extra = ["unspecified"] * (channels - (1 if photometric == "minisblack" else 3))
    tifffile.imwrite(
        path,
        noise((ROWS, COLUMNS, channels)),
        photometric=photometric,
        planarconfig="contig",
        extrasamples=extra,
        **TILED,
    )
    refused(path, rf"{channels} channels of {photometric.upper()}: save one as gray, or three as")


def test_a_tile_that_fails_to_decode_is_named(tmp_path, refused):
    path = written(tmp_path, noise((ROWS, COLUMNS)), compression="zlib", **TILED)
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[4]
    content = bytearray(path.read_bytes())
    content[offset : offset + 20] = bytes(20)
    path.write_bytes(content)
    image = TiffImage(path)
    image.window(0, 0, height=32, width=COLUMNS)
    refused(path, r"segment 5 of 12 cannot be decoded \(")


def test_a_text_is_no_image(tmp_path, refused):
    path = tmp_path / "text.tif"
    path.write_text("no image")
    refused(path, "TiffFileError")


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16"])
def test_samples_that_are_no_unsigned_integers_are_refused(tmp_path, refused, dtype):
    path = written(tmp_path, np.zeros((ROWS, COLUMNS), dtype), **TILED)
    refused(path, rf"\({dtype}\) of MINISBLACK: use 8 or 16 unsigned bits, gray or RGB")


@pytest.mark.parametrize(
    ("dtype", "tag", "value", "match"),
    [
        (np.uint8, "BitsPerSample", 4, "4 bits .* of MINISBLACK: use 8 or 16"),
        (np.uint16, "BitsPerSample", 12, "12 bits .* of MINISBLACK: use 8 or 16"),
        (np.uint8, "PhotometricInterpretation", 777, "8 bits .* of photometric 777: use 8 or 16"),
        (np.uint8, "TileWidth", 0, "tiles or strips of 0×131 pixels"),
        (np.uint8, "TileByteCounts", [9] * 11, "12 places and 11 sizes of 12 segments"),
        (np.uint8, "TileOffsets", [9] * 11, "11 places and 12 sizes of 12 segments"),
    ],
)
def test_a_header_that_says_what_no_image_has_is_refused(tmp_path, dtype, tag, value, match):
    """Samples of 4 or 12 bits would be read nearly black."""
    path = written(tmp_path, noise((ROWS, COLUMNS), dtype), **TILED)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[tag].overwrite(value)
    with pytest.raises(DataError, match=match) as caught:
        TiffImage(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_strip_of_the_whole_image_is_refused_where_it_is_large(tmp_path, monkeypatch, refused):
    monkeypatch.setattr(tiff, "LARGEST_SEGMENT", ROWS * COLUMNS - 1)
    path = written(tmp_path, noise((ROWS, COLUMNS)), rowsperstrip=ROWS)
    refused(path, "strips of 0 MB, which cannot be read by windows: save it in tiles")
