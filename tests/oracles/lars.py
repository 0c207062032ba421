"""LARS as the equations have it, number by number, for one tensor."""

from collections.abc import Iterable, Sequence
from math import sqrt


def slow_lars(
    weights: Sequence[float],
    gradients: Iterable[Sequence[float]],
    *,
    rate: float,
    momentum: float,
    decay: float,
    trust_coefficient: float,
) -> list[float]:
    """The weights after one step for each of the gradients, all tensors written as flat lists."""
    weights = list(weights)
    velocity = [0.0] * len(weights)
    for gradient in gradients:
        update = [g + decay * w for g, w in zip(gradient, weights, strict=True)]
        weight_norm = sqrt(sum(w * w for w in weights))
        update_norm = sqrt(sum(d * d for d in update))
        ratio = 1.0
        if weight_norm > 0 and update_norm > 0:
            ratio = trust_coefficient * weight_norm / update_norm
        for i, d in enumerate(update):
            velocity[i] = momentum * velocity[i] + ratio * d
            weights[i] -= rate * velocity[i]
    return weights
