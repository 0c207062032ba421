"""Eq. 4 of Löwe et al. 2019 as loops over images, rows, columns, steps and negatives."""

import math
from collections.abc import Sequence

from torch import Tensor


def slow_info_nce(
    z: Tensor, c: Tensor, *, weights: Sequence[Tensor], negatives: Sequence[Tensor], skip_rows: int
) -> float:
    """Mean over k of the mean over anchors of -log f(positive) / sum of f(candidates), in nats.

    z and c are [image row column dim]; `weights` are W_1 … W_K. `negatives[k - 1]` holds, for each
    anchor in the order image, row, column, the drawn places, counted image by image, row by row.
    """
    images, rows, columns, _ = z.shape
    places = [(i, r, q) for i in range(images) for r in range(rows) for q in range(columns)]
    losses_of_k = []
    for k, (weight, drawn) in enumerate(zip(weights, negatives, strict=True), start=1):
        losses = []
        anchor = 0
        for image in range(images):
            for row in range(rows - skip_rows - k):
                for column in range(columns):
                    prediction = weight @ c[image, row, column]
                    positive = float(z[image, row + skip_rows + k, column] @ prediction)
                    scores = [positive]
                    for place in drawn[anchor].tolist():
                        scores.append(float(z[places[place]] @ prediction))  # noqa: PERF401
                    losses.append(_log_sum_exp(scores) - positive)
                    anchor += 1
        losses_of_k.append(sum(losses) / len(losses))
    return sum(losses_of_k) / len(losses_of_k)


def _log_sum_exp(scores: list[float]) -> float:
    top = max(scores)
    return top + math.log(sum(math.exp(score - top) for score in scores))
