"""Scores of candidates against a loop over them, and their gradients."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from gim_bench import seeding
from gim_bench.objectives.scores import scores

EXAMPLES, ROWS, COLUMNS, DIM = 2, 3, 2, 4


def normal(*shape: int, stream: int) -> Tensor:
    draw = seeding.generator("tests", "scores", stream)
    return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()


def given(steps: int, negatives: int) -> tuple[Tensor, Tensor, Tensor]:
    """(predictions, targets, negatives)."""
    return (
        normal(EXAMPLES, ROWS, COLUMNS, steps, DIM, stream=0),
        normal(EXAMPLES, ROWS + steps - 1, COLUMNS, DIM, stream=1),
        normal(EXAMPLES, ROWS, COLUMNS, negatives, DIM, stream=2),
    )


@pytest.mark.parametrize(("steps", "negatives"), [(1, 1), (1, 5), (4, 1), (3, 2)])
def test_the_target_comes_first_and_lies_one_row_lower_at_every_step(steps, negatives):
    predictions, targets, drawn = given(steps, negatives)
    found = scores(predictions, targets, drawn)
    assert found.shape == (EXAMPLES, ROWS, COLUMNS, steps, 1 + negatives)
    for example, row, column, k in torch.cartesian_prod(
        *(torch.arange(size) for size in found.shape[:-1])
    ).tolist():
        prediction = predictions[example, row, column, k]
        candidates = [targets[example, row + k, column], *drawn[example, row, column]]
        expected = torch.stack([prediction @ candidate for candidate in candidates])
        torch.testing.assert_close(found[example, row, column, k], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("steps", "negatives"), [(1, 3), (3, 2)])
def test_gradients_and_theirs_are_those_of_finite_differences(steps, negatives):
    assert gradcheck(scores, given(steps, negatives))
    assert gradgradcheck(scores, given(steps, negatives))
