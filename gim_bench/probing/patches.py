"""The image patches that excite the neurons of an encoder most, and how large patches are.

A neuron is a channel of a module's encodings. Letters: d = neurons of a module, m = patches of a
neuron, strongest first.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gim_bench.contract import Batch, Encoder, Shape, eval_mode

PROBES_AT_ONCE = 8  # images with one unknown row or column of pixels, encoded together


class Box(NamedTuple):
    """A rectangle of pixels; the last row and column lie outside."""

    top: int
    left: int
    bottom: int
    right: int


class Excited(NamedTuple):
    """The places that excite each neuron of a module most, at most one of an image."""

    values: Float[Tensor, "d m"]
    images: Int[Tensor, "d m"]  # in the order in which the images were seen
    places: Int[Tensor, "d m"]  # in the module's grid, row by row
    variance: Float[Tensor, "d"]  # of the neuron over all places of all images

    def of_neuron(self, neuron: int) -> list[tuple[int, int]]:
        """(image, place) of a neuron's patches."""
        images, places = self.images[neuron].tolist(), self.places[neuron].tolist()
        return list(zip(images, places, strict=True))


class Ranking:
    """The `kept` most exciting patches of each neuron of a module, among the images seen so far."""

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.seen = 0  # images
        self._best: tuple[Tensor, ...] | None = None  # values, images, places, each [d m]
        self._count = 0  # places of all images
        self._sums: Tensor | None = None  # of each neuron's encodings and of their squares

    def add(self, grid: Float[Tensor, "image row column d"]) -> None:
        """Rank a module's encodings of the next images.

        Among equals the first place of an image and the first image come first.
        """
        flat = rearrange(grid, "image row column d -> d image (row column)")
        places = flat.argmax(dim=2)  # the first of equal maxima
        values = flat.gather(2, places.unsqueeze(2)).squeeze(2)
        images = (self.seen + torch.arange(len(grid), device=grid.device)).expand_as(places)
        found: tuple[Tensor, ...] = (values, images, places)
        if self._best is not None:
            found = tuple(torch.cat(pair, dim=1) for pair in zip(self._best, found, strict=True))
        order = found[0].sort(dim=1, descending=True, stable=True).indices[:, : self.kept]
        self._best = tuple(values.gather(1, order) for values in found)
        exact = flat.flatten(1).double()
        sums = torch.stack([exact.sum(dim=1), exact.square().sum(dim=1)])
        self._sums = sums if self._sums is None else self._sums + sums
        self._count += exact.shape[1]
        self.seen += len(grid)

    def result(self) -> Excited:
        assert self._best is not None
        assert self._sums is not None
        mean, mean_square = self._sums / self._count
        variance = (mean_square - mean.square()).clamp(min=0)
        return Excited(*(found.cpu() for found in (*self._best, variance)))


@torch.no_grad()
def most_exciting(encoder: Encoder, batches: Iterable[Batch], *, patches: int) -> list[Excited]:
    """The `patches` most exciting patches of every neuron, by module, from one pass."""
    rankings = [Ranking(patches) for _ in encoder.stages]
    with eval_mode(encoder):
        for batch in batches:
            for ranking, grid in zip(rankings, encoder.grids(batch.inputs), strict=True):
                ranking.add(grid)
    return [ranking.result() for ranking in rankings]


def widest(excited: Excited, *, neurons: int) -> list[int]:
    """The `neurons` neurons of largest variance, the largest first; the first among equals."""
    order = excited.variance.sort(descending=True, stable=True).indices
    return [int(neuron) for neuron in order[:neurons]]


@torch.no_grad()
def receptive_fields(encoder: Encoder, *, shape: Shape, device: torch.device) -> list[list[Box]]:
    """The pixels that each place of each module's grid sees: {module: boxes row by row}.

    A row of pixels that is not a number makes every encoding that depends on the row not a number,
    whatever the weights; columns likewise. Layers compute in float64 and without cuDNN, whose fast
    algorithms for convolutions let neighbours of a receptive field in.
    """
    probed = copy.deepcopy(encoder).to(device, torch.float64)
    with eval_mode(probed), torch.backends.cudnn.flags(enabled=False):
        rows = _reached(probed, shape, axis=1, device=device)
        columns = _reached(probed, shape, axis=2, device=device)
    found = []
    for of_rows, of_columns in zip(rows, columns, strict=True):
        vertical = [_ends(seen) for seen in of_rows.any(dim=2).T]
        horizontal = [_ends(seen) for seen in of_columns.any(dim=1).T]
        found.append(
            [
                Box(top, left, bottom, right)
                for top, bottom in vertical
                for left, right in horizontal
            ]
        )
    return found


def _reached(
    encoder: Encoder, shape: Shape, *, axis: int, device: torch.device
) -> Sequence[Bool[Tensor, "pixel row column"]]:
    """By module, whether a row (axis 1) or column (axis 2) of pixels reaches a place."""
    pieces = []
    for pixels in torch.arange(shape[axis]).split(PROBES_AT_ONCE):
        images = repeat(
            torch.zeros(shape, dtype=torch.float64, device=device), "... -> n ...", n=len(pixels)
        ).clone()
        for image, pixel in zip(images, pixels.tolist(), strict=True):
            image.select(axis, pixel).fill_(float("nan"))
        pieces.append([grid.isnan().any(dim=-1) for grid in encoder.grids(images)])
    return [torch.cat(of_module) for of_module in zip(*pieces, strict=True)]


def _ends(seen: Bool[Tensor, "pixel"]) -> tuple[int, int]:
    """The first pixel that is seen, and the one after the last."""
    pixels = seen.nonzero()[:, 0].tolist()
    return pixels[0], pixels[-1] + 1
