"""What happens inside an encoder as it trains, measured on one batch after every epoch.

Four measures, each of a module or of two:

- the effective rank of the encodings, which falls to 1 where they collapse,
- the cosine between the gradient that trains the module and the gradient that the loss at the top
  would give it through all modules above,
- the lower bound on mutual information, log(candidates) - loss, where the objective is InfoNCE,
  with negatives of the positives' own distribution,
- linear CKA, the likeness of the features of two modules.

A look draws from no generator of training and leaves no trace in the learner.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gim_bench.contract import Batch, Encoder, Learner, Objective, eval_mode
from gim_bench.hardware import devices
from gim_bench.methods.stack import StackLearner, Unit, module_name
from gim_bench.training.audit import generators_of, untouched
from gim_bench.training.trainer import Trainer

RANK = "effective_rank"
COSINE = "gradient_cosine"
BOUND = "information_bound"
CKA = "cka"

Gradients = Sequence[Tensor | None]  # of a module's weights; None: the loss does not reach them


def look_inside(trainer: Trainer, batch: Batch, *, only: str | None = None) -> dict[str, float]:
    """Measures of the trained modules, or of those of `only` one unit, by name.

    Names are "effective_rank/module_1", "gradient_cosine/module_1", "information_bound/module_1"
    and "cka/module_1/module_2", which belongs to the upper module. A measure that is not defined,
    such as the cosine of a gradient of 0, is left out. Empty without an encoder of modules.
    """
    encoder = trainer.learner.encoder
    if not isinstance(encoder, Encoder):
        return {}
    with (
        untouched(trainer.learner, device=trainer.device),
        eval_mode(trainer.learner),
        devices.arithmetic(trainer.precision),  # of the way back, too
    ):
        for module in trainer.learner.modules():
            # As in training: running means know nothing yet, and cuDNN computes gradients of a
            # recurrent layer in training mode only.
            if isinstance(module, (_BatchNorm, nn.RNNBase)):
                module.train()
        found = (
            _of_encodings(trainer, encoder, batch)
            | _of_gradients(trainer, encoder, batch)
            | _of_losses(trainer, batch)
        )
    trained = trainer.optimisers.keys() if only is None else {only}
    units = _unit_of_modules(trainer, encoder)
    return {
        name: value
        for name, value in found.items()
        if math.isfinite(value) and units.get(name.rpartition("/")[2]) in trained
    }


# -- the measures ----------------------------------------------------------------------------------


def effective_rank(z: Float[Tensor, "row d"]) -> float:
    """Exponential of the entropy of the singular values, each divided by their sum.

    The rank is 1 if all rows are alike and d if all singular values are; nan if all rows are 0.
    Means are not subtracted.

    Source: Roy and Vetterli 2007, Definition 1.
    """
    z = z.double()
    gram = z.T @ z if len(z) > z.shape[1] else z @ z.T
    squares = torch.linalg.eigvalsh(gram)
    rounding = squares[-1] * len(squares) * torch.finfo(squares.dtype).eps
    singular = torch.where(squares > rounding, squares, 0).sqrt()
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


def linear_cka(one: Float[Tensor, "row d"], other: Float[Tensor, "row e"]) -> float:
    """Linear centred kernel alignment of two features of the same rows, from 0 to 1.

    The alignment is 1 if one feature is a rotated and scaled copy of the other, nan if all rows of
    a feature are alike. With fewer rows than channels, unrelated features align, too.

    Source: Kornblith et al. 2019, Eq. 5 and section 3.
    """
    one, other = (x.double() - x.double().mean(dim=0) for x in (one, other))
    own = torch.linalg.norm(one.T @ one) * torch.linalg.norm(other.T @ other)
    return float(torch.linalg.norm(other.T @ one).square() / own)


def cosine(one: Gradients, other: Gradients) -> float:
    """Cosine between two gradients of the same weights; nan if one is 0."""
    product, squares = 0.0, [0.0, 0.0]
    for pair in zip(one, other, strict=True):
        for i, gradient in enumerate(pair):
            squares[i] += 0.0 if gradient is None else float(gradient.double().square().sum())
        left, right = pair
        if left is not None and right is not None:
            product += float((left.double() * right.double()).sum())
    norms = math.sqrt(squares[0]) * math.sqrt(squares[1])
    return product / norms if norms else math.nan


# -- of a learner ----------------------------------------------------------------------------------


def _of_encodings(trainer: Trainer, encoder: Encoder, batch: Batch) -> dict[str, float]:
    """Rank of each module's grid of encodings, and CKA of the pooled encodings.

    Encodings are pooled over the places of every label: all places of an image, 10 ms of speech.
    """
    ranks, features = {}, {}
    with torch.no_grad(), devices.autocast(trainer.device, trainer.precision):
        for m, z in enumerate(encoder.grids(batch.inputs)):
            name = module_name(m)
            ranks[f"{RANK}/{name}"] = effective_rank(z.flatten(0, 2))
            features[name] = encoder.steps(z, module=m).flatten(0, 1)
    alike = {
        f"{CKA}/{lower}/{upper}": linear_cka(features[lower], features[upper])
        for lower, upper in combinations(features, 2)
    }
    return ranks | alike


def _of_gradients(trainer: Trainer, encoder: Encoder, batch: Batch) -> dict[str, float]:
    """Cosine of each module's gradients.

    Dropout and noise are left out, and all losses begin with the same state of all generators: no
    draw makes gradients differ.
    """
    units = _unit_of_modules(trainer, encoder)
    weights = {
        module_name(m): [p for p in stage.parameters() if p.requires_grad]
        for m, stage in enumerate(encoder.stages)
    }
    local: dict[str, Gradients] = {}
    for unit, loss in _drawing_alike(trainer, batch):
        local |= _gradients(loss, {m: theta for m, theta in weights.items() if units[m] == unit})
    through = {} if (top := _loss_at_the_top(trainer, batch)) is None else _gradients(top, weights)
    return {
        f"{COSINE}/{m}": cosine(gradients, through[m])
        for m, gradients in local.items()
        if m in through
    }


def _of_losses(trainer: Trainer, batch: Batch) -> dict[str, float]:
    """Bound on information of each unit, where the objective has one."""
    learner = trainer.learner
    objective = learner.traits.objective
    if objective is None or objective.bounds_information is None:
        return {}
    with torch.no_grad(), _other_settings(learner, objective, objective.bounds_information):
        losses = {unit: loss.item() for unit, loss in _drawing_alike(trainer, batch)}
    uninformed = learner.uninformed_losses()
    return {f"{BOUND}/{u}": uninformed[u] - losses[u] for u in losses if u in uninformed}


@contextmanager
def _other_settings(
    learner: Learner, objective: Objective, values: Mapping[str, Any]
) -> Iterator[None]:
    """Within the block, the heads of the objective have these values of its settings."""
    heads: dict[Any, Any] = {
        module: module.settings
        for module in learner.modules()
        if isinstance(getattr(module, "settings", None), objective.settings)
    }
    for head, settings in heads.items():
        head.settings = settings.model_copy(update=values)
    try:
        yield
    finally:
        for head, settings in heads.items():
            head.settings = settings


def _loss_at_the_top(trainer: Trainer, batch: Batch) -> Float[Tensor, ""] | None:
    """Loss of the topmost unit, whose gradient passes through all modules.

    None for a learner that is no stack, whose units are not known to be joined.
    """
    learner = trainer.learner
    if not isinstance(learner, StackLearner):
        return None
    units = learner.partition
    learner.partition = [Unit(0, units[-1].last)]
    try:
        ((_, loss),) = _drawing_alike(trainer, batch)
    finally:
        learner.partition = units
    return loss


def _drawing_alike(trainer: Trainer, batch: Batch) -> Iterator[tuple[str, Float[Tensor, ""]]]:
    losses = trainer.losses(batch)
    while True:
        _rewind(trainer)
        found = next(losses, None)
        if found is None:
            return
        yield found


def _rewind(trainer: Trainer) -> None:
    """Set all generators of the learner, and PyTorch's, to a state that every look begins with."""
    for generator in generators_of(trainer.learner):
        generator.manual_seed(0)
    torch.manual_seed(0)


def _gradients(
    loss: Float[Tensor, ""], weights: Mapping[str, Sequence[nn.Parameter]]
) -> dict[str, Gradients]:
    """∂loss/∂θ_m by module; a module without weights is left out."""
    flat = [p for theta in weights.values() for p in theta]
    if not flat:
        return {}
    found = iter(torch.autograd.grad(loss, flat, allow_unused=True))
    return {m: [next(found) for _ in theta] for m, theta in weights.items() if theta}


def _unit_of_modules(trainer: Trainer, encoder: Encoder) -> dict[str, str | None]:
    """The unit that trains each module; None for a module without trained weights."""
    unit_of = {id(p): unit for unit, theta in trainer.learner.units().items() for p in theta}
    found: dict[str, str | None] = {}
    for m, stage in enumerate(encoder.stages):
        owners = (unit_of[id(p)] for p in stage.parameters() if id(p) in unit_of)
        found[module_name(m)] = next(owners, None)
    return found
