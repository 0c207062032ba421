"""InfoNCE between each place of a grid and the places below: patches, or later time steps.

Letters: k = prediction step, d = channels of z, e = channels of c; anchor = a place that predicts,
negative = a wrong encoding drawn for an anchor.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from gim_bench.contract import Objective
from gim_bench.hardware.devices import at_least_fp32
from gim_bench.settings.base import NotNegative, PositiveInt, Settings


class InfoNCESettings(Settings):
    """The contrastive task: predict `prediction_steps` rows below an anchor, after skipped rows."""

    prediction_steps: PositiveInt = 5
    skip_rows: NotNegative = 1
    negatives: PositiveInt = 16
    anchor_rows: PositiveInt | None = None  # consecutive rows that predict; None: all rows

    @property
    def rows(self) -> int:
        """Number of rows that a grid needs so that every prediction step has a target."""
        return self.skip_rows + self.prediction_steps + 1


INFO_NCE = Objective(name="info_nce", unit="nats", settings=InfoNCESettings)


def info_nce(
    positives: Float[Tensor, "*anchor"], negatives: Float[Tensor, "*anchor negative"]
) -> Float[Tensor, ""]:
    """Mean InfoNCE loss over anchors, in nats, from the scores z^T W_k c of their candidates.

    The loss of an uninformed predictor is log(1 + negatives); that of a perfect one approaches 0.

    Source: Löwe et al. 2019, Eq. 4. Unlike the released code, which takes log(softmax + 1e-11),
    this is the numerically stable form.
    """
    logits = torch.cat([positives.unsqueeze(-1), negatives], dim=-1)
    return -F.log_softmax(logits, dim=-1, dtype=at_least_fp32(logits.dtype))[..., 0].mean()


class InfoNCEHead(nn.Module):
    """Predicts z in the rows below from c with one matrix W_k for each step k.

    The loss is the mean over k, while Eq. 4 sums. The constant factor keeps ln(1 + negatives) as
    the chance level for every k, and Adam's steps hardly depend on it. Negatives are drawn
    uniformly, with replacement, from all encodings of the batch (section 4.1) and may include the
    positive (appendix A.1). An anchor's negatives serve all of its k predictions. Each term of the
    sum has the same expectation as with separate draws, and with twelve predictions only a twelfth
    of the encodings is gathered (docs/decisions/0008).

    Source: Löwe et al. 2019, Eqs. 3 and 4; Eq. 6, where c is an autoregressor's output.
    """

    def __init__(
        self, *, z_dim: int, c_dim: int, settings: InfoNCESettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.settings = settings
        self.generator = generator
        # W_1 … W_K one below the other.
        self.predictors = nn.Linear(c_dim, settings.prediction_steps * z_dim, bias=False)

    @property
    def uninformed_loss(self) -> float:
        """log(1 + negatives): the loss where all candidates have equal scores, in nats."""
        return math.log(1 + self.settings.negatives)

    def forward(
        self,
        z: Float[Tensor, "example row column d"],
        c: Float[Tensor, "example row column e"],
    ) -> Float[Tensor, ""]:
        """Mean over k of the loss of predicting z in row i + skip_rows + k from c in row i."""
        steps, skipped = self.settings.prediction_steps, self.settings.skip_rows
        targets, anchors = self._window(z, c)
        predictions = rearrange(self.predictors(anchors), "... (k d) -> ... k d", k=steps)
        negatives = predictions @ rearrange(self._negatives(z, anchors), "... n d -> ... d n")
        losses = []
        for k in range(1, steps + 1):
            below = targets[:, skipped + k :]  # row i of the anchors predicts row i of `below`
            rows = min(below.shape[1], anchors.shape[1])
            positives = (predictions[:, :rows, :, k - 1] * below[:, :rows]).sum(dim=-1)
            losses.append(info_nce(positives, negatives[:, :rows, :, k - 1]))
        return torch.stack(losses).mean()

    def _window(
        self, z: Float[Tensor, "example row column d"], c: Float[Tensor, "example row column e"]
    ) -> tuple[Tensor, Tensor]:
        """(rows of z to predict, rows of c that predict), both beginning with the same row.

        All rows of c with a target predict. If the grid is taller than `anchor_rows` and their
        targets, `anchor_rows` rows predict, from a random row on that all examples share.
        """
        wanted, skipped = self.settings.anchor_rows, self.settings.skip_rows
        if wanted is not None:
            reach = wanted + skipped + self.settings.prediction_steps
            if z.shape[1] > reach:
                device = z.device
                first = torch.randint(
                    z.shape[1] - reach + 1, (1,), generator=self.generator, device=device
                )
                # The CPU never reads the row, because the read would wait for a GPU.
                targets = z.index_select(1, first + torch.arange(reach, device=device))
                return targets, c.index_select(1, first + torch.arange(wanted, device=device))
        return z, c[:, : z.shape[1] - skipped - 1]

    def _negatives(
        self,
        z: Float[Tensor, "example row column d"],
        anchors: Float[Tensor, "example i column e"],
    ) -> Float[Tensor, "example i column negative d"]:
        """Negatives of every anchor: encodings from random places of the batch."""
        candidates = rearrange(z, "example row column d -> (example row column) d")
        drawn: Int[Tensor, "example i column negative"] = torch.randint(
            len(candidates),
            (*anchors.shape[:3], self.settings.negatives),
            generator=self.generator,
            device=z.device,
        )
        return F.embedding(drawn, candidates)
