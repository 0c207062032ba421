"""Deep InfoMax's local objective as loops over images, globals, locations and channels.

A map of encodings is a nested list of scalar tensors, [image][place][channel], so that gradients of
the loops are those of scalars. A location is counted row by row.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Places = Sequence[Sequence[Sequence[Tensor]]]

NORM_EPSILON = 1e-5


def places_of(grid: Tensor) -> Places:
    """The scalars of a grid [image row column channel]."""
    return [[list(place) for place in image.flatten(0, 1)] for image in grid]


def slow_local_infomax(local: Places, summary: Places) -> Tensor:
    """Mean over images n, globals g and locations i of log Σ e^T - T, the infoNCE estimator.

    T is the product of global g of image n with a location. The sum is over location i of image n
    and all locations of all images but n.
    """
    losses = []
    for n, globals_ in enumerate(summary):
        for each in globals_:
            others = [
                dot(each, place) for m, image in enumerate(local) if m != n for place in image
            ]
            for own in local[n]:
                positive = dot(each, own)
                top = max(score.item() for score in [positive, *others])
                total = sum(torch.exp(score - top) for score in [positive, *others])
                losses.append(top + torch.log(total) - positive)
    return sum(losses) / len(losses)


def slow_mi_network(places: Places, weights: Mapping[str, Tensor]) -> Places:
    """LayerNorm(V ReLU(BatchNorm(W x)) + b + S x), place by place, batch norm in train mode."""
    hidden = [[apply(weights["nonlinear.0.weight"], place) for place in image] for image in places]
    count = sum(len(image) for image in hidden)
    for u, (gain, bias) in enumerate(
        zip(weights["nonlinear.1.weight"], weights["nonlinear.1.bias"], strict=True)
    ):
        mean = sum(place[u] for image in hidden for place in image) / count
        variance = sum((place[u] - mean) ** 2 for image in hidden for place in image) / count
        for image in hidden:
            for place in image:
                normal = gain * (place[u] - mean) / torch.sqrt(variance + NORM_EPSILON) + bias
                place[u] = normal if normal.item() > 0 else 0 * normal
    return [
        [_normalised_sum(place, active, weights) for place, active in zip(*pair, strict=True)]
        for pair in zip(places, hidden, strict=True)
    ]


def _normalised_sum(
    place: Sequence[Tensor], active: Sequence[Tensor], weights: Mapping[str, Tensor]
) -> Sequence[Tensor]:
    """Layer norm over the sum of both paths."""
    nonlinear = apply(weights["nonlinear.3.weight"], active)
    linear = apply(weights["shortcut.weight"], place)
    found = [
        a + bias + b
        for a, bias, b in zip(nonlinear, weights["nonlinear.3.bias"], linear, strict=True)
    ]
    mean = sum(found) / len(found)
    deviation = torch.sqrt(sum((x - mean) ** 2 for x in found) / len(found) + NORM_EPSILON)
    return [
        gain * (x - mean) / deviation + bias
        for x, gain, bias in zip(found, weights["norm.weight"], weights["norm.bias"], strict=True)
    ]


def apply(matrix: Tensor, vector: Sequence[Tensor]) -> list[Tensor]:
    return [dot(row, vector) for row in matrix]


def dot(one: Sequence[Tensor] | Tensor, other: Sequence[Tensor]) -> Tensor:
    return sum(a * b for a, b in zip(one, other, strict=True))
