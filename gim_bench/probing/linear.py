"""The linear probe: its hyperparameter is chosen on validation, then the probe is fitted on all.

The hyperparameter of logistic regression is the L2 penalty; that of Adam is the learning rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from gim_bench.probing.adam import train_linear
from gim_bench.probing.classifiers import Labelled, LinearProbe, percent_correct
from gim_bench.probing.logistic import logistic_regression
from gim_bench.settings.probing import (
    AdamProbeSettings,
    HiddenLayerSettings,
    LogisticRegressionSettings,
    ProbeSettings,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """A learning rate or a penalty, by the kind of the probe."""

    hyperparameter: float
    weight_decay: float = 0.0  # of Adam


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried(Hyperparameters):
    """Validation accuracy and loss of a probe with these hyperparameters."""

    accuracy: float  # percent
    loss: float  # mean cross-entropy in nats


def best_of(tried: Sequence[Tried]) -> Tried:
    """The trial with the highest accuracy; among equals, the trial with the lowest loss."""
    return max(tried, key=lambda trial: (trial.accuracy, -trial.loss))


def grid_of(settings: ProbeSettings | HiddenLayerSettings) -> tuple[float, ...]:
    """The hyperparameters of the settings' grid: learning rates or penalties."""
    if isinstance(settings, LogisticRegressionSettings):
        return settings.penalties
    return settings.learning_rates


def validate_linear(
    task: Labelled,
    *,
    settings: ProbeSettings,
    stream: tuple[str, int],
    grid: Sequence[float] | None = None,
    weight_decays: Sequence[float] | None = None,
) -> list[Tried]:
    """Validation accuracy and loss of each hyperparameter, from probes of the fitting share.

    The hyperparameters are those of `settings`, or those of `grid`.
    """
    grid = grid_of(settings) if grid is None else grid
    features, known = task.fitted
    fitted, _ = _fit(
        features,
        known,
        classes=task.classes,
        settings=settings,
        stream=stream,
        grid=grid,
        weight_decays=weight_decays,
    )
    labels = task.labels[task.validating]
    scores = fitted.scores(task.features[task.validating])
    decays = weight_decays or [0.0] * len(grid)
    return [
        Tried(
            hyperparameter=value,
            weight_decay=decay,
            accuracy=percent_correct(scores[:, r].argmax(1), labels),
            loss=float(F.cross_entropy(scores[:, r], labels)),
        )
        for r, (value, decay) in enumerate(zip(grid, decays, strict=True))
    ]


def refit_linear(
    task: Labelled, chosen: Hyperparameters, *, settings: ProbeSettings, stream: tuple[str, int]
) -> tuple[LinearProbe, bool]:
    """The probe with the chosen hyperparameters, fitted on all labels; and whether it converged.

    Nobody asks whether Adam converged: the number of its steps is part of the protocol.
    """
    features, labels = task.refitted
    return _fit(
        features,
        labels,
        classes=task.classes,
        settings=settings,
        stream=stream,
        grid=[chosen.hyperparameter],
        weight_decays=[chosen.weight_decay],
    )


def _fit(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    *,
    classes: int,
    settings: ProbeSettings,
    stream: tuple[str, int],
    grid: Sequence[float],
    weight_decays: Sequence[float] | None,
) -> tuple[LinearProbe, bool]:
    """Linear probes at every hyperparameter, and whether all of them converged."""
    if isinstance(settings, AdamProbeSettings):
        trained = train_linear(
            features,
            labels,
            learning_rates=grid,
            weight_decays=weight_decays,
            classes=classes,
            steps=settings.steps,
            batch_size=settings.batch_size,
            standardised=settings.standardise,
            stream=stream,
        )
        return trained, True
    found = logistic_regression(
        features,
        labels,
        penalties=grid,
        classes=classes,
        iterations=settings.iterations,
        tolerance=settings.tolerance,
        standardised=settings.standardise,
    )
    return found.probe, bool(found.converged.all())
