"""Deep InfoMax's folded network against the sizes of its recipe, and which pixel goes where."""

import pytest
import torch

from gim_bench import seeding
from gim_bench.contract import Encoder
from gim_bench.encoders.folded_convnet import FoldedConvNet, FoldedConvNetSettings
from gim_bench.errors import ConfigError
from gim_bench.settings.suites import parse
from gim_bench.testing.cases import encodings_of
from tests.encoders.modules import activations_of, parameters_of

PUBLISHED = FoldedConvNetSettings(kind="folded_convnet")
NARROW = FoldedConvNetSettings(kind="folded_convnet", width=2)


def published(*, in_channels: int = 3) -> FoldedConvNet:
    """The published encoder without memory for its weights."""
    with torch.device("meta"):
        return FoldedConvNet(PUBLISHED, shape=(in_channels, 64, 64))


def narrow(*, pixels: int = 64) -> Encoder:
    with seeding.weights_from("tests", "encoder"):
        return FoldedConvNet(NARROW, shape=(1, pixels, pixels)).double().eval()


def normal(*shape: int) -> torch.Tensor:
    draw = seeding.generator("tests", "pixels")
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


# -- sizes ---------------------------------------------------------------------------------------


def weights(below: int, channels: int, *, kernel: int = 3) -> int:
    """Of a convolution without bias, and of its batch norm."""
    return kernel * kernel * below * channels + 2 * channels


def test_modules_have_the_parameters_of_the_recipe():
    """96-192-384-384-192 on patches, 192 (3×3) and 192 (1×1) over the grid, on colour."""
    patches = [weights(3, 96), weights(96, 192), weights(192, 384) + weights(384, 384)]
    patches[2] += weights(384, 192)
    grid = weights(192, 192) + weights(192, 192, kernel=1)
    assert parameters_of(published()) == [*patches, grid] == [2_784, 166_272, 2_656_128, 369_408]


def test_gray_images_take_weights_from_the_first_convolution_alone():
    assert parameters_of(published(in_channels=1)) == [
        2_784 - 2 * 96 * 9,
        166_272,
        2_656_128,
        369_408,
    ]


def test_activations_have_the_sizes_of_the_recipe():
    """Crops of 16 pixels shrink to 7, 3 and 1; folded, they are 7×7; the globals are 5×5."""
    encoder = published()
    images = torch.empty(2, 3, 64, 64, device="meta")
    assert encoder.prepare(images).shape == (2 * 49, 3, 16, 16)
    shapes = [tuple(activations.shape) for activations in activations_of(encoder, images)]
    assert shapes == [(98, 96, 7, 7), (98, 192, 3, 3), (98, 192, 1, 1), (2, 192, 5, 5)]
    assert list(encoder.dims) == [96, 192, 192, 192]
    assert FoldedConvNet.rows(PUBLISHED, shape=(3, 64, 64)) == [7, 7, 7, 5]


@pytest.mark.parametrize("width", [1, 5])
def test_width_makes_all_layers_narrower(width):
    options = PUBLISHED.model_copy(update={"width": width})
    encoder = FoldedConvNet(options, shape=(1, 32, 32))
    channels = [p.shape[0] for p in encoder.parameters() if p.dim() == 4]
    assert channels == [width * times for times in (1, 2, 4, 4, 2, 2, 2)]
    assert list(encoder.dims) == [width * times for times in (1, 2, 2, 2)]


# -- places --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "column"), [(0, 0), (12, 20), (31, 63), (63, 40)])
def test_a_pixel_reaches_the_patches_that_contain_it_and_the_globals_above_them(row, column):
    """Patches begin every 8 pixels; a global is made from 3×3 patches.

    In eval mode, with positive pixels and weights, of which neither ReLU nor max-pool hides any.
    """
    encoder, images = narrow(), normal(2, 1, 64, 64).abs()
    for parameter in encoder.parameters():
        parameter.data.abs_()
    changed = images.clone()
    changed[1, 0, row, column] += 30.0
    patches = {
        (1, r, c)
        for r in range(7)
        for c in range(7)
        if 8 * r <= row < 8 * r + 16 and 8 * c <= column < 8 * c + 16
    }
    above = {
        (1, r, c)
        for r in range(5)
        for c in range(5)
        if any((1, r + i, c + j) in patches for i in range(3) for j in range(3))
    }
    with torch.no_grad():
        before, after = encodings_of(encoder, images), encodings_of(encoder, changed)
    moved = [
        {tuple(place) for place in (a != b).any(-1).nonzero().tolist()}
        for a, b in zip(before, after, strict=True)
    ]
    assert moved == [patches, patches, patches, above]


def test_the_fold_puts_every_patch_at_its_place_of_the_grid():
    """What the convolution over the grid is given, is the grid of the module below."""
    encoder, images = narrow(), normal(2, 1, 64, 64)
    activations = activations_of(encoder, images)[2]
    grid = encoder.pool(activations, batch_size=2)
    folded = encoder.stages[3][0](activations)
    assert torch.equal(folded, grid.permute(0, 3, 1, 2))


def test_an_image_has_one_step_the_mean_over_its_grid():
    z = normal(3, 5, 5, 4)
    steps = narrow().steps(z, module=3)
    torch.testing.assert_close(steps, z.sum(dim=(1, 2)).div(25).unsqueeze(1))


# -- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize("patch_size", [15, 16, 22])
def test_patches_that_are_pooled_to_one_pixel_are_taken(patch_size):
    options = NARROW.model_validate({**NARROW.entries(), "patch_size": patch_size})
    encoder = FoldedConvNet(options, shape=(1, 48, 48))
    (*_, top) = encodings_of(encoder, torch.zeros(2, 1, 48, 48))
    assert top.shape[1] == FoldedConvNet.rows(options, shape=(1, 48, 48))[3]


@pytest.mark.parametrize("patch_size", [4, 14, 23])
def test_other_patches_are_refused(patch_size):
    table = {"kind": "folded_convnet", "patch_size": patch_size}
    with pytest.raises(ConfigError, match=f"patch_size {patch_size} .* use 15 to 22 pixels"):
        parse(FoldedConvNetSettings, table, origin="test")


def test_a_crop_with_fewer_patches_than_the_grid_s_kernel_is_refused():
    with pytest.raises(ConfigError, match=r"31 pixels gives 2 row.*raise augmentation.crop to 32"):
        FoldedConvNet(NARROW, shape=(1, 31, 31))
    assert FoldedConvNet.rows(NARROW, shape=(1, 32, 32)) == [3, 3, 3, 1]
