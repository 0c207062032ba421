"""K-means patches: the paper's formulas, slowly; what is fitted, and when fitting is refused."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from baselines.kmeans_patches import CONTRAST_FLOOR, PATCHES_PER_IMAGE, normalised
from gim_bench import registry, seeding
from gim_bench.contract import Batch, Modality
from gim_bench.errors import ConfigError, DataError
from tests.conftest import CROP, build_tiny, tiny_setup

SMALL = {"patch_size": 4, "components": 5, "centroids": 7, "stride": 3}


def images(number: int = 30, *, seed: int = 0) -> torch.Tensor:
    """Noise that is smooth along rows, so that some components are larger than others."""
    draw = seeding.generator("tests", "kmeans", seed)
    noise = torch.randn(number, 1, CROP, CROP, generator=draw)
    return noise + noise.roll(1, dims=3) + noise.roll(2, dims=3)


def batches(*, of: int = 10, number: int = 30) -> Iterator[Batch]:
    for inputs in images(number).split(of):
        yield Batch(inputs=inputs, labels={})


def fitted(*, seed: int = 0, **options):
    learner = build_tiny("kmeans_patches", seed=seed, **SMALL | options).learner
    learner.fit_without_gradients(batches())
    return learner


def features_of(learner, inputs: torch.Tensor) -> np.ndarray:
    (features,) = learner.features(inputs).values()
    return features[:, 0].double().numpy()


def triangle(patch: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """f_k = max(0, μ(z) - z_k), z_k = ‖x - c_k‖ (Coates, Lee and Ng 2011, section 3.2.2)."""
    z = [np.sqrt(((patch - centroid) ** 2).sum()) for centroid in centroids]
    return np.array([max(0.0, np.mean(z) - distance) for distance in z])


def activations(learner, image: np.ndarray) -> np.ndarray:
    """Of every place of the stride, [row column k], a patch at a time."""
    whitening = {name: x.double().numpy() for name, x in learner.encoder.state_dict().items()}
    size, stride = SMALL["patch_size"], SMALL["stride"]
    places = range(0, CROP - size + 1, stride)
    found = []
    for top in places:
        for left in places:
            patch = image[top : top + size, left : left + size].ravel()
            patch = (patch - patch.mean()) / np.sqrt(patch.var() + CONTRAST_FLOOR)
            white = (patch - whitening["mean"]) @ whitening["whitening"]
            found.append(triangle(white, whitening["centroids"]))
    return np.array(found).reshape(len(places), len(places), -1)


# -- features --------------------------------------------------------------------------------------


def test_features_are_the_mean_of_the_paper_s_activations():
    learner, inputs = fitted(), images(2, seed=1)
    expected = [activations(learner, image.double().numpy()).mean((0, 1)) for image in inputs[:, 0]]
    np.testing.assert_allclose(features_of(learner, inputs), expected, atol=1e-4)


def test_quadrants_have_means_of_their_own():
    """Ten places a side: five in each half."""
    learner, inputs = fitted(quadrants=True), images(1, seed=1)
    grid = activations(learner, inputs[0, 0].double().numpy())
    assert grid.shape == (10, 10, 7)
    halves = (slice(0, 5), slice(5, 10))
    means = np.array([[grid[rows, columns].mean((0, 1)) for columns in halves] for rows in halves])
    expected = means.transpose(2, 0, 1).ravel()
    np.testing.assert_allclose(features_of(learner, inputs)[0], expected, atol=1e-4)


def test_images_that_do_not_fit_at_once_have_the_same_features(monkeypatch):
    learner, inputs = fitted(), images(9, seed=1)
    whole = features_of(learner, inputs)
    monkeypatch.setattr("baselines.kmeans_patches.HELD_VALUES", 2 * 100 * 7)  # two images
    np.testing.assert_allclose(features_of(learner, inputs), whole, atol=1e-5)


def test_gain_and_brightness_hardly_change_features():
    """But for the paper's 10 squared gray levels under the root."""
    learner, inputs = fitted(), images(3, seed=1)
    found = features_of(learner, 4 * inputs + 1)
    np.testing.assert_allclose(found, features_of(learner, inputs), atol=0.02)


def test_a_flat_patch_is_normalised_to_nothing():
    """But for rounding."""
    assert normalised(torch.full((2, 16), 0.7)).abs().max() < 1e-4


# -- fitting ---------------------------------------------------------------------------------------


def test_whitened_patches_have_variance_one_and_no_covariance():
    """But for the floor, which is small beside the largest components of these images."""
    learner = fitted(components=3, whitening_floor=1e-6)
    inputs = images()
    patches = normalised(torch.nn.functional.unfold(inputs, 4).transpose(1, 2)).flatten(0, 1)
    white = (patches - learner.encoder.mean) @ learner.encoder.whitening
    torch.testing.assert_close(torch.cov(white.T), torch.eye(3), rtol=0, atol=0.25)


def test_centroids_are_means_of_the_patches_that_are_nearest_to_them():
    """Of blobs that lie far apart, k-means finds the centres."""
    learner = fitted(components=2, centroids=3)
    draw = seeding.generator("tests", "blobs")
    centres = torch.randn(3, 16, generator=draw) * 10
    blobs = centres.repeat(200, 1) + 0.01 * torch.randn(600, 16, generator=draw)
    learner.encoder.fit(blobs, floor=1e-6, seed=0)
    whitened = (centres - learner.encoder.mean) @ learner.encoder.whitening
    distances = torch.cdist(learner.encoder.centroids, whitened)
    assert sorted(distances.argmin(1).tolist()) == [0, 1, 2]
    assert distances.min(1).values.max() < 0.01


@pytest.mark.parametrize("threads", [1, 2])
def test_fitting_again_gives_the_same_centroids_on_any_number_of_threads(threads):
    expected = fitted().encoder.state_dict()
    with threadpool_limits(threads):
        again = fitted().encoder.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.items())


def test_another_seed_draws_other_patches_and_centroids():
    one, other = (fitted(seed=seed).encoder.centroids for seed in (0, 1))
    assert not torch.equal(one, other)


def test_fitting_takes_no_more_batches_than_it_needs():
    learner = build_tiny(
        "kmeans_patches", **SMALL, fitted_patches=10 * PATCHES_PER_IMAGE + 1
    ).learner
    given = batches(of=10)
    learner.fit_without_gradients(given)
    assert len(list(given)) == 1  # of three


def test_fewer_patches_than_centroids_are_refused_with_the_numbers():
    """Eight images with twenty patches each."""
    with pytest.raises(DataError, match="has 160 patches of unlabelled images for 1000 centroids"):
        build_tiny("kmeans_patches", **SMALL | {"centroids": 1000})


def test_a_patch_larger_than_the_crop_is_refused():
    method = registry.method("kmeans_patches")
    options = method.Options(patch_size=CROP + 1)
    with pytest.raises(ConfigError, match=r"patch_size is 33, but images are cropped to 32 pixels"):
        method.check(options, setup=tiny_setup(Modality.IMAGE))


def test_patches_are_a_third_of_a_small_image_by_default():
    assert build_tiny("kmeans_patches").learner.patch_size == CROP // 3
