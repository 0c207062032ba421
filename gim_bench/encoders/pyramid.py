"""Convolutions that compress: strides in every module, and no padding in any.

Letters: d = channels of an encoding.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from gim_bench.contract import Shape
from gim_bench.encoders.images import ImageEncoder
from gim_bench.encoders.tiles import Reach, TiledEncoder, composed
from gim_bench.settings.base import PositiveInt
from gim_bench.settings.schema import EncoderSettings


class PyramidSettings(EncoderSettings):
    """Sizes of the pyramid: a strided convolution for each module, lowest first."""

    kind: Literal["pyramid"]
    width: PositiveInt = 32  # channels of the first module; doubled in each next one
    kernels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (8, 4, 4)
    strides: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (4, 2, 2)

    @model_validator(mode="after")
    def _one_of_each_per_module(self) -> "PyramidSettings":
        if len(self.kernels) != len(self.strides):
            raise ValueError("kernels and strides must have the same length")
        return self


class PointwiseBlock(nn.Module):
    """Pre-activation residual block of two 1×1 convolutions: it mixes channels, not places.

    Source: He et al. 2016 (identity mappings), with 1×1 convolutions alone.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, kernel_size=1)
        self.conv2 = nn.Conv2d(width, width, kernel_size=1)

    def forward(
        self, x: Float[Tensor, "image d row column"]
    ) -> Float[Tensor, "image d row column"]:
        residual = self.conv2(F.relu(self.conv1(F.relu(x)), inplace=True))
        return residual.add_(x)


class Pyramid(TiledEncoder, ImageEncoder):
    """A strided convolution without padding and a block of 1×1 convolutions in each module.

    Without padding, an encoding depends on its own pixels alone, wherever the image is cut. By
    default a module has 1/16, 1/4 and 1/4 of the places below and twice the channels; an encoding
    at the top sees 44×44 pixels, and its neighbour is 16 pixels away.
    """

    Options = PyramidSettings

    def __init__(self, options: EncoderSettings, *, shape: Shape) -> None:
        super().__init__(options, shape=shape)
        assert isinstance(options, PyramidSettings)
        self.dims: Sequence[int] = [options.width * 2**m for m in range(len(self.reaches))]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(below, width, *reach), PointwiseBlock(width))
            for below, width, reach in zip(
                [shape[0], *self.dims[:-1]], self.dims, self.reaches, strict=True
            )
        )

    @classmethod
    def reaches_of(cls, options: EncoderSettings) -> Sequence[Reach]:
        assert isinstance(options, PyramidSettings)
        return [Reach(*pair) for pair in zip(options.kernels, options.strides, strict=True)]

    @classmethod
    def rows(cls, options: EncoderSettings, *, shape: Shape) -> Sequence[int]:
        reaches = cls.reaches_of(options)
        return [composed(reaches[: m + 1]).outputs(shape[1]) for m in range(len(reaches))]
