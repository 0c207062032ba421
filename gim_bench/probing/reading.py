"""Reading features of whole splits with a frozen learner.

Letters: n = labels, d = feature dimensions.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gim_bench.contract import Batch, Learner, Target
from gim_bench.datasets.batches import Batches
from gim_bench.hardware import devices
from gim_bench.probing.classifiers import Classifier, Copies, percent_correct
from gim_bench.probing.questions import Question
from gim_bench.progress import Progress
from gim_bench.records.metrics import target_of
from gim_bench.records.predictions import Predictions
from gim_bench.settings.base import Precision


@dataclass(frozen=True, slots=True)
class Probe:
    """A fitted classifier of a target on the features of a module, and the name of its metric."""

    target: Target
    module: str
    metric: str
    classifier: Classifier


@runtime_checkable
class ReadsInPieces(Protocol):
    """A learner that reads long examples piece by piece; each piece has features of more steps."""

    def features_in_pieces(
        self, inputs: Float[Tensor, "example *shape"]
    ) -> Iterator[Mapping[str, Float[Tensor, "example step d"]]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Features of consecutive steps of all examples of a batch, in float32, by module.

    A batch has one part, but for a batch of a single long example.
    """

    batch: Batch
    first: int  # number of the batch's first example in the split
    steps: slice  # all, where no features are read
    features: Mapping[str, Float[Tensor, "example step d"]]
    # Means over all steps, by module; with the last part of a batch.
    means: Mapping[str, Float[Tensor, "example d"]] | None

    @property
    def examples(self) -> int:
        return len(self.batch.inputs)

    def labels(self, target: Target) -> Int[Tensor, "n"]:
        """The labels that `readable` has features for."""
        labels = self.batch.labels[target.name]
        if target.per_step:
            return labels[:, self.steps].flatten()
        return labels[:0] if self.means is None else labels

    def readable(self, module: str, target: Target) -> Float[Tensor, "n d"]:
        """Features that a probe of a target reads, as `readable` of all steps."""
        values = self.features[module]
        if target.per_step:
            return readable(values, target)
        return values[:0, 0] if self.means is None else self.means[module]

    def places(self, asked: Question) -> Int[Tensor, "i"]:
        """Which rows of `readable` the question asks for."""
        per_step = asked.target.per_step
        start = self.first * asked.steps + (self.steps.start if per_step else 0)
        rows = len(self.labels(asked.target))
        return asked.between(start, start + rows).to(self.batch.inputs.device)


def metric_name(target: Target, metric: str) -> str:
    """Name of a metric for a target: "accuracy" for a class, "speaker_accuracy" for a speaker."""
    return metric if target.name == "class" else f"{target.name}_{metric}"


