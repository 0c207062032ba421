"""Protocol exchange: one frozen learner, read under several protocols.

Features of the training split are read in one pass for all protocols that share their labels, and
so is the test set, after validation has chosen every hyperparameter.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from gim_bench.contract import Batch, Learner, Target
from gim_bench.datasets.batches import Batches
from gim_bench.hardware import devices, memory
from gim_bench.probing.classifiers import Classifier, Labelled, fit_neighbours
from gim_bench.probing.hidden import refit_hidden, validate_hidden
from gim_bench.probing.linear import (
    Hyperparameters,
    Tried,
    best_of,
    grid_of,
    refit_linear,
    validate_linear,
)
from gim_bench.probing.probe import labelled
from gim_bench.probing.questions import Question, question
from gim_bench.probing.reading import Part, Probe, Reader, accuracies, metric_name, unconverged
from gim_bench.progress import Progress
from gim_bench.records.predictions import Predictions
from gim_bench.settings.base import Precision
from gim_bench.settings.probing import (
    AnyProbeSettings,
    HiddenLayerSettings,
    NearestNeighboursSettings,
    ProbeSettings,
)
from gim_bench.settings.protocols import Protocol, Reading

NEIGHBOURS_OF_STEPS = "nearest neighbours are not looked for among labels of every 10 ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Result of a protocol on one model of a cell; empty where the protocol does not apply."""

    metrics: Mapping[str, float] = field(default_factory=dict)  # named as a record's: "accuracy"
    chosen: Mapping[str, float] = field(default_factory=dict)  # hyperparameters, by target
    curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)  # by target
    predictions: Predictions = field(
        default_factory=lambda: Predictions(labels={}, items={}, predicted={})
    )
    reason: str = ""  # why the protocol does not apply to a target, or to the learner


