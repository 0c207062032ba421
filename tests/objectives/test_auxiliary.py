"""Auxiliary networks of DGL: sizes of the released code, and what they read."""

import math

import pytest
import torch
from torch import nn

from gim_bench import seeding
from gim_bench.contract import Target
from gim_bench.objectives.auxiliary import Auxiliary, AuxiliaryHead

CLASS = Target(name="class", classes=[str(i) for i in range(10)])
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
