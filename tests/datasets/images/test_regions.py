"""Windows and places of large images."""

import numpy as np
import torch

from gim_bench.datasets.images.crops import luma
from gim_bench.datasets.images.regions import PlaceBatches
from gim_bench.large_images import LargeImages
from tests.large import STRIDE, WINDOW, noise, regions
from tests.tiny_suite import CPU

PLACE = 20


def places(*images, labels, batch_size=3):
    unlabelled = regions(*images)
    return PlaceBatches(
        LargeImages(images=images, place=PLACE, labels={"class": np.array(labels)}),
        augmentation=unlabelled.augmentation,
        batch_size=batch_size,
        stream=("noise", 0),
        device=CPU,
    )


def normalised(pixels):
    return (torch.from_numpy(pixels) / 255 - 0.5) / 0.3


def test_windows_are_parts_of_the_images_at_their_places():
    images = [noise(seed=0), noise(seed=1)]
    found = regions(*images, windows=30)
    numbers = set()
    for batch, windows in zip(found.epoch(2), found.places(2), strict=True):
        for inputs, image, (top, left) in zip(batch.inputs, *windows, strict=True):
            numbers.add(int(image))
            pixels = images[image].pixels[:, top : top + WINDOW, left : left + WINDOW]
            assert torch.allclose(inputs, normalised(pixels), atol=1e-6)
            assert top % STRIDE == left % STRIDE == 0
    assert numbers == {0, 1}


def test_epochs_differ_and_each_is_the_same_every_time():
    found = regions()
    one, again, other = (
        torch.cat([batch.inputs for batch in found.epoch(number)]) for number in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_windows_stay_within_the_region_and_reach_its_corners():
    found = regions(side=52, windows=300, batch_size=300)
    (windows,) = found.places(1)
    assert [set(along.tolist()) for along in windows.corners.T] == [{0, 4, 8}] * 2


def test_a_window_as_large_as_the_region_is_the_region():
    image = noise()
    (batch,) = regions(image, window=180, windows=1, batch_size=1).epoch(1)
    assert torch.allclose(batch.inputs[0], normalised(image.pixels), atol=1e-6)


def test_places_come_image_by_image_and_row_by_row_with_their_labels():
    images = [noise(rows=45, columns=61, seed=0), noise(rows=20, columns=40, seed=1)]
    labels = [0, 1, 2, 3, 4, 5, 6, 7]  # two rows of three places, and one row of two
    found = places(*images, labels=labels)
    assert (len(found.images), found.items) == (8, 8)
    batches = list(found.in_order())
    assert torch.cat([batch.labels["class"] for batch in batches]).tolist() == labels
    inputs = torch.cat([batch.inputs for batch in batches])
    corners = [(0, r, c) for r in (0, 20) for c in (0, 20, 40)] + [(1, 0, 0), (1, 0, 20)]
    for square, (image, top, left) in zip(inputs, corners, strict=True):
        pixels = images[image].pixels[:, top : top + PLACE, left : left + PLACE]
        assert torch.allclose(square, normalised(pixels), atol=1e-6)


def test_colour_becomes_gray_as_in_small_images():
    image = noise(channels=3)
    (batch,) = regions(image, window=180, windows=1, batch_size=1).epoch(1)
    gray = luma(torch.from_numpy(image.pixels)[None])[0].numpy()
    assert torch.allclose(batch.inputs[0], normalised(gray), atol=1e-6)
