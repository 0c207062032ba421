"""PredSim's loss against its equations, closed forms, and what it starts from."""

import math

import pytest
import torch
from torch import nn

from gim_bench import seeding
from gim_bench.contract import Target
from gim_bench.objectives.predsim import (
    PredSimHead,
    Weights,
    deviations,
    pooled_sides,
    similarities,
    similarity_loss,
)
from tests.oracles.predsim import slow_predsim

CLASSES = 3
CLASS = Target(name="class", classes=[str(i) for i in range(CLASSES)])
PUBLISHED = Weights(similarity=0.99, prediction=0.01)
LABELS = torch.tensor([0, 1, 2, 0, 1])
DIM, ROWS, COLUMNS = 4, 4, 4


def normal(*shape: int, stream: int = 0) -> torch.Tensor:
    draw = seeding.generator("tests", "predsim", stream)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def head_of(
    dim: int = DIM, *, rows: int = ROWS, columns: int = COLUMNS, weights=PUBLISHED, dims: int = 16
) -> PredSimHead:
    with seeding.weights_from("tests", "predsim"):
        return PredSimHead(
            dim, rows=rows, columns=columns, target=CLASS, weights=weights, decoder_dims=dims
        ).double()


def of_patterns(labels: torch.Tensor, *, sign: float = 1.0) -> torch.Tensor:
    """Maps whose deviations are 1 in the channel of the label, and 0 in the others."""
    maps = torch.zeros(len(labels), CLASSES, 2, 2, dtype=torch.float64)
    maps[torch.arange(len(labels)), labels, 0, 0] = sign
    return maps


# -- the equations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights",
    [PUBLISHED, Weights(similarity=1.0, prediction=0.0), Weights(similarity=0.0, prediction=1.0)],
    ids=["predsim", "sim", "pred"],
)
def test_loss_and_gradients_equal_the_equations_written_as_loops(weights):
    full = head_of()
    assert full.sides == (2, 2)
    kernel = full.convolution.weight
    with torch.no_grad():
        full.classifier.weight.copy_(normal(CLASSES, 16, stream=1))
        full.classifier.bias.copy_(normal(CLASSES, stream=2))
    head = head_of(weights=weights)
    head.load_state_dict(full.state_dict(), strict=False)
    z = normal(len(LABELS), ROWS, COLUMNS, DIM, stream=3).requires_grad_()
    head(z, LABELS).backward()

    again = z.detach().clone().requires_grad_()
    loss = slow_predsim(
        again.permute(0, 3, 1, 2),
        LABELS.tolist(),
        kernel=kernel,
        classifier=(full.classifier.weight, full.classifier.bias),
        pooled=(2, 2),
        classes=CLASSES,
        similarity=weights.similarity,
        prediction=weights.prediction,
    )
    loss.backward()
    assert head(z, LABELS).item() == pytest.approx(loss.item(), rel=1e-10)
    expected = dict(full.named_parameters())
    found = {"z": (z.grad, again.grad)} | {
        name: (parameter.grad, expected[name].grad) for name, parameter in head.named_parameters()
    }
    for name, (ours, theirs) in found.items():
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12, msg=name)


def test_deviations_are_those_over_places_of_every_channel():
    maps = normal(2, 3, 4, 5)
    expected = [[channel.flatten().std().item() for channel in example] for example in maps]
    assert torch.allclose(deviations(maps), torch.tensor(expected, dtype=torch.float64))


def test_a_grid_of_one_place_is_compared_by_its_channels():
    maps = normal(2, 3, 1, 1)
    assert torch.equal(deviations(maps), maps[:, :, 0, 0])


# -- closed forms --------------------------------------------------------------------------------


def test_similarity_is_that_of_statistics_around_their_own_mean():
    """A constant that is added to all statistics of an example changes nothing."""
    statistics = normal(4, 6)
    shifted = statistics + normal(4, 1, stream=1)
    assert torch.allclose(similarities(statistics), similarities(shifted))
    raw = nn.functional.normalize(statistics, dim=1)
    assert not torch.allclose(similarities(statistics), raw @ raw.T)


def test_similarity_does_not_change_with_the_scale_of_an_example():
    statistics = normal(4, 6)
    scaled = statistics * torch.tensor([[0.1], [2.0], [30.0], [1.0]], dtype=torch.float64)
    assert torch.allclose(similarities(statistics), similarities(scaled))


def test_every_example_is_alike_to_itself():
    assert torch.allclose(similarities(normal(4, 6)).diagonal(), torch.ones(4).double())


def test_one_hot_labels_of_other_classes_have_a_similarity_of_minus_1_over_classes_less_1():
    found = similarities(torch.eye(10, dtype=torch.float64))
    expected = torch.full((10, 10), -1 / 9, dtype=torch.float64).fill_diagonal_(1)
    assert torch.allclose(found, expected)


