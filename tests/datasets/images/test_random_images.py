"""Random images: as many as asked for, always the same."""

import numpy as np

from gim_bench.contract import Split
from gim_bench.datasets.images.random_images import RandomImages


def data(tmp_path, **options):
    return RandomImages(options=RandomImages.Options(**options), data_dir=None, cache_dir=tmp_path)


def test_every_split_has_as_many_images_as_asked_for(tmp_path):
    for split in Split:
        found = data(tmp_path, size=12, images=5).split(split)
        assert found.images.shape == (5, 3, 12, 12)
        assert set(found.labels) == (set() if split is Split.UNLABELLED else {"class"})


def test_they_are_the_same_every_time_and_differ_between_splits(tmp_path):
    one, other = (data(tmp_path, size=12, images=5) for _ in range(2))
    assert one.fingerprint() == other.fingerprint()
    assert np.array_equal(one.split(Split.TEST).images, other.split(Split.TEST).images)
    assert not np.array_equal(one.split(Split.TRAIN).images, one.split(Split.TEST).images)


def test_another_size_is_another_fingerprint(tmp_path):
    assert data(tmp_path, size=12).fingerprint() != data(tmp_path, size=16).fingerprint()
