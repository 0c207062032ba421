"""Validation where many images have one source, as crops of a photograph have."""

import numpy as np
import pytest
import torch

from gim_bench import seeding
from gim_bench.contract import Images, Target
from gim_bench.datasets.images.crops import ImageBatches
from gim_bench.probing.questions import question, validation_items
from gim_bench.settings.augmentations import CropSettings
from gim_bench.settings.probing import LogisticRegressionSettings

CLASSES, SOURCES, EACH = 8, 4, 5  # classes, sources of a class, images of a source
CLASS = Target(name="class", classes=tuple("abcdefgh"))
SEEDS = range(30)


def batches(seed, *, unlabelled=(), mixed=False):
    """Images of 32 sources; a source has one class or, where `mixed`, several."""
    images = CLASSES * SOURCES * EACH
    sources = np.arange(images, dtype=np.int64) // EACH
    labels = np.arange(images, dtype=np.int64) % CLASSES if mixed else sources // SOURCES
    labels[list(unlabelled)] = -1
    return ImageBatches(
        Images(
            images=np.zeros((images, 1, 8, 8), dtype=np.uint8),
            labels={"class": labels},
            sources=sources,
        ),
        augmentation=CropSettings(kind="crop", crop=8, mean=(0.5,), std=(0.25,)),
        batch_size=8,
        stream=("photos", seed),
        device=torch.device("cpu"),
    )


def asked(train, **changes):
    return question(train, CLASS, settings=LogisticRegressionSettings(**changes))


@pytest.mark.parametrize(("share", "least", "most"), [(0.2, 0, 1), (0.25, 1, 1), (0.6, 2, 3)])
def test_every_class_has_the_same_share_of_its_sources_in_validation(share, least, most):
    for seed in SEEDS:
        found = asked(batches(seed), validation_fraction=share)
        validating = found.labels[found.validating].bincount(minlength=CLASSES) // EACH
        assert int(validating.sum()) == round(share * CLASSES * SOURCES)
        assert least <= int(validating.min()) <= int(validating.max()) <= most


def test_another_seed_validates_on_other_sources():
    found = {tuple(asked(batches(seed)).validation_items.tolist()) for seed in SEEDS}
    assert len(found) > len(SEEDS) // 2


@pytest.mark.parametrize("mixed", [False, True])
def test_no_source_both_fits_and_validates(mixed):
    found = asked(batches(0, mixed=mixed))
    fitting, validating = (
        set((found.places[chosen] // EACH).tolist())
        for chosen in (~found.validating, found.validating)
    )
    assert fitting.isdisjoint(validating)
    assert len(fitting | validating) == CLASSES * SOURCES


def test_images_without_a_label_are_left_out_with_their_source():
    """An encoder that was trained on them would know the source that validates."""
    for seed in SEEDS:
        train = batches(seed, unlabelled=range(0, 160, EACH))
        held = validation_items(train, [CLASS], settings=LogisticRegressionSettings())
        assert len(held) % EACH == 0
        assert (
            held.tolist() == torch.isin(train.groups, train.groups[held]).nonzero()[:, 0].tolist()
        )


def test_images_beyond_the_labelled_share_are_left_out_with_their_source():
    train = batches(0)
    few = LogisticRegressionSettings(labelled_fraction=0.4)
    held = validation_items(train, [CLASS], settings=few)
    assert set(held.tolist()) > set(asked(train, labelled_fraction=0.4).items.tolist()) & set(
        held.tolist()
    )
    assert len(held) % EACH == 0


# -- few labels ------------------------------------------------------------------------------------


def few(seed, *of_each_class):
    """Images without sources, as many of each class as the numbers say."""
    labels = np.repeat(np.arange(len(of_each_class)), of_each_class).astype(np.int64)
    return ImageBatches(
        Images(images=np.zeros((len(labels), 1, 8, 8), np.uint8), labels={"class": labels}),
        augmentation=CropSettings(kind="crop", crop=8, mean=(0.5,), std=(0.25,)),
        batch_size=2,
        stream=("few", seed),
        device=torch.device("cpu"),
    )


# case 10
@pytest.mark.parametrize("counts", [(2, 1), (2,) * 8, (1, 1, 1, 1, 6), (3, 2, 1), (20, 1, 1)])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_every_class_keeps_an_image_for_fitting(counts, share):
    for seed in SEEDS:
        found = asked(few(seed, *counts), validation_fraction=share)
        fitting = found.labels[~found.validating].bincount(minlength=len(counts))
        assert int(fitting.min()) >= 1
        assert int(found.validating.sum()) >= 1


def test_classes_with_many_images_are_held_out_as_ever():
    """The first places of one random order, as in results version 4."""
    for seed in SEEDS:
        draw = seeding.generator("validation", "few", seed)
        held = torch.randperm(80, generator=draw)[:16].sort().values
        assert asked(few(seed, *[20] * 4)).validation_items.tolist() == held.tolist()
