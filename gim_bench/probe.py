"""Probes: how much do frozen features tell about the labels?

Features are extracted once. The linear probe trains every learning rate in one batched pass,
chooses on a validation share of the labelled training images, refits on all of them, and then reads
the test set, once. Ridge and nearest neighbours need no learning rate.

Letters: n = images, d = feature dimensions, c = classes, r = learning rates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from gim_bench import devices, seeding
from gim_bench.config import Precision, ProbeSettings
from gim_bench.contract import Learner, Progress
from gim_bench.datasets.batches import ImageBatches

# Adam's constants (Kingma and Ba 2014), which the paper leaves at their defaults.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
# Temperature of the neighbours' votes (Wu et al. 2018, instance discrimination).
VOTE_TEMPERATURE = 0.07


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """A split as a frozen learner sees it."""

    features: Mapping[str, Float[Tensor, "n d"]]  # by module; float32, on the device
    labels: Int[Tensor, "n"]
    predictions: Int[Tensor, "n"] | None  # classes chosen by the learner's own head


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What the probes measured, and the linear probe's validation accuracy for every rate."""

    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[Sequence[float]]]  # {module: [[learning rate, percent], …]}


def extract(
    learner: Learner,
    batches: ImageBatches,
    *,
    precision: Precision,
    title: str,
    progress: Progress,
) -> Extracted:
    """Features of every module for every image of a labelled split, in the split's order."""
    assert batches.labels is not None, "only labelled splits are probed"
    features: dict[str, list[Tensor]] = {}
    predictions: list[Tensor] = []
    with progress.task(title, total=len(batches.images), unit="image") as task:
        for batch in batches.in_order():
            with devices.autocast(batches.device, precision):
                found = learner.features(batch.inputs)
                scores = learner.predict(batch.inputs)
            for module, values in found.items():
                features.setdefault(module, []).append(values.float())
            if scores is not None:
                predictions.append(scores.argmax(dim=1))
            task.advance(len(batch.inputs))
    return Extracted(
        features={module: torch.cat(parts) for module, parts in features.items()},
        labels=batches.labels.to(batches.device),
        predictions=torch.cat(predictions) if predictions else None,
    )


def probe(
    train: Extracted,
    test: Extracted,
    *,
    settings: ProbeSettings,
    classes: int,
    stream: tuple[str, int],
    title: str,
    progress: Progress,
) -> Probed:
    """All probes on every module; the bare metric names are the top module's.

    `stream` is (dataset, seed): the validation images and the order of training are the same for
    every method.
    """
    metrics: dict[str, float] = {}
    curves: dict[str, list[list[float]]] = {}
    fitting, validating = validation_split(
        len(train.labels), fraction=settings.validation_fraction, stream=stream
    )
    with progress.task(title, total=len(train.features), unit="module") as shown:
        for module, features in train.features.items():
            task = _Task(
                features=features,
                labels=train.labels,
                fitting=fitting.to(features.device),
                validating=validating.to(features.device),
                test_features=test.features[module],
                test_labels=test.labels,
                classes=classes,
            )
            accuracy, curves[module] = linear_accuracy(task, settings=settings, stream=stream)
            found = {
                "accuracy": accuracy,
                "ridge_accuracy": ridge_accuracy(task, penalties=settings.ridge_penalties),
                "knn_accuracy": knn_accuracy(task, neighbours=settings.neighbours),
            }
            metrics |= {f"{name}/{module}": value for name, value in found.items()}
            metrics |= found  # the last module, the top one, stays
            shown.advance()
    if test.predictions is not None:
        metrics["accuracy/own_head"] = percent_correct(test.predictions, test.labels)
    return Probed(metrics=metrics, curves=curves)


def validation_split(
    images: int, *, fraction: float, stream: tuple[str, int]
) -> tuple[Int[Tensor, "fit"], Int[Tensor, "validation"]]:
    """Random disjoint indices of the labelled images to fit on and to choose on."""
    order = torch.randperm(images, generator=seeding.generator("validation", *stream))
    held_out = max(1, round(images * fraction))
    return order[held_out:], order[:held_out]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One module's features, and which of them serve what."""

    features: Float[Tensor, "n d"]
    labels: Int[Tensor, "n"]
    fitting: Int[Tensor, "fit"]
    validating: Int[Tensor, "validation"]
    test_features: Float[Tensor, "test d"]
    test_labels: Int[Tensor, "test"]
    classes: int


# -- linear probe --------------------------------------------------------------------------------


