"""Auxiliary networks of Decoupled Greedy Learning (DGL): small classifiers on a module's grid.

Letters: d = channels of an encoding.
"""

import math
from enum import StrEnum

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from gim_bench.contract import Target
from gim_bench.objectives.cross_entropy import mean_cross_entropy

SIDE = 2  # rows and columns that the last average pool leaves
REDUCTION = 4  # of rows and columns, by the first average pool


class Auxiliary(StrEnum):
    """The classifier of a module."""

    LINEAR = "linear"  # linear on the mean over the grid
    MLP = "mlp"  # three hidden layers
    MLP_SR = "mlp_sr"  # "spatially reduced": three 1×1 convolutions, then three hidden layers
    CNN = "cnn"  # two 3×3 convolutions at full resolution, then a linear classifier


class AuxiliaryHead(nn.Module):
    """An auxiliary network of DGL on the grid of a module; at the top, two hidden layers.

    Hidden layers have as many units as the pooled grid has dimensions, 4·d. All layers but the last
    have batch norm and ReLU.

    Source: Belilovsky, Eickenberg and Oyallon 2019, section 5, with the sizes of the released code
    (`auxiliary_nets_study`).
    """

    def __init__(self, dim: int, *, kind: Auxiliary, is_top: bool, target: Target) -> None:
        super().__init__()
        self.classes = len(target.classes)
        self.reduces = is_top or kind is not Auxiliary.CNN
        convolutions = 0 if is_top else {Auxiliary.MLP_SR: 3, Auxiliary.CNN: 2}.get(kind, 0)
        kernel = 3 if kind is Auxiliary.CNN else 1
        self.convolutions = nn.Sequential(
            *(_convolution(dim, kernel=kernel) for _ in range(convolutions))
        )
        pooled = dim * SIDE**2
        if kind is Auxiliary.CNN and not is_top:
            layers: list[nn.Module] = [nn.BatchNorm2d(dim), nn.Flatten()]
        else:
            hidden = 2 if is_top else 3
            layers = [nn.Flatten(), *(_hidden_layer(pooled) for _ in range(hidden))]
        self.classifier = nn.Sequential(*layers, nn.Linear(pooled, self.classes))

    @property
    def uninformed_loss(self) -> float:
        """log(classes): the loss where all classes have equal scores, in nats."""
        return math.log(self.classes)

    def forward(
        self, z: Float[Tensor, "example row column d"], labels: Int[Tensor, "example"]
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy over labels, in nats."""
        maps = rearrange(z, "example row column d -> example d row column")
        if self.reduces:
            rows, columns = (-(-side // REDUCTION) for side in maps.shape[2:])
            maps = F.adaptive_avg_pool2d(maps, (rows, columns))
        maps = F.adaptive_avg_pool2d(self.convolutions(maps), SIDE)
        return mean_cross_entropy(self.classifier(maps), labels)


def _convolution(dim: int, *, kernel: int) -> nn.Module:
    convolution = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(dim), nn.ReLU())


def _hidden_layer(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, dim), nn.BatchNorm1d(dim), nn.ReLU())
