"""Barlow Twins against its equations, closed forms and another library; its head's layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gim_bench import seeding
from gim_bench.objectives.barlow_twins import (
    BarlowTwinsHead,
    BarlowTwinsSettings,
    Pooling,
    barlow_twins,
    cross_correlation,
)
from gim_bench.settings.suites import load_suite
from tests.oracles.barlow_twins import slow_barlow_twins

EXAMPLES, DIMENSIONS = 6, 4
# Rows of a Hadamard matrix: centred, of variance 1, and uncorrelated.
ORTHOGONAL = torch.tensor([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]], dtype=torch.float64)


def normal(*shape: int, stream: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    draw = seeding.generator("tests", "barlow twins", stream)
    return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)


def two_views() -> list[torch.Tensor]:
    """Projections that agree in part, with gradients."""
    first = normal(EXAMPLES, DIMENSIONS)
    second = first + normal(EXAMPLES, DIMENSIONS, stream=1)
    return [first.requires_grad_(), second.requires_grad_()]


def head_of(dim: int = 3, **options) -> BarlowTwinsHead:
    given = {"pooling": Pooling.CONV, "width": 5, "projector": [8, 7, 6]} | options
    with seeding.weights_from("tests", "head"):
        head = BarlowTwinsHead(dim, settings=BarlowTwinsSettings(), **given)
    return head.double()


# -- the loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize("redundancy", [0.0051, 1.0])
def test_loss_and_gradients_equal_the_equations(redundancy):
    ours, oracles = two_views(), two_views()
    loss = barlow_twins(*ours, redundancy=redundancy)
    expected = slow_barlow_twins(*oracles, redundancy=redundancy)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    loss.backward()
    expected.backward()
    for view, slow in zip(ours, oracles, strict=True):
        assert slow.grad.abs().max() > 1e-3
        torch.testing.assert_close(view.grad, slow.grad, rtol=1e-10, atol=1e-10)


def test_the_loss_equals_that_of_lightly():
    lightly = pytest.importorskip("lightly.loss", reason="pip install --no-deps lightly")
    one, other = two_views()
    theirs = lightly.BarlowTwinsLoss(lambda_param=0.0051)(one, other)
    torch.testing.assert_close(
        barlow_twins(one, other, redundancy=0.0051), theirs, rtol=1e-12, atol=1e-12
    )


def test_equal_views_with_uncorrelated_dimensions_have_no_loss():
    loss = barlow_twins(ORTHOGONAL, ORTHOGONAL, redundancy=1.0)
    assert loss.item() == pytest.approx(0, abs=1e-8)  # ε of batch norm is left


def test_equal_dimensions_pay_the_weight_for_every_pair_off_the_diagonal():
    """A correlation matrix of ones: p·(p - 1) pairs, and no term on the diagonal."""
    alike = ORTHOGONAL[:, :1].repeat(1, DIMENSIONS)
    for redundancy in (0.0051, 0.5):
        loss = barlow_twins(alike, alike, redundancy=redundancy)
        pairs = DIMENSIONS * (DIMENSIONS - 1)
        assert loss.item() == pytest.approx(redundancy * pairs, rel=1e-4)


def test_opposite_views_pay_four_for_every_dimension():
    loss = barlow_twins(ORTHOGONAL, -ORTHOGONAL, redundancy=1.0)
    assert loss.item() == pytest.approx(4 * 3, rel=1e-4)


def test_projections_that_do_not_depend_on_the_example_pay_one_for_every_dimension():
    constant = torch.ones(EXAMPLES, DIMENSIONS)
    assert barlow_twins(constant, constant, redundancy=1.0).item() == DIMENSIONS


def test_scale_and_offset_of_a_dimension_do_not_matter():
    one, other = (view.detach() for view in two_views())
    stretched = cross_correlation(one * 50 + 3, other * 70 - 1)
    torch.testing.assert_close(stretched, cross_correlation(one, other), rtol=1e-4, atol=1e-4)


def test_exchanged_views_have_the_transposed_correlation_and_the_same_loss():
    one, other = two_views()
    exchanged = cross_correlation(other, one)
    torch.testing.assert_close(exchanged, cross_correlation(one, other).T)
    torch.testing.assert_close(
        barlow_twins(one, other, redundancy=0.1), barlow_twins(other, one, redundancy=0.1)
    )


def test_a_loss_of_bf16_projections_is_in_single_precision():
    views = [normal(EXAMPLES, DIMENSIONS, stream=s, dtype=torch.bfloat16) for s in (0, 1)]
    assert barlow_twins(*views, redundancy=0.1).dtype is torch.float32


def test_the_scale_of_imagenet_blockwise_gives_the_released_gradient():
    """There each of 16 processes has the gradient of its own part of the correlation matrix.

    The sum over the processes is out of autograd's sight, and DistributedDataParallel takes the
    mean of the gradients.
    """
    processes, examples = 16, 32
    released = [normal(examples, DIMENSIONS, stream=s).requires_grad_() for s in (0, 1)]
    standardised = [F.batch_norm(z, None, None, training=True) for z in released]
    parts = zip(*(z.chunk(processes) for z in standardised), strict=True)
    own = [one.T @ other / examples for one, other in parts]
    rest = [sum(own).detach() - part.detach() for part in own]
    for part, others in zip(own, rest, strict=True):
        squares = (part + others - torch.eye(DIMENSIONS)).square()
        on_diagonal = squares.diagonal().sum()
        loss = 0.024 * (on_diagonal + 0.0051 * (squares.sum() - on_diagonal))
        (loss / processes).backward(retain_graph=True)
    ours = [z.detach().requires_grad_() for z in released]
    settings = load_suite("imagenet-blockwise").objective["barlow_twins"]
    loss = settings["scale"] * barlow_twins(*ours, redundancy=settings["redundancy"])
    loss.backward()
    for view, theirs in zip(ours, released, strict=True):
        torch.testing.assert_close(view.grad, theirs.grad, rtol=1e-10, atol=1e-14)


# -- the head --------------------------------------------------------------------------------------


def test_a_head_is_pooling_projector_and_scaled_loss():
    head = head_of()
    grids = [normal(EXAMPLES, 4, 4, 3, stream=stream) for stream in (0, 1)]
    found = head(*grids)
    again = [head.projector(head.pooled(grid)) for grid in grids]
    expected = 0.024 * barlow_twins(*again, redundancy=0.0051)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_pooling_by_convolution_is_a_linear_map_batch_norm_relu_and_the_mean_over_the_grid():
    head, grid = head_of(), normal(EXAMPLES, 4, 4, 3)
    convolution = next(module for module in head.modules() if isinstance(module, nn.Conv2d))
    assert convolution.bias is None
    places = (grid @ convolution.weight[:, :, 0, 0].T).flatten(0, 2)
    normed = (places - places.mean(0)) / (places.var(0, unbiased=False) + 1e-5).sqrt()
    expected = normed.clamp(min=0).view(EXAMPLES, 16, 5).mean(1)
    torch.testing.assert_close(head.pooled(grid), expected, rtol=1e-10, atol=1e-10)


def test_global_pooling_is_the_mean_over_the_grid_without_weights():
    head, grid = head_of(pooling=Pooling.GLOBAL), normal(EXAMPLES, 4, 4, 3)
    torch.testing.assert_close(head.pooled(grid), grid.mean(dim=(1, 2)))
    assert not list(head.pool.parameters())


def test_local_pooling_keeps_as_many_places_as_fit_into_the_width():
    """3 channels at 2×2 places are 12 numbers, at 3×3 places too many."""
    head, grid = head_of(pooling=Pooling.LOCAL, width=14), normal(EXAMPLES, 4, 4, 3)
    quarters = grid.view(EXAMPLES, 2, 2, 2, 2, 3).mean(dim=(2, 4))
    expected = quarters.permute(0, 3, 1, 2).flatten(1)
    torch.testing.assert_close(head.pooled(grid), expected)


def test_a_projector_has_batch_norm_and_relu_between_its_layers_and_no_bias():
    kinds = [type(layer) for layer in head_of().projector]
    between = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert kinds == [*between, *between, nn.Linear]
    linear = [layer for layer in head_of().projector if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in linear] == [(8, 5), (7, 8), (6, 7)]
    assert all(layer.bias is None for layer in linear)


def test_the_head_of_the_paper_has_its_parameters():
    """Of 256 channels: 1×1 to 2048 with batch norm, and a projector 8192-8192-8192."""
    with torch.device("meta"):
        head = BarlowTwinsHead(
            256,
            pooling=Pooling.CONV,
            width=2048,
            projector=[8192] * 3,
            settings=BarlowTwinsSettings(),
        )
    pooling = 256 * 2048 + 2 * 2048
    projector = 2048 * 8192 + 2 * 8192**2 + 2 * 2 * 8192
    assert sum(p.numel() for p in head.parameters()) == pooling + projector
