"""A classifier with one hidden layer on frozen features: Deep InfoMax's own evaluation.

Letters: n = labels, d = feature dimensions, c = classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gim_bench import seeding
from gim_bench.errors import DataError
from gim_bench.probing.adam import Adam, shuffled_batches
from gim_bench.probing.classifiers import Labelled, Scale, percent_correct
from gim_bench.probing.linear import Hyperparameters, Tried
from gim_bench.settings.probing import HiddenLayerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenLayerProbe:
    """A fitted network, in eval mode."""

    scale: Scale
    network: nn.Module

    @torch.no_grad()
    def scores(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Class scores of each example."""
        return self.network(self.scale(features))

    def predict(self, features: Float[Tensor, "n d"]) -> Int[Tensor, "n"]:
        return self.scores(features).argmax(dim=1)


def validate_hidden(
    task: Labelled, *, settings: HiddenLayerSettings, stream: tuple[str, int]
) -> list[Tried]:
    """Validation accuracy and loss of each learning rate, from networks of the fitting share."""
    labels = task.labels[task.validating]
    tried = []
    for rate in settings.learning_rates:
        fitted = _fit(*task.fitted, rate, classes=task.classes, settings=settings, stream=stream)
        scores = fitted.scores(task.features[task.validating])
        tried.append(
            Tried(
                hyperparameter=rate,
                accuracy=percent_correct(scores.argmax(dim=1), labels),
                loss=float(F.cross_entropy(scores, labels)),
            )
        )
    return tried


def refit_hidden(
    task: Labelled,
    chosen: Hyperparameters,
    *,
    settings: HiddenLayerSettings,
    stream: tuple[str, int],
) -> HiddenLayerProbe:
    """The network with the chosen learning rate, fitted on all labels."""
    rate = chosen.hyperparameter
    return _fit(*task.refitted, rate, classes=task.classes, settings=settings, stream=stream)


def _fit(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    rate: float,
    *,
    classes: int,
    settings: HiddenLayerSettings,
    stream: tuple[str, int],
) -> HiddenLayerProbe:
    """A network after its steps of Adam; every rate has the same first weights and draws.

    Source: Hjelm et al. 2019, released code (linear layer, batch norm, ReLU, dropout, linear
    layer); there the rate falls by 10 after 50 and 100 epochs, here it is constant.

    Raises: DataError for a single label, of which batch norm has no variance.
    """
    if len(features) < 2:
        raise DataError("a hidden layer with batch norm needs two labelled examples: label more")
    scale = (Scale.of if settings.standardise else Scale.unchanged)(features)
    inputs = scale(features)
    with seeding.weights_from("hidden layer", *stream):
        network = _network(inputs.shape[1], classes, settings=settings).to(inputs.device)
        parameters = list(network.parameters())
        optimiser = Adam(parameters)
        for chosen in _batches(len(inputs), settings, stream=stream, device=inputs.device):
            scores = network(inputs.index_select(0, chosen))
            loss = F.cross_entropy(scores, labels.index_select(0, chosen))
            optimiser.step(torch.autograd.grad(loss, parameters), rate=rate)
    return HiddenLayerProbe(scale=scale, network=network.eval())


def _network(dim: int, classes: int, *, settings: HiddenLayerSettings) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(dim, settings.units),
        nn.BatchNorm1d(settings.units),
        nn.ReLU(),
        nn.Dropout(settings.dropout),
        nn.Linear(settings.units, classes),
    )


def _batches(
    labels: int, settings: HiddenLayerSettings, *, stream: tuple[str, int], device: torch.device
) -> Sequence[Int[Tensor, "b"]]:
    """A batch for each step, without batches of a single label."""
    draw = seeding.generator("probe", *stream)
    batches = shuffled_batches(labels, settings.batch_size, draw, device=device)
    return list(islice((chosen for chosen in batches if len(chosen) > 1), settings.steps))
