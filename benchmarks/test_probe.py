"""The probe: the linear one by Adam at one and at 32 rates, the whole phase, logistic regression.

The linear probe by Adam is timed on random features, all rates in one pass beside one rate after
the other: at the sizes of stl10's top module, for 300 of its 4,000 steps, and at small sizes. The
phase is quickstart's, with all three modules: features, logistic regression at every penalty,
refit, ridge, neighbours and the test set.
"""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from gim_bench import seeding
from gim_bench.cells.bench import Bench
from gim_bench.cells.build import build
from gim_bench.cells.resolve import cells, configs, dataset_of
from gim_bench.contract import Split
from gim_bench.probing.adam import train_linear
from gim_bench.probing.logistic import logistic_regression
from gim_bench.probing.probe import Probed, probe
from gim_bench.progress import Silence
from gim_bench.settings.probing import LogisticRegressionSettings
from gim_bench.settings.suites import load_suite

CPU = torch.device("cpu")
BATCH_SIZE = 128
RATES = [10 ** (-4 + 3 * r / 31) for r in range(32)]
PENALTIES = LogisticRegressionSettings().penalties


class Task(NamedTuple):
    """Sizes of a linear probe that is fitted on 80 % of the labels, and how long it is trained."""

    name: str
    labels: int
    dim: int
    classes: int
    steps: int

    @property
    def group(self) -> str:
        return f"{self.steps} steps of a linear probe, {self.dim} features ({self.name})"


STL10 = Task("stl10", labels=4000, dim=1024, classes=10, steps=300)
SMALL = Task("small", labels=1280, dim=128, classes=16, steps=650)


# -- the linear probe alone ----------------------------------------------------------------------


def ours(
    task: Task, features: torch.Tensor, labels: torch.Tensor, rates: list[float]
) -> torch.Tensor:
    """The weights of all rates."""
    return train_linear(
        features, labels, learning_rates=rates, classes=task.classes, steps=task.steps,
        batch_size=BATCH_SIZE, standardised=False, stream=("benchmarks", 0),
    ).weights  # fmt: skip


def textbook(
    task: Task, features: torch.Tensor, labels: torch.Tensor, rates: list[float]
) -> torch.Tensor:
    """A linear layer, cross-entropy and Adam for each rate in turn."""
    weights = []
    for rate in rates:
        linear = torch.nn.Linear(task.dim, task.classes)
        adam = torch.optim.Adam(linear.parameters(), lr=rate)
        step = 0
        while step < task.steps:
            for chosen in torch.randperm(task.labels).split(BATCH_SIZE)[: task.steps - step]:
                adam.zero_grad()
                F.cross_entropy(linear(features[chosen]), labels[chosen]).backward()
                adam.step()
                step += 1
        weights.append(linear.weight.detach())
    return torch.stack(weights)


@pytest.mark.parametrize("task", [STL10, SMALL], ids=lambda task: task.name)
@pytest.mark.parametrize("rates", [1, 32])
@pytest.mark.parametrize("way", [ours, textbook], ids=lambda way: way.__name__)
def test_linear_probe(benchmark, tried_only, task, way, rates):
    benchmark.group = task.group
    if tried_only:
        task = task._replace(labels=256, steps=3)
    draw = seeding.generator("benchmarks", "features")
    features = torch.randn(task.labels, task.dim, generator=draw)
    labels = torch.randint(task.classes, (task.labels,), generator=draw)
    weights = benchmark.pedantic(
        way, args=(task, features, labels, RATES[:rates]), rounds=3, warmup_rounds=1
    )
    assert weights.shape == (rates, task.classes, task.dim)
    assert weights.isfinite().all()


# -- the whole phase -----------------------------------------------------------------------------


@pytest.mark.benchmark(group="the probe phase of quickstart, all modules, untrained encoder")
def test_phase(benchmark, tried_only, tmp_path):
    sizes = [f"dataset.{split}_images=200" for split in Split] if tried_only else []
    suite = load_suite("quickstart", overrides=sizes)
    kind, options = dataset_of(suite)
    dataset = kind(options=options, data_dir=None, cache_dir=tmp_path)
    bench = Bench(dataset, device=CPU, progress=Silence())
    configured = configs(suite, methods=["random_init"], device=CPU)
    (cell,) = cells(suite, configured, seeds=[0], data_sha256="")
    (target,) = bench.targets
    learner = build(cell, bench, target=target).eval()
    benchmark.extra_info["precision"] = str(cell.config.training.precision)

    def phase() -> Probed:
        return probe(
            learner,
            train=bench.batches(cell, Split.TRAIN),
            test=bench.batches(cell, Split.TEST),
            targets=bench.targets,
            settings=cell.config.probe,
            precision=cell.config.training.precision,
            title=cell.name,
            progress=Silence(),
        )

    probed = benchmark.pedantic(phase, rounds=3, warmup_rounds=1)
    assert [len(curve) for curve in probed.curves.values()] == [len(PENALTIES)] * 3
    assert tried_only or probed.metrics["accuracy"] > 100 / len(target.classes)


# -- logistic regression ---------------------------------------------------------------------------


def overlapping(labels, dim, classes):
    """Clouds of deviation 1 whose centres are about as far apart."""
    draw = torch.Generator().manual_seed(0)
    known = torch.randint(classes, (labels,), generator=draw)
    centres = torch.randn(classes, dim, generator=draw)
    return torch.randn(labels, dim, generator=draw) + 2 * dim**-0.5 * centres[known], known


def along_the_grid(features, labels, classes):
    default = LogisticRegressionSettings()
    logistic_regression(
        features,
        labels,
        penalties=PENALTIES,
        classes=classes,
        iterations=default.iterations,
        tolerance=default.tolerance,
        standardised=True,
    )


def one_by_one(features, labels, _):
    """Scikit-learn's solver at each penalty, one after the other, on standardised features."""
    values = StandardScaler().fit_transform(features.numpy())
    for penalty in PENALTIES:
        model = LogisticRegression(C=1 / (len(labels) * penalty), tol=1e-4, max_iter=1000)
        model.fit(values, labels.numpy())


@pytest.mark.parametrize("way", [along_the_grid, one_by_one], ids=["ours", "scikit-learn"])
@pytest.mark.parametrize(
    ("labels", "dim", "classes"),
    [(3200, 32, 10), (3200, 128, 10), (5000, 1024, 10), (10_000, 64, 50)],
)
def test_logistic_regression(benchmark, tried_only, *, way, labels, dim, classes):
    benchmark.group = f"{len(PENALTIES)} penalties, {labels} labels, {dim} features, {classes}"
    if tried_only:
        labels, dim = 300, 16
    features, known = overlapping(labels, dim, classes)
    benchmark.pedantic(way, args=(features, known, classes), rounds=1, iterations=1)
