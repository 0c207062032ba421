"""Histograms and local binary patterns: numpy's, scikit-image's, and what flat images have."""

from math import pi

import numpy as np
import pytest
import torch
from skimage.feature import local_binary_pattern

from baselines.image_statistics import (
    REACH,
    UNIFORM_PATTERNS,
    gradients,
    histogram,
    in_bins,
    uniform_patterns,
)
from gim_bench import seeding
from tests.conftest import CROP, build_tiny

BINS = 16


def images(number: int = 3, *, height: int = 13, width: int = 17) -> torch.Tensor:
    """Noise: no two pixels are alike, so no neighbour ties with its centre."""
    draw = seeding.generator("tests", "image statistics")
    return torch.randn(number, height, width, generator=draw, dtype=torch.float64)


def features_of(inputs: torch.Tensor, **options) -> torch.Tensor:
    (features,) = build_tiny("image_statistics", **options).learner.features(inputs).values()
    return features[:, 0]


# -- local binary patterns -------------------------------------------------------------------------


def test_patterns_are_scikit_image_s_under_other_numbers():
    """One number of ours for each of theirs, and the other way round, pixel by pixel."""
    ours, theirs = [], []
    for image in images(40):
        ranks = image.flatten().argsort().argsort().view(image.shape)  # 0 to 220: a byte
        ours += uniform_patterns(ranks.double()[None])[0].flatten().tolist()
        found = local_binary_pattern(ranks.byte().numpy(), 8, 1, method="nri_uniform")
        theirs += found[1:-1, 1:-1].astype(int).flatten().tolist()
    pairs = set(zip(ours, theirs, strict=True))
    assert len(pairs) == len(set(ours)) == len(set(theirs)) == UNIFORM_PATTERNS


def test_all_neighbours_of_a_flat_image_are_as_bright_as_their_centre():
    """Whatever its gray level, and although diagonal neighbours are interpolated."""
    flat = torch.linspace(-2, 2, 101)[:, None, None].expand(-1, 5, 5)
    bright = torch.full((1, 3, 3), 1.0)
    bright[0, 1, 1] = 0.0
    assert (uniform_patterns(flat) == uniform_patterns(bright)).all()


def test_gain_and_offset_change_no_pattern():
    assert torch.equal(uniform_patterns(images()), uniform_patterns(3 * images() - 7))


# -- histograms ------------------------------------------------------------------------------------


def test_a_histogram_has_numpy_s_shares():
    values = images().flatten(1)
    found = histogram(in_bins(values, low=-4, high=4, bins=BINS), bins=BINS)
    for ours, row in zip(found, values, strict=True):
        counts, _ = np.histogram(row.numpy(), bins=BINS, range=(-4, 4))
        np.testing.assert_allclose(ours, counts / row.numel(), rtol=1e-6)


def test_the_outer_bins_hold_what_lies_beyond_them():
    places = in_bins(torch.tensor([[-9.0, -1.0, 0.99, 1.0, 9.0]]), low=-1, high=1, bins=4)
    assert places.tolist() == [[0, 0, 3, 3, 3]]


def test_histograms_of_gradients_are_numpy_s():
    found = gradients(images(), bins=BINS)
    for ours, image in zip(found, images().numpy(), strict=True):
        down, right = (slope[1:-1, 1:-1] for slope in np.gradient(image))
        magnitude, turn = np.hypot(down, right), np.arctan2(down, right) % pi
        of_magnitude, _ = np.histogram(magnitude.clip(0, REACH), bins=BINS, range=(0, REACH))
        of_turn, _ = np.histogram(turn, bins=BINS, range=(0, pi), weights=magnitude)
        expected = np.concatenate([of_magnitude / magnitude.size, of_turn / magnitude.sum()])
        np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize(("image", "turn"), [("columns", 0), ("rows", BINS // 2)])
def test_a_ramp_has_all_its_weight_in_the_bin_of_its_direction(image, turn):
    ramp = torch.arange(8.0).expand(8, 8)
    ramp = ramp if image == "columns" else ramp.T
    of_turn = gradients(ramp[None], bins=BINS)[0, BINS:]
    assert of_turn.nonzero().tolist() == [[turn]]
    assert of_turn[turn] == pytest.approx(1)


# -- features --------------------------------------------------------------------------------------


def test_a_flat_image_has_one_intensity_one_pattern_no_slope_and_no_direction():
    found = features_of(torch.full((1, 1, CROP, CROP), 0.4))[0]
    intensity, magnitude, turn, patterns = found.split([32, 16, 16, UNIFORM_PATTERNS])
    assert intensity.nonzero().tolist() == [[18]]  # 0.4 of -3..3 in 32 bins
    assert magnitude.nonzero().tolist() == [[0]]
    assert not turn.any()
    assert patterns.count_nonzero() == 1


def test_where_things_are_in_the_image_says_nothing():
    """Tiles in another order have the same features, but for the seams: whole tiles are flat."""
    tiles = torch.tensor([[-1.0, 0.0], [0.5, 2.0]])
    image = tiles.repeat_interleave(8, 0).repeat_interleave(8, 1)[None, None]
    turned = features_of(image.flip(2, 3))[:, :32]
    torch.testing.assert_close(features_of(image)[:, :32], turned)


def test_channels_have_features_of_their_own():
    inputs = images(6, height=CROP, width=CROP).float().view(2, 3, CROP, CROP)
    whole = features_of(inputs)
    apart = [features_of(inputs[:, channel : channel + 1]) for channel in range(3)]
    torch.testing.assert_close(whole, torch.cat(apart, dim=1))
