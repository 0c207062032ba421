"""Classifiers on frozen features: linear, ridge and nearest neighbours.

The linear probe trains every learning rate in one batched pass, chooses a rate on validation and
refits on everything. The other rates in the pass change a rate's result by rounding only; the
rounding can grow to points of accuracy if the rate is too high to converge. Ridge and nearest
neighbours need no learning rate.

Letters: n = labels, b = labels of a batch, d = feature dimensions, c = classes, r = learning rates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim.adam import adam

from gim_bench import seeding
from gim_bench.settings.schema import ProbeSettings

# Adam's constants (Kingma and Ba 2014), which the paper leaves at their defaults.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
# Temperature of the neighbours' votes (Wu et al. 2018, instance discrimination).
VOTE_TEMPERATURE = 0.07


@runtime_checkable
class Classifier(Protocol):
    """A fitted probe."""

    def predict(self, features: Float[Tensor, "n d"]) -> Int[Tensor, "n"]:
        """The predicted class of each example."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An affine map of features to mean 0 and standard deviation 1, or the identity."""

    mean: Float[Tensor, "d"]
    std: Float[Tensor, "d"]

    @classmethod
    def of(cls, features: Float[Tensor, "n d"]) -> "Scale":
        """The map that standardises `features`; a constant dimension keeps its scale."""
        std = features.std(dim=0)
        wide = std > 1e-6 * std.max().clamp(min=1e-30)
        return cls(features.mean(dim=0), torch.where(wide, std, 1.0))

    @classmethod
    def unchanged(cls, features: Float[Tensor, "n d"]) -> "Scale":
        """The identity for features of this width."""
        return cls(torch.zeros_like(features[0]), torch.ones_like(features[0]))

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return (features - self.mean) / self.std


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Features of one module with their labels, and the indices for fitting and validation."""

    features: Float[Tensor, "n d"]
    labels: Int[Tensor, "n"]
    fitting: Int[Tensor, "fit"]
    validating: Int[Tensor, "validation"]
    classes: int


# -- linear probe --------------------------------------------------------------------------------


def fit_linear(
    task: Labelled, *, settings: ProbeSettings, stream: tuple[str, int]
) -> tuple["LinearProbe", list[list[float]]]:
    """The linear probe at the best rate on validation, refitted on all labels; and its curve.

    The curve is [[learning rate, validation accuracy in percent], …]. Among rates of equal
    accuracy, the rate with the lower validation loss wins.

    Source: Löwe et al. 2019, section 4.1 and appendices A.1 and A.2. Unlike the released code, the
    probe sees no augmentation, and accuracy counts all examples.
    """
    rates = settings.learning_rates
    tried = validate_linear(task, learning_rates=rates, settings=settings, stream=stream)
    refitted = refit_linear(task, best_of(tried), settings=settings, stream=stream)
    return refitted, [[trial.learning_rate, trial.accuracy] for trial in tried]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """Validation accuracy and loss of a linear probe with these hyperparameters."""

    learning_rate: float
    weight_decay: float = 0.0
    accuracy: float  # percent
    loss: float  # mean cross-entropy in nats


def best_of(tried: Sequence[Tried]) -> Tried:
    """The trial with the highest accuracy; among equals, the trial with the lowest loss."""
    return max(tried, key=lambda trial: (trial.accuracy, -trial.loss))


def validate_linear(
    task: Labelled,
    *,
    learning_rates: Sequence[float],
    weight_decays: Sequence[float] | None = None,
    settings: ProbeSettings,
    stream: tuple[str, int],
) -> list[Tried]:
    """Validation accuracy and loss of each rate, from a probe fitted on the fitting share."""
    fitted = train_linear(
        task.features[task.fitting],
        task.labels[task.fitting],
        learning_rates=learning_rates,
        weight_decays=weight_decays,
        classes=task.classes,
        steps=settings.steps,
        batch_size=settings.batch_size,
        standardised=settings.standardise,
        stream=stream,
    )
    labels = task.labels[task.validating]
    scores = fitted.scores(task.features[task.validating])
    decays = weight_decays or [0.0] * len(learning_rates)
    return [
        Tried(
            learning_rate=rate,
            weight_decay=decay,
            accuracy=percent_correct(scores[:, r].argmax(1), labels),
            loss=float(F.cross_entropy(scores[:, r], labels)),
        )
        for r, (rate, decay) in enumerate(zip(learning_rates, decays, strict=True))
    ]


def refit_linear(
    task: Labelled, chosen: Tried, *, settings: ProbeSettings, stream: tuple[str, int]
) -> "LinearProbe":
    """The probe with the chosen hyperparameters, fitted on all labels."""
    return train_linear(
        task.features,
        task.labels,
        learning_rates=[chosen.learning_rate],
        weight_decays=[chosen.weight_decay],
        classes=task.classes,
        steps=settings.steps,
        batch_size=settings.batch_size,
        standardised=settings.standardise,
        stream=stream,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbe:
    """A linear classifier for each learning rate; `predict` uses the first."""

    scale: Scale
    weights: Float[Tensor, "r c d"]
    biases: Float[Tensor, "r c"]

    def scores(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n r c"]:
        """Class scores of each example at each learning rate."""
        weights, biases = self.weights.flatten(0, 1), self.biases.flatten()
        return F.linear(self.scale(features), weights, biases).view(-1, *self.biases.shape)

    def predict(self, features: Float[Tensor, "n d"]) -> Int[Tensor, "n"]:
        return self.scores(features)[:, 0].argmax(dim=1)


def train_linear(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    *,
    learning_rates: Sequence[float],
    weight_decays: Sequence[float] | None = None,
    classes: int,
    steps: int,
    batch_size: int,
    standardised: bool,
    stream: tuple[str, int],
) -> LinearProbe:
    """Softmax regression by Adam from zero weights, for all learning rates in one pass.

    The rates share batches and matrix products only, so that no rate changes the result of another.
    `weight_decays` holds AdamW's decay for each rate: every step shrinks weights and biases by
    rate · decay, and the gradient is unchanged. None: no decay.

    Source: Loshchilov and Hutter 2019 (decoupled weight decay), Algorithm 2, as in torch's AdamW.
    """
    scale = (Scale.of if standardised else Scale.unchanged)(features)
    # A last column of ones, whose weights are the biases.
    inputs = F.pad(scale(features), (0, 1), value=1.0)
    one_hot = F.one_hot(labels, classes).to(inputs.dtype)
    rates = inputs.new_tensor(learning_rates).view(-1, 1, 1)
    # Adam's step is proportional to its rate: at rate 1 it trains u, and the weights are rate · u.
    u = inputs.new_zeros(len(learning_rates) * classes, inputs.shape[1])
    first, second = torch.zeros_like(u), torch.zeros_like(u)
    taken = torch.zeros((), device=u.device)
    kept = None
    if weight_decays is not None and any(weight_decays):
        decays = inputs.new_tensor(weight_decays).view(-1, 1, 1)
        kept = (1 - rates * decays).expand(-1, classes, 1).reshape(-1, 1)
    draw = seeding.generator("probe", *stream)
    for chosen in islice(_batches(len(inputs), batch_size, draw, device=u.device), steps):
        x, y = inputs.index_select(0, chosen), one_hot.index_select(0, chosen)
        gradient = _gradient(u, x, y, rates=rates)
        if kept is not None:
            u *= kept
        # The function, because the first torch.optim.Adam of a process imports for a second.
        adam(
            [u], [gradient], [first], [second], [], [taken], fused=True,
            lr=1.0, beta1=BETA1, beta2=BETA2, eps=EPSILON, weight_decay=0.0, amsgrad=False,
            maximize=False,
        )  # fmt: skip
    weights = rates * u.view(len(rates), classes, -1)
    return LinearProbe(scale=scale, weights=weights[:, :, :-1], biases=weights[:, :, -1])


def _gradient(
    u: Float[Tensor, "rc d"],
    x: Float[Tensor, "b d"],
    y: Float[Tensor, "b c"],
    *,
    rates: Float[Tensor, "r 1 1"],
) -> Float[Tensor, "rc d"]:
    """Gradient of the mean cross-entropy with respect to the weights rate · u; y is one-hot."""
    # The batch is the last dimension, so that softmax is vectorised over the many examples.
    scores = rates * (u @ x.T).view(len(rates), -1, len(x))
    errors = (scores.softmax(dim=1) - y.T) / len(x)
    return errors.flatten(0, 1) @ x


def _batches(
    labels: int, batch_size: int, draw: torch.Generator, *, device: torch.device
) -> Iterator[Int[Tensor, "b"]]:
    """Endless batches of indices, in a new random order in every pass."""
    while True:
        # One copy for each pass: a copy at every step would make the CPU wait for a GPU.
        yield from torch.randperm(labels, generator=draw).to(device).split(batch_size)


# -- probes without a learning rate --------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ridge:
    """One-hot ridge regression on standardised features, as an affine map in float64."""

    scale: Scale
    weights: Float[Tensor, "d c"]
    offset: Float[Tensor, "c"]

    def scores(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Class scores of each example, in float64."""
        return self.scale(features).double() @ self.weights + self.offset

    def predict(self, features: Float[Tensor, "n d"]) -> Int[Tensor, "n"]:
        return self.scores(features).argmax(dim=1)