def test_maps_with_a_channel_for_every_class_have_no_similarity_loss():
    assert similarity_loss(of_patterns(LABELS), LABELS, classes=CLASSES).item() < 1e-28


def test_a_similarity_loss_is_the_mean_over_all_pairs_those_of_an_example_with_itself_included():
    """Two examples of different classes with the same maps: two of four pairs are 1 + 1/2 off."""
    labels = torch.tensor([0, 1])
    maps = of_patterns(torch.tensor([0, 0]))
    expected = 2 * (1 + 1 / 2) ** 2 / 4
    assert similarity_loss(maps, labels, classes=CLASSES).item() == pytest.approx(expected)


def test_examples_without_any_deviation_have_similarity_0_and_finite_gradients():
    maps = torch.ones(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    loss = similarity_loss(maps, torch.tensor([0, 1]), classes=2)
    loss.backward()
    assert loss.item() == pytest.approx(1)  # all four similarities of the labels are 1 or -1
    assert maps.grad.isfinite().all()


def test_the_order_of_examples_does_not_matter():
    head, z = head_of(), normal(len(LABELS), ROWS, COLUMNS, DIM)
    assert head(z, LABELS).item() == pytest.approx(head(z.flip(0), LABELS.flip(0)).item())


# -- where it starts -----------------------------------------------------------------------------


def test_the_classifier_begins_without_a_preference():
    """Its first cross-entropy is that of equal scores, whatever the encodings."""
    head = head_of(weights=Weights(similarity=0.0, prediction=1.0))
    z = 100 * normal(len(LABELS), ROWS, COLUMNS, DIM)
    assert head(z, LABELS).item() == pytest.approx(math.log(CLASSES), rel=1e-12)
    assert not any(p.any() for p in head.classifier.parameters())


def test_the_first_gradient_of_encodings_is_that_of_the_similarity_alone():
    z = normal(len(LABELS), ROWS, COLUMNS, DIM).requires_grad_()
    head_of()(z, LABELS).backward()
    gradient, z.grad = z.grad, None
    sim = head_of(weights=Weights(similarity=0.99, prediction=0.0))
    sim(z, LABELS).backward()
    assert torch.allclose(z.grad, gradient, rtol=1e-12)


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        (PUBLISHED, {"convolution", "classifier"}),
        (Weights(similarity=1.0, prediction=0.0), {"convolution"}),
        (Weights(similarity=0.0, prediction=1.0), {"classifier"}),
    ],
    ids=["predsim", "sim", "pred"],
)
def test_a_half_of_weight_0_has_no_parameters(weights, parts):
    names = {name.partition(".")[0] for name, _ in head_of(weights=weights).named_parameters()}
    assert names == parts


def test_an_uninformed_loss_is_known_without_the_similarity_alone():
    assert head_of().uninformed_loss is None
    half = head_of(weights=Weights(similarity=0.0, prediction=0.5))
    assert half.uninformed_loss == pytest.approx(0.5 * math.log(CLASSES))


# -- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "channels", "sides"),
    [  # VGG8b's modules on STL-10, worked out by hand from the released code's rule
        (48, 128, (3, 3)),
        (48, 256, (2, 3)),
        (24, 256, (2, 3)),
        (24, 512, (2, 2)),
        (12, 512, (2, 2)),
        (6, 512, (2, 2)),
        (1, 1024, (1, 1)),
        (1, 4096, (1, 1)),
    ],
)
def test_the_pool_of_the_classifier_is_that_of_the_released_code(side, channels, sides):
    assert pooled_sides(side, side, channels=channels, at_most=2048) == sides


def test_parameters_are_those_of_a_3x3_convolution_and_a_linear_map_of_the_pool():
    head = head_of(256, rows=48, columns=48, dims=2048)
    assert sum(p.numel() for p in head.convolution.parameters()) == 256 * 256 * 9
    assert sum(p.numel() for p in head.classifier.parameters()) == 256 * 2 * 3 * CLASSES + CLASSES


def test_on_one_place_the_convolution_is_a_linear_map():
    head = head_of(6, rows=1, columns=1)
    assert sum(p.numel() for p in head.convolution.parameters()) == 6 * 6


def test_statistics_of_bf16_maps_are_compared_in_fp32():
    head = head_of(weights=Weights(similarity=1.0, prediction=0.0)).bfloat16()
    z = normal(len(LABELS), ROWS, COLUMNS, DIM).bfloat16()
    maps = head.convolution(z.permute(0, 3, 1, 2))
    assert maps.dtype is torch.bfloat16
    assert torch.equal(head(z, LABELS), similarity_loss(maps.float(), LABELS, classes=CLASSES))
