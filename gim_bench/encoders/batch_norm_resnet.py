"""ResNets with batch norm over whole images, in four modules."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from gim_bench.contract import Shape
from gim_bench.encoders.images import ImageEncoder
from gim_bench.settings.base import PositiveInt
from gim_bench.settings.schema import EncoderSettings

# Kind and number of the blocks of each module, by depth.
BLOCKS: dict[int, tuple[type[BasicBlock | Bottleneck], Sequence[int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class BatchNormResNetSettings(EncoderSettings):
    """Sizes of a ResNet with batch norm; the defaults are torchvision's ResNet-50."""

    kind: Literal["batch_norm_resnet"]
    depth: Literal[18, 50] = 50
    width: PositiveInt = 64  # channels of the stem; inner channels of the first module
    # "large": a 7×7 convolution and a max-pool, each of stride 2. "small": a 3×3 convolution of
    # stride 1, as is customary on CIFAR.
    stem: Literal["large", "small"] = "large"
    # Each block is its shortcut at the start, because the scale of its last norm is 0.
    zero_init_residual: bool = True


class BatchNormResNet(ImageEncoder):
    """ResNet-18 or ResNet-50 in four modules, the stem in the first.

    Module m has `width`·2^(m-1) inner channels; a bottleneck (ResNet-50) has four times as many
    output channels. The stem divides rows and columns by 4 ("large") or leaves them ("small"). Each
    later module halves rows and columns.

    Source: He et al. 2016; blocks of torchvision, which halves in the 3×3 convolution of a
    bottleneck; cut as in Siddiqui et al. 2023.
    """

    Options = BatchNormResNetSettings

    def __init__(self, options: EncoderSettings, *, shape: Shape) -> None:
        super().__init__(options, shape=shape)
        assert isinstance(options, BatchNormResNetSettings)
        kind, blocks = BLOCKS[options.depth]
        widths = [options.width * 2**m for m in range(len(blocks))]
        self.dims: Sequence[int] = [kind.expansion * width for width in widths]
        # A module's layers are recomputed one by one: the stem is one layer, as its ReLU writes
        # into its input.
        stem = _stem(shape[0], options.width, large=options.stem == "large")
        below = [options.width, *self.dims[:-1]]
        self.stages = nn.ModuleList(
            nn.Sequential(
                *([stem] if m == 0 else []),
                *_blocks(kind, below[m], widths[m], count=count, stride=1 if m == 0 else 2),
            )
            for m, count in enumerate(blocks)
        )
        _initialise(self.stages, zero_init_residual=options.zero_init_residual)

    @classmethod
    def rows(cls, options: EncoderSettings, *, shape: Shape) -> Sequence[int]:
        assert isinstance(options, BatchNormResNetSettings)
        rows = shape[1]
        for _ in range(2 if options.stem == "large" else 0):
            rows = _halved(rows)
        found = [rows]
        for _ in range(3):
            found.append(_halved(found[-1]))
        return found

    @classmethod
    def examples_are_independent(cls, options: EncoderSettings) -> bool:
        return False  # batch norm


def _halved(rows: int) -> int:
    """Rows after a padded convolution, or max-pool, of stride 2."""
    return (rows + 1) // 2


def _stem(channels: int, width: int, *, large: bool) -> nn.Sequential:
    kernel, stride = (7, 2) if large else (3, 1)
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        *([nn.MaxPool2d(kernel_size=3, stride=2, padding=1)] if large else []),
    )


def _blocks(
    kind: type[BasicBlock | Bottleneck], below: int, width: int, *, count: int, stride: int
) -> list[nn.Module]:
    """The blocks of a module, the first of which changes the size."""
    channels = kind.expansion * width
    resized = None
    if stride != 1 or below != channels:
        resized = nn.Sequential(conv1x1(below, channels, stride), nn.BatchNorm2d(channels))
    first = kind(below, width, stride=stride, downsample=resized)
    return [first, *(kind(channels, width) for _ in range(count - 1))]


def _initialise(stages: nn.ModuleList, *, zero_init_residual: bool) -> None:
    """The first weights of torchvision's ResNets; norms are identities already."""
    for module in stages.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual and isinstance(module, BasicBlock | Bottleneck):
            last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
            assert isinstance(last.weight, Tensor)
            nn.init.zeros_(last.weight)
