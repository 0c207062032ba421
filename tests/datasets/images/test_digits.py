"""Handwritten digits in noise: what makes them a fair task."""

from itertools import chain

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gim_bench.contract import Split
from gim_bench.datasets.images import digits as module
from gim_bench.datasets.images.digits import CLASSES, Digits, render, scanned_digits
from gim_bench.errors import DataError

SMALL = {
    "size": 16, "digit_size": 8.0, "unlabelled_images": 40, "train_images": 60, "test_images": 20,
    "groups": 2,
}  # fmt: skip


def digits(tmp_path, **options):
    options = Digits.Options(**(SMALL | options))
    return Digits(options=options, data_dir=None, cache_dir=tmp_path)


def instances(data, split):
    """{source: the digits that its images may show}."""
    sources = np.unique(data.split(split).sources).tolist()
    return {source: set(data._instances(source).tolist()) for source in sources}


# -- instances -----------------------------------------------------------------------------------


def test_no_digit_instance_is_in_two_splits(tmp_path):
    data = digits(tmp_path)
    shown = {split: set().union(*instances(data, split).values()) for split in Split}
    assert all(shown.values())
    assert not shown[Split.UNLABELLED] & shown[Split.TRAIN]
    assert not shown[Split.TEST] & (shown[Split.UNLABELLED] | shown[Split.TRAIN])


def test_all_digits_are_used_where_every_group_has_an_image(tmp_path):
    data = digits(tmp_path)
    assert len(set().union(*(i for split in Split for i in instances(data, split).values()))) == (
        1797
    )


@pytest.mark.parametrize("groups", [2, 20, 40])
def test_no_digit_instance_is_in_two_sources_and_every_source_has_some(tmp_path, groups):
    data = digits(tmp_path, groups=groups)
    sources = [data._instances(source).tolist() for source in range(len(Split) * CLASSES * groups)]
    assert all(sources)
    everything = list(chain.from_iterable(sources))
    assert len(everything) == len(set(everything)) == 1797


def test_the_digits_of_a_source_have_the_label_of_its_images(tmp_path):
    data = digits(tmp_path)
    labels = load_digits().target
    train = data.split(Split.TRAIN)
    for source, label in zip(train.sources.tolist(), train.labels["class"], strict=True):
        assert set(labels[data._instances(source)].tolist()) == {label}


def test_an_image_shows_digits_of_its_source_alone(tmp_path, monkeypatch):
    """Where each digit is a flat field of its own number, and nothing else is drawn."""
    data = digits(tmp_path)
    numbers = np.arange(1797.0)[:, None, None] * np.ones((1, 8, 8))
    monkeypatch.setattr(data, "_digits", numbers)
    shown = []

    def watched(chosen, *, size, **options):
        shown.append(chosen[:, :, 0, 0].long().tolist())
        return torch.zeros(len(chosen), 1, size, size, dtype=torch.uint8)

    monkeypatch.setattr(module, "render", watched)
    list(data._rendered(Split.TRAIN))
    sources = data._sources(Split.TRAIN).tolist()
    for source, of_image in zip(sources, chain.from_iterable(shown), strict=True):
        assert set(of_image) <= set(data._instances(source).tolist())


# -- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "images"), [("unlabelled", 40), ("train", 60), ("test", 20)])
def test_splits_hold_as_many_images_as_asked(tmp_path, split, images):
    examples = digits(tmp_path, size=24).split(Split(split))
    assert examples.images.shape == (images, 1, 24, 24)
    assert examples.images.dtype == np.uint8
    assert examples.sources.shape == (images,)


def test_classes_are_equally_frequent_and_the_unlabelled_split_has_none(tmp_path):
    data = digits(tmp_path)
    for split, images in ((Split.TRAIN, 6), (Split.TEST, 2)):
        assert np.bincount(data.split(split).labels["class"]).tolist() == [images] * CLASSES
    assert not data.split(Split.UNLABELLED).labels


