"""The photographs of scikit-image: what makes their crops a fair task."""

import numpy as np
import pytest

from gim_bench.contract import Split
from gim_bench.datasets.images import photos as module
from gim_bench.datasets.images.photos import PHOTOGRAPHS, Photos
from gim_bench.errors import DataError

SMALL = {"unlabelled_crops": 4, "train_crops": 3, "test_crops": 2}


def photos(tmp_path, **options):
    options = Photos.Options(**(SMALL | options))
    return Photos(options=options, data_dir=None, cache_dir=tmp_path)


def crops_of(data, photograph, *, split, crops):
    places = data._places(photograph, name="photograph", split=split, crops=crops)
    return module._cut(photograph, places, size=data.options.size)


@pytest.fixture
def where():
    """A 'photograph' whose pixels tell their own column, and one whose pixels tell their row."""
    columns = np.broadcast_to(np.arange(203, dtype=np.uint8), (3, 100, 203))
    return {"columns": columns, "rows": columns.transpose(0, 2, 1)}


@pytest.mark.parametrize("stripes", [2, 3, 4])
def test_training_and_test_crops_share_no_column_of_pixels(tmp_path, where, stripes):
    data = photos(tmp_path, stripes=stripes)
    seen = {
        split: set(crops_of(data, where["columns"], split=split, crops=500).ravel().tolist())
        for split in Split
    }
    assert not seen[Split.TEST] & (seen[Split.TRAIN] | seen[Split.UNLABELLED])
    # All of the stripes is used: nothing but the columns left over at the right is never seen.
    assert len(seen[Split.TEST] | seen[Split.TRAIN]) == 203 // stripes * stripes


def test_every_crop_lies_within_one_stripe(tmp_path, where):
    data = photos(tmp_path, stripes=4)
    crops = crops_of(data, where["columns"], split=Split.TRAIN, crops=500)
    stripes = crops // 50  # 203 columns in 4 stripes of 50
    assert (stripes.min(axis=(1, 2, 3)) == stripes.max(axis=(1, 2, 3))).all()


def test_crops_are_contiguous_squares_of_the_photograph(tmp_path, where):
    data = photos(tmp_path, size=36, stripes=4)
    columns = crops_of(data, where["columns"], split=Split.TEST, crops=5).astype(int)
    assert columns.shape == (5, 3, 36, 36)
    assert (np.diff(columns, axis=3) == 1).all()


def test_crops_have_no_source_unless_asked(tmp_path):
    assert all(photos(tmp_path).split(split).sources is None for split in Split)


def test_the_source_of_a_crop_is_its_stripe_of_its_photograph(tmp_path, where, monkeypatch):
    """Where the pixels tell the column, and so the stripe; both photographs are alike."""
    alike = where["columns"].copy()
    monkeypatch.setattr(module, "PHOTOGRAPHS", {"one": "one.png", "two": "two.png"})
    monkeypatch.setattr(Photos, "_photographs", [alike, alike])
    data = photos(tmp_path, stripes=4, stripes_are_sources=True, train_crops=50)
    train = data.split(Split.TRAIN)
    stripes = train.images[:, 0, 0, 0] // 50  # 203 columns in 4 stripes of 50
    assert np.array_equal(train.sources, 4 * train.labels["class"] + stripes)
    assert set(train.sources.tolist()) == {0, 2, 4, 6}


def test_sources_change_no_crop(tmp_path):
    one = photos(tmp_path).split(Split.TRAIN)
    other = photos(tmp_path, stripes_are_sources=True).split(Split.TRAIN)
    assert np.array_equal(one.images, other.images)


def test_two_makings_are_alike(tmp_path):
    for split in Split:
        one, other = photos(tmp_path).split(split), photos(tmp_path).split(split)
        assert np.array_equal(one.images, other.images)


def test_unlabelled_and_train_crops_are_drawn_apart(tmp_path):
    data = photos(tmp_path, train_crops=4)
    unlabelled, train = data.split(Split.UNLABELLED), data.split(Split.TRAIN)
    assert not np.array_equal(unlabelled.images, train.images)


@pytest.mark.parametrize(("split", "crops"), [("unlabelled", 4), ("train", 3), ("test", 2)])
def test_splits_hold_as_many_crops_of_each_photograph_as_asked(tmp_path, split, crops):
    examples = photos(tmp_path).split(Split(split))
    assert examples.images.shape == (16 * crops, 3, 36, 36)
    assert examples.images.dtype == np.uint8
    if examples.labels:
        assert np.bincount(examples.labels["class"]).tolist() == [crops] * 16


def test_only_the_unlabelled_split_lacks_labels(tmp_path):
    data = photos(tmp_path)
    without = [split for split in Split if not data.split(split).labels]
    assert without == [Split.UNLABELLED]


def test_labels_number_the_classes(tmp_path):
    data = photos(tmp_path)
    train = data.split(Split.TRAIN)
    gray = [name for name in PHOTOGRAPHS if name in {"camera", "moon", "coins", "text"}]
    (target,) = data.targets()
    for name in gray:  # photographs without colour are told by equal channels
        images = train.images[train.labels["class"] == target.classes.index(name)]
        assert (images[:, 0] == images[:, 1]).all()


@pytest.mark.parametrize(
    "change",
    [
        {"size": 32},
        {"stripes": 2},
        {"unlabelled_crops": 5},
        {"train_crops": 5},
        {"test_crops": 5},
        {"stripes_are_sources": True},
    ],
)
def test_every_option_changes_the_fingerprint(tmp_path, change):
    assert photos(tmp_path, **change).fingerprint() != photos(tmp_path).fingerprint()


def test_an_option_that_is_added_later_changes_the_fingerprint_only_where_it_is_set(tmp_path):
    """The fingerprint is in every key, and keys stay when an option is added."""

    class Later(Photos.Options):
        tilt: int = 0

    def fingerprint(**options):
        return Photos(options=Later(**options), data_dir=None, cache_dir=tmp_path).fingerprint()

    own = Photos(options=Photos.Options(), data_dir=None, cache_dir=tmp_path).fingerprint()
    assert fingerprint() == own
    assert fingerprint(tilt=5) != own


def test_the_same_options_give_the_same_fingerprint(tmp_path):
    assert photos(tmp_path).fingerprint() == photos(tmp_path / "elsewhere").fingerprint()


def test_crops_too_large_for_a_stripe_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match=r"no room for crops of 200 pixels: lower dataset\.size"):
        photos(tmp_path, size=200).split(Split.TRAIN)


def test_nothing_is_fetched_and_everything_verifies(tmp_path):
    data = photos(tmp_path)
    data.prepare()
    data.verify()
    assert list(tmp_path.iterdir()) == []
