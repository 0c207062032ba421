"""The gated PixelCNN that CPC puts on top of its encoder as autoregressor.

Letters: d = channels; row, column = place of a patch in the grid.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class GatedLayer(nn.Module):
    """One gated layer: a vertical stack that looks up, a horizontal one along the row.

    The released code masks the bottom row of a 3×3 kernel. This layer has kernels of two rows: the
    same function with a third fewer weights and multiplications.

    Source: van den Oord et al. 2016 (conditional PixelCNN), Fig. 2.
    """

    def __init__(self, dim: int, *, first: bool) -> None:
        super().__init__()
        self.vertical = nn.Conv2d(dim, 2 * dim, kernel_size=(2, 3), padding=(0, 1))
        self.vertical_to_horizontal = nn.Conv2d(2 * dim, 2 * dim, kernel_size=1)
        self.horizontal = nn.Conv2d(dim, 2 * dim, kernel_size=(1, 3), padding=(0, 1))
        self.horizontal_out = nn.Conv2d(dim, dim, kernel_size=1)
        self.vertical_residual = None if first else nn.Conv2d(dim, 2 * dim, kernel_size=1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        one_row_above = F.pad(v, (0, 0, 1, 0))
        vertical = self.vertical(one_row_above)
        horizontal = self.horizontal(h) + self.vertical_to_horizontal(vertical)
        out = self.horizontal_out(_gate(horizontal))
        if self.vertical_residual is None:
            return _gate(vertical), out
        return _gate(vertical + self.vertical_residual(v)), h + out


class PixelCNN(nn.Module):
    """Context c of every patch from the encodings of its own row and the rows above it.

    Columns are not masked: the task predicts rows below only, so the context may see a whole row.

    Source: Löwe et al. 2019, section 3; layers and masks as in the released code.
    """

    def __init__(self, dim: int, *, layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GatedLayer(dim, first=i == 0) for i in range(layers))
        self.out = nn.Conv2d(dim, dim, kernel_size=1)

    def forward(
        self, z: Float[Tensor, "image row column d"]
    ) -> Float[Tensor, "image row column d"]:
        v = h = rearrange(z, "image row column d -> image d row column")
        for layer in self.layers:
            v, h = layer(v, h)
        return rearrange(self.out(h), "image d row column -> image row column d")


def _gate(x: Float[Tensor, "image d2 row column"]) -> Float[Tensor, "image d row column"]:
    signal, gate = x.chunk(2, dim=1)
    return torch.tanh(signal) * torch.sigmoid(gate)
