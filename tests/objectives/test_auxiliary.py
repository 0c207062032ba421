"""Auxiliary networks of DGL: sizes of the released code, and what they read."""

import math

import pytest
import torch
from torch import nn

from gim_bench import seeding
from gim_bench.contract import Target
from gim_bench.objectives.auxiliary import Auxiliary, AuxiliaryHead

CLASS = Target(name="class", classes=[str(i) for i in range(10)])
CONVOLUTIONS = {Auxiliary.MLP: 0, Auxiliary.MLP_SR: 3, Auxiliary.CNN: 2}
NETWORKS = [Auxiliary.MLP, Auxiliary.MLP_SR, Auxiliary.CNN]
DIM, SIDE = 6, 8
LABELS = torch.arange(5)


def head_of(kind: Auxiliary, *, dim: int = DIM, is_top: bool = False) -> AuxiliaryHead:
    with seeding.weights_from("tests", "auxiliary"):
        return AuxiliaryHead(dim, kind=kind, is_top=is_top, target=CLASS).double()


def grid() -> torch.Tensor:
    draw = seeding.generator("tests", "auxiliary")
    return torch.randn(5, SIDE, SIDE, DIM, generator=draw, dtype=torch.float64)


def hidden_layers(layers: int, *, dim: int) -> int:
    """Parameters of linear maps from 4·dim to 4·dim, with batch norm."""
    return layers * (4 * dim * 4 * dim + 4 * dim + 2 * 4 * dim)


def classifier(*, dim: int) -> int:
    return 4 * dim * 10 + 10


SIZES = {
    Auxiliary.MLP: hidden_layers(3, dim=DIM) + classifier(dim=DIM),
    Auxiliary.MLP_SR: 3 * (DIM**2 + 2 * DIM) + hidden_layers(3, dim=DIM) + classifier(dim=DIM),
    Auxiliary.CNN: 2 * (9 * DIM**2 + 2 * DIM) + 2 * DIM + classifier(dim=DIM),
}


@pytest.mark.parametrize("kind", NETWORKS, ids=str)
def test_a_network_has_the_parameters_of_the_released_code(kind):
    assert sum(p.numel() for p in head_of(kind).parameters()) == SIZES[kind]


@pytest.mark.parametrize("kind", NETWORKS, ids=str)
def test_at_the_top_every_network_has_two_hidden_layers(kind):
    expected = hidden_layers(2, dim=DIM) + classifier(dim=DIM)
    assert sum(p.numel() for p in head_of(kind, is_top=True).parameters()) == expected


@pytest.mark.parametrize(("kind", "sides"), [(Auxiliary.MLP_SR, 2), (Auxiliary.CNN, 8)], ids=str)
def test_convolutions_run_at_a_quarter_of_the_sides_or_at_full_resolution(kind, sides):
    head, seen = head_of(kind), []
    first = next(m for m in head.convolutions.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    head(grid(), LABELS)
    assert seen == [(5, DIM, sides, sides)]


@pytest.mark.parametrize("side", [1, 2, 7])
@pytest.mark.parametrize("kind", NETWORKS, ids=str)
def test_small_grids_are_classified_too(kind, side):
    assert head_of(kind)(grid()[:, :side, :side], LABELS).isfinite()


@pytest.mark.parametrize("kind", NETWORKS, ids=str)
def test_equal_scores_give_the_log_of_the_classes(kind):
    head = head_of(kind)
    nn.init.zeros_(head.classifier[-1].weight)
    nn.init.zeros_(head.classifier[-1].bias)
    assert head(grid(), LABELS).item() == pytest.approx(math.log(10))
    assert head.uninformed_loss == pytest.approx(math.log(10))


@pytest.mark.parametrize("kind", NETWORKS, ids=str)
def test_a_network_reads_where_in_the_grid_an_encoding_lies(kind):
    """A linear classifier of the mean does not."""
    head, z = head_of(kind).eval(), grid()
    assert head(z, LABELS).item() != pytest.approx(head(z.flip(1), LABELS).item(), abs=1e-9)


# -- a slow oracle ---------------------------------------------------------------------------------


def pooled(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Means of side × side windows that cover the maps."""
    end = maps.shape[-1]
    windows = [slice(i * end // side, -(-(i + 1) * end // side)) for i in range(side)]
    rows = [[maps[..., r, c].mean(dim=(2, 3)) for c in windows] for r in windows]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def convolved(maps: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Each tap of the kernel on maps that are shifted, with zeros beyond the border."""
    reach, side = weight.shape[-1] // 2, maps.shape[-1]
    wide = nn.functional.pad(maps, [reach] * 4)
    return sum(
        torch.einsum("oi,birc->borc", weight[..., r, c], wide[..., r : r + side, c : c + side])
        for r in range(weight.shape[-1])
        for c in range(weight.shape[-1])
    )


def normalised(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Batch norm in training: each channel to mean 0 and variance 1, then scaled and shifted."""
    places = [d for d in range(x.ndim) if d != 1]
    centred = x - x.mean(dim=places, keepdim=True)
    unit = centred / (centred.square().mean(dim=places, keepdim=True) + 1e-5).sqrt()
    shape = [-1] + [1] * (x.ndim - 2)
    return unit * scale.view(shape) + shift.view(shape)


def described(z, weights, *, kind: Auxiliary, is_top: bool) -> torch.Tensor:
    """The scores: pool, convolutions with batch norm and ReLU, pool, layers with both, linear."""
    given = iter(weights)
    maps = z.permute(0, 3, 1, 2)
    if is_top or kind is not Auxiliary.CNN:
        maps = pooled(maps, -(-maps.shape[-1] // 4))
    for _ in range(0 if is_top else CONVOLUTIONS[kind]):
        maps = normalised(convolved(maps, next(given)), next(given), next(given)).clamp(min=0)
    x = pooled(maps, 2)
    if kind is Auxiliary.CNN and not is_top:
        x, hidden = normalised(x, next(given), next(given)), 0
    else:
        hidden = 2 if is_top else 3
    x = x.flatten(1)
    for _ in range(hidden):
        x = normalised(x @ next(given).T + next(given), next(given), next(given)).clamp(min=0)
    return x @ next(given).T + next(given)


@pytest.mark.parametrize("is_top", [False, True], ids=["below", "top"])
@pytest.mark.parametrize("kind", NETWORKS, ids=str)
def test_loss_and_gradients_are_those_of_the_description(kind, is_top):
    """With 12 rows the first pool leaves 3, which the second one covers with overlaps."""
    head, draw = head_of(kind, is_top=is_top), seeding.generator("tests", "auxiliary oracle")
    weights = [*head.parameters()]
    with torch.no_grad():
        for values in weights:
            values.normal_(generator=draw)
    z = torch.randn(5, 12, 12, DIM, generator=draw, dtype=torch.float64, requires_grad=True)
    scores = described(z, weights, kind=kind, is_top=is_top)
    chosen = scores[torch.arange(5), LABELS]
    theirs = (scores.exp().sum(dim=1).log() - chosen).mean()
    ours = head(z, LABELS)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-10)
    of_ours, of_theirs = (torch.autograd.grad(loss, [z, *weights]) for loss in (ours, theirs))
    for one, other in zip(of_ours, of_theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
