"""InfoNCE between each place of a grid and the places below: patches, or later time steps.

Letters: k = prediction step, d = channels of z, e = channels of c; anchor = a place that predicts,
negative = a wrong encoding drawn for an anchor, group = examples that negatives are drawn among.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from gim_bench.contract import Objective
from gim_bench.hardware import process_group
from gim_bench.hardware.devices import at_least_fp32
from gim_bench.objectives.pieces import looked_up, mean_loss
from gim_bench.objectives.prediction import PredictionHead, PredictionSettings
from gim_bench.objectives.scores import scores
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
    name="info_nce",
    unit="nats",
    settings=InfoNCESettings,
    # Negatives from rows that no step predicts are told from positives without any context.
    bounds_information={"negatives_from": "targets"},
)


def info_nce(scores: Float[Tensor, "*anchor candidate"]) -> Float[Tensor, "*anchor"]:
    """InfoNCE loss of each anchor, in nats, from the scores z^T W_k c of its candidates.

    The positive is the first candidate. The loss of an uninformed predictor is
    log(1 + negatives); that of a perfect one approaches 0.

    Source: Löwe et al. 2019, Eq. 4. Unlike the released code, which takes log(softmax + 1e-11),
    this is the numerically stable form.
    """
    return -F.log_softmax(scores, dim=-1, dtype=at_least_fp32(scores.dtype))[..., 0]


class InfoNCEHead(PredictionHead):
    """Tells the encoding that a prediction is about from encodings of random places.

    The loss is the mean over k, while Eq. 4 sums. The constant factor keeps ln(1 + negatives) as
    the chance level for every k, and Adam's steps hardly depend on it. Negatives are drawn
    uniformly, with replacement, from all encodings of the batch (section 4.1) and may include the
    positive (appendix A.1). An anchor's negatives serve all of its k predictions. Each term of the
    sum has the same expectation as with separate draws, and with twelve predictions only a twelfth
    of the encodings is gathered (docs/decisions/0008). `negatives_from` has the released code's
    draws: "targets" on images, "permutations" on speech.

    Where processes share a batch, each computes the loss of its own examples. It draws for all of
    them, as one process does, and has the encodings of others where a group reaches over processes.

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
        examples = process_group.size() * len(c)
        own = process_group.own(examples)
        within = self.settings.negatives_within or examples
        known = own.start  # the first example in z
        if within > len(c):
            z, known = process_group.gathered(z.to(at_least_fp32(z.dtype))), 0
        losses = []
        for start in range(0, examples, within):
            size = min(within, examples - start)
            first, last = max(start, own.start), min(start + size, own.stop)
            if first < last:
                group = _part(z, start - known, size)
                anchors = _part(c, first - own.start, last - first)
                losses.append(self._loss(group, anchors, first=first - start))
            else:  # a group of another process: draws go on behind those that it takes
                self._places(z[:size], c[:0])
        return torch.stack(losses).mean()

    def _loss(
        self,
        z: Float[Tensor, "group row column d"],
        c: Float[Tensor, "example row column e"],
        *,
        first: int = 0,
    ) -> Float[Tensor, ""]:
        """The loss of examples that draw negatives among their group.

        They are the examples of the group from number `first` on, and draw what they draw where
        they are the whole group.
        """
        predicting, scored = self._places(z, c)
        scored = [_part(each, first, len(c)) for each in scored]
        if c is z:  # one gradient for the grid
            encodings, (predicting, *scored) = looked_up(z, [predicting, *scored])
            contexts = encodings
        else:
            encodings, scored = looked_up(z, scored)
            contexts, (predicting,) = looked_up(c, [predicting])
        predictions = self.predictors(F.embedding(predicting, contexts))
        with torch.autocast(z.device.type, enabled=False):
            return mean_loss(self._loss_of, predictions, encodings, scored)

    def _loss_of(
        self,
        predictions: Float[Tensor, "example i column kd"],
        targets: Float[Tensor, "example target_row column d"],
        *negatives: Float[Tensor, "example _ column negative d"],
    ) -> Float[Tensor, ""]:
        """The loss of some examples, whose negatives are one tensor for all k or one for each."""
        by_step = self.by_step(predictions)
        if self.settings.negatives_from == "all":
            return self._loss_of_shared(by_step, targets, *negatives)
        losses = []
        # `split`: gradients of the parts are put together once, those of slices added up.
        steps = zip(by_step.split(1, dim=3), negatives, strict=True)
        for k, (of_step, drawn) in enumerate(steps, start=1):
            below = self.below(targets, anchors=predictions, k=k)
            losses.append(info_nce(scores(of_step[:, : below.shape[1]], below, drawn)).mean())
        return torch.stack(losses).mean()

    def _loss_of_shared(
        self,
        by_step: Float[Tensor, "example i column k d"],
        targets: Float[Tensor, "example target_row column d"],
        negatives: Float[Tensor, "example i column negative d"],
    ) -> Float[Tensor, ""]:
        """The loss of anchors whose negatives serve all k, which are scored together.

        The lowest anchors have no target at further steps. They are given zeros, and left out.
        """
        rows, steps = by_step.shape[1], by_step.shape[3]
        below = targets[:, self.settings.skip_rows + 1 :]
        padded = F.pad(below, (0, 0, 0, 0, 0, steps - 1))[:, : rows + steps - 1]
        losses = info_nce(scores(by_step, padded, negatives)).mean(dim=(0, 2))
        numbers = [torch.arange(count, device=below.device) for count in (rows, steps)]
        has_target = numbers[0].unsqueeze(1) + numbers[1] < below.shape[1]
        return ((losses * has_target).sum(dim=0) / has_target.sum(dim=0)).mean()

    def _places(
        self, z: Float[Tensor, "group row column d"], c: Float[Tensor, "example row column e"]
    ) -> tuple[Int[Tensor, "example i column"], list[Int[Tensor, "group _ column *negative"]]]:
        """(places of c that predict, places of z that they are scored with), as numbers.

        The latter are the rows of the targets, and the negatives of every anchor of the group:
        one draw for all k, or one for each, whose last anchors have no target.
        """
        every, contexts = _numbered(z), _numbered(c)
        targets, predicting = self._window(every, contexts)
        steps = range(1, self.settings.prediction_steps + 1)
        below = [self.below(targets, anchors=predicting, k=k) for k in steps]
        match self.settings.negatives_from:
            case "all":
                draws = [self._drawn(every, anchors=predicting)]
            case "targets":
                draws = [self._drawn(each, anchors=each) for each in below]
            case "permutations":
                permutations = self._permutations(every.numel(), device=z.device)
                # Fewer anchors predict further steps: their negatives begin later.
                draws = [permutations[-e.numel() :].unflatten(0, e.shape[:3]) for e in below]
        return predicting.squeeze(-1), [targets.squeeze(-1), *draws]

    def _drawn(
        self, candidates: Int[Tensor, "group _ column 1"], *, anchors: Tensor
    ) -> Int[Tensor, "group i column negative"]:
        """Random candidates for every anchor of the group, with replacement."""
        drawn = torch.randint(
            candidates.numel(),
            (len(candidates), *anchors.shape[1:3], self.settings.negatives),
            generator=self.generator,
            device=candidates.device,
        )
        return candidates.flatten()[drawn]

    def _permutations(self, places: int, *, device: torch.device) -> Int[Tensor, "place negative"]:
        """Random permutations of all places, one for each negative of an anchor."""
        drawn = [
            torch.randperm(places, generator=self.generator, device=device)
            for _ in range(self.settings.negatives)
        ]
        return torch.stack(drawn, dim=1)


def _numbered(grid: Float[Tensor, "example row column _"]) -> Int[Tensor, "example row column 1"]:
    """The number of every place, example by example and row by row."""
    return torch.arange(grid.shape[:3].numel(), device=grid.device).view(*grid.shape[:3], 1)


def _part(values: Tensor, first: int, count: int) -> Tensor:
    """`count` examples from number `first` on; all of them without a slice, which has a cost."""
    return values if count == len(values) else values[first : first + count]
