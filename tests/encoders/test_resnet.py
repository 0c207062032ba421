"""The encoder against the sizes of the released code, and which pixel goes where."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch.utils.flop_counter import FlopCounterMode

from gim_bench import seeding
from gim_bench.contract import Modality
from gim_bench.encoders.resnet import Bottleneck, ResNetEncoder, ResNetSettings
from gim_bench.testing.cases import TINY
from tests.conftest import CROP
from tests.encoders.modules import activations_of, parameters_of

TINY_ENCODER = TINY[Modality.IMAGE].options
PAPER = ResNetSettings(kind="resnet")


def paper_encoder(*, in_channels: int = 1) -> ResNetEncoder:
    """The paper's encoder without memory for its weights."""
    with torch.device("meta"):
        return ResNetEncoder(PAPER, shape=(in_channels, 64, 64))


def tiny_encoder() -> ResNetEncoder:
    with seeding.weights_from("tests", "encoder"):
        return ResNetEncoder(TINY_ENCODER, shape=(1, CROP, CROP))


def side_of(settings: ResNetSettings, *, pixels: int) -> int:
    """Rows of the grid of patches, the same in every module."""
    (side,) = set(ResNetEncoder.rows(settings, shape=(1, pixels, pixels)))
    return side


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=seeding.generator("tests", "pixels"))


# -- sizes -------------------------------------------------------------------------------------


def test_modules_have_the_parameters_of_the_released_code():
    assert parameters_of(paper_encoder()) == [216_064, 1_216_000, 7_088_128]


def test_colour_adds_weights_to_the_first_convolution_alone():
    """Two more channels into 64 filters of 5×5."""
    colour = paper_encoder(in_channels=3)
    assert parameters_of(colour) == [216_064 + 2 * 64 * 25, 1_216_000, 7_088_128]


def test_modules_have_the_output_shapes_of_the_released_code():
    """Per 64×64 image 49 patches of 256×16×16, 512×8×8 and 1024×4×4."""
    encoder = paper_encoder()
    images = torch.empty(2, 1, 64, 64, device="meta")
    assert encoder.prepare(images).shape == (2 * 49, 1, 16, 16)
    shapes = [tuple(activations.shape) for activations in activations_of(encoder, images)]
    assert shapes == [(98, 256, 16, 16), (98, 512, 8, 8), (98, 1024, 4, 4)]
    assert list(encoder.dims) == [256, 512, 1024]


def test_the_forward_pass_costs_what_the_released_code_does():
    """5.384, 8.221 and 11.715 GFLOP a module, two for each multiply-add."""
    encoder = paper_encoder()
    activations = encoder.prepare(torch.empty(1, 1, 64, 64, device="meta"))
    gflop = []
    for stage in encoder.stages:
        with FlopCounterMode(display=False) as counter:
            activations = stage(activations)
        gflop.append(counter.get_total_flops() / 1e9)
    assert gflop == pytest.approx([5.384, 8.221, 11.715], abs=5e-4)


def test_encodings_are_a_grid_of_seven_by_seven():
    encoder = paper_encoder()
    z = encoder.pool(torch.empty(3 * 49, 1024, 4, 4, device="meta"), batch_size=3)
    assert z.shape == (3, 7, 7, 1024)
    assert side_of(PAPER, pixels=64) == 7


def test_width_and_blocks_make_the_encoder_smaller():
    encoder = tiny_encoder()
    assert list(encoder.dims) == [16, 32, 64]
    assert [len(stage) for stage in encoder.stages] == [2, 1, 1]  # the first holds the stem too


# -- places ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "pixels"), [(PAPER, 64), (TINY_ENCODER, 32), (TINY_ENCODER, 20)]
)
def test_the_encoding_at_row_and_column_is_of_the_patch_there(settings, pixels):
    """Pooled as they are, patches give the mean of their own square of the image."""
    encoder = ResNetEncoder(
        settings.model_copy(update={"width": 1, "blocks": (1,)}), shape=(2, CROP, CROP)
    )
    size, stride = settings.patch_size, settings.patch_size - settings.patch_overlap
    images = normal(3, 2, pixels, pixels)
    z = encoder.pool(encoder.prepare(images), batch_size=3)
    side = side_of(settings, pixels=pixels)
    assert z.shape == (3, side, side, 2)
    for row in range(side):
        for column in range(side):
            square = images[
                :, :, row * stride : row * stride + size, column * stride : column * stride + size
            ]
            torch.testing.assert_close(z[:, row, column], square.mean(dim=(2, 3)))


