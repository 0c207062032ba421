"""ResNets with batch norm against torchvision's: sizes, weights and outputs."""

from itertools import chain

import pytest
import torch
from torchvision.models import resnet18, resnet50

from gim_bench import seeding
from gim_bench.encoders.batch_norm_resnet import BatchNormResNet, BatchNormResNetSettings
from gim_bench.testing.cases import encoder_case, encodings_of
from gim_bench.testing.test_encoder import *  # noqa: F403 - pytest runs the tests by their names

TORCHVISION = {18: resnet18, 50: resnet50}
# In each depth once, and each stem once. Blocks that start as shortcuts have idle weights.
ENCODERS = [
    encoder_case(
        BatchNormResNet,
        options={"depth": depth, "width": 2, "stem": stem, "zero_init_residual": False},
        shape=(3, 32, 32),
    )
    for depth, stem in ((18, "small"), (50, "large"))
]


def encoder(*, shape=(3, 32, 32), **options) -> BatchNormResNet:
    settings = BatchNormResNetSettings(kind="batch_norm_resnet", **options)
    with seeding.weights_from("tests", "encoder"):
        return BatchNormResNet(settings, shape=shape)


def on_meta(**options) -> BatchNormResNet:
    with torch.device("meta"):
        return encoder(**options)


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


def torchvisions(depth, *, device="meta"):
    with torch.device(device), seeding.weights_from("tests", "torchvision"):
        return TORCHVISION[depth](zero_init_residual=True)


def theirs(network):
    """Stem and four layers of torchvision's network, as modules of ours."""
    stem = [network.conv1, network.bn1]
    layers = [network.layer1, network.layer2, network.layer3, network.layer4]
    return [[*stem, layers[0]], *([layer] for layer in layers[1:])]


@pytest.mark.parametrize(("depth", "total"), [(18, 11_176_512), (50, 23_508_032)])
def test_modules_have_the_parameters_of_torchvisions_layers(depth, total):
    """The classifier is left out; the stem counts to the first module."""
    network = torchvisions(depth)
    ours = [parameters(stage) for stage in on_meta(depth=depth).stages]
    assert ours == [sum(map(parameters, parts)) for parts in theirs(network)]
    assert sum(ours) == parameters(network) - parameters(network.fc) == total


@pytest.mark.parametrize("depth", TORCHVISION)
def test_torchvisions_weights_give_torchvisions_features(depth):
    """In train mode, batch statistics included; ResNet-18 and ResNet-50 on 32 pixels."""
    network = torchvisions(depth, device="cpu").double()
    network.fc = torch.nn.Identity()
    ours = encoder(depth=depth).double()
    weights = chain.from_iterable(
        part.state_dict().values() for parts in theirs(network) for part in parts
    )
    names = list(ours.state_dict())
    ours.load_state_dict(dict(zip(names, weights, strict=True)))
    images = torch.randn(4, 3, 32, 32, generator=seeding.generator("tests"), dtype=torch.float64)
    with torch.no_grad():
        top = ours.steps(encodings_of(ours, images)[-1], module=3)[:, 0]
        torch.testing.assert_close(top, network(images), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("stem", "rows"), [("large", [56, 28, 14, 7]), ("small", [224, 112, 56])])
def test_grids_have_the_rows_of_the_stem(stem, rows):
    options = BatchNormResNetSettings(kind="batch_norm_resnet", stem=stem)
    found = BatchNormResNet.rows(options, shape=(3, 224, 224))
    assert list(found)[: len(rows)] == rows


def test_the_small_stem_is_a_convolution_of_3x3_that_keeps_the_size():
    small, large = on_meta(depth=18, stem="small"), on_meta(depth=18)
    assert parameters(large) - parameters(small) == 3 * 64 * (7**2 - 3**2)


def test_widths_divide_the_channels_of_all_modules():
    assert list(on_meta(depth=18, width=8).dims) == [8, 16, 32, 64]
    assert list(on_meta(depth=50, width=8).dims) == [32, 64, 128, 256]


def test_blocks_are_their_shortcuts_at_the_start_only_where_asked():
    """The second block of a module adds nothing to its input, which has passed a ReLU."""
    images = torch.rand(2, 8, 6, 6, generator=seeding.generator("tests"))
    for zero_init in (True, False):
        block = encoder(depth=18, width=8, zero_init_residual=zero_init).stages[0][2]
        assert torch.equal(block(images), images) == zero_init
