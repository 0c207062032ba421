"""Recomputing tile by tile: the gradients are those of the whole image or recording."""

import pytest
import torch

from gim_bench.contract import Batch, GradientFlow
from gim_bench.methods import stack
from gim_bench.settings.schema import Recompute
from tests.large import LENGTH, NO_PADDING, learner, speech_learner

ROWS = 90


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return Batch(inputs=torch.randn(2, 1, ROWS, ROWS + 13, dtype=torch.float64), labels={})


def gradients(batch, found):
    found = found.double()
    losses = dict(found.losses(batch))
    torch.stack(list(losses.values())).sum().backward()
    return losses, {name: parameter.grad for name, parameter in found.named_parameters()}


@pytest.mark.parametrize("tile", [4, 7, 64])
@pytest.mark.parametrize("flow", [GradientFlow.END_TO_END, GradientFlow.ISOLATED])
def test_tiles_have_the_losses_and_gradients_of_the_whole(batch, flow, tile, monkeypatch):
    monkeypatch.setattr(stack, "TILES", {1: tile, 2: tile})
    losses, whole = gradients(batch, learner(flow=flow, rows=ROWS))
    ours, tiled = gradients(batch, learner(flow=flow, recompute=Recompute.TILES, rows=ROWS))
    check_the_same(losses, whole, ours=ours, tiled=tiled)


@pytest.mark.parametrize("paddings", [NO_PADDING, (2, 2, 2, 2, 1)])
@pytest.mark.parametrize("tile", [29, 64])
@pytest.mark.parametrize("flow", [GradientFlow.END_TO_END, GradientFlow.ISOLATED])
def test_tiles_of_a_recording_have_the_losses_and_gradients_of_the_whole(
    flow, tile, paddings, monkeypatch
):
    """Below the GRU, which reads the whole; padded at the ends of the recording alone."""
    monkeypatch.setattr(stack, "TILES", {1: tile})
    torch.manual_seed(1)
    batch = Batch(inputs=torch.randn(2, LENGTH, dtype=torch.float64), labels={})
    losses, whole = gradients(batch, speech_learner(flow=flow, paddings=paddings))
    ours, tiled = gradients(
        batch, speech_learner(flow=flow, recompute=Recompute.TILES, paddings=paddings)
    )
    check_the_same(losses, whole, ours=ours, tiled=tiled)


def check_the_same(losses, whole, *, ours, tiled):
    assert losses.keys() == ours.keys()
    assert all(torch.allclose(losses[unit], ours[unit], rtol=1e-10) for unit in losses)
    assert whole.keys() == tiled.keys()
    assert all(torch.allclose(whole[name], tiled[name], rtol=1e-8) for name in whole)
    assert all(gradient.abs().sum() > 0 for gradient in whole.values())


def test_tiles_keep_less_for_the_way_back_than_the_whole(batch):
    def kept(recompute):
        found = learner(flow=GradientFlow.END_TO_END, recompute=recompute, rows=ROWS).double()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            dict(found.losses(batch))
        return sum(sizes)

    assert kept(Recompute.TILES) < kept(Recompute.NOTHING)