def test_a_bright_spot_in_one_image_lights_up_its_own_patch_alone():
    """The corner at the top right belongs to one patch: row 0, column 6 of that image."""
    encoder = tiny_encoder()
    images = torch.zeros(2, 1, 32, 32)
    images[1, 0, :4, 28:] = 1.0
    lit = encoder.pool(encoder.prepare(images), batch_size=2).sum(dim=-1).nonzero()
    assert lit.tolist() == [[1, 0, 6]]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (5, 17), (13, 2), (31, 31), (16, 30)])
def test_a_pixel_reaches_the_patches_that_contain_it_and_no_other(row, column):
    """In every module: nothing leaks between patches, so rows below stay to be predicted."""
    encoder = tiny_encoder()
    images = normal(2, 1, 32, 32)
    changed = images.clone()
    changed[1, 0, row, column] += 3.0
    containing = {
        (1, r, c)
        for r in range(7)
        for c in range(7)
        if 4 * r <= row < 4 * r + 8 and 4 * c <= column < 4 * c + 8
    }
    before, after = encoder.prepare(images), encoder.prepare(changed)
    for stage in encoder.stages:
        before, after = stage(before), stage(after)
        moved = (encoder.pool(before, batch_size=2) != encoder.pool(after, batch_size=2)).any(-1)
        assert {tuple(place) for place in moved.nonzero().tolist()} == containing


def test_skipping_one_row_skips_all_that_the_patch_overlaps():
    """Patches two rows apart share no pixel: the reason for skip_rows = 1 in the paper."""
    assert PAPER.patch_size <= 2 * (PAPER.patch_size - PAPER.patch_overlap)


def test_an_image_has_one_step_the_mean_over_its_grid():
    z = normal(3, 7, 7, 16)
    steps = tiny_encoder().steps(z, module=0)
    torch.testing.assert_close(steps, z.sum(dim=(1, 2)).div(49).unsqueeze(1))


# -- blocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("in_channels", "stride"), [(8, 1), (6, 1), (8, 2)])
def test_a_block_is_the_formula_written_out(in_channels, stride):
    block = Bottleneck(in_channels, 2, stride=stride).double()
    x = normal(3, in_channels, 6, 6).double()
    kept = x.clone()

    def convolve(conv: torch.nn.Conv2d, value: torch.Tensor) -> torch.Tensor:
        return F.conv2d(value, conv.weight, conv.bias, conv.stride, conv.padding)

    expected = convolve(block.conv1, torch.relu(x))
    expected = convolve(block.conv2, torch.relu(expected))
    expected = convolve(block.conv3, torch.relu(expected))
    resizes = stride == 2 or in_channels != 8
    expected = expected + (convolve(block.shortcut, torch.relu(x)) if resizes else x)
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, kept), "the block wrote into its input"


def test_a_block_that_keeps_its_size_adds_no_weights_to_the_shortcut():
    assert Bottleneck(8, 2, stride=1).shortcut is None


@pytest.mark.parametrize(("in_channels", "stride"), [(4, 1), (4, 2), (3, 1)])
def test_working_in_place_leaves_the_gradient_right(in_channels, stride):
    block = Bottleneck(in_channels, 1, stride=stride).double()
    x = normal(2, in_channels, 4, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(block, (x,))


def test_channels_last_computes_the_same_encodings():
    encoder = tiny_encoder()
    images = normal(2, 1, 32, 32)
    plain = encoder.stages[0](encoder.prepare(images))
    last = encoder.to(memory_format=torch.channels_last)
    fast = last.stages[0](last.prepare(images))
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    assert rearrange(plain, "p d h w -> p h w d").shape == (98, 8, 8, 16)
