"""What the probe reads: features of all modules of ResNet-50, gray 64×64 images, batch 16."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from benchmarks import textbook_vision
from benchmarks.paper import CPU, PRECISION, inputs, learner
from gim_bench.contract import Learner, Modality
from gim_bench.hardware import devices
from gim_bench.settings.schema import Precision

Features = Callable[[Tensor], Sequence[Tensor]]


def ours(learner: Learner, *, precision: Precision) -> Features:
    """Features as the probe reads them: channels last, in that precision."""

    def features(images: Tensor) -> Sequence[Tensor]:
        with devices.autocast(CPU, precision):
            return [z.mean(dim=1) for z in learner.features(images).values()]

    return features


@pytest.mark.benchmark(group="features of a batch of 16 images, paper size")
@pytest.mark.parametrize(
    ("way", "precision"),
    dict.fromkeys([("textbook", Precision.FP32), ("ours", Precision.FP32), ("ours", PRECISION)]),
)
def test_features(benchmark, tried_only, way, precision):
    batch_size = 1 if tried_only else 16
    if way == "ours":
        features = ours(learner("gim", Modality.IMAGE), precision=precision)
    else:
        features = textbook_vision.GreedyInfoMax().features
    benchmark.extra_info["precision"] = str(precision)
    images = inputs(batch_size, Modality.IMAGE)
    found = benchmark.pedantic(features, args=(images,), rounds=3, warmup_rounds=1)
    assert [tuple(z.shape) for z in found] == [(batch_size, dim) for dim in (256, 512, 1024)]


def test_both_ways_find_the_same_features():
    textbook, model = textbook_vision.GreedyInfoMax(), learner("gim", Modality.IMAGE)
    layers = [parameter for unit in textbook.units for parameter in unit.layers.parameters()]
    with torch.no_grad():
        for parameter, other in zip(model.encoder.parameters(), layers, strict=True):
            parameter.copy_(other)
    images = inputs(1, Modality.IMAGE)
    found = ours(model, precision=Precision.FP32)(images)
    for z, expected in zip(found, textbook.features(images), strict=True):
        torch.testing.assert_close(z, expected, rtol=1e-3, atol=1e-4)
