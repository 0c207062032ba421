"""Probes: how much do frozen features tell about the labels?

Features of the labelled training examples are extracted once, and classifiers are fitted to them.
A validation share of the images or recordings chooses the hyperparameters. Only then is the test
set read: once, batch by batch, and every label counts.

Letters: n = labels, d = feature dimensions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from jaxtyping import Float
from torch import Tensor

from gim_bench.contract import Learner, Target
from gim_bench.datasets.batches import Batches
from gim_bench.probing.classifiers import (
    Classifier,
    Copies,
    Labelled,
    best_penalty,
    fit_neighbours,
    fit_ridge,
)
from gim_bench.probing.linear import Tried, best_of, refit_linear, validate_linear
from gim_bench.probing.questions import Question, question, validation_items
from gim_bench.probing.reading import (
    Probe,
    Reader,
    accuracies,
    metric_name,
    readable,
    unconverged,
)
from gim_bench.progress import Progress
from gim_bench.records.predictions import Predictions
from gim_bench.settings.base import Precision
from gim_bench.settings.probing import ProbeSettings

__all__ = [
    "Choice",
    "Probe",
    "Probed",
    "Reader",
    "choose",
    "chosen_accuracy",
    "curve_name",
    "curves_of",
    "labelled",
    "metric_name",
    "probe",
    "question",
    "readable",
    "validation_items",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Hyperparameters of the probes of one target and module, and the trials of the linear one."""

    linear: Tried
    tried: Sequence[Tried]
    ridge_penalty: float | None  # None: the target has no ridge probe

    @property
    def curve(self) -> list[list[float]]:
        """[[hyperparameter of the linear probe, validation accuracy in percent], …]."""
        return [[trial.hyperparameter, trial.accuracy] for trial in self.tried]


# Choices by (name of the target, module); the modules of a target come in order, lowest first.
Choices = Mapping[tuple[str, str], Choice]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """Metrics and predictions of the probes, and the linear probe's validation curves."""

    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[Sequence[float]]]  # {module: [[hyperparameter, percent], …]}
    predictions: Predictions = field(
        default_factory=lambda: Predictions(labels={}, items={}, predicted={})
    )


def choose(
    learner: Learner,
    *,
    train: Batches,
    targets: Sequence[Target],
    settings: ProbeSettings,
    precision: Precision,
    title: str,
    progress: Progress,
    top_only: bool = False,
) -> dict[tuple[str, str], Choice]:
    """Hyperparameters of the probes of every target and module, or of the top modules alone.

    Validation chooses; nothing reads the test set. `precision` is training's, which holds where
    `settings` name no precision of their own. Raises: DataError as `probe` does.
    """
    reader = _reader(learner, settings, precision=precision, title=title, progress=progress)
    tasks = _tasks(reader, train, targets, settings=settings)
    if top_only:
        top = {asked: (module, task) for asked, module, task in tasks}
        tasks = ((asked, module, task) for asked, (module, task) in top.items())
    return {
        (asked.target.name, module): _choice(task, asked, settings=settings, stream=train.stream)
        for asked, module, task in tasks
    }


def probe(
    learner: Learner,
    *,
    train: Batches,
    test: Batches,
    targets: Sequence[Target],
    settings: ProbeSettings,
    precision: Precision,
    title: str,
    progress: Progress,
    chosen: Choices | None = None,
) -> Probed:
    """Metrics, predictions and validation curves of all probes, for every target and module.

    The probes have the hyperparameters `chosen`, or those that validation chooses here. In either
    case they are fitted on all labels. Metric names without a module belong to the top module. The
    validation share and the order of training come from the batches' stream (dataset, seed), so
    every method gets the same.

    Raises: DataError if too few images or recordings have labels.
    """
    reader = _reader(learner, settings, precision=precision, title=title, progress=progress)
    probes: list[Probe] = []
    curves: dict[str, list[list[float]]] = {}
    fits: list[tuple[Target, bool]] = []
    for asked, module, task in _tasks(reader, train, targets, settings=settings):
        choice = (
            _choice(task, asked, settings=settings, stream=train.stream)
            if chosen is None
            else chosen[asked.target.name, module]
        )
        linear, converged = refit_linear(
            task, choice.linear, settings=settings, stream=train.stream
        )
        fits.append((asked.target, converged))
        classifiers: dict[str, Classifier] = {"accuracy": linear}
        if choice.ridge_penalty is not None:
            classifiers["ridge_accuracy"] = fit_ridge(task, penalty=choice.ridge_penalty)
            classifiers["knn_accuracy"] = fit_neighbours(task, neighbours=settings.neighbours)
        probes += [Probe(asked.target, module, metric, c) for metric, c in classifiers.items()]
        curves[curve_name(asked.target.name, module)] = choice.curve
    predictions = reader.predictions(test, probes, targets)
    metrics = accuracies(predictions) | unconverged(fits)
    return Probed(metrics=metrics, curves=curves, predictions=predictions)


def curves_of(choices: Choices) -> dict[str, list[list[float]]]:
    """The validation curve of every choice, by the names that records have."""
    return {
        curve_name(target, module): choice.curve for (target, module), choice in choices.items()
    }


def chosen_accuracy(curves: Mapping[str, Sequence[Sequence[float]]]) -> float:
    """Validation accuracy of the top module's best trial, in percent; the mean over targets."""
    # Modules come in order: the last curve of a target belongs to the top module.
    top = {name.rpartition("/")[0]: curve for name, curve in curves.items()}
    return fmean(max(accuracy for _, accuracy in curve) for curve in top.values())


def curve_name(target: str, module: str) -> str:
    """Name of a probe in a record: the module, after the target unless that is the class."""
    return module if target == "class" else f"{target}/{module}"


def labelled(
    features: Float[Tensor, "n d"], asked: Question, *, copies: Copies | None = None
) -> Labelled:
    """Features at the question's places, with their labels, their use and augmented copies."""
    validating = asked.validating.to(features.device)
    return Labelled(
        features=features,
        labels=asked.labels.to(features.device),
        fitting=(~validating).nonzero().squeeze(1),
        validating=validating.nonzero().squeeze(1),
        classes=len(asked.target.classes),
        copies=copies,
    )


def _reader(
    learner: Learner,
    settings: ProbeSettings,
    *,
    precision: Precision,
    title: str,
    progress: Progress,
) -> Reader:
    own = settings.precision or precision
    return Reader(learner, precision=own, title=title, progress=progress)


def _tasks(
    reader: Reader, train: Batches, targets: Sequence[Target], *, settings: ProbeSettings
) -> Iterator[tuple[Question, str, Labelled]]:
    """(question, module, features with labels) of every probe; used features are freed."""
    questions = [question(train, target, settings=settings) for target in targets]
    features = reader.features_of(train, questions)
    copies = {}
    if settings.augment:
        copies = reader.copies_of(train, questions, copies=settings.augment)
    with reader.progress.task(f"{reader.title}: probes", total=len(features), unit="probe") as bar:
        for asked, module in list(features):
            place = asked, module
            yield (
                asked,
                module,
                labelled(features.pop(place), asked, copies=copies.pop(place, None)),
            )
            bar.advance()


def _choice(
    task: Labelled, asked: Question, *, settings: ProbeSettings, stream: tuple[str, int]
) -> Choice:
    """The hyperparameters that are best on validation."""
    tried = validate_linear(task, settings=settings, stream=stream)
    per_step = asked.target.per_step
    return Choice(
        linear=best_of(tried),
        tried=tried,
        ridge_penalty=None if per_step else best_penalty(task, penalties=settings.ridge_penalties),
    )
