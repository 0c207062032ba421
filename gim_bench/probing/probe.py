"""Probes: how much do frozen features tell about the labels?

Features of the labelled training examples are extracted once, and classifiers are fitted to them.
A validation share of the images or recordings chooses the hyperparameters. Only then is the test
set read: once, batch by batch, and every label counts.

Letters: n = labels, d = feature dimensions.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gim_bench import seeding
from gim_bench.contract import Batch, Learner, Target
from gim_bench.datasets.batches import Batches
from gim_bench.errors import DataError
from gim_bench.hardware import devices
from gim_bench.probing.classifiers import (
    Classifier,
    Labelled,
    fit_linear,
    fit_neighbours,
    fit_ridge,
    validate_linear,
)
from gim_bench.progress import Progress
from gim_bench.settings.schema import Precision, ProbeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """Metrics of the probes, and the linear probe's validation accuracy for every rate."""

    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[Sequence[float]]]  # {module: [[learning rate, percent], …]}


def metric_name(target: Target, metric: str) -> str:
    """Name of a metric for a target: "accuracy" for a class, "speaker_accuracy" for a speaker."""
    return metric if target.name == "class" else f"{target.name}_{metric}"


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
) -> Probed:
    """Metrics and validation curves of all probes, for every target and module.

    Metric names without a module belong to the top module. The validation share and the order of
    training come from the batches' stream (dataset, seed), so every method gets the same.

    Raises: DataError if too few images or recordings have labels.
    """
    reader = Reader(learner, precision=precision, title=title, progress=progress)
    questions = [question(train, target, settings=settings) for target in targets]
    features = reader.features_of(train, questions)
    probes: list[Probe] = []
    curves: dict[str, list[list[float]]] = {}
    with progress.task(f"{title}: probes", total=len(features), unit="probe") as task:
        for (asked, module), values in features.items():
            fitted, curve = fit(values, asked, settings=settings, stream=train.stream)
            probes += [
                Probe(asked.target, module, metric, classifier)
                for metric, classifier in fitted.items()
            ]
            curves[curve_name(asked.target, module)] = curve
            task.advance()
    del features  # room for the test set
    return Probed(metrics=reader.accuracies(test, probes, targets), curves=curves)


def validate(
    learner: Learner,
    *,
    train: Batches,
    targets: Sequence[Target],
    settings: ProbeSettings,
    precision: Precision,
    title: str,
    progress: Progress,
) -> dict[str, list[list[float]]]:
    """Validation curves of the top module, as in `probe`, without reading the test set."""
    reader = Reader(learner, precision=precision, title=title, progress=progress)
    questions = [question(train, target, settings=settings) for target in targets]
    features = reader.features_of(train, questions)
    top = {asked: (module, values) for (asked, module), values in features.items()}
    curves = {}
    for asked, (module, values) in top.items():
        tried = validate_linear(
            labelled(values, asked),
            learning_rates=settings.learning_rates,
            settings=settings,
            stream=train.stream,
        )
        curve = [[trial.learning_rate, trial.accuracy] for trial in tried]
        curves[curve_name(asked.target, module)] = curve
    return curves


def chosen_accuracy(curves: Mapping[str, Sequence[Sequence[float]]]) -> float:
    """Validation accuracy at the top module's best rate, in percent; the mean over targets."""
    # Modules come in order: the last curve of a target belongs to the top module.
    top = {name.rpartition("/")[0]: curve for name, curve in curves.items()}
    return fmean(max(accuracy for _, accuracy in curve) for curve in top.values())


# -- reading features ----------------------------------------------------------------------------


class Reader:
    """Reads the features of splits with a frozen learner."""

    def __init__(
        self, learner: Learner, *, precision: Precision, title: str, progress: Progress
    ) -> None:
        self.learner = learner
        self.precision = precision
        self.title = title
        self.progress = progress

    def features_of(
        self,
        train: Batches,
        questions: Sequence["Question"],
        *,
        modules: Collection[str] | None = None,
    ) -> dict[tuple["Question", str], Float[Tensor, "n d"]]:
        """{(question, module): features at the question's places}, for all modules or some."""
        parts: dict[tuple[Question, str], list[Tensor]] = {}
        first = 0
        for batch, features in self._pass(train, name="train"):
            for asked in questions:
                here = asked.within(batch, first=first)
                for module, values in features.items():
                    if modules is None or module in modules:
                        parts.setdefault((asked, module), []).append(
                            readable(values, asked.target)[here]
                        )
            first += len(batch.inputs)
        # `pop` frees the parts, so that only one module's features are in memory twice.
        return {place: torch.cat(parts.pop(place)) for place in list(parts)}

    def accuracies(
        self, test: Batches, probes: Sequence["Probe"], targets: Sequence[Target]
    ) -> dict[str, float]:
        """Accuracy of each probe over all labels of a split, in percent, by metric and module."""
        counts: dict[str, Count] = {}
        for batch, features in self._pass(test, name="test"):
            for probe in probes:
                named = metric_name(probe.target, probe.metric)
                labels = batch.labels[probe.target.name].flatten()
                known = labels >= 0
                values = readable(features[probe.module], probe.target)[known]
                count = counts.setdefault(f"{named}/{probe.module}", Count())
                count.add(probe.classifier.predict(values), labels[known])
                counts[named] = count  # the last module, the top module, stays
            self._count_own_head(batch, features, targets, counts)
        return {name: count.percent for name, count in counts.items()}

    def _count_own_head(
        self,
        batch: Batch,
        features: Mapping[str, Tensor],
        targets: Sequence[Target],
        counts: dict[str, "Count"],
    ) -> None:
        """Add the predictions of the learner's own head to `counts`, if the learner has a head."""
        with devices.autocast(batch.inputs.device, self.precision):
            scores = self.learner.predict(features)
        if scores is None:
            return
        (target,) = targets  # a learner with a head of its own has learnt one target
        labels = batch.labels[target.name].flatten()
        known = labels >= 0
        predicted = scores.flatten(0, 1).argmax(dim=1)
        named = metric_name(target, "accuracy/own_head")
        counts.setdefault(named, Count()).add(predicted[known], labels[known])

    def _pass(self, batches: Batches, *, name: str) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
        """Every batch in order, with the features of each module in float32."""
        title = f"{self.title}: {name} features"
        total = len(batches.groups)
        with self.progress.task(title, total=total, unit=batches.noun) as task:
            for batch in batches.in_order():
                with devices.autocast(batches.device, self.precision):
                    features = self.learner.features(batch.inputs)
                yield batch, {module: values.float() for module, values in features.items()}
                task.advance(len(batch.inputs))


