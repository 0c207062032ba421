"""Eqs. 1 and 2 of Zbontar et al. 2021 as loops over dimensions and examples.

z is [example p]. Batch norm adds ε to every variance, which the equations leave out.
"""

import torch
from torch import Tensor

EPSILON = 1e-5


def slow_barlow_twins(one: Tensor, other: Tensor, *, redundancy: float) -> Tensor:
    """Sum over i of (1 - C_ii)², plus λ times the sum over i ≠ j of C_ij²; for autograd."""
    dimensions = range(one.shape[1])
    invariance = torch.zeros((), dtype=one.dtype)
    reduction = torch.zeros((), dtype=one.dtype)
    for i in dimensions:
        for j in dimensions:
            c = slow_correlation(one[:, i], other[:, j])
            if i == j:
                invariance = invariance + (1 - c) ** 2
            else:
                reduction = reduction + c**2
    return invariance + redundancy * reduction


def slow_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Σ_n a_n b_n / (√Σ_n a_n² √Σ_n b_n²), both centred over the batch."""
    examples = len(a)
    a = a - sum(a) / examples
    b = b - sum(b) / examples
    products = sum(x * y for x, y in zip(a, b, strict=True)) / examples
    variances = [sum(x * x for x in z) / examples + EPSILON for z in (a, b)]
    return products / (variances[0] * variances[1]) ** 0.5
