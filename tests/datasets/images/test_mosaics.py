"""Mosaics of photographs: what their squares are, and that a damaged file is made again."""

import errno
import re

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from gim_bench.contract import Split
from gim_bench.datasets.images import mosaics as module
from gim_bench.datasets.images.mosaics import Mosaics
from gim_bench.datasets.images.photos import paths_of_photographs
from gim_bench.errors import DataError

PLACE = 64


def mosaics(folder, **options):
    options = {"side": 320, "labelled_side": 256, "place": PLACE} | options
    return Mosaics(options=Mosaics.Options(**options), data_dir=None, cache_dir=folder)


def test_a_square_is_a_part_of_the_photograph_that_its_label_names(tmp_path):
    data = mosaics(tmp_path)
    for split, right in ((Split.TRAIN, False), (Split.TEST, True)):
        found = data.split(split)
        assert (len(found), found.images[0].shape) == (16, (1, 256, 256))
        for number in (0, 5, 15):
            row, column = divmod(number, 4)
            square = found.images[0].window(row * PLACE, column * PLACE, height=PLACE, width=PLACE)[
                0
            ]
            path = paths_of_photographs()[found.labels["class"][number]]
            whole = np.asarray(Image.open(path).convert("L"))
            middle = whole.shape[1] // 2
            half = whole[:, middle:] if right else whole[:, :middle]
            views = np.lib.stride_tricks.sliding_window_view(half, (PLACE, PLACE))
            corner = np.argwhere(views[:, :, 0, 0] == square[0, 0])
            assert any(np.array_equal(views[top, left], square) for top, left in corner)


def test_unlabelled_images_have_no_labels_and_a_side_of_their_own(tmp_path):
    found = mosaics(tmp_path).split(Split.UNLABELLED)
    assert (found.labels, found.images[0].shape) == ({}, (1, 320, 320))


def test_a_damaged_mosaic_is_made_again_to_the_same_bytes(tmp_path):
    mosaics(tmp_path).prepare()
    (path,) = (tmp_path / "mosaics").glob("*-test.tif")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    mosaics(tmp_path).prepare()
    assert path.read_bytes() == content


def test_other_options_are_other_data(tmp_path):
    assert mosaics(tmp_path).fingerprint() != mosaics(tmp_path, side=384).fingerprint()
    assert mosaics(tmp_path).fingerprint() == mosaics(tmp_path).fingerprint()


def test_squares_larger_than_half_a_photograph_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"^mosaics: squares of 208 pixels .* lower dataset\.place$"
    ):
        mosaics(tmp_path, place=208, side=416, labelled_side=416).split(Split.UNLABELLED)


@pytest.mark.parametrize(
    ("name", "side", "nearest"), [("side", 20, 64), ("side", 310, 320), ("labelled_side", 100, 128)]
)
def test_a_side_that_is_no_whole_number_of_squares_is_refused(tmp_path, name, side, nearest):
    said = rf"{name} = {side} is no multiple of place = 64: the nearest that works is {nearest}$"
    with pytest.raises(ValidationError) as caught:
        mosaics(tmp_path, **{name: side})
    (problem,) = caught.value.errors()
    assert re.search(said, problem["msg"])


def test_a_disk_without_room_is_one_line(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.tifffile, "imwrite", full)
    for split, room in (
        (Split.UNLABELLED, r"make room for 4 MB in .*, or lower dataset\.side$"),
        (Split.TEST, r"make room for 1 MB in .*, or lower dataset\.labelled_side$"),
    ):
        with pytest.raises(DataError, match=rf"^mosaics: cannot write .*No space left.* {room}"):
            mosaics(tmp_path, side=2048, labelled_side=1024).split(split)
    assert not list((tmp_path / "mosaics").glob("*.tif"))
