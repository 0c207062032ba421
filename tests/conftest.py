"""Tiny data, encoders and learners that tests share."""

import importlib
from collections.abc import Callable, Mapping
from importlib import metadata

import pytest
import torch

from gim_bench import seeding
from gim_bench.config import EncoderSettings, InfoNCESettings
from gim_bench.contract import Batch, Ingredients, Learner
from gim_bench.nn.resnet import ResNetEncoder

TINY_ENCODER = EncoderSettings(width=4, blocks=(1, 1, 1), patch_size=8, patch_overlap=4)
CROP = 32  # pixels: a grid of 7×7 patches
CLASSES = 3
IMAGES = 8


def registered_methods() -> Mapping[str, str]:
    """Every method that an installed package registers, name -> "module:Class"."""
    entry_points = metadata.entry_points(group="gim_bench.methods")
    return {
        name: target for point in entry_points for name, target in sorted(point.load().items())
    }


def method_class(name: str) -> type[Learner]:
    module, _, attribute = registered_methods()[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `method_name` runs for every registered method."""
    if "method_name" in metafunc.fixturenames:
        metafunc.parametrize("method_name", sorted(registered_methods()))


@pytest.fixture
def tiny_batch() -> Batch:
    """Eight gray 32×32 images, labelled, with the mean 0 and deviation 1 of normalised ones."""
    draw = seeding.generator("tests", "batch")
    return Batch(
        inputs=torch.randn(IMAGES, 1, CROP, CROP, generator=draw),
        labels=torch.arange(IMAGES) % CLASSES,
    )


@pytest.fixture
def build_learner() -> Callable[..., Learner]:
    """Builds the tiny learner of a method: `build_learner("gim", seed=0)`."""

    def build(name: str, *, seed: int = 0) -> Learner:
        method = method_class(name)
        with seeding.weights_from("encoder", seed):
            encoder = ResNetEncoder(TINY_ENCODER, in_channels=1)
        ingredients = Ingredients(
            encoder=encoder,
            classes=CLASSES,
            info_nce=InfoNCESettings(),
            options=method.Options(),
            negatives=seeding.generator("negatives", name, seed),
        )
        with seeding.weights_from("heads", name, seed):
            return method(ingredients)

    return build
