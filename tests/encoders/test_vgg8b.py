"""VGG8b against the sizes of its recipe, and where its modules are cut."""

import pytest
import torch
import torch.nn.functional as F

from gim_bench import seeding
from gim_bench.encoders.vgg8b import VGG8b, VGG8bSettings
from gim_bench.errors import ConfigError
from gim_bench.testing.cases import encodings_of
from tests.encoders.modules import parameters_of

STL10, CIFAR10 = VGG8bSettings(), VGG8bSettings(stem="3x3")
OUTPUT_LAYER = 1024 * 10 + 10  # of the published counts, and not of the encoder


def sizes(settings: VGG8bSettings, *, side: int) -> list[int]:
    """Parameters of every module."""
    with torch.device("meta"):
        encoder = VGG8b(settings, shape=(3, side, side))
    return parameters_of(encoder)


def small(**settings) -> VGG8b:
    with seeding.weights_from("tests", "vgg8b"):
        options = VGG8bSettings(**{"width": 4, "hidden": 6, **settings})
        return VGG8b(options, shape=(1, 32, 32)).double()


def images() -> torch.Tensor:
    draw = seeding.generator("tests", "vgg8b")
    return torch.randn(5, 1, 32, 32, generator=draw, dtype=torch.float64)


# -- sizes -------------------------------------------------------------------------------------


def test_modules_on_stl10_have_the_parameters_of_the_recipe():
    """Weights and biases of 7×7×3, then 3×3 convolutions, 4,608 × 1,024, and batch norm."""
    convolutions = [
        49 * 3 * 128 + 128,
        9 * 128 * 256 + 256,
        9 * 256 * 256 + 256,
        9 * 256 * 512 + 512,
        9 * 512 * 512 + 512,
        9 * 512 * 512 + 512,
        3 * 3 * 512 * 1024 + 1024,
    ]
    norms = [2 * dim for dim in (128, 256, 256, 512, 512, 512, 1024)]
    expected = [weights + norm for weights, norm in zip(convolutions, norms, strict=True)]
    assert sizes(STL10, side=96) == expected


@pytest.mark.parametrize(
    ("settings", "side", "published"), [(STL10, 96, 11.5), (CIFAR10, 32, 8.9)], ids=["stl", "cifar"]
)
def test_all_parameters_with_the_output_layer_are_the_published_millions(settings, side, published):
    total = sum(sizes(settings, side=side)) + OUTPUT_LAYER
    assert round(total / 1e6, 1) == published


@pytest.mark.parametrize(
    ("settings", "side", "rows"),
    [(STL10, 96, [48, 48, 24, 24, 12, 6, 1]), (CIFAR10, 32, [32, 32, 16, 16, 8, 4, 1])],
    ids=["stl", "cifar"],
)
def test_grids_halve_where_the_recipe_pools(settings, side, rows):
    assert VGG8b.rows(settings, shape=(3, side, side)) == rows


def test_every_convolution_and_the_hidden_layer_is_a_module():
    encoder = small(width=3, hidden=7)
    assert list(encoder.dims) == [3, 6, 6, 12, 12, 12, 7]
    assert len(encoder.stages) == 7


@pytest.mark.parametrize(("stem", "least"), [("7x7_stride_2", 32), ("3x3", 16)])
def test_images_that_four_poolings_leave_nothing_of_are_refused(stem, least):
    settings = VGG8bSettings(stem=stem, width=2, hidden=2)
    VGG8b(settings, shape=(1, least, least))
    with pytest.raises(ConfigError, match=f"too small .*crop to {least} pixels"):
        VGG8b(settings, shape=(1, least - 2, least - 2))


# -- what modules compute ------------------------------------------------------------------------


def test_modules_are_the_network_of_the_recipe_layer_after_layer():
    """Convolution, batch norm, LeakyReLU and, where the recipe says M, 2×2 max-pooling."""
    encoder, x = small(stem="3x3").eval(), images()
    found = encodings_of(encoder, x)
    for m, stage in enumerate(encoder.stages):
        x = x.flatten(1) if m == 6 else x
        layer = (
            F.linear(x, stage.weights.weight, stage.weights.bias)
            if m == 6
            else F.conv2d(x, stage.weights.weight, stage.weights.bias, padding=1)
        )
        norm = stage.norm
        x = F.batch_norm(layer, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        x = torch.where(x > 0, x, 0.01 * x)
        grid = x[:, :, None, None] if m == 6 else x
        assert torch.allclose(found[m], grid.movedim(1, 3)), m
        x = F.max_pool2d(x, 2) if m in {1, 3, 4, 5} else x


def test_a_slope_of_0_is_relu():
    assert all((z >= 0).all() for z in encodings_of(small(slope=0.0), images()))


def test_encodings_of_a_module_are_those_before_its_own_dropout():
    """Without dropout in any other module, half of the channels would be 0 after it."""
    with_dropout, without = small(dropout=0.5), small(dropout=0.0)
    first, expected = (encodings_of(e.train(), images())[0] for e in (with_dropout, without))
    assert torch.equal(first, expected)


def test_dropout_drops_whole_channels_before_the_next_module():
    encoder = small(dropout=0.5).train()
    dropped = encoder.stages[1].entrance(torch.ones(50, 4, 3, 3, dtype=torch.float64))
    of_channels = dropped.flatten(2)
    assert {float(x) for x in of_channels.unique()} == {0.0, 2.0}
    assert torch.equal(of_channels.amin(dim=2), of_channels.amax(dim=2))


def test_nothing_is_dropped_in_eval_mode():
    encoder = small(dropout=0.5).eval()
    first, again = (encodings_of(encoder, images()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
