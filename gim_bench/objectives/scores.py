"""Scores z^T W_k c of an anchor's candidates: the encoding that it predicts, and wrong ones.

Letters: i = row of anchors, k = prediction step, n = negative, d = channels of z.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function


def scores(
    predictions: Float[Tensor, "example i column k d"],
    targets: Float[Tensor, "example target_row column d"],
    negatives: Float[Tensor, "example i column n d"],
) -> Float[Tensor, "example i column k candidate"]:
    """A prediction's score for its target first, then those for its anchor's negatives.

    The target of row i at the k-th of the steps is row i + k of `targets`, both from 0 on.
    """
    return _Scores.apply(predictions, targets, negatives)  # type: ignore[no-untyped-call]


class _Scores(Function):
    """Autograd would make a tensor of every step's targets, and lay gradients out across rows."""

    @staticmethod
    def forward(ctx: Any, predictions: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
        ctx.save_for_backward(predictions, targets, negatives)
        of_targets = (predictions * _of_steps(targets, predictions)).sum(dim=-1, keepdim=True)
        return torch.cat([of_targets, predictions @ negatives.mT], dim=-1)

    @staticmethod
    def backward(
        ctx: Any, g: Float[Tensor, "example i column k candidate"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        predictions, targets, negatives = ctx.saved_tensors
        g_target, g_negatives = g[..., :1], g[..., 1:].contiguous()
        g_predictions = g_negatives @ negatives
        g_predictions.addcmul_(g_target, _of_steps(targets, predictions))
        g_targets = torch.zeros_like(targets)
        steps = zip(g_target.unbind(dim=3), predictions.unbind(dim=3), strict=True)
        for k, (g_step, of_step) in enumerate(steps):
            g_targets[:, k : k + g.shape[1]].addcmul_(g_step, of_step)
        return g_predictions, g_targets, g_negatives.mT @ predictions


def _of_steps(
    targets: Float[Tensor, "example target_row column d"], predictions: Tensor
) -> Float[Tensor, "example i column k d"]:
    """The targets of every anchor, step by step; shares memory with `targets`."""
    return targets.unfold(1, predictions.shape[3], 1).movedim(-1, 3)
