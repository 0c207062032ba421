"""ResNet v2 over image patches, without batch norm, cut into modules by depth.

Letters: p = patch (all patches of all images form one batch), d = channels.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import nn

from gim_bench.contract import Shape
from gim_bench.encoders.bottleneck import EXPANSION, Bottleneck, BottleneckModule
from gim_bench.encoders.images import PatchEncoder
from gim_bench.settings.base import NotNegative, PositiveInt
from gim_bench.settings.schema import EncoderSettings


class ResNetSettings(EncoderSettings):
    """Sizes of a ResNet v2 without batch norm; the defaults are the paper's ResNet-50."""

    kind: Literal["resnet"]
    width: PositiveInt = 64  # bottleneck channels of the first module; doubled in each next one
    blocks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (3, 4, 6)
    patch_size: PositiveInt = 16  # pixels
    patch_overlap: NotNegative = 8  # pixels

    @model_validator(mode="after")
    def _patches_advance(self) -> "ResNetSettings":
        if self.patch_overlap >= self.patch_size:
            raise ValueError(
                f"patch_overlap {self.patch_overlap} must be below patch_size {self.patch_size}"
            )
        return self

    @property
    def patch_stride(self) -> int:
        return self.patch_size - self.patch_overlap


class ResNetEncoder(PatchEncoder):
    """ResNet v2 in three modules of 3, 4 and 6 blocks at the default settings: the paper's.

    Module m has `width`·2^(m-1) inner channels and four times as many output channels. The first
    module keeps the patch's size (5×5 convolution of stride 1, no pooling). Each later module
    halves it.

    Source: Löwe et al. 2019, section 4.1 and appendix A.1.
    """

    Options = ResNetSettings

    def __init__(self, options: EncoderSettings, *, shape: Shape) -> None:
        super().__init__(options, shape=shape)
        assert isinstance(options, ResNetSettings)
        self.patch_size, self.patch_stride = options.patch_size, options.patch_stride
        widths = [options.width * 2**m for m in range(len(options.blocks))]
        self.dims: Sequence[int] = [EXPANSION * width for width in widths]
        stem = nn.Conv2d(shape[0], options.width, kernel_size=5, stride=1, padding=2)
        stages = []
        channels = options.width
        for m, (width, blocks) in enumerate(zip(widths, options.blocks, strict=True)):
            layers: list[nn.Module] = [stem] if m == 0 else []
            for block in range(blocks):
                stride = 2 if m > 0 and block == 0 else 1
                layers.append(Bottleneck(channels, width, stride=stride))
                channels = EXPANSION * width
            stages.append(BottleneckModule(*layers))
        self.stages = nn.ModuleList(stages)

    @classmethod
    def rows(cls, options: EncoderSettings, *, shape: Shape) -> Sequence[int]:
        assert isinstance(options, ResNetSettings)
        rows = (shape[1] - options.patch_size) // options.patch_stride + 1
        return [rows] * len(options.blocks)
