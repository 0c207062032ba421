"""Pictures of the patches that excite the neurons of finished cells."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from gim_bench.cells.patches import Sizes, draw_patches, png
from gim_bench.cells.run import run_cell
from gim_bench.contract import Split
from gim_bench.errors import ConfigError
from gim_bench.records.patches import pictures_of
from tests.tiny_suite import tiny_cell

SIZES = Sizes(neurons=3, patches=4)
FACTOR, LINE = 6, 2  # patches of 8 pixels are shown with 48


@pytest.fixture
def drawn(suite, bench, archive, done):
    cell = tiny_cell(suite, "gim")
    return draw_patches(cell, done["gim"], bench, runs=archive, sizes=SIZES)


def shown(content, *, row, column):
    """A patch of 8×8 pixels, as it stands in a picture."""
    picture = np.asarray(Image.open(io.BytesIO(content)))
    top, left = (LINE + number * (8 * FACTOR + LINE) for number in (row, column))
    return picture[top : top + 8 * FACTOR : FACTOR, left : left + 8 * FACTOR : FACTOR, 0]


def patch_of(images, image, place):
    """A patch of 8×8 pixels in the 5×5 grid of the centre crop of 24 of 26 pixels."""
    row, column = divmod(place, 5)
    return images[image, 0, 1 + 4 * row : 9 + 4 * row, 1 + 4 * column : 9 + 4 * column]


def test_there_is_a_picture_for_each_module(drawn):
    assert [picture.file for picture in drawn.facts.pictures] == ["module_1.png", "module_2.png"]
    assert all(path.is_file() for path in drawn.files)


def test_patches_are_of_test_images(drawn, bench, suite):
    tested = bench.images(Split.TEST, augmentation=suite.augmentation).images
    for picture in drawn.facts.pictures:
        for row, places in enumerate(picture.places):
            for column, (image, place) in enumerate(places):
                patch = shown(drawn.contents[picture.file], row=row, column=column)
                assert np.array_equal(patch, patch_of(tested, image, place))


def test_at_most_so_many_images_are_looked_at(suite, bench, archive, done):
    cell = tiny_cell(suite, "gim")
    few = draw_patches(cell, done["gim"], bench, runs=archive, sizes=replace(SIZES, images=6))
    numbers = {i for picture in few.facts.pictures for row in picture.places for i, _ in row}
    assert few.facts.images == 6
    assert len(numbers) <= 6


def test_all_methods_look_at_the_same_images(suite, bench, archive, done):
    sizes = Sizes(neurons=3, patches=6, images=6)
    seen = []
    for method in ("gim", "random_init"):
        cell = tiny_cell(suite, method)
        found = draw_patches(cell, done[method], bench, runs=archive, sizes=sizes)
        rows = [row for picture in found.facts.pictures for row in picture.places]
        seen.append({image for row in rows for image, _ in row})
    assert seen[0] == seen[1]


def test_the_same_encoder_gives_the_same_files(suite, bench, archive, done, drawn):
    cell = tiny_cell(suite, "gim")
    again = draw_patches(cell, done["gim"], bench, runs=archive, sizes=SIZES)
    assert again == drawn


def test_pictures_leave_the_record_as_it_is(suite, archive, done, drawn):
    cell = tiny_cell(suite, "gim")
    assert archive.find("tiny", "gim", seed=0, key=cell.key) is not None
    assert pictures_of(done["gim"], folder=archive.folder_of(done["gim"])) == drawn


def test_lost_pictures_cost_no_training(archive, done, drawn):
    drawn.files[0].unlink()
    record = done["gim"]
    assert pictures_of(record, folder=archive.folder_of(record)) is None
    assert archive.find("tiny", "gim", seed=0, key=record.key) is not None


@pytest.mark.parametrize("file", ["module_1.png", "patches.json"])
def test_altered_pictures_do_not_count(archive, done, drawn, file):
    path = drawn.folder / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert pictures_of(done["gim"], folder=archive.folder_of(done["gim"])) is None


def test_pictures_of_another_encoder_do_not_count(archive, done, drawn):
    files = {**done["gim"].files, "encoder.safetensors": "0" * 64}
    other = replace(done["gim"], files=files)
    assert pictures_of(other, folder=archive.folder_of(other)) is None


def test_a_method_without_a_grid_is_refused(suite, bench, archive):
    cell = tiny_cell(suite, "pixels")
    record = run_cell(cell, bench, runs=archive)
    with pytest.raises(ConfigError, match="no encoder with a grid"):
        draw_patches(cell, record, bench, runs=archive, sizes=SIZES)


def test_speech_is_refused(speech_suite, speech_bench, archive, spoken):
    cell = tiny_cell(speech_suite, "gim")
    with pytest.raises(ConfigError, match="a suite of speech"):
        draw_patches(cell, spoken["gim"], speech_bench, runs=archive, sizes=SIZES)


def test_a_patch_that_the_edge_cuts_stands_in_a_place_of_full_size():
    small, large = np.zeros((1, 2, 3), np.uint8), np.full((1, 4, 4), 255, np.uint8)
    picture = np.asarray(Image.open(io.BytesIO(png([[large, small]]))))
    assert picture.shape == (4 * 12 + 4, 2 * 4 * 12 + 6, 3)
    assert (picture[2:26, 52:88] == 0).all()
    assert (picture[26:, 52:] == 128).all()


def test_colours_stay_colours():
    red = np.zeros((3, 4, 4), np.uint8)
    red[0] = 255
    picture = np.asarray(Image.open(io.BytesIO(png([[red]]))))
    assert picture[5, 5].tolist() == [255, 0, 0]