def readable(features: Float[Tensor, "example step d"], target: Target) -> Float[Tensor, "n d"]:
    """Features that a probe of a target reads: those of every step, or their mean over steps."""
    return features.flatten(0, 1) if target.per_step else features.mean(dim=1)


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
        questions: Sequence[Question],
        *,
        modules: Collection[str] | None = None,
    ) -> dict[tuple[Question, str], Float[Tensor, "n d"]]:
        """{(question, module): features at the question's places}, for all modules or some."""
        parts: dict[tuple[Question, str], list[Tensor]] = {}
        for part in self._pass(train, name="train"):
            for asked in questions:
                here = part.places(asked)
                for module in part.features:
                    if modules is None or module in modules:
                        parts.setdefault((asked, module), []).append(
                            part.readable(module, asked.target)[here]
                        )
        # `pop` frees the parts, so that only one module's features are in memory twice.
        return {place: torch.cat(parts.pop(place)) for place in list(parts)}

    def copies_of(
        self, train: Batches, questions: Sequence[Question], *, copies: int
    ) -> dict[tuple[Question, str], Copies]:
        """Features of augmented copies of every labelled example, by question and module.

        Targets with a label for every step have none: their examples are not augmented.
        """
        parts: dict[tuple[Question, str], list[Copies]] = {}
        asked_of_examples = [asked for asked in questions if not asked.target.per_step]
        if not asked_of_examples:
            return {}
        title = f"{self.title}: augmented features"
        with self.progress.task(title, total=copies * train.items, unit=train.noun) as task:
            for number in range(1, copies + 1):
                for items, batch in train.augmented_copies(number):
                    features = self._features(batch)
                    for asked in asked_of_examples:
                        kept = torch.isin(items, asked.items)
                        here = kept.to(batch.inputs.device)
                        validating = torch.isin(items[kept], asked.validation_items)
                        for module, values in features.items():
                            found = Copies(
                                features=readable(values, asked.target)[here],
                                labels=batch.labels[asked.target.name][here].long(),
                                validating=validating.to(batch.inputs.device),
                            )
                            parts.setdefault((asked, module), []).append(found)
                    task.advance(len(items))
        return {place: Copies.joined(parts.pop(place)) for place in list(parts)}

    def predictions(
        self, test: Batches, probes: Sequence[Probe], targets: Sequence[Target]
    ) -> Predictions:
        """Predicted classes of each probe, and of the learner's own head, on all labels of a split.

        The name of a metric without a module belongs to the top module.
        """
        labels: dict[str, list[Tensor]] = {target.name: [] for target in targets}
        items: dict[str, list[Tensor]] = {target.name: [] for target in targets}
        predicted: dict[str, list[Tensor]] = {}
        tops: dict[str, str] = {}
        for part in self._pass(test, name="test"):
            groups = test.groups[part.first : part.first + part.examples]
            known: dict[str, Tensor] = {}
            for target in targets:
                of_part = part.labels(target)
                known[target.name] = of_part >= 0
                labels[target.name].append(of_part[known[target.name]].cpu())
                of_labels = groups.repeat_interleave(len(of_part) // len(groups))
                items[target.name].append(of_labels[known[target.name].cpu()])
            for probe in probes:
                values = part.readable(probe.module, probe.target)[known[probe.target.name]]
                bare = metric_name(probe.target, probe.metric)
                tops[bare] = f"{bare}/{probe.module}"  # the last module, the top module, stays
                predicted.setdefault(tops[bare], []).append(probe.classifier.predict(values).cpu())
            for name, scores in self._own_head(part, targets).items():
                chosen = scores.flatten(0, 1).argmax(dim=1)[known[targets[0].name]]
                predicted.setdefault(name, []).append(chosen.cpu())
        joined = {name: torch.cat(parts).numpy() for name, parts in predicted.items()}
        joined |= {bare: joined[top] for bare, top in tops.items()}
        return Predictions(
            labels={name: torch.cat(parts).numpy() for name, parts in labels.items()},
            items={name: torch.cat(parts).numpy() for name, parts in items.items()},
            predicted=joined,
        )

    def _own_head(
        self, part: Part, targets: Sequence[Target]
    ) -> dict[str, Float[Tensor, "example step c"]]:
        """Scores of the learner's own head by the name of their metric, if there is a head."""
        features = part.features
        if part.means is None and not targets[0].per_step:
            return {}
        if part.means is not None and part.steps.start and not targets[0].per_step:
            features = {module: mean[:, None] for module, mean in part.means.items()}
        with devices.autocast(part.batch.inputs.device, self.precision):
            scores = self.learner.predict(features)
        if scores is None:
            return {}
        (target,) = targets  # a learner with a head of its own has learnt one target
        return {metric_name(target, "accuracy/own_head"): scores}

    def _pass(self, batches: Batches, *, name: str) -> Iterator[Part]:
        """Every batch in order, part by part, with the features of each module in float32."""
        title = f"{self.title}: {name} features"
        total, first = len(batches.groups), 0
        with self.progress.task(title, total=total, unit=batches.noun) as task:
            for batch in batches.in_order():
                yield from _parts(batch, self._in_pieces(batch), first=first)
                first += len(batch.inputs)
                task.advance(len(batch.inputs))

    def _in_pieces(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        """Features of consecutive steps of the batch."""
        if not isinstance(self.learner, ReadsInPieces):
            yield self._features(batch)
            return
        pieces = self.learner.features_in_pieces(batch.inputs)
        while True:
            with devices.autocast(batch.inputs.device, self.precision):
                features = next(pieces, None)
            if features is None:
                return
            yield {module: values.float() for module, values in features.items()}

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        with devices.autocast(batch.inputs.device, self.precision):
            features = self.learner.features(batch.inputs)
        return {module: values.float() for module, values in features.items()}


def _parts(batch: Batch, pieces: Iterator[dict[str, Tensor]], *, first: int) -> Iterator[Part]:
    """The pieces as parts, the last of which has the means over all steps."""
    start = 0
    sums: dict[str, Tensor] = {}
    features = next(pieces)
    while True:
        following = next(pieces, None)
        count = next((values.shape[1] for values in features.values()), None)
        steps = slice(start, None if count is None else start + count)
        means = None
        if following is None and not start:
            means = {module: values.mean(dim=1) for module, values in features.items()}
        else:
            for module, values in features.items():
                sums[module] = sums.get(module, 0) + values.sum(dim=1)
            if following is None:
                means = {module: total / steps.stop for module, total in sums.items()}
        yield Part(batch=batch, first=first, steps=steps, features=features, means=means)
        if following is None:
            return
        start = steps.stop
        features = following


def accuracies(predictions: Predictions) -> dict[str, float]:
    """Accuracy over all labels, in percent, by the name of the metric."""
    found = {}
    for name, predicted in predictions.predicted.items():
        target, _ = target_of(name)
        labels = torch.from_numpy(predictions.labels[target or "class"])
        found[name] = percent_correct(torch.from_numpy(predicted), labels)
    return found


def unconverged(fits: Iterable[tuple[Target, bool]]) -> dict[str, float]:
    """Number of probes that ran out of iterations, by the name of the metric; without zeros.

    `fits` are (target, whether the probe converged).
    """
    return dict(Counter(metric_name(target, "unconverged") for target, done in fits if not done))
