"""The gated PixelCNN with full 3×3 kernels and a mask, as the papers describe it."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gim_bench.encoders.pixelcnn import PixelCNN


class MaskedConv2d(nn.Conv2d):
    """A 3×3 convolution that sees no row below its own: the kernel's bottom row counts as zero."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)
        mask = torch.ones(3, 3)
        mask[2] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


class TextbookGatedLayer(nn.Module):
    """van den Oord et al. 2016, Fig. 2, with a residual of its own for the vertical stack."""

    def __init__(self, dim: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.vertical = MaskedConv2d(dim, 2 * dim)
        self.vertical_to_horizontal = nn.Conv2d(2 * dim, 2 * dim, 1)
        self.horizontal = nn.Conv2d(dim, 2 * dim, (1, 3), padding=(0, 1))
        self.horizontal_out = nn.Conv2d(dim, dim, 1)
        if not first:
            self.vertical_residual = nn.Conv2d(dim, 2 * dim, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        dim = v.shape[1]
        vertical = self.vertical(v)
        horizontal = self.horizontal(h) + self.vertical_to_horizontal(vertical)
        if not self.first:
            vertical = vertical + self.vertical_residual(v)
        v_out = torch.tanh(vertical[:, :dim]) * torch.sigmoid(vertical[:, dim:])
        h_out = torch.tanh(horizontal[:, :dim]) * torch.sigmoid(horizontal[:, dim:])
        h_out = self.horizontal_out(h_out)
        return v_out, h_out if self.first else h + h_out


class TextbookPixelCNN(nn.Module):
    """Four gated layers and a 1×1 convolution."""

    def __init__(self, dim: int, *, layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TextbookGatedLayer(dim, first=i == 0) for i in range(layers))
        self.out = nn.Conv2d(dim, dim, 1)

    def forward(self, z: Tensor) -> Tensor:
        v = h = rearrange(z, "image row column d -> image d row column")
        for layer in self.layers:
            v, h = layer(v, h)
        return rearrange(self.out(h), "image d row column -> image row column d")


@torch.no_grad()
def copy_weights(*, source: PixelCNN, target: TextbookPixelCNN) -> None:
    """The two-row kernels become the upper two rows of the masked ones; the rest is alike."""
    weights = dict(source.state_dict())
    for name, layer in target.named_modules():
        if isinstance(layer, MaskedConv2d):
            layer.weight[:, :, :2] = weights.pop(f"{name}.weight")
    missing, unexpected = target.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.endswith(("vertical.weight", "vertical.mask")) for name in missing)