def linear_accuracy(
    task: _Task, *, settings: ProbeSettings, stream: tuple[str, int]
) -> tuple[float, list[list[float]]]:
    """Test accuracy in percent at the rate that validates best, and the validation curve.

    Among rates of equal accuracy the one with the lower validation loss wins. The test set plays
    no part in the choice.

    Source: Löwe et al. 2019, section 4.1 and appendix A.1. Unlike the released code, without
    augmentation, and counted over all examples.
    """
    train = partial(
        train_linear,
        classes=task.classes,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        standardised=settings.standardise,
        stream=stream,
    )
    rates = settings.learning_rates
    fitted = train(task.features[task.fitting], task.labels[task.fitting], learning_rates=rates)
    labels = task.labels[task.validating]
    scores = fitted.scores(task.features[task.validating])
    accuracies = [percent_correct(scores[:, r].argmax(1), labels) for r in range(len(rates))]
    losses = [float(F.cross_entropy(scores[:, r], labels)) for r in range(len(rates))]
    best = max(range(len(rates)), key=lambda r: (accuracies[r], -losses[r]))
    refitted = train(task.features, task.labels, learning_rates=[rates[best]])
    chosen = refitted.scores(task.test_features)[:, 0].argmax(1)
    accuracy = percent_correct(chosen, task.test_labels)
    curve = [list(pair) for pair in zip(rates, accuracies, strict=True)]
    return accuracy, curve


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbes:
    """One linear classifier for each learning rate."""

    mean: Float[Tensor, "d"]
    std: Float[Tensor, "d"]
    weights: Float[Tensor, "d r c"]
    biases: Float[Tensor, "r c"]

    def scores(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n r c"]:
        values = (features - self.mean) / self.std
        return (values @ self.weights.flatten(1)).view(-1, *self.biases.shape) + self.biases


def train_linear(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    *,
    learning_rates: Sequence[float],
    classes: int,
    epochs: int,
    batch_size: int,
    standardised: bool,
    stream: tuple[str, int],
) -> LinearProbes:
    """Softmax regression by Adam from zero weights, for all learning rates in one pass.

    The rates share batches and matrix products; nothing else couples them, so each result is that
    of its rate alone. The gradient is written out: softmax minus one-hot, the mean over a batch.
    """
    mean, std = _statistics(features) if standardised else _identity(features)
    values = (features - mean) / std
    rates = torch.tensor(learning_rates, device=values.device).view(1, -1, 1)
    # A last row of weights for a constant input is the bias.
    inputs = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
    weights = inputs.new_zeros(inputs.shape[1], len(learning_rates), classes)
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    targets = F.one_hot(labels, classes).to(inputs.dtype).unsqueeze(1)
    draw = seeding.generator("probe", *stream)
    step = 0
    for _ in range(epochs):
        order = torch.randperm(len(inputs), generator=draw).to(inputs.device)
        for chosen in order.split(batch_size):
            step += 1
            x = inputs[chosen]
            scores = (x @ weights.flatten(1)).view(len(x), len(learning_rates), classes)
            errors = (scores.softmax(dim=2) - targets[chosen]) / len(x)
            gradient = (x.T @ errors.flatten(1)).view_as(weights)
            first.lerp_(gradient, 1 - BETA1)
            second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
            scale = (second / (1 - BETA2**step)).sqrt_().add_(EPSILON)
            weights -= rates * (first / (1 - BETA1**step)) / scale
    return LinearProbes(mean=mean, std=std, weights=weights[:-1], biases=weights[-1])


# -- probes without a learning rate --------------------------------------------------------------


def ridge_accuracy(task: _Task, *, penalties: Sequence[float]) -> float:
    """Test accuracy in percent of one-hot ridge regression on standardised features.

    The penalty, in units of the features' variance, is chosen on validation.
    """
    fitted = ridge(
        task.features[task.fitting],
        task.labels[task.fitting],
        task.features[task.validating],
        penalties=penalties,
        classes=task.classes,
    )
    validating = task.labels[task.validating]
    accuracies = [percent_correct(scores.argmax(1), validating) for scores in fitted]
    best = penalties[accuracies.index(max(accuracies))]
    (scores,) = ridge(
        task.features, task.labels, task.test_features, penalties=[best], classes=task.classes
    )
    return percent_correct(scores.argmax(1), task.test_labels)


def ridge(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    queries: Float[Tensor, "q d"],
    *,
    penalties: Sequence[float],
    classes: int,
) -> list[Float[Tensor, "q c"]]:
    """Scores of the queries for each penalty, all from one eigendecomposition, in float64."""
    mean, std = _statistics(features)
    x = ((features - mean) / std).double()
    y = F.one_hot(labels, classes).double()
    offset = y.mean(dim=0)
    eigenvalues, vectors = torch.linalg.eigh(x.T @ x / len(x))
    projected = vectors.T @ (x.T @ (y - offset)) / len(x)
    rotated = ((queries - mean) / std).double() @ vectors
    return [
        rotated @ (projected / (eigenvalues.clamp(min=0) + penalty).unsqueeze(1)) + offset
        for penalty in penalties
    ]


def knn_accuracy(task: _Task, *, neighbours: int) -> float:
    """Test accuracy in percent of the nearest neighbours by cosine of standardised features.

    Each neighbour votes with exp(cosine / 0.07).

    Source: Wu et al. 2018 (instance discrimination), section 3.4.
    """
    mean, std = _statistics(task.features)
    known = F.normalize((task.features - mean) / std, dim=1)
    votes = F.one_hot(task.labels, task.classes).to(known.dtype)
    chosen = []
    for queries in task.test_features.split(1024):  # bounds the matrix of similarities
        similarities = F.normalize((queries - mean) / std, dim=1) @ known.T
        nearest = similarities.topk(min(neighbours, len(known)), dim=1)
        weights = (nearest.values / VOTE_TEMPERATURE).exp()
        chosen.append((weights.unsqueeze(2) * votes[nearest.indices]).sum(dim=1).argmax(dim=1))
    return percent_correct(torch.cat(chosen), task.test_labels)


def percent_correct(predictions: Int[Tensor, "n"], labels: Int[Tensor, "n"]) -> float:
    """Correct over all examples, in percent."""
    return 100 * int((predictions == labels).sum()) / len(labels)


def _statistics(features: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every dimension; a constant dimension counts as 1 wide."""
    std = features.std(dim=0)
    return features.mean(dim=0), torch.where(std > 1e-6 * std.max().clamp(min=1e-30), std, 1.0)


def _identity(features: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(features[0]), torch.ones_like(features[0])
