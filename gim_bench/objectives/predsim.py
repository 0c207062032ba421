"""PredSim: similarity matching and local classification of labelled examples.

Letters: n = examples of a batch, d = channels of an encoding, i = the whole example.
"""

import math
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from gim_bench.contract import Objective, Target
from gim_bench.hardware.devices import at_least_fp32
from gim_bench.objectives.cross_entropy import mean_cross_entropy
from gim_bench.settings.base import PositiveInt, Settings

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PredSimSettings(Settings):
    """What all rows of a suite share: `[objective.predsim]`."""

    decoder_dims: PositiveInt = 2048  # inputs of the classifier, at most


PREDSIM = Objective(name="predsim", settings=PredSimSettings)


class Weights(NamedTuple):
    """Weights of the two halves of the loss: `sim` and `pred`."""

    similarity: float
    prediction: float


def pooled_sides(rows: int, columns: int, *, channels: int, at_most: int) -> tuple[int, int]:
    """Rows and columns of a pooled grid that has no more than `at_most` dimensions.

    Rows and columns are divided by 2, 4, 8, … in turn, until the grid is small enough or has one
    place.

    Source: the released code of Nøkland and Eidnes 2019 (`dim_in_decoder`).
    """
    sides, kernel = (rows, columns), [1, 1]
    turn = 0
    while True:
        height, width = (-(-side // k) for side, k in zip(sides, kernel, strict=True))
        if channels * height * width <= at_most or height == width == 1:
            return height, width
        kernel[turn] *= 2
        turn = 1 - turn


def deviations(maps: Float[Tensor, "n d row column"]) -> Float[Tensor, "n d"]:
    """The spatial standard deviation of every channel; of a single place, the channel itself."""
    places = maps.flatten(2)
    return places.std(dim=2) if places.shape[2] > 1 else places[:, :, 0]


def similarities(statistics: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Cosine similarities, in -1..1, of the examples' statistics, each example's centred at 0.

    An example whose statistics are all alike has similarity 0 with every example, itself included.

    Source: Nøkland and Eidnes 2019, section 3.2, "adjusted" cosine similarity. Unlike the released
    code, which adds 1e-8 to a norm, norms below 1e-8 are taken for 1e-8.
    """
    centred = statistics - statistics.mean(dim=1, keepdim=True)
    directions = F.normalize(centred, dim=1, eps=1e-8)
    return directions @ directions.T


def similarity_loss(
    maps: Float[Tensor, "n d row column"], labels: Int[Tensor, "n"], *, classes: int
) -> Float[Tensor, ""]:
    """Mean squared difference between the similarities of maps and those of one-hot labels.

    The mean is over all n² pairs. Pairs of an example with itself agree, and count.

    Source: Nøkland and Eidnes 2019, section 3.2 (`L_sim`), as a mean in place of the sum, and over
    standard deviations of maps, as in the released code.
    """
    one_hot = F.one_hot(labels, classes).to(maps.dtype)
    return F.mse_loss(similarities(deviations(maps)), similarities(one_hot))


class PredSimHead(nn.Module):
    """A convolution whose maps are compared by similarity, and a linear classifier.

    A half with weight 0 is left out. On a grid of one place, the convolution is a linear map. The
    classifier reads an average pool, and begins at 0.

    Source: Nøkland and Eidnes 2019, section 3, and the released code. There the biases of the
    classifier begin at random, and windows of the pool may leave rows at the border out.
    """

    def __init__(
        self,
        dim: int,
        *,
        rows: int,
        columns: int,
        target: Target,
        weights: Weights,
        decoder_dims: int,
    ) -> None:
        super().__init__()
        self.classes = len(target.classes)
        self.loss_weights = weights
        self.sides = pooled_sides(rows, columns, channels=dim, at_most=decoder_dims)
        kernel = 1 if rows == columns == 1 else 3
        self.convolution: nn.Conv2d | None = None
        if weights.similarity > 0:
            self.convolution = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, bias=False)
        self.classifier: nn.Linear | None = None
        if weights.prediction > 0:
            self.classifier = nn.Linear(dim * math.prod(self.sides), self.classes)
            nn.init.zeros_(self.classifier.weight)
            nn.init.zeros_(self.classifier.bias)

    @property
    def uninformed_loss(self) -> float | None:
        """Weighted log(classes) of equal scores, in nats; None with the similarity half.

        The similarity loss of examples without any statistics depends on the labels of the batch.
        """
        if self.loss_weights.similarity > 0:
            return None
        return self.loss_weights.prediction * math.log(self.classes)

    def logits(self, maps: Float[Tensor, "n d row column"]) -> Float[Tensor, "n class"]:
        """Class scores from the average pool of the maps."""
        assert self.classifier is not None
        pooled = F.adaptive_avg_pool2d(maps, self.sides)
        return self.classifier(pooled.flatten(1))

    def forward(
        self, z: Float[Tensor, "n row column d"], labels: Int[Tensor, "n"]
    ) -> Float[Tensor, ""]:
        """The weighted sum of the similarity loss and of the mean cross-entropy (in nats)."""
        maps = rearrange(z, "n row column d -> n d row column")
        parts = []
        if self.convolution is not None:
            compared = self.convolution(maps)
            with torch.autocast(z.device.type, enabled=False):
                precise = compared.to(at_least_fp32(compared.dtype))
                similarity = similarity_loss(precise, labels, classes=self.classes)
            parts.append(self.loss_weights.similarity * similarity)
        if self.classifier is not None:
            cross_entropy = mean_cross_entropy(self.logits(maps), labels)
            parts.append(self.loss_weights.prediction * cross_entropy)
        return torch.stack(parts).sum()
