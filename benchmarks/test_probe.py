"""The linear probe of quickstart's top module: all learning rates in one pass, and one by one."""

import pytest
import torch
import torch.nn.functional as F

from gim_bench import seeding
from gim_bench.classifiers import train_linear

LABELS, DIM, CLASSES, BATCH_SIZE, STEPS = 5000, 1024, 10, 128, 100
RATES = [10 ** (-4 + 3 * r / 31) for r in range(32)]
GROUP = f"{STEPS} steps of a linear probe, {DIM} features"


@pytest.fixture(scope="module")
def labelled() -> tuple[torch.Tensor, torch.Tensor]:
    """Features and labels."""
    draw = seeding.generator("benchmarks", "features")
    features = torch.randn(LABELS, DIM, generator=draw)
    return features, torch.randint(CLASSES, (LABELS,), generator=draw)


def ours(features: torch.Tensor, labels: torch.Tensor, rates: list[float]) -> torch.Tensor:
    """The weights of all rates."""
    return train_linear(
        features, labels, learning_rates=rates, classes=CLASSES, steps=STEPS,
        batch_size=BATCH_SIZE, standardised=True, stream=("benchmarks", 0),
    ).weights  # fmt: skip


def textbook(features: torch.Tensor, labels: torch.Tensor, rates: list[float]) -> torch.Tensor:
    """A linear layer, cross-entropy and Adam for each rate in turn."""
    weights = []
    features = (features - features.mean(dim=0)) / features.std(dim=0)
    for rate in rates:
        linear = torch.nn.Linear(DIM, CLASSES)
        adam = torch.optim.Adam(linear.parameters(), lr=rate)
        order = torch.cat([torch.randperm(LABELS) for _ in range(3)])
        for chosen in order.split(BATCH_SIZE)[:STEPS]:
            adam.zero_grad()
            F.cross_entropy(linear(features[chosen]), labels[chosen]).backward()
            adam.step()
        weights.append(linear.weight.detach())
    return torch.stack(weights)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("rates", [1, 32])
@pytest.mark.parametrize("way", [ours, textbook], ids=lambda way: way.__name__)
def test_probe(benchmark, labelled, way, rates):
    found = benchmark.pedantic(way, args=(*labelled, RATES[:rates]), rounds=3, warmup_rounds=1)
    assert found.isfinite().all()
