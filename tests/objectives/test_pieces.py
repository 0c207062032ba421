"""Losses of a few examples at a time, against those of all at once."""

import pytest
import torch
from torch import Tensor

from gim_bench import seeding
from gim_bench.objectives import pieces
from gim_bench.objectives.pieces import looked_up, mean_loss

GRID = (5, 4, 3, 2)


def normal(*shape: int, stream: int = 0) -> Tensor:
    draw = seeding.generator("tests", "pieces", stream)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def numbers(*shape: int, stream: int = 0) -> Tensor:
    draw = seeding.generator("tests", "numbers", stream)
    return torch.randint(GRID[0] * GRID[1] * GRID[2], shape, generator=draw)


def loss_of(predictions: Tensor, *found: Tensor) -> Tensor:
    """Means over examples of something that is no sum over the tensors."""
    parts = [(predictions.mean(dim=1)[:, None] * each.flatten(1)).sin() for each in found]
    return torch.cat(parts, dim=1).prod(dim=1).mean() + sum(part.mean() for part in parts)


@pytest.mark.parametrize("cached", [1, 400, 10**9])
@pytest.mark.parametrize("scale", [1.0, -2.5])
def test_the_loss_and_its_gradients_are_those_of_all_examples(cached, scale, monkeypatch):
    monkeypatch.setattr(pieces, "CACHED_BYTES", cached)
    grid, predictions = normal(*GRID).requires_grad_(), normal(5, 6, stream=1).requires_grad_()
    wanted = [numbers(5, 3), numbers(5, 2, 2, stream=1)]
    encodings, places = looked_up(grid, wanted)
    found = mean_loss(loss_of, predictions, encodings, places)
    expected = loss_of(predictions, *(grid.flatten(0, 2)[each] for each in wanted))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    ours, theirs = (
        torch.autograd.grad(scale * loss, [predictions, grid]) for loss in (found, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_without_gradients_the_loss_is_the_same(monkeypatch):
    monkeypatch.setattr(pieces, "CACHED_BYTES", 1)
    grid, predictions = normal(*GRID).requires_grad_(), normal(5, 6, stream=1).requires_grad_()
    encodings, places = looked_up(grid, [numbers(5, 3)])
    with torch.no_grad():
        silent = mean_loss(loss_of, predictions, encodings, places)
    assert silent.grad_fn is None
    assert silent == mean_loss(loss_of, predictions, encodings, places)


def test_encodings_are_looked_up_once_each_in_the_layout_of_the_grid():
    """A grid of speech is a transposed view, of which only some steps are wanted."""
    grid = normal(2, 8, 40).permute(0, 2, 1).unsqueeze(2).requires_grad_()
    wanted = torch.tensor([[3, 79, 3], [0, 3, 41]])
    found, (places,) = looked_up(grid, [wanted])
    assert len(found) == 4
    assert torch.equal(found[places], grid.flatten(0, 2)[wanted])
    (of_grid,) = torch.autograd.grad(found.sum(), grid)
    assert of_grid.stride() == grid.stride()
    assert of_grid.sum(dim=(2, 3)).nonzero().tolist() == [[0, 0], [0, 3], [1, 1], [1, 39]]


def test_bf16_encodings_have_fp32_scores():
    seen = []

    def watched(predictions: Tensor, *found: Tensor) -> Tensor:
        seen.append({each.dtype for each in found})
        return loss_of(predictions.float(), *found)

    grid = normal(*GRID).bfloat16().requires_grad_()
    encodings, places = looked_up(grid, [numbers(5, 3)])
    loss = mean_loss(watched, normal(5, 6).bfloat16().requires_grad_(), encodings, places)
    assert seen == [{torch.float32}]
    assert loss.dtype == torch.float32
    loss.backward()
    assert grid.grad is not None
    assert grid.grad.dtype == torch.bfloat16