def readable(features: Float[Tensor, "example step d"], target: Target) -> Float[Tensor, "n d"]:
    """Features that a probe of a target reads: those of every step, or their mean over steps."""
    return features.flatten(0, 1) if target.per_step else features.mean(dim=1)


@dataclass(slots=True)
class Count:
    """Counts of correct predictions and of all predictions."""

    correct: int = 0
    total: int = 0

    def add(self, predictions: Int[Tensor, "n"], labels: Int[Tensor, "n"]) -> None:
        self.correct += int((predictions == labels).sum())
        self.total += len(labels)

    @property
    def percent(self) -> float:
        return 100 * self.correct / self.total


# -- questions and probes ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """A target with the labels of a split that fit or validate its probes."""

    target: Target
    places: Int[Tensor, "n"]  # indices of the labels among the split's flattened labels; ascending
    labels: Int[Tensor, "n"]
    validating: Bool[Tensor, "n"]

    def within(self, batch: Batch, *, first: int) -> Int[Tensor, "i"]:
        """The question's places within a batch, as indices into the batch's flattened labels.

        `first` is the number of the batch's first example in the split.
        """
        size = batch.labels[self.target.name].numel()
        start = first * (size // len(batch.inputs))
        low, high = torch.searchsorted(self.places, torch.tensor([start, start + size])).tolist()
        return (self.places[low:high] - start).to(batch.inputs.device)


@dataclass(frozen=True, slots=True)
class Probe:
    """A fitted classifier of a target on the features of a module, and the name of its metric."""

    target: Target
    module: str
    metric: str
    classifier: Classifier


def question(train: Batches, target: Target, *, settings: ProbeSettings) -> Question:
    """The labels of the training split that fit or validate probes of a target.

    The draw depends on the batches' stream alone. Validation holds out whole images and
    recordings: windows of one recording never serve both fitting and validation.

    Raises: DataError if fewer than two images or recordings have labels.
    """
    of_examples = train.labels[target.name]
    labels = of_examples.flatten()
    groups = train.groups.repeat_interleave(labels.numel() // len(of_examples))
    places = (labels >= 0).nonzero().squeeze(1)
    limit = settings.fitted_steps
    if target.per_step and limit is not None and len(places) > limit:
        draw = seeding.generator("probe labels", target.name, *train.stream)
        places = places[torch.randperm(len(places), generator=draw)[:limit]].sort().values
    present = groups[places].unique()
    if len(present) < 2:
        raise DataError(
            f"{len(present)} {train.noun_of_items}(s) of the training split have a {target.name} "
            f"label; the probe needs two or more, to fit and to choose a learning rate: label more"
        )
    order = torch.randperm(len(present), generator=seeding.generator("validation", *train.stream))
    held_out = min(max(1, round(len(present) * settings.validation_fraction)), len(present) - 1)
    return Question(
        target=target,
        places=places,
        labels=labels[places].long(),
        validating=torch.isin(groups[places], present[order[:held_out]]),
    )


def labelled(features: Float[Tensor, "n d"], asked: Question) -> Labelled:
    """Features at the question's places, with their labels and their use."""
    validating = asked.validating.to(features.device)
    return Labelled(
        features=features,
        labels=asked.labels.to(features.device),
        fitting=(~validating).nonzero().squeeze(1),
        validating=validating.nonzero().squeeze(1),
        classes=len(asked.target.classes),
    )


def fit(
    features: Float[Tensor, "n d"],
    asked: Question,
    *,
    settings: ProbeSettings,
    stream: tuple[str, int],
) -> tuple[dict[str, Classifier], list[list[float]]]:
    """{metric: fitted probe}, and the linear probe's validation curve."""
    task = labelled(features, asked)
    linear, curve = fit_linear(task, settings=settings, stream=stream)
    fitted: dict[str, Classifier] = {"accuracy": linear}
    if not asked.target.per_step:
        fitted["ridge_accuracy"] = fit_ridge(task, penalties=settings.ridge_penalties)
        fitted["knn_accuracy"] = fit_neighbours(task, neighbours=settings.neighbours)
    return fitted, curve


def curve_name(target: Target, module: str) -> str:
    """Name of a probe in a record: the module, after the target unless that is the class."""
    return module if target.name == "class" else f"{target.name}/{module}"
