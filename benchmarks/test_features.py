"""What the probe reads: features of all modules of ResNet-50, gray 64×64 images, batch 16."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from benchmarks import textbook_vision
from gim_bench import registry, seeding
from gim_bench.contract import Ingredients, Learner, Target
from gim_bench.encoders.resnet import ResNetEncoder, ResNetSettings
from gim_bench.hardware import devices
from gim_bench.objectives.info_nce import InfoNCESettings
from gim_bench.settings.schema import Precision

CPU = torch.device("cpu")
PRECISION = devices.resolve_precision(Precision.AUTO, CPU)

Features = Callable[[Tensor], Sequence[Tensor]]


def images(number: int) -> Tensor:
    return torch.randn(number, 1, 64, 64, generator=seeding.generator("benchmarks", "images"))


def learner() -> Learner:
    method = registry.method("gim")
    ingredients = Ingredients(
        encoder=ResNetEncoder(ResNetSettings(kind="resnet"), in_channels=1),
        target=Target(name="class", classes=["one", "other"]),
        info_nce=InfoNCESettings(),
        options=method.Options(),
        negatives=seeding.generator("negatives", "gim", 0),
    )
    return method(ingredients).to(memory_format=torch.channels_last).eval()


def ours(learner: Learner, *, precision: Precision = PRECISION) -> Features:
    """As the probe reads them: channels last, bf16 where the CPU has it."""

    def features(images: Tensor) -> Sequence[Tensor]:
        with devices.autocast(CPU, precision):
            return [z.mean(dim=1) for z in learner.features(images).values()]

    return features


@pytest.mark.benchmark(group="features of a batch of 16 images, paper size")
@pytest.mark.parametrize("way", ["textbook", "ours"])
def test_features(benchmark, way):
    if way == "ours":
        features, precision = ours(learner()), PRECISION
    else:
        features, precision = textbook_vision.GreedyInfoMax().features, Precision.FP32
    benchmark.extra_info["precision"] = str(precision)
    found = benchmark.pedantic(features, args=(images(16),), rounds=3, warmup_rounds=1)
    assert [tuple(z.shape) for z in found] == [(16, 256), (16, 512), (16, 1024)]


def test_both_ways_find_the_same_features():
    textbook, model = textbook_vision.GreedyInfoMax(), learner()
    layers = [parameter for unit in textbook.units for parameter in unit.layers.parameters()]
    with torch.no_grad():
        for parameter, other in zip(model.encoder.parameters(), layers, strict=True):
            parameter.copy_(other)
    found = ours(model, precision=Precision.FP32)(images(1))
    for z, expected in zip(found, textbook.features(images(1)), strict=True):
        torch.testing.assert_close(z, expected, rtol=1e-3, atol=1e-4)
