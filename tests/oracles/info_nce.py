"""Eq. 4 of Löwe et al. 2019 as loops over examples, rows, columns, steps and negatives.

z is [example row column d] and c is [example row column e]; `weights` are W_1 … W_K. A place is
counted example by example, row by row.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

from torch import Tensor


class Anchor(NamedTuple):
    """A place that predicts, and the scores of its positive and of every place as a candidate."""

    example: int
    row: int
    column: int
    positive: float
    candidates: list[float]

    def loss(self, negatives: Sequence[int]) -> float:
        """-log f(positive) / sum of f(candidates), in nats."""
        scores = [self.positive, *(self.candidates[place] for place in negatives)]
        top = max(scores)
        return top + math.log(sum(math.exp(score - top) for score in scores)) - self.positive


def slow_info_nce(
    z: Tensor,
    c: Tensor,
    *,
    weights: Sequence[Tensor],
    negatives: Sequence[Tensor],
    skip_rows: int,
    first_row: int = 0,
    anchor_rows: int | None = None,
) -> float:
    """Mean over k of the mean over anchors of their losses.

    `negatives[k - 1]` holds the places drawn, [example i column negative], for the anchor in row
    `first_row` + i; all rows with a target predict, or the `anchor_rows` from `first_row` on.
    """
    losses_of_k = []
    for k, (weight, drawn) in enumerate(zip(weights, negatives, strict=True), start=1):
        losses = []
        for anchor in _anchors(z, c, weight, down=skip_rows + k):
            i = anchor.row - first_row
            if i >= 0 and (anchor_rows is None or i < anchor_rows):
                losses.append(anchor.loss(drawn[anchor.example, i, anchor.column].tolist()))
        losses_of_k.append(sum(losses) / len(losses))
    return sum(losses_of_k) / len(losses_of_k)


def expected_info_nce(
    z: Tensor, c: Tensor, *, weights: Sequence[Tensor], negatives: int, skip_rows: int
) -> float:
    """The same over all draws that each anchor and each k may make of its own, equally likely."""
    losses_of_k = []
    for k, weight in enumerate(weights, start=1):
        losses = [
            anchor.loss(drawn)
            for anchor in _anchors(z, c, weight, down=skip_rows + k)
            for drawn in product(range(z.shape[:3].numel()), repeat=negatives)
        ]
        losses_of_k.append(sum(losses) / len(losses))
    return sum(losses_of_k) / len(losses_of_k)


def _anchors(z: Tensor, c: Tensor, weight: Tensor, *, down: int) -> Iterator[Anchor]:
    examples, rows, columns, _ = z.shape
    for example, row, column in product(range(examples), range(rows - down), range(columns)):
        prediction = weight @ c[example, row, column]
        yield Anchor(
            example,
            row,
            column,
            positive=float(z[example, row + down, column] @ prediction),
            candidates=[float(candidate @ prediction) for candidate in z.flatten(0, 2)],
        )
