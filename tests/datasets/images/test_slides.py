"""Scans of microscopes, as Aperio's scanners write them."""

import sys

import numpy as np
import pytest
import tifffile

from gim_bench.contract import Split
from gim_bench.datasets.images.large_folder import LargeImageFolder
from gim_bench.datasets.images.slides import SlideImage
from gim_bench.errors import DataError

PIXELS = np.random.default_rng(0).integers(256, size=(300, 420, 3), dtype=np.uint8)


@pytest.fixture
def slide(tmp_path):
    """A scan with a second resolution of half the size."""
    pytest.importorskip("openslide", reason="pip install 'gim-bench[slides]'")
    path = tmp_path / "scan.svs"
    with tifffile.TiffWriter(path) as file:
        for pixels in (PIXELS, PIXELS[::2, ::2]):
            height, width, _ = pixels.shape
            file.write(
                pixels,
                tile=(128, 128),
                photometric="rgb",
                description=f"Aperio Image Library v12.0\n{width}x{height}|AppMag = 20|MPP = 0.5",
                metadata=None,
            )
    return path


@pytest.mark.parametrize(("level", "expected"), [(0, PIXELS), (1, PIXELS[::2, ::2])])
def test_a_window_has_the_pixels_of_its_place(slide, level, expected):
    image = SlideImage(slide, level=level)
    assert image.shape == (3, *expected.shape[:2])
    found = image.window(20, 66, height=100, width=90)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected[20:120, 66:156].transpose(2, 0, 1))


def test_what_was_not_scanned_is_white(slide):
    image = SlideImage(slide)
    beyond = image.window(280, 400, height=40, width=40)
    assert np.array_equal(beyond[:, :20, :20], PIXELS[280:, 400:].transpose(2, 0, 1))
    assert (beyond[:, 20:] == 255).all()


def test_all_scans_together_keep_the_tiles_of_one_cache(slide, monkeypatch):
    import openslide

    caches = []
    monkeypatch.setattr(openslide.OpenSlide, "set_cache", lambda _, cache: caches.append(cache))
    for _ in range(2):
        SlideImage(slide)
    one, other = caches
    assert one is other


def test_a_level_that_is_not_there_is_named(slide):
    with pytest.raises(DataError, match=r"scan\.svs by windows: no level 2: it has 2, from 0"):
        SlideImage(slide, level=2)


def test_a_scan_that_is_cut_off_or_none_is_named(slide):
    slide.write_bytes(slide.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"scan\.svs by windows: OpenSlide\w+Error: .*replace it"):
        SlideImage(slide)


def test_a_tile_that_cannot_be_decoded_is_named_by_its_window(slide):
    with tifffile.TiffFile(slide) as file:
        count = file.pages[0].tags["TileByteCounts"]
        where = count.valueoffset
    content = bytearray(slide.read_bytes())
    content[where : where + 4] = (9).to_bytes(4, "little")  # of the first tile
    slide.write_bytes(content)
    image = SlideImage(slide)
    with pytest.raises(DataError, match="the window at row 0, column 0 cannot be decoded"):
        image.check_decodable()


def test_without_openslide_a_line_says_how_to_install_it(slide, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(DataError, match=r"pip install 'gim-bench\[slides\]'"):
        SlideImage(slide)


def test_scans_and_tiff_files_stand_in_one_folder(slide, tmp_path):
    folder = tmp_path / "images"
    for place in ("train/tumour", "train/normal", "test/tumour", "test/normal"):
        (folder / place).mkdir(parents=True)
        # The trailing name tells the files apart: one file in two classes is refused.
        (folder / place / "a.SVS").write_bytes(slide.read_bytes() + place.encode())
    tifffile.imwrite(folder / "train" / "normal" / "b.tif", PIXELS, tile=(128, 128))
    data = LargeImageFolder(
        options=LargeImageFolder.Options(place=64),
        data_dir=folder,
        cache_dir=tmp_path / "cache",
    )
    data.prepare()
    data.verify()
    train = data.split(Split.TRAIN)
    one, other, _ = (image.window(0, 0, height=64, width=64) for image in train.images)
    assert np.array_equal(one, other)
    assert data.notes() == []
