"""Tiny data, encoders and learners that tests share."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from gim_bench import registry, seeding
from gim_bench.config import EncoderSettings, InfoNCESettings
from gim_bench.contract import Batch, Ingredients, Learner
from gim_bench.nn.resnet import ResNetEncoder

TINY_ENCODER = EncoderSettings(width=4, blocks=(1, 1, 1), patch_size=8, patch_overlap=4)
CROP = 32  # pixels: a grid of 7×7 patches
CLASSES = 3
IMAGES = 8


class Tiny(NamedTuple):
    """A learner on a tiny encoder, and the generator that its negatives come from."""

    learner: Learner
    negatives: torch.Generator


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `method_name` runs for every registered method."""
    if "method_name" in metafunc.fixturenames:
        metafunc.parametrize("method_name", sorted(registry.methods()))


@pytest.fixture
def tiny_batch() -> Batch:
    """Eight gray 32×32 images, labelled, with the mean 0 and deviation 1 of normalised ones."""
    draw = seeding.generator("tests", "batch")
    return Batch(
        inputs=torch.randn(IMAGES, 1, CROP, CROP, generator=draw),
        labels=torch.arange(IMAGES) % CLASSES,
    )


@pytest.fixture
def tiny() -> Callable[..., Tiny]:
    """Builds the tiny learner of a method: `tiny("gim", seed=0)`."""

    def build(name: str, *, seed: int = 0) -> Tiny:
        method = registry.method(name)
        with seeding.weights_from("encoder", seed):
            encoder = ResNetEncoder(TINY_ENCODER, in_channels=1)
        negatives = seeding.generator("negatives", name, seed)
        ingredients = Ingredients(
            encoder=encoder,
            classes=CLASSES,
            info_nce=InfoNCESettings(),
            options=method.Options(),
            negatives=negatives,
        )
        with seeding.weights_from("heads", name, seed):
            return Tiny(method(ingredients), negatives)

    return build
