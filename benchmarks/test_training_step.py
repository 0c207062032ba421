"""One optimiser step of GIM at the paper's size: ResNet-50, gray 64×64 images, batch 16."""

import math

import pytest
import torch

from benchmarks import textbook
from gim_bench import devices, registry, seeding
from gim_bench.config import EncoderSettings, InfoNCESettings, Precision, Schedule
from gim_bench.contract import Batch, Ingredients
from gim_bench.nn.resnet import ResNetEncoder
from gim_bench.training import Trainer

BATCH_SIZE, LEARNING_RATE = 16, 1.5e-4
CPU = torch.device("cpu")
GROUP = "one optimiser step of GIM, paper size, batch 16"


@pytest.fixture
def images() -> torch.Tensor:
    draw = seeding.generator("benchmarks", "images")
    return torch.randn(BATCH_SIZE, 1, 64, 64, generator=draw)


def our_trainer() -> Trainer:
    method = registry.method("gim")
    with seeding.weights_from("encoder", 0):
        encoder = ResNetEncoder(EncoderSettings(), in_channels=1)
    learner = method(
        Ingredients(
            encoder=encoder,
            classes=10,
            info_nce=InfoNCESettings(),
            options=method.Options(),
            negatives=seeding.generator("negatives", "gim", 0),
        )
    )
    return Trainer(
        learner.to(memory_format=torch.channels_last),
        learning_rate=LEARNING_RATE,
        schedule=Schedule.INTERLEAVED,
        precision=devices.resolve_precision(Precision.AUTO, CPU),
        device=CPU,
    )


@pytest.mark.benchmark(group=GROUP)
def test_textbook(benchmark, images):
    trainer = textbook.Trainer(textbook.GreedyInfoMax(), learning_rate=LEARNING_RATE)
    losses = benchmark.pedantic(trainer.step, args=(images,), rounds=3, warmup_rounds=1)
    assert all(0 < loss < 2 * math.log(17) for loss in losses)


@pytest.mark.benchmark(group=GROUP)
def test_ours(benchmark, images):
    """Interleaved, channels last, fused Adam, bf16 where the CPU multiplies in it."""
    trainer = our_trainer()
    batch = Batch(inputs=images, labels=None)
    benchmark.extra_info["precision"] = str(trainer.precision)
    losses = benchmark.pedantic(trainer.step, args=(batch,), rounds=3, warmup_rounds=1)
    assert all(0 < loss < 2 * math.log(17) for loss in losses.values())
