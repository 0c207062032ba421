"""What encoders of images share: whole images, or patches as one batch, and the mean over the grid.

Letters: p = patch (all patches of all images form one batch), d = channels.
"""

from typing import Any

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from gim_bench.contract import Encoder, Modality
from gim_bench.hardware.devices import at_least_fp32


class ImageEncoder(Encoder):
    """An encoder of whole images, whose encodings are the places of the activations."""

    modality = Modality.IMAGE

    def prepare(self, inputs: Float[Tensor, "image channel height width"]) -> Tensor:
        return inputs

    def pool(self, activations: Tensor, *, batch_size: int) -> Float[Tensor, "image row column d"]:
        """Every pixel that is left, with an encoding of its own."""
        return rearrange(activations, "image d row column -> image row column d")

    def steps(
        self, z: Float[Tensor, "image row column d"], *, module: int
    ) -> Float[Tensor, "image 1 d"]:
        """The mean over the grid: an image has one label."""
        grid = rearrange(z, "image row column d -> image (row column) d")
        return grid.mean(dim=1, keepdim=True, dtype=at_least_fp32(z.dtype))


class PatchEncoder(ImageEncoder):
    """An encoder of overlapping square patches, which see nothing of each other.

    Source: Löwe et al. 2019, section 4.1 and appendix A.1.
    """

    patch_size: int  # pixels
    patch_stride: int  # pixels

    def prepare(self, inputs: Float[Tensor, "image channel height width"]) -> Tensor:
        """All patches of the images, image by image and row by row, as one batch."""
        size, stride = self.patch_size, self.patch_stride
        patches = inputs.unfold(2, size, stride).unfold(3, size, stride)
        return rearrange(patches, "image c row column h w -> (image row column) c h w")

    def pool(self, activations: Tensor, *, batch_size: int) -> Float[Tensor, "image row column d"]:
        """The spatial mean of every patch, laid out as the square grid of the patches."""
        side = round((activations.shape[0] // batch_size) ** 0.5)
        means = PatchMean.apply(activations)  # type: ignore[no-untyped-call]
        return rearrange(means, "(image row column) d -> image row column d", row=side, column=side)


class PatchMean(Function):
    """The mean of every patch, whose gradient is stored once for all positions of the patch."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "p d h w"]) -> Float[Tensor, "p d"]:
        ctx.size = x.shape[2:]
        return F.avg_pool2d(x, ctx.size).flatten(1)  # `mean` copies bf16 to fp32

    @staticmethod
    def backward(ctx: Any, *gradients: Float[Tensor, "p d"]) -> Float[Tensor, "p d h w"]:
        (g,) = gradients
        return (g / ctx.size.numel())[:, :, None, None].expand(-1, -1, *ctx.size)
