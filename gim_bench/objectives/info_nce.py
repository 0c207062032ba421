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
from pydantic import model_validator
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
    # Examples of a batch whose loss is one of their own, as on one of several GPUs; None: all.
    negatives_within: PositiveInt | None = None
    # "all": all encodings, one draw for all steps; "targets": encodings that can be a target of the
    # step, drawn for each; "permutations": all, as permutations that are shifted for each step.
    negatives_from: Literal["all", "targets", "permutations"] = "all"
    # Targets lie among the `anchor_rows`, so that fewer rows predict further steps.
    targets_in_window: bool = False

    @model_validator(mode="after")
    def _window_has_room(self) -> "InfoNCESettings":
        """Raises: ValueError where targets lie in a window without room for them."""
        if self.targets_in_window and (self.anchor_rows or 0) < self.rows:
            raise ValueError(
                f"targets_in_window needs anchor_rows of {self.rows} or more, for "
                f"{self.prediction_steps} steps past {self.skip_rows} skipped row(s); anchor_rows "
                f"is {self.anchor_rows}"
            )
        return self

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
    of the encodings is gathered (docs/decisions/0008). `negatives_from` has the released code's
    draws: "targets" on images, "permutations" on speech.

    Scores are computed in fp32 or wider, whatever precision the predictors have. The gradients of
    an anchor's scores sum to 0, which cancels the mean that all encodings share; rounded to bf16
    they do not, and the mean outweighs what distinguishes the encodings.

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
        predictions = rearrange(
            self.predictors(anchors), "... (k d) -> ... k d", k=self.settings.prediction_steps
        ).to(z.dtype)
        with torch.autocast(z.device.type, enabled=False):
            scores = self._scores_of_negatives(z, targets, anchors, predictions)
            losses = []
            for k, negatives in enumerate(scores, start=1):
                # Row i of the anchors predicts row i of `below`.
                below = targets[:, self.settings.skip_rows + k :]
                rows = min(below.shape[1], anchors.shape[1])
                positives = (predictions[:, :rows, :, k - 1] * below[:, :rows]).sum(dim=-1)
                losses.append(info_nce(positives, negatives[:, :rows]))
            return torch.stack(losses).mean()

    def _window(
        self, z: Float[Tensor, "example row column d"], c: Float[Tensor, "example row column e"]
    ) -> tuple[Tensor, Tensor]:
        """(rows of z to predict, rows of c that predict), both beginning with the same row.

        All rows of c with a target predict. If the grid is taller than `anchor_rows` and their
        targets, `anchor_rows` rows predict, from a random row on that all examples share. If
        targets lie in the window, the window begins anywhere but in the last row that it could, as
        in the released code.
        """
        wanted, skipped = self.settings.anchor_rows, self.settings.skip_rows
        if wanted is not None:
            inside = self.settings.targets_in_window
            reach = wanted if inside else wanted + skipped + self.settings.prediction_steps
            if z.shape[1] > reach:
                device = z.device
                starts = z.shape[1] - reach + (0 if inside else 1)
                first = torch.randint(starts, (1,), generator=self.generator, device=device)
                # The CPU never reads the row, because the read would wait for a GPU.
                targets = z.index_select(1, first + torch.arange(reach, device=device))
                predicting = wanted - skipped - 1 if inside else wanted
                return targets, c.index_select(1, first + torch.arange(predicting, device=device))
        return z, c[:, : z.shape[1] - skipped - 1]

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
            for k in range(predictions.shape[3]):
                yield scores[:, :, :, k]
            return
        permutations = None
        if self.settings.negatives_from == "permutations":
            permutations = self._permutations(z.shape[:3].numel(), device=z.device)
        for k in range(1, predictions.shape[3] + 1):
            below = targets[:, self.settings.skip_rows + k :][:, : anchors.shape[1]]
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
