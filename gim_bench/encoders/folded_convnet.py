"""Deep InfoMax's folded network: convolutions on patches, then convolutions over their grid.

Letters: p = patch (all patches of all images form one batch), d = channels.
"""

from collections.abc import Sequence
from typing import Literal

from einops import rearrange
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from gim_bench.contract import Shape
from gim_bench.encoders.images import ImageEncoder, PatchEncoder
from gim_bench.errors import ConfigError
from gim_bench.settings.base import PositiveInt
from gim_bench.settings.schema import EncoderSettings

GRID_KERNEL = 3  # rows and columns of patches that a global encoding is made from


class FoldedConvNetSettings(EncoderSettings):
    """Sizes of the folded network; the defaults are Deep InfoMax's.

    Convolutions have 1, 2, 4, 4 and 2 times `width` channels on patches, and 2 times over the grid.
    Patches overlap by half.
    """

    kind: Literal["folded_convnet"]
    width: PositiveInt = 96
    patch_size: PositiveInt = 16  # pixels

    @model_validator(mode="after")
    def _patches_shrink_to_a_pixel(self) -> "FoldedConvNetSettings":
        side = self.patch_size
        for _ in range(3):
            side = (side - 3) // 2 + 1
        if side != 1:
            raise ValueError(
                f"patch_size {self.patch_size} is not pooled to one pixel: use 15 to 22 pixels"
            )
        return self

    @property
    def patch_stride(self) -> int:
        return self.patch_size // 2


class Fold(nn.Module):
    """Lays out the patches of every image, one pixel each, as an image of their grid."""

    def __init__(self, *, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Float[Tensor, "p d 1 1"]) -> Float[Tensor, "image d row column"]:
        return rearrange(
            x, "(image row column) d 1 1 -> image d row column", row=self.side, column=self.side
        )


class FoldedConvNet(PatchEncoder):
    """Deep InfoMax's folded network for STL-10, in four modules.

    The network is cut behind its max-pools, the last of which leaves one pixel of each patch:

    | module | layers, each a convolution, batch norm and ReLU | grid of 64×64 pixels |
    |---|---|---|
    | 1 | 3×3 of 96, max-pool 3/2 | 7×7 |
    | 2 | 3×3 of 192, max-pool 3/2 | 7×7 |
    | 3 | 3×3 of 384, 384 and 192, max-pool 3/2 | 7×7: Deep InfoMax's local encodings |
    | 4 | 3×3 of 192 without padding over the grid, 1×1 of 192 | 5×5: its global encodings |

    Source: Hjelm et al. 2019, STL-10 with strided crops; `foldmultialex64x64` of the released code
    without the fully connected layers, which the local objective with several globals leaves out.
    """

    Options = FoldedConvNetSettings

    def __init__(self, options: EncoderSettings, *, shape: Shape) -> None:
        super().__init__(options, shape=shape)
        assert isinstance(options, FoldedConvNetSettings)
        self.patch_size, self.patch_stride = options.patch_size, options.patch_stride
        width = options.width
        self.dims: Sequence[int] = [width, 2 * width, 2 * width, 2 * width]
        pool = nn.MaxPool2d(kernel_size=3, stride=2)
        self.stages = nn.ModuleList(
            [
                nn.Sequential(_layer(shape[0], width), pool),
                nn.Sequential(_layer(width, 2 * width), pool),
                nn.Sequential(
                    _layer(2 * width, 4 * width),
                    _layer(4 * width, 4 * width),
                    _layer(4 * width, 2 * width),
                    pool,
                ),
                nn.Sequential(
                    Fold(side=self.rows(options, shape=shape)[0]),
                    _layer(2 * width, 2 * width, kernel=GRID_KERNEL, padding=0),
                    _layer(2 * width, 2 * width, kernel=1, padding=0),
                ),
            ]
        )

    @classmethod
    def rows(cls, options: EncoderSettings, *, shape: Shape) -> Sequence[int]:
        """Rows of the grids. Raises: ConfigError where the grid is smaller than its kernel."""
        assert isinstance(options, FoldedConvNetSettings)
        side = (shape[1] - options.patch_size) // options.patch_stride + 1
        if side < GRID_KERNEL:
            needed = options.patch_size + (GRID_KERNEL - 1) * options.patch_stride
            raise ConfigError(
                f"a crop of {shape[1]} pixels gives {max(side, 0)} row(s) of patches, but the "
                f"encoder folded_convnet needs {GRID_KERNEL}: raise augmentation.crop to {needed}"
            )
        return [side, side, side, side - GRID_KERNEL + 1]

    @classmethod
    def examples_are_independent(cls, options: EncoderSettings) -> bool:
        return False  # batch norm

    def pool(self, activations: Tensor, *, batch_size: int) -> Float[Tensor, "image row column d"]:
        """The spatial mean of every patch; above the fold, every place of the grid as it is."""
        if activations.shape[0] == batch_size:
            return ImageEncoder.pool(self, activations, batch_size=batch_size)
        return super().pool(activations, batch_size=batch_size)


def _layer(below: int, channels: int, *, kernel: int = 3, padding: int = 1) -> nn.Sequential:
    """A convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(below, channels, kernel_size=kernel, padding=padding, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
