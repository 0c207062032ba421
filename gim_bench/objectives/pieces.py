"""A loss of predictions that is taken a few examples at a time, while they lie in a CPU's cache."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from gim_bench.hardware import devices
from gim_bench.hardware.devices import at_least_fp32

# Bytes of predictions and encodings whose loss is taken at once on a CPU.
CACHED_BYTES = 4_000_000

# The mean loss of examples, from their predictions and from encodings as `numbers` give them.
LossOf = Callable[..., Float[Tensor, ""]]
Numbers = Int[Tensor, "..."]  # of the places of a grid, example by example and row by row


def looked_up(
    grid: Float[Tensor, "example row column d"], numbers: Sequence[Numbers]
) -> tuple[Float[Tensor, "place d"], list[Numbers]]:
    """(encodings of the numbered places, the same tensors with numbers of these encodings).

    On a CPU they are the encodings that are wanted, each once. Where a grid has many more places,
    they alone have gradients, which are written into those of the grid in one go.
    """
    if not devices.works_in_pieces(grid.device):
        # How many different numbers there are, a GPU would have to be waited for.
        return grid.flatten(0, 2), list(numbers)
    each = torch.cat([of.flatten() for of in numbers])
    wanted, within = torch.unique(each, return_inverse=True)
    parts = within.split([of.numel() for of in numbers])
    places = torch.unravel_index(wanted, grid.shape[:3])
    found = _LookedUp.apply(grid, places)  # type: ignore[no-untyped-call]
    return found, [part.view(of.shape) for part, of in zip(parts, numbers, strict=True)]


def mean_loss(
    loss_of: LossOf,
    predictions: Float[Tensor, "example ..."],
    encodings: Float[Tensor, "place d"],
    numbers: Sequence[Numbers],
) -> Float[Tensor, ""]:
    """`loss_of(predictions, *found)`, where `found` are the encodings of these numbers.

    They are in fp32 or wider, as are the sums of their gradients. On a CPU the gradients of a few
    examples are taken before the next ones are looked at, and only gradients are held for the way
    back; a second derivative is not to be had.
    """
    if devices.works_in_pieces(encodings.device):
        learns = torch.is_grad_enabled() and (predictions.requires_grad or encodings.requires_grad)
        return _LossOfPieces.apply(  # type: ignore[no-untyped-call]
            loss_of, numbers, learns, predictions, encodings
        )
    wide = encodings.to(at_least_fp32(encodings.dtype))
    return loss_of(predictions, *(F.embedding(of, wide) for of in numbers))


class _LookedUp(Function):
    """Encodings at places, of a grid that is never laid out anew."""

    @staticmethod
    def forward(
        ctx: Any, grid: Float[Tensor, "example row column d"], places: tuple[Tensor, ...]
    ) -> Float[Tensor, "place d"]:
        ctx.places, ctx.shape = places, grid.shape
        ctx.strides = torch.empty_like(grid, device="meta").stride()  # its order, without gaps
        return grid[places]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Float[Tensor, "place d"]) -> tuple[Tensor | None, ...]:
        of_grid = torch.empty_strided(ctx.shape, ctx.strides, dtype=g.dtype).zero_()
        of_grid[ctx.places] = g
        return of_grid, None


class _LossOfPieces(Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd hands arguments over by their places
        ctx: Any,
        loss_of: LossOf,
        numbers: Sequence[Numbers],
        learns: bool,
        predictions: Float[Tensor, "example ..."],
        encodings: Float[Tensor, "place d"],
    ) -> Float[Tensor, ""]:
        wide = encodings.detach().to(at_least_fp32(encodings.dtype))
        of_encodings, of_predictions = torch.zeros_like(wide), torch.empty_like(predictions)
        total, done = wide.new_zeros(()), 0
        for own, *ours in _pieces(predictions.detach(), numbers, d=wide.shape[1]):
            found = [F.embedding(of, wide).requires_grad_(learns) for of in ours]
            with torch.set_grad_enabled(learns):
                predicted = own.requires_grad_(learns)
                loss = loss_of(predicted, *found) * (len(own) / len(predictions))
            total += loss.detach()
            if learns:
                of_predicted, *of_found = torch.autograd.grad(loss, [predicted, *found])
                of_predictions[done : done + len(own)] = of_predicted
                done += len(own)
                for of, gradient in zip(ours, of_found, strict=True):
                    of_encodings.index_add_(0, of.flatten(), gradient.flatten(0, -2))
        if learns:
            ctx.save_for_backward(of_predictions, of_encodings.to(encodings.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        found = ctx.saved_tensors
        return None, None, None, *(found if g == 1 else (g * each for each in found))


def _pieces(
    predictions: Float[Tensor, "example ..."], numbers: Sequence[Numbers], *, d: int
) -> Iterator[tuple[Tensor, ...]]:
    """(predictions, *numbers) of consecutive examples that a cache holds together."""
    entries = predictions[0].numel() + d * sum(of[0].numel() for of in numbers)
    size = max(1, CACHED_BYTES // (entries * at_least_fp32(predictions.dtype).itemsize))
    return zip(*(each.split(size) for each in (predictions, *numbers)), strict=True)