class SpaceReader(Reader):
    """Reads the spaces of protocols, such as "features/top", in the place of modules."""

    def __init__(
        self,
        learner: Learner,
        protocols: Sequence[Protocol],
        *,
        labels: int,
        precision: Precision,
        title: str,
        progress: Progress,
    ) -> None:
        super().__init__(learner, precision=precision, title=title, progress=progress)
        self.spaces = {space_of(protocol): protocol for protocol in protocols}
        self.labels = labels  # 0 when a first batch has shown that their features fit

    def _in_pieces(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        features = self._features(batch)
        if self.labels:
            _check_room(features, labels=self.labels, device=batch.inputs.device)
            self.labels = 0
        yield features

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        kinds = {protocol.reads for protocol in self.spaces.values()}
        with devices.autocast(batch.inputs.device, self.precision):
            read = self.learner.readings(batch.inputs, kinds=kinds)
        found = {}
        for space, protocol in self.spaces.items():
            if modules := [values.float() for values in read[protocol.reads].values()]:
                found[space] = (
                    modules[-1] if protocol.modules == "top" else torch.cat(modules, dim=2)
                )
        return found

    def _own_head(
        self, part: Part, targets: Sequence[Target]
    ) -> dict[str, Float[Tensor, "example step c"]]:
        return {}


def _check_room(
    features: Mapping[str, Float[Tensor, "example step _"]], *, labels: int, device: torch.device
) -> None:
    """Raises: MemoryError if memory cannot hold features of so many labels in float32.

    The parts of a space are held beside the whole while they are joined.
    """
    widths = [values.shape[2] for values in features.values()]
    needed = 4 * labels * (sum(widths) + max(widths, default=0))
    if needed > (free := memory.available_bytes(device)):
        raise MemoryError(
            f"{labels} labels × {sum(widths)} features need {needed / 1e9:.3g} GB, and "
            f"{free / 1e9:.3g} GB are free"
        )


def space_of(protocol: Protocol) -> str:
    """Name of the features that a protocol reads; protocols may share them."""
    return f"{protocol.reads}/{protocol.modules}"


def exchange(
    learner: Learner,
    protocols: Sequence[Protocol],
    *,
    chooser: Learner | None,
    train: Batches,
    test: Batches,
    targets: Sequence[Target],
    precision: Precision,
    title: str,
    progress: Progress,
) -> dict[str, Read]:
    """Results by name of protocols that are of one group.

    Hyperparameters are chosen on the validation share: with the features of `chooser`, an encoder
    that was not trained on these labels, or of the learner itself. Classifiers are fitted on all
    labels, with the draws of the cell's own probe. The test set is read once.

    Raises: DataError if too few images or recordings have labels; MemoryError, or PyTorch's own, if
    the features of all protocols do not fit into memory.
    """
    settings = protocols[0].probe
    questions = [question(train, target, settings=settings) for target in targets]
    reader_of = partial(
        SpaceReader,
        labels=sum(len(asked.places) for asked in questions),
        precision=settings.precision or precision,
        title=title,
        progress=progress,
    )
    chosen: dict[tuple[str, str], Sequence[Tried]] = {}
    if chooser is not None:
        choosing = [protocol for protocol in protocols if chooses(protocol.probe)]
        reader = reader_of(chooser, choosing)
        chosen = {
            (protocol.name, asked.target.name): _tried(task, protocol.probe, stream=train.stream)
            for protocol, asked, task in _tasks(reader, train, questions, choosing)
        }
    reader = reader_of(learner, protocols)
    tried: dict[str, dict[str, Sequence[Tried]]] = {protocol.name: {} for protocol in protocols}
    fits: dict[str, list[tuple[Target, bool]]] = {protocol.name: [] for protocol in protocols}
    probes = []
    for protocol, asked, task in _tasks(reader, train, questions, protocols):
        found = chosen.get((protocol.name, asked.target.name))
        if found is None:
            found = _tried(task, protocol.probe, stream=train.stream)
        tried[protocol.name][asked.target.name] = found
        classifier, converged = _fitted(task, found, protocol.probe, stream=train.stream)
        fits[protocol.name].append((asked.target, converged))
        metric = f"accuracy/{protocol.name}"
        probes.append(Probe(asked.target, space_of(protocol), metric, classifier))
    predictions = reader.predictions(test, probes, targets) if probes else None
    return {
        p.name: _read(p, tried[p.name], fits[p.name], predictions, targets=targets)
        for p in protocols
    }


def chooses(settings: AnyProbeSettings) -> bool:
    """Whether validation chooses anything: nearest neighbours and a single rate leave no choice."""
    return not isinstance(settings, NearestNeighboursSettings) and len(grid_of(settings)) > 1


def _tasks(
    reader: SpaceReader,
    train: Batches,
    questions: Sequence[Question],
    protocols: Sequence[Protocol],
) -> list[tuple[Protocol, Question, Labelled]]:
    """(protocol, question, features with labels) of every probe that there is."""
    if not protocols:
        return []
    features = reader.features_of(train, questions)
    copies = {}
    if augment := protocols[0].probe.augment:
        copies = reader.copies_of(train, questions, copies=augment)
    return [
        (protocol, asked, labelled(features[place], asked, copies=copies.get(place)))
        for protocol in protocols
        for asked in questions
        if (place := (asked, space_of(protocol))) in features
        and not (_is_neighbours(protocol) and asked.target.per_step)
    ]


def _is_neighbours(protocol: Protocol) -> bool:
    return isinstance(protocol.probe, NearestNeighboursSettings)


def _tried(
    task: Labelled, settings: AnyProbeSettings, *, stream: tuple[str, int]
) -> Sequence[Tried]:
    """Validation accuracy and loss of every hyperparameter; empty if there is no choice."""
    if isinstance(settings, NearestNeighboursSettings) or not chooses(settings):
        return []
    if isinstance(settings, HiddenLayerSettings):
        return validate_hidden(task, settings=settings, stream=stream)
    return validate_linear(task, settings=settings, stream=stream)


def _chosen(
    tried: Sequence[Tried], settings: ProbeSettings | HiddenLayerSettings
) -> Hyperparameters:
    """The best trial, or without trials the grid's only value."""
    return best_of(tried) if tried else Hyperparameters(hyperparameter=grid_of(settings)[0])


def _fitted(
    task: Labelled,
    tried: Sequence[Tried],
    settings: AnyProbeSettings,
    *,
    stream: tuple[str, int],
) -> tuple[Classifier, bool]:
    """The classifier with the best hyperparameter, fitted on all labels; whether it converged."""
    if isinstance(settings, NearestNeighboursSettings):
        return fit_neighbours(task, neighbours=settings.neighbours), True
    chosen = _chosen(tried, settings)
    if isinstance(settings, HiddenLayerSettings):
        return refit_hidden(task, chosen, settings=settings, stream=stream), True
    return refit_linear(task, chosen, settings=settings, stream=stream)


def _read(
    protocol: Protocol,
    tried: Mapping[str, Sequence[Tried]],
    fits: Sequence[tuple[Target, bool]],
    predictions: Predictions | None,
    *,
    targets: Sequence[Target],
) -> Read:
    """The part of the predictions that belongs to a protocol, under the names of the metrics."""
    if not tried or predictions is None:
        return Read(reason=_reason(protocol))
    answered = [target for target in targets if target.name in tried]
    own = Predictions(
        labels={target.name: predictions.labels[target.name] for target in answered},
        items={target.name: predictions.items[target.name] for target in answered},
        predicted={
            metric_name(target, "accuracy"): predictions.predicted[
                metric_name(target, f"accuracy/{protocol.name}")
            ]
            for target in answered
        },
    )
    settings = protocol.probe
    return Read(
        metrics=accuracies(own) | unconverged(fits),
        chosen={
            name: _chosen(found, settings).hyperparameter
            for name, found in tried.items()
            if not isinstance(settings, NearestNeighboursSettings)
        },
        curves={
            name: [[each.hyperparameter, each.accuracy] for each in found]
            for name, found in tried.items()
            if found
        },
        predictions=own,
        reason="" if len(answered) == len(targets) else NEIGHBOURS_OF_STEPS,
    )


def _reason(protocol: Protocol) -> str:
    if _is_neighbours(protocol):
        return NEIGHBOURS_OF_STEPS
    if protocol.reads is Reading.HEAD:
        return "the method has no head whose output a probe reads"
    return "the method has no grid of encodings of an image"
