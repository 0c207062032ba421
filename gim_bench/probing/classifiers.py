"""Classifiers on frozen features: linear, ridge and nearest neighbours.

Letters: n = labels, m = labels of augmented copies, d = feature dimensions, c = classes, r =
hyperparameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
        std = features.std(dim=0) if len(features) > 1 else torch.zeros_like(features[0])
        wide = std > 1e-6 * std.max().clamp(min=1e-30)
        return cls(features.mean(dim=0), torch.where(wide, std, 1.0))

    @classmethod
    def centred(cls, features: Float[Tensor, "n d"]) -> "Scale":
        """The map that takes the mean off `features`."""
        return cls(features.mean(dim=0), torch.ones_like(features[0]))

    @classmethod
    def unchanged(cls, features: Float[Tensor, "n d"]) -> "Scale":
        """The identity for features of this width."""
        return cls(torch.zeros_like(features[0]), torch.ones_like(features[0]))

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return (features - self.mean) / self.std


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Features of augmented copies, and which of them are copies of validation examples."""

    features: Float[Tensor, "m d"]
    labels: Int[Tensor, "m"]
    validating: Bool[Tensor, "m"]

    @classmethod
    def joined(cls, parts: "Sequence[Copies]") -> "Copies":
        """All the copies, one part after the other."""
        return cls(
            features=torch.cat([part.features for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            validating=torch.cat([part.validating for part in parts]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Features of one module with their labels, and the indices for fitting and validation."""

    features: Float[Tensor, "n d"]
    labels: Int[Tensor, "n"]
    fitting: Int[Tensor, "fit"]
    validating: Int[Tensor, "validation"]
    classes: int
    copies: Copies | None = None  # for the linear probe, in place of the examples

    @property
    def fitted(self) -> tuple[Float[Tensor, "fit d"], Int[Tensor, "fit"]]:
        """Features and labels that a linear probe is fitted on while validation chooses."""
        if self.copies is None:
            return self.features[self.fitting], self.labels[self.fitting]
        kept = ~self.copies.validating
        return self.copies.features[kept], self.copies.labels[kept]

    @property
    def refitted(self) -> tuple[Float[Tensor, "all d"], Int[Tensor, "all"]]:
        """Features and labels that a linear probe is fitted on once validation has chosen."""
        if self.copies is None:
            return self.features, self.labels
        return self.copies.features, self.copies.labels


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbe:
    """A linear classifier for each hyperparameter; `predict` uses the first."""

    scale: Scale
    weights: Float[Tensor, "r c d"]
    biases: Float[Tensor, "r c"]

    def scores(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n r c"]:
        """Class scores of each example at each hyperparameter."""
        weights, biases = self.weights.flatten(0, 1), self.biases.flatten()
        return F.linear(self.scale(features), weights, biases).view(-1, *self.biases.shape)

    def predict(self, features: Float[Tensor, "n d"]) -> Int[Tensor, "n"]:
        return self.scores(features)[:, 0].argmax(dim=1)


# -- ridge and nearest neighbours ----------------------------------------------------------------


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


def best_penalty(task: Labelled, *, penalties: Sequence[float]) -> float:
    """The penalty of a ridge regression that is best on validation, the first among equals."""
    fitting, validating = task.fitting, task.validating
    candidates = ridge(
        task.features[fitting], task.labels[fitting], penalties=penalties, classes=task.classes
    )
    accuracies = [
        percent_correct(candidate.predict(task.features[validating]), task.labels[validating])
        for candidate in candidates
    ]
    return penalties[accuracies.index(max(accuracies))]


def fit_ridge(task: Labelled, *, penalty: float) -> Ridge:
    """Ridge regression fitted on all labels; `penalty` is in units of the features' variance."""
    (fitted,) = ridge(task.features, task.labels, penalties=[penalty], classes=task.classes)
    return fitted


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
    labels: Int[Tensor, "n"]
    classes: int
    neighbours: int

    def predict(self, features: Float[Tensor, "m d"]) -> Int[Tensor, "m"]:
        similarities = F.normalize(self.scale(features), dim=1) @ self.known.T
        nearest = similarities.topk(min(self.neighbours, len(self.known)), dim=1)
        weights = (nearest.values / VOTE_TEMPERATURE).exp()
        votes = F.one_hot(self.labels[nearest.indices], self.classes).to(weights.dtype)
        return (weights.unsqueeze(2) * votes).sum(dim=1).argmax(dim=1)


def fit_neighbours(task: Labelled, *, neighbours: int) -> Neighbours:
    """A classifier by nearest neighbours, in which all labelled examples vote."""
    scale = Scale.of(task.features)
    known = F.normalize(scale(task.features), dim=1)
    return Neighbours(
        scale=scale,
        known=known,
        labels=task.labels,
        classes=task.classes,
        neighbours=neighbours,
    )


def percent_correct(predictions: Int[Tensor, "n"], labels: Int[Tensor, "n"]) -> float:
    """Share of correct predictions among all examples, in percent."""
    return 100 * int((predictions == labels).sum()) / len(labels)
