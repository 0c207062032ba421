"""Overlapping patches of images, and their encodings laid out as a grid.

Letters: p = patch (all patches of all images form one batch), d = channels.
"""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def patches_of(
    images: Float[Tensor, "image channel height width"], *, size: int, stride: int
) -> Float[Tensor, "p channel h w"]:
    """All square patches of the images, image by image and row by row, as one batch."""
    patches = images.unfold(2, size, stride).unfold(3, size, stride)
    return rearrange(patches, "image c row column h w -> (image row column) c h w")


def grid_of_means(
    activations: Float[Tensor, "p d h w"], *, batch_size: int
) -> Float[Tensor, "image row column d"]:
    """The spatial mean of every patch, laid out as the square grid of the patches of an image."""
    side = round((len(activations) // batch_size) ** 0.5)
    # Channels last before the mean: the gradient gets the layout of the activations. In NCHW
    # every layer of the backward pass would convert it.
    means = rearrange(activations, "p d h w -> p h w d").mean(dim=(1, 2))
    return rearrange(means, "(image row column) d -> image row column d", row=side, column=side)
