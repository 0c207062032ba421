"""InfoNCE of the released code (loeweX/Greedy_InfoMax, 22d17e4), as loops over what it draws.

z is [example row column d] and c is [example row column e]; `weights` are W_1 … W_K. All examples
are those of one GPU: the released code computes its loss within each.
"""

import math
from collections.abc import Sequence

from torch import Tensor


def cross_entropy(positive: float, negatives: Sequence[float]) -> float:
    """The loss of one anchor, in nats."""
    scores = [positive, *negatives]
    top = max(scores)
    return top + math.log(sum(math.exp(score - top) for score in scores)) - positive


def released_on_images(
    z: Tensor,
    c: Tensor,
    *,
    weights: Sequence[Tensor],
    draws: Sequence[Tensor],
    skip_rows: int,
) -> float:
    """`draws[k - 1]` [example row column negative] counts places of the rows from skip_rows + k on.

    Places are counted example by example, row by row. Every k draws anew.
    """
    examples, rows, columns, _ = z.shape
    losses_of_k = []
    for k, (weight, drawn) in enumerate(zip(weights, draws, strict=True), start=1):
        down = skip_rows + k
        candidates = [
            z[example, row, column]
            for example in range(examples)
            for row in range(down, rows)
            for column in range(columns)
        ]
        losses = []
        for example in range(examples):
            for row in range(rows - down):
                for column in range(columns):
                    predicted = weight @ c[example, row, column]
                    positive = float(z[example, row + down, column] @ predicted)
                    chosen = drawn[example, row, column].tolist()
                    negatives = [float(candidates[place] @ predicted) for place in chosen]
                    losses.append(cross_entropy(positive, negatives))
        losses_of_k.append(sum(losses) / len(losses))
    return sum(losses_of_k) / len(losses_of_k)


def released_on_speech(
    z: Tensor,
    c: Tensor,
    *,
    weights: Sequence[Tensor],
    permutations: Sequence[Tensor],
    first: int,
    window: int,
) -> float:
    """Rows are time steps, in one column; each of `permutations` is of all places of z.

    Targets lie in the window, so that window - k of its steps predict step k. Anchors are counted
    example by example. The last anchor's negatives stand at the ends of the permutations, and those
    of the others before them.
    """
    examples, _, _, _ = z.shape
    everywhere = z.flatten(0, 2)
    losses_of_k = []
    for k, weight in enumerate(weights, start=1):
        anchors = [
            (example, step)
            for example in range(examples)
            for step in range(first, first + window - k)
        ]
        losses = []
        for number, (example, step) in enumerate(anchors):
            predicted = weight @ c[example, step, 0]
            positive = float(z[example, step + k, 0] @ predicted)
            negatives = [
                float(everywhere[order[len(everywhere) - len(anchors) + number]] @ predicted)
                for order in permutations
            ]
            losses.append(cross_entropy(positive, negatives))
        losses_of_k.append(sum(losses) / len(losses))
    return sum(losses_of_k) / len(losses_of_k)