def test_the_histogram_of_intensities_says_nothing(tmp_path):
    """All images have the same histogram, whatever their digit."""
    for split in Split:
        images = digits(tmp_path).split(split).images
        histograms = [np.bincount(image.ravel(), minlength=256) for image in images]
        assert (np.stack(histograms) == 1).all()


def test_two_makings_are_alike(tmp_path):
    for split in Split:
        one, other = (digits(tmp_path / name).split(split) for name in ("one", "other"))
        assert np.array_equal(one.images, other.images)


def test_more_images_leave_the_first_as_they_were(tmp_path, monkeypatch):
    """Images are drawn in whole chunks, one after the other."""
    monkeypatch.setattr(module, "CHUNK_IMAGES", 20)
    few = digits(tmp_path, train_images=20).split(Split.TRAIN).images
    more = digits(tmp_path, train_images=40).split(Split.TRAIN).images
    assert np.array_equal(few, more[:20])


def test_a_digit_without_noise_is_seen_where_it_is_placed():
    """One white field of 8×8, as large as the image, covers most of it and no corner."""
    field = torch.zeros(1, 9, 8, 8, dtype=torch.float64)
    field[:, 4] = 1  # the digit in the middle
    draw = np.random.default_rng(0)
    image = render(field, size=40, digits_per_side=1, digit_size=20, noise=0.0, draw=draw)[0, 0]
    values = image.double()
    ends = torch.quantile(values, torch.tensor([0.1, 0.9], dtype=torch.float64))
    bright, dark = (values >= ends[1]).nonzero().double(), (values <= ends[0]).nonzero().double()
    spreads = sorted([bright.std().item(), dark.std().item()])
    assert spreads[0] < 9 < spreads[1]  # the field is in one place, the background all around


# -- files and fingerprints ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"size": 24}, {"digits_per_side": 1}, {"digit_size": 9.0}, {"noise": 0.1}, {"groups": 3},
     {"unlabelled_images": 41}, {"train_images": 61}, {"test_images": 21}],
)  # fmt: skip
def test_every_option_changes_the_fingerprint(tmp_path, change):
    assert digits(tmp_path, **change).fingerprint() != digits(tmp_path).fingerprint()


def test_the_version_of_the_generator_changes_the_fingerprint(tmp_path, monkeypatch):
    before = digits(tmp_path).fingerprint()
    monkeypatch.setattr(module, "GENERATOR_VERSION", module.GENERATOR_VERSION + 1)
    assert digits(tmp_path).fingerprint() != before


def test_the_fingerprint_needs_no_images(tmp_path):
    digits(tmp_path).fingerprint()
    assert list(tmp_path.iterdir()) == []


def test_images_are_drawn_once(tmp_path, monkeypatch):
    digits(tmp_path).prepare()
    monkeypatch.setattr(module, "render", None)
    digits(tmp_path).split(Split.TEST)


def test_damaged_images_are_found_and_drawn_again(tmp_path):
    data = digits(tmp_path)
    intact = np.array(data.split(Split.TEST).images)
    data.verify()
    data._path(Split.TEST).write_bytes(bytes(intact.size))
    assert np.array_equal(digits(tmp_path).split(Split.TEST).images, intact)


def test_images_that_differ_from_the_digits_are_named(tmp_path, monkeypatch):
    data = digits(tmp_path)
    data.prepare()
    monkeypatch.setattr(module, "JITTER_PIXELS", 3.0)  # as if drawn otherwise, under one version
    with pytest.raises(DataError, match=r"digits: .*-unlabelled\.bin differs .*remove the file"):
        digits(tmp_path).verify()


def test_a_disk_without_room_is_named(tmp_path):
    (tmp_path / "digits").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=r"digits: cannot keep the images .*make room for 0 MB"):
        digits(tmp_path).split(Split.TEST)


@pytest.mark.parametrize("is_found", [True, False])
def test_the_digits_are_those_of_scikit_learn_whichever_way_they_are_read(is_found, monkeypatch):
    if not is_found:
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    images, labels = scanned_digits()
    known = load_digits()
    assert np.array_equal(images, known.images)
    assert images.dtype == known.images.dtype
    assert np.array_equal(labels, known.target)
