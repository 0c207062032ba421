"""Eqs. 2, 3 and 6 to 8 of Illing et al. 2021 as loops over examples, rows, columns and steps.

z is [example row column d] and c is [example row column e]; `weights` are W_1 … W_K. `given[k - 1]`
says whose encodings each example is given at step k: y is +1 where they are its own, else -1.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor


class Update(NamedTuple):
    """Mean loss, and its gradients from the learning rule."""

    loss: float
    z: Tensor
    c: Tensor
    weights: list[Tensor]


def slow_hinge(
    z: Tensor, c: Tensor, *, weights: Sequence[Tensor], given: Sequence[Sequence[int]], skip: int
) -> Update:
    """Mean over k of the mean over anchors of max(0, 1 - y z^T W_k c).

    Where the loss is positive, its derivatives are -y W_k c, -y W_k^T z and -y z c^T.
    """
    total, of_z, of_c = 0.0, torch.zeros_like(z), torch.zeros_like(c)
    of_weights = [torch.zeros_like(weight) for weight in weights]
    examples, rows, columns, _ = z.shape
    for k, weight in enumerate(weights):
        down = skip + k + 1
        share = 1 / (len(weights) * examples * (rows - down) * columns)
        for example, row, column in product(range(examples), range(rows - down), range(columns)):
            other = given[k][example]
            y = 1 if other == example else -1
            target, context = z[other, row + down, column], c[example, row, column]
            loss = 1 - y * float(target @ weight @ context)
            if loss > 0:
                total += share * loss
                of_z[other, row + down, column] -= share * y * (weight @ context)
                of_c[example, row, column] -= share * y * (weight.T @ target)
                of_weights[k] -= share * y * torch.outer(target, context)
    return Update(total, of_z, of_c, of_weights)
