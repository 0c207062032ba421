"""InfoNCE between each place of a grid and the places below: patches, or later time steps.

Letters: k = prediction step, d = channels of z, e = channels of c; anchor = a place that predicts,
negative = a wrong encoding drawn for an anchor.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from gim_bench.contract import Objective
from gim_bench.hardware.devices import at_least_fp32
from gim_bench.objectives.prediction import PredictionHead, PredictionSettings
from gim_bench.settings.base import PositiveInt


class InfoNCESettings(PredictionSettings):
    """The contrastive task: which rows predict which, and where negatives come from."""

    negatives: PositiveInt = 16
    # Examples of a batch whose loss is one of their own, as on one of several GPUs; None: all.
    negatives_within: PositiveInt | None = None
    # "all": all encodings, one draw for all steps; "targets": encodings that can be a target of the
    # step, drawn for each; "permutations": all, as permutations that are shifted for each step.
    negatives_from: Literal["all", "targets", "permutations"] = "all"


INFO_NCE = Objective(
    name="info_nce", unit="nats", settings=InfoNCESettings, bounds_information=True
)


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


class InfoNCEHead(PredictionHead):
    """Tells the encoding that a prediction is about from encodings of random places.

    The loss is the mean over k, while Eq. 4 sums. The constant factor keeps ln(1 + negatives) as
    the chance level for every k, and Adam's steps hardly depend on it. Negatives are drawn
    uniformly, with replacement, from all encodings of the batch (section 4.1) and may include the
    positive (appendix A.1). An anchor's negatives serve all of its k predictions. Each term of the
    sum has the same expectation as with separate draws, and with twelve predictions only a twelfth
    of the encodings is gathered (docs/decisions/0008). `negatives_from` has the released code's
    draws: "targets" on images, "permutations" on speech.

    Scores are computed in fp32 or wider, whatever precision the predictors have. The gradients of
    an anchor's scores sum to 0, which cancels the mean that all encodings share; rounded to bf16
    they do not, and the mean outweighs what distinguishes the encodings.

    Source: Löwe et al. 2019, Eqs. 3 and 4; Eq. 6, where c is an autoregressor's output.
    """

    settings: InfoNCESettings

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
        within = self.settings.negatives_within
        if within is None:
            return self._loss(z, c)
        groups = zip(z.split(within), c.split(within), strict=True)
        return torch.stack([self._loss(*group) for group in groups]).mean()

    def _loss(
        self,
        z: Float[Tensor, "example row column d"],
        c: Float[Tensor, "example row column e"],
    ) -> Float[Tensor, ""]:
        """The loss of examples that draw negatives among themselves."""
        z = z.to(at_least_fp32(z.dtype))
        targets, anchors = self._window(z, c)
        predictions = self.predicted(anchors)
        with torch.autocast(z.device.type, enabled=False):
            # One tensor for each k: their gradients are stacked once, those of slices added up.
            predicted = predictions.unbind(dim=3)
            scores = self._scores_of_negatives(z, targets, anchors, predictions)
            losses = []
            for k, negatives in enumerate(scores, start=1):
                below = self.below(targets, anchors=anchors, k=k)
                rows = below.shape[1]
                positives = (predicted[k - 1][:, :rows] * below).sum(dim=-1)
                losses.append(info_nce(positives, negatives[:, :rows]))
            return torch.stack(losses).mean()

    def _scores_of_negatives(
        self,
        z: Float[Tensor, "example row column d"],
        targets: Float[Tensor, "example target_row column d"],
        anchors: Float[Tensor, "example i column e"],
        predictions: Float[Tensor, "example i column k d"],
    ) -> Iterator[Float[Tensor, "example _ column negative"]]:
        """The scores of every anchor's negatives, for k = 1, 2, …: of the rows i that have targets.

        Where one draw serves all k, the scores are of all rows i.
        """
        if self.settings.negatives_from == "all":
            scores = predictions @ rearrange(self._negatives(z, anchors), "... n d -> ... d n")
            yield from scores.unbind(dim=3)
            return
        permutations = None
        if self.settings.negatives_from == "permutations":
            permutations = self._permutations(z.shape[:3].numel(), device=z.device)
        for k in range(1, predictions.shape[3] + 1):
            below = self.below(targets, anchors=anchors, k=k)
            negatives = (
                self._negatives(below, below)
                if permutations is None
                else self._shifted(z, permutations, anchors=below)
            )
            predicted = predictions[:, : below.shape[1], :, k - 1]
            yield (negatives @ predicted.unsqueeze(-1)).squeeze(-1)

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

    def _permutations(self, places: int, *, device: torch.device) -> Int[Tensor, "place negative"]:
        """Random permutations of all places, one for each negative of an anchor."""
        drawn = [
            torch.randperm(places, generator=self.generator, device=device)
            for _ in range(self.settings.negatives)
        ]
        return torch.stack(drawn, dim=1)

    def _shifted(
        self,
        z: Float[Tensor, "example row column d"],
        permutations: Int[Tensor, "place negative"],
        *,
        anchors: Float[Tensor, "example i column d"],
    ) -> Float[Tensor, "example i column negative d"]:
        """The encodings at the end of each permutation, as many as there are anchors.

        Fewer anchors predict further steps: their negatives begin later in the permutations.
        """
        drawn = permutations[-anchors.shape[:3].numel() :].unflatten(0, anchors.shape[:3])
        return F.embedding(drawn, rearrange(z, "example row column d -> (example row column) d"))
