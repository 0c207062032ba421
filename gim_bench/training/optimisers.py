"""Optimisers and learning rates, as the settings of training name them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from gim_bench.settings.optimisers import (
    AdamSettings,
    AdamWSettings,
    ConstantRate,
    CosineRate,
    LARSSettings,
    OptimiserSettings,
    RateSettings,
    SGDSettings,
    StepsRate,
)

# Batch and instance norm of any dimension come from _NormBase.
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def make_optimiser(
    groups: Sequence[dict[str, Any]], settings: OptimiserSettings, *, learning_rate: float
) -> torch.optim.Optimizer:
    """Return the optimiser of the groups that `parameter_groups` made, with torch's fused steps."""
    match settings:
        case AdamSettings() | AdamWSettings():
            adam = torch.optim.Adam if settings.kind == "adam" else torch.optim.AdamW
            return adam(
                groups,
                lr=learning_rate,
                betas=settings.betas,
                eps=settings.eps,
                weight_decay=settings.weight_decay,
                fused=True,
            )
        case SGDSettings():
            return torch.optim.SGD(
                groups,
                lr=learning_rate,
                momentum=settings.momentum,
                nesterov=settings.nesterov,
                weight_decay=settings.weight_decay,
                fused=True,
            )
        case LARSSettings():
            return LARS(
                groups,
                lr=learning_rate,
                momentum=settings.momentum,
                trust_coefficient=settings.trust_coefficient,
                weight_decay=settings.weight_decay,
            )


def parameter_groups(
    learner: nn.Module, parameters: Sequence[nn.Parameter], *, settings: OptimiserSettings
) -> list[dict[str, Any]]:
    """Split `parameters` of `learner` into torch's groups: those with weight decay, those without.

    A single group comes back where nothing is decayed or nothing is left out. LARS does not scale
    the steps of parameters that are left out.
    """
    scales = isinstance(settings, LARSSettings)
    if settings.weight_decay == 0 and not scales:
        return [{"params": list(parameters)}]
    left_out = _left_out(learner, parameters, excludes=settings.excludes)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p not in left_out]},
        {"params": [p for p in parameters if p in left_out], "weight_decay": 0.0},
    ]
    if scales:
        groups[1]["trust_coefficient"] = None
    return [group for group in groups if group["params"]]


def _left_out(
    learner: nn.Module, parameters: Sequence[nn.Parameter], *, excludes: Sequence[str]
) -> set[nn.Parameter]:
    """The parameters of `learner` that `excludes` names.

    Norms: all parameters of a normalisation layer. Biases: parameters that are named so, and any
    other of at most one dimension, such as the slopes of a PReLU.
    """
    norms = {
        parameter
        for module in learner.modules()
        if isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }
    biases = {
        parameter
        for name, parameter in learner.named_parameters()
        if "bias" in name.rpartition(".")[2]  # "bias", an attention's "bias_k"
    }
    biases |= {parameter for parameter in parameters if parameter.ndim <= 1} - norms
    named = {"norms": norms, "biases": biases}
    return {parameter for kind in excludes for parameter in named[kind]}


class LARS(torch.optim.Optimizer):
    """Gradient descent with momentum whose step in each tensor is proportional to its norm.

    With gradient g, weight decay β, momentum μ and trust coefficient η:

        d = g + β·w
        v = μ·v + η·‖w‖/‖d‖ · d
        w = w - rate · v

    The trust ratio η·‖w‖/‖d‖ is 1 where a norm is 0, and in groups without a trust coefficient.

    Source: You, Gitman and Ginsburg 2017, Algorithm 1, as in the released code of BYOL, Barlow
    Twins and VICReg. There ‖d‖ stands in place of the paper's ‖g‖ + β·‖w‖ (Eq. 6), and the rate
    multiplies the momentum, where in the paper the momentum sums steps of each time's rate.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        trust_coefficient: float | None,
        weight_decay: float,
    ) -> None:
        """Groups may have values of their own; without a `trust_coefficient` nothing is scaled."""
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "trust_coefficient": trust_coefficient,
            "weight_decay": weight_decay,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step from the gradients that are there; the gradients are left as they are."""
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is None:
                    continue
                update = weights.grad.add(weights, alpha=group["weight_decay"])
                if group["trust_coefficient"] is not None:
                    update *= _trust_ratio(weights, update, coefficient=group["trust_coefficient"])
                state = self.state[weights]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weights)
                velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(update)
                weights.sub_(velocity, alpha=group["lr"])


def _trust_ratio(
    weights: torch.Tensor, update: torch.Tensor, *, coefficient: float
) -> torch.Tensor:
    """η·‖w‖/‖d‖, or 1 where a norm is 0; computed on the device, which need not wait for it."""
    weight_norm, update_norm = weights.norm(), update.norm()
    both = (weight_norm > 0) & (update_norm > 0)
    return torch.where(both, coefficient * weight_norm / update_norm, 1.0)


def rate_at(step: int, *, settings: RateSettings, steps: int, steps_per_epoch: float) -> float:
    """Return what the learning rate is multiplied by at `step` of `steps`, counted from 0.

    A number of epochs may end within a step: the rate changes at the nearest step.
    """
    match settings:
        case ConstantRate():
            return 1.0
        case CosineRate(warmup_epochs=epochs, final_share=final):
            warmup = round(epochs * steps_per_epoch)
            if step < warmup:
                return step / warmup
            cosine = math.cos(math.pi * (step - warmup) / (steps - warmup))
            return final + (1 - final) * (1 + cosine) / 2
        case StepsRate(at=epochs, factor=factor):
            over = sum(step >= round(epoch * steps_per_epoch) for epoch in epochs)
            return float(factor**over)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step of `optimiser` be taken at the learning rate `rate`."""
    for group in optimiser.param_groups:
        group["lr"] = rate
