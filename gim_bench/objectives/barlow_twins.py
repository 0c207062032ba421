"""Barlow Twins: the cross-correlation of two views' projections becomes the identity.

Letters: d = channels of an encoding, e = dimensions of a pooled encoding, p = dimensions of a
projection.
"""

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from math import isqrt

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Objective
from gim_bench.hardware import process_group
from gim_bench.hardware.devices import at_least_fp32
from gim_bench.settings.base import PositiveFloat, Settings


class BarlowTwinsSettings(Settings):
    """Settings that all rows of a suite share; the defaults are those of blockwise Barlow Twins."""

    redundancy: PositiveFloat = 0.0051  # λ, the weight of the terms off the diagonal
    scale: PositiveFloat = 0.024  # of the whole loss


BARLOW_TWINS = Objective(name="barlow_twins", settings=BarlowTwinsSettings)


class Pooling(StrEnum):
    """How a grid of encodings becomes one vector."""

    GLOBAL = "global"  # the mean over the grid
    LOCAL = "local"  # means over the parts of the grid, as many as make at most `width` numbers
    CONV = "conv"  # a 1×1 convolution to `width` channels, batch norm and ReLU, then the mean


def cross_correlation(
    one: Float[Tensor, "example p"], other: Float[Tensor, "example p"]
) -> Float[Tensor, "p p"]:
    """Correlation, over the batch, of every dimension of one view with every one of the other.

    Source: Zbontar et al. 2021, Eq. 2, with the ε = 1e-5 of batch norm in the variances, as in the
    released code. Evaluation takes the statistics of the batch, too.
    """
    standardised = [
        F.batch_norm(z.to(at_least_fp32(z.dtype)), None, None, training=True) for z in (one, other)
    ]
    return standardised[0].T @ standardised[1] / len(one)


def barlow_twins(
    one: Float[Tensor, "example p"], other: Float[Tensor, "example p"], *, redundancy: float
) -> Float[Tensor, ""]:
    """Squared distance of the cross-correlation from the identity, off the diagonal weighted by λ.

    0 where every dimension agrees and is uncorrelated with the others; p for projections that do
    not depend on the example.

    Source: Zbontar et al. 2021, Eq. 1.
    """
    correlation = cross_correlation(one, other)
    identity = torch.eye(len(correlation), dtype=correlation.dtype, device=correlation.device)
    squares = (correlation - identity).square()
    on_diagonal = squares.diagonal().sum()
    return on_diagonal + redundancy * (squares.sum() - on_diagonal)


class BarlowTwinsHead(nn.Module):
    """Pooling, a projector, and the loss of two views' projections.

    Where processes share a batch, each projects its own examples, and all have the loss of the
    whole batch.

    Source: Siddiqui et al. 2023; the projector as in Zbontar et al. 2021.
    """

    def __init__(
        self,
        dim: int,
        *,
        pooling: Pooling,
        width: int,
        projector: Sequence[int],
        settings: BarlowTwinsSettings,
    ) -> None:
        """`width` is the most that pooling may give, `projector` the sizes of linear layers."""
        super().__init__()
        self.settings = settings
        self.dimensions = projector[-1]
        self.pool, pooled = _pooling(pooling, dim, width=width)
        self.projector = _projector([pooled, *projector])

    @property
    def uninformed_loss(self) -> float:
        """The loss of projections that do not depend on the example."""
        return self.settings.scale * self.dimensions

    def pooled(self, z: Float[Tensor, "example row column d"]) -> Float[Tensor, "example e"]:
        """The vector that the projector is given: the paper's probe reads it."""
        return self.pool(rearrange(z, "example row column d -> example d row column"))

    def forward(
        self,
        one: Float[Tensor, "example row column d"],
        other: Float[Tensor, "example row column d"],
    ) -> Float[Tensor, ""]:
        projections = [self.projector(self.pooled(view)) for view in (one, other)]
        with torch.autocast(one.device.type, enabled=False):  # bf16 loses the small correlations
            whole = (process_group.gathered(z.to(at_least_fp32(z.dtype))) for z in projections)
            loss = barlow_twins(*whole, redundancy=self.settings.redundancy)
            return self.settings.scale * loss


def _pooling(pooling: Pooling, dim: int, *, width: int) -> tuple[nn.Sequential, int]:
    """The layers of that pooling, and the dimensions of what they give."""
    layers: list[nn.Module] = []
    side, channels = 1, dim
    match pooling:
        case Pooling.LOCAL:
            side = max(1, isqrt(width // dim))
        case Pooling.CONV:
            channels = width
            convolution = nn.Conv2d(dim, width, kernel_size=1, bias=False)
            layers = [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    layers += [nn.AdaptiveAvgPool2d(side), nn.Flatten()]
    return nn.Sequential(*layers), channels * side**2


def _projector(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers without bias; batch norm and ReLU between them."""
    layers: list[nn.Module] = []
    for below, size in pairwise(sizes[:-1]):
        layers += [nn.Linear(below, size, bias=False), nn.BatchNorm1d(size), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1], bias=False))
