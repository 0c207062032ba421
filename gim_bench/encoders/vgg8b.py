"""VGG8b over whole images, cut into modules at every convolution and at the hidden layer.

Letters: d = channels of an encoding.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from gim_bench.contract import Shape
from gim_bench.encoders.images import ImageEncoder
from gim_bench.errors import ConfigError
from gim_bench.settings.base import PositiveInt
from gim_bench.settings.schema import EncoderSettings

# Channels of each convolution over those of the first, and whether 2×2 max-pooling precedes it.
CONVOLUTIONS = ((1, False), (2, False), (2, True), (4, False), (4, True), (4, True))
STEMS = {"7x7_stride_2": (7, 2), "3x3": (3, 1)}  # kernel and stride of the first convolution


class VGG8bSettings(EncoderSettings):
    """Sizes of VGG8b; the defaults are those for STL-10."""

    kind: Literal["vgg8b"] = "vgg8b"
    width: PositiveInt = 128  # channels of the first convolution
    hidden: PositiveInt = 1024  # units of the fully connected module
    # The released code has the large stem for images above 64 pixels, and the small one below.
    stem: Literal["7x7_stride_2", "3x3"] = "7x7_stride_2"
    slope: Annotated[float, Field(ge=0, lt=1)] = 0.01  # of LeakyReLU; 0 is ReLU
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class Block(nn.Module):
    """A convolution or a linear map, batch norm and LeakyReLU.

    Dropout of the module below stands at the entrance: the encodings of a module, and so its loss,
    are those before dropout.
    """

    def __init__(
        self, entrance: Sequence[nn.Module], weights: nn.Conv2d | nn.Linear, *, slope: float
    ) -> None:
        super().__init__()
        self.entrance = nn.Sequential(*entrance)
        self.weights = weights
        self.norm: nn.Module = (
            nn.BatchNorm2d(weights.out_channels)
            if isinstance(weights, nn.Conv2d)
            else nn.BatchNorm1d(weights.out_features)
        )
        self.slope = slope

    def forward(self, x: Float[Tensor, "image *place"]) -> Float[Tensor, "image d *smaller"]:
        normed = self.norm(self.weights(self.entrance(x)))
        return F.leaky_relu(normed, negative_slope=self.slope, inplace=True)


class VGG8b(ImageEncoder):
    """Six convolutions and a hidden layer, each a module with batch norm and dropout.

    Channels are 128, 256, M, 256, 512, M, 512, M, 512, M, then 1024 hidden units, where M halves
    rows and columns. Each module above the first begins with the dropout and the max-pooling that
    follow the module below: the same function as in the released code, cut before the dropout.

    Source: Nøkland and Eidnes 2019, section 4.2 (VGG8b), and the released code.
    """

    Options = VGG8bSettings

    def __init__(self, options: EncoderSettings, *, shape: Shape) -> None:
        super().__init__(options, shape=shape)
        assert isinstance(options, VGG8bSettings)
        side = self.rows(options, shape=shape)[-2] // 2
        widths = [options.width * times for times, _ in CONVOLUTIONS]
        kernel, stride = STEMS[options.stem]
        stem = nn.Conv2d(shape[0], widths[0], kernel, stride=stride, padding=kernel // 2)
        blocks = [Block([], stem, slope=options.slope)]
        for below, width, (_, halved) in zip(
            widths[:-1], widths[1:], CONVOLUTIONS[1:], strict=True
        ):
            entrance: list[nn.Module] = [nn.Dropout2d(options.dropout)]
            entrance += [nn.MaxPool2d(2)] if halved else []
            weights = nn.Conv2d(below, width, kernel_size=3, padding=1)
            blocks.append(Block(entrance, weights, slope=options.slope))
        entrance = [nn.Dropout2d(options.dropout), nn.MaxPool2d(2), nn.Flatten()]
        hidden = nn.Linear(widths[-1] * side**2, options.hidden)
        blocks.append(Block(entrance, hidden, slope=options.slope))
        self.stages = nn.ModuleList(blocks)
        self.dims: Sequence[int] = [*widths, options.hidden]

    @classmethod
    def rows(cls, options: EncoderSettings, *, shape: Shape) -> Sequence[int]:
        """Rows of each module's grid; the hidden layer has one place.

        Raises: ConfigError where the images are too small for the four halvings.
        """
        assert isinstance(options, VGG8bSettings)
        _, stride = STEMS[options.stem]
        rows = []
        side = -(-shape[1] // stride)
        for _, halved in CONVOLUTIONS:
            side = side // 2 if halved else side
            rows.append(side)
        if side < 2:
            raise ConfigError(
                f"a crop of {shape[1]} pixels is too small for the four max-poolings of the "
                f"encoder vgg8b with the stem {options.stem}: enlarge augmentation.crop to "
                f"{16 * stride} pixels or more"
            )
        return [*rows, 1]

    @classmethod
    def examples_are_independent(cls, options: EncoderSettings) -> bool:
        return False  # batch norm

    def pool(self, activations: Tensor, *, batch_size: int) -> Float[Tensor, "image row column d"]:
        """The activations themselves; the hidden layer is a grid of one place."""
        maps = activations if activations.dim() == 4 else activations[:, :, None, None]
        return super().pool(maps, batch_size=batch_size)