def fit_ridge(task: Labelled, *, penalties: Sequence[float]) -> Ridge:
    """Ridge regression fitted on all labels, with the penalty that is best on validation.

    `penalties` are in units of the features' variance.
    """
    fitting, validating = task.fitting, task.validating
    candidates = ridge(
        task.features[fitting], task.labels[fitting], penalties=penalties, classes=task.classes
    )
    accuracies = [
        percent_correct(candidate.predict(task.features[validating]), task.labels[validating])
        for candidate in candidates
    ]
    best = penalties[accuracies.index(max(accuracies))]
    (chosen,) = ridge(task.features, task.labels, penalties=[best], classes=task.classes)
    return chosen


def ridge(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    *,
    penalties: Sequence[float],
    classes: int,
) -> list[Ridge]:
    """A ridge regression for each penalty, all from one eigendecomposition."""
    scale = Scale.of(features)
    x = scale(features).double()
    y = F.one_hot(labels, classes).double()
    offset = y.mean(dim=0)
    eigenvalues, vectors = torch.linalg.eigh(x.T @ x / len(x))
    projected = vectors.T @ (x.T @ (y - offset)) / len(x)
    return [
        Ridge(
            scale=scale,
            weights=vectors @ (projected / (eigenvalues.clamp(min=0) + penalty).unsqueeze(1)),
            offset=offset,
        )
        for penalty in penalties
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Nearest neighbours by cosine of standardised features; each votes with exp(cosine / 0.07).

    Source: Wu et al. 2018 (instance discrimination), section 3.4.
    """

    scale: Scale
    known: Float[Tensor, "n d"]  # scaled to length 1
    votes: Float[Tensor, "n c"]  # one-hot
    neighbours: int

    def predict(self, features: Float[Tensor, "m d"]) -> Int[Tensor, "m"]:
        similarities = F.normalize(self.scale(features), dim=1) @ self.known.T
        nearest = similarities.topk(min(self.neighbours, len(self.known)), dim=1)
        weights = (nearest.values / VOTE_TEMPERATURE).exp()
        return (weights.unsqueeze(2) * self.votes[nearest.indices]).sum(dim=1).argmax(dim=1)


def fit_neighbours(task: Labelled, *, neighbours: int) -> Neighbours:
    """A classifier by nearest neighbours, in which all labelled examples vote."""
    scale = Scale.of(task.features)
    known = F.normalize(scale(task.features), dim=1)
    votes = F.one_hot(task.labels, task.classes).to(known.dtype)
    return Neighbours(scale=scale, known=known, votes=votes, neighbours=neighbours)


def percent_correct(predictions: Int[Tensor, "n"], labels: Int[Tensor, "n"]) -> float:
    """Share of correct predictions among all examples, in percent."""
    return 100 * int((predictions == labels).sum()) / len(labels)
