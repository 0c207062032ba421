"""Modules that run as one operation, against their layers and autograd."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gim_bench import seeding
from gim_bench.encoders import bottleneck_passes
from gim_bench.encoders.bottleneck import Bottleneck, BottleneckModule
from gim_bench.encoders.images import PatchMean

PATCHES, SIDE = 7, 6


def module(*layers: nn.Module) -> BottleneckModule:
    return BottleneckModule(*layers).double()


@pytest.fixture
def modules() -> list[BottleneckModule]:
    """One above a stem, one that halves its input, and one of identities alone."""
    with seeding.weights_from("tests", "bottleneck"):
        stem = nn.Conv2d(1, 4, kernel_size=5, padding=2)
        return [
            module(stem, Bottleneck(4, 3, stride=1), Bottleneck(12, 3, stride=1)),
            module(Bottleneck(12, 5, stride=2), Bottleneck(20, 5, stride=1)),
            module(Bottleneck(20, 5, stride=1), Bottleneck(20, 5, stride=1)),
        ]


@pytest.fixture(params=[1, 2_000, 10**9], ids=["a patch", "some patches", "all patches"])
def piece_bytes(request, monkeypatch) -> int:
    monkeypatch.setattr(bottleneck_passes, "PIECE_BYTES", request.param)
    return request.param


def normal(*shape: int, stream: int = 0) -> Tensor:
    draw = seeding.generator("tests", "patches", stream)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def layer_by_layer(whole: BottleneckModule, x: Tensor) -> Tensor:
    return nn.Sequential.forward(whole, x)


def loss_of_means(tops: list[Tensor]) -> Tensor:
    """Of each module's spatial means, whose gradient is the same at all positions."""
    means = [PatchMean.apply(top) for top in tops]
    return sum((m.sin() * torch.arange(m.shape[1])).sum() for m in means)


def loss_of_positions(tops: list[Tensor]) -> Tensor:
    return sum((top.sin() * normal(*top.shape, stream=1)).sum() for top in tops)


@pytest.mark.parametrize("loss", [loss_of_means, loss_of_positions])
@pytest.mark.parametrize("is_isolated", [True, False])
@pytest.mark.usefixtures("piece_bytes")
def test_outputs_and_gradients_are_those_of_the_layers(loss, is_isolated, modules):
    results = []
    for run in (BottleneckModule.forward, layer_by_layer):
        x = normal(PATCHES, 1, SIDE, SIDE).requires_grad_()
        tops = [x]
        for each in modules:
            below = tops[-1].detach() if is_isolated and len(tops) > 1 else tops[-1]
            tops.append(run(each, below))
        weights = [weight for each in modules for weight in each.parameters()]
        results.append([*tops[1:], *torch.autograd.grad(loss(tops[1:]), [x, *weights])])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("number", "channels"), [(1, 12), (2, 20)])
@pytest.mark.usefixtures("piece_bytes")
def test_neither_the_input_nor_the_gradient_is_written_to(number, channels, modules):
    """Both laid out as the passes lay theirs out, so that they are not copied first."""
    layout = {"memory_format": torch.channels_last}
    x = normal(PATCHES, channels, SIDE, SIDE).contiguous(**layout).requires_grad_()
    top = modules[number](x)
    g = normal(*top.shape, stream=1).contiguous(**layout)
    before = x.detach().clone(), g.clone()
    top.backward(g)
    assert torch.equal(x, before[0])
    assert torch.equal(g, before[1])


def test_operations_are_counted_as_they_run():
    """Back from a mean, the topmost 1×1 convolution has one gradient a patch; x needs none."""
    wide, narrow, places = 20, 5, SIDE * SIDE
    block = module(Bottleneck(wide, narrow, stride=1))
    x = normal(PATCHES, wide, SIDE, SIDE)
    with FlopCounterMode(display=False) as counter:
        top = block(x)
    pointwise, square = 2 * PATCHES * wide * narrow, 2 * PATCHES * 9 * narrow * narrow
    assert counter.get_total_flops() == places * (2 * pointwise + square)
    with FlopCounterMode(display=False) as counter:
        PatchMean.apply(top).sum().backward()
    assert counter.get_total_flops() == 2 * pointwise + places * (2 * square + pointwise)


def test_a_graph_that_is_kept_goes_backward_twice(modules):
    x = normal(PATCHES, 1, SIDE, SIDE)
    loss = modules[0](x).sin().sum()
    weights = list(modules[0].parameters())
    first = torch.autograd.grad(loss, weights, retain_graph=True)
    for once, again in zip(first, torch.autograd.grad(loss, weights), strict=True):
        assert torch.equal(once, again)


def test_bf16_differs_from_fp32_by_rounding(modules):
    lowest = modules[0].float()
    x = normal(PATCHES, 1, SIDE, SIDE).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = lowest(x)
        layers = layer_by_layer(lowest, x)
    assert rounded.dtype == layers.dtype == torch.bfloat16
    exact = lowest(x)
    error = (rounded - exact).square().mean().sqrt()
    assert 0 < error < 2 * (layers - exact).square().mean().sqrt()
    gradients = torch.autograd.grad(rounded.float().sum(), list(lowest.parameters()))
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


def test_without_gradients_there_is_no_graph(modules):
    x = normal(PATCHES, 1, SIDE, SIDE)
    with torch.no_grad():
        assert modules[0](x).grad_fn is None
    frozen = modules[0].requires_grad_(False)
    assert frozen(x).grad_fn is None


def test_a_weight_that_is_stepped_before_the_way_back_is_noticed(modules):
    loss = modules[0](normal(PATCHES, 1, SIDE, SIDE)).sum()
    with torch.no_grad():
        modules[0][1].conv2.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_other_layers_run_one_by_one():
    class Louder(Bottleneck):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    for layers in ([Louder(8, 2, stride=1)], [Bottleneck(8, 2, stride=1), nn.ReLU()]):
        whole = module(*layers)
        assert not whole.is_one_operation
        x = normal(PATCHES, 8, SIDE, SIDE)
        assert torch.equal(whole(x), layer_by_layer(whole, x))


@pytest.mark.parametrize("change", ["hook", "inner hook", "compiled"])
def test_layers_run_one_by_one_where_only_their_own_call_will_do(change, modules, monkeypatch):
    lowest = modules[0]
    assert lowest.is_one_operation
    ran = []
    if change == "compiled":
        monkeypatch.setattr(lowest[1], "_compiled_call_impl", lambda x: ran.append(1) or x)
        lowest = BottleneckModule(lowest[1])
    else:
        layer = lowest[1] if change == "hook" else lowest[1].conv2
        layer.register_forward_hook(lambda *_: ran.append(1))
    assert not lowest.is_one_operation
    lowest(normal(PATCHES, 4 if change == "compiled" else 1, SIDE, SIDE))
    assert ran == [1]
