"""Transforms of batches of images, each image with parameters of its own.

Torchvision's functions take one parameter for a whole batch. The functions here take a parameter
for each image, and equal torchvision's image by image, up to rounding.

Letters: b = images of a batch, size = rows and columns of a square. Intensities are floats in 0..1
unless they are uint8, as stored.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gim_bench.hardware.transfers import constant

# Of red, green and blue in gray: Rec. 601, rounded as in torchvision.
LUMA = (0.2989, 0.587, 0.114)
# Shares of chroma in red, |angle - 3| - 1, in green, 2 - |angle - 2|, and in blue, 2 - |angle - 4|:
# centres, signs and offsets.
HUES = ((3.0, 2.0, 4.0), (1.0, -1.0, -1.0), (-1.0, 2.0, 2.0))

Pixels = Float[Tensor, "b channel height width"]


class Boxes(NamedTuple):
    """Parts of images, in pixels."""

    top: Int[Tensor, "b"]
    left: Int[Tensor, "b"]
    height: Int[Tensor, "b"]
    width: Int[Tensor, "b"]


# -- where pixels come from ----------------------------------------------------------------------


def resize(
    pixels: UInt8[Tensor, "n channel height width"], *, side: int
) -> UInt8[Tensor, "n channel _ _"]:
    """Whole images with a shorter side of `side` pixels, antialiased bilinear.

    Source: torchvision's Resize of PIL images; equal up to one of 255 levels.
    """
    height, width = pixels.shape[-2:]
    shorter = min(height, width)
    if shorter == side:
        return pixels
    size = (side * height // shorter, side * width // shorter)
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)


def resized_crop(
    pixels: UInt8[Tensor, "b channel height width"],
    boxes: Boxes,
    *,
    flip: Bool[Tensor, "b"],
    size: int,
) -> Float[Tensor, "b channel {size} {size}"]:
    """The box of each image, resized to a square in 0..1 and mirrored left to right where `flip`.

    Antialiased bilinear, as two matrices for each image, of rows and of columns.
    """
    height, width = pixels.shape[-2:]
    rows = _interpolation(boxes.top, boxes.height, places=height, size=size)
    columns = _interpolation(boxes.left, boxes.width, places=width, size=size)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    # Dividing a small matrix costs less than dividing the pixels.
    return _combined(pixels.float(), rows=rows / 255, columns=columns)


def _interpolation(
    start: Int[Tensor, "b"], length: Int[Tensor, "b"], *, places: int, size: int
) -> Float[Tensor, "b {size} {places}"]:
    """Weights of `places` pixels in each of `size` pixels.

    The weights fall linearly to 0 within one pixel of the coarser grid.
    """
    scale = (length / size)[:, None, None]
    middles = scale * (torch.arange(size, device=start.device)[:, None] + 0.5)
    place = torch.arange(places, device=start.device) - start[:, None, None]
    distances = (place + 0.5 - middles).abs() / scale.clamp(min=1)
    inside = (place >= 0) & (place < length[:, None, None])
    weights = (1 - distances).clamp(min=0) * inside
    return weights / weights.sum(dim=2, keepdim=True)


def _combined(
    pixels: Pixels,
    *,
    rows: Float[Tensor, "b row height"],
    columns: Float[Tensor, "b column width"],
) -> Float[Tensor, "b channel row column"]:
    """Sums of each image's rows and columns, weighted by its two matrices."""
    across = (pixels.flatten(1, 2) @ columns.mT).unflatten(1, pixels.shape[1:3])
    return rows[:, None] @ across


def blur(
    pixels: Float[Tensor, "b channel size size"], sigma: Float[Tensor, "b"], *, kernel: int
) -> Float[Tensor, "b channel size size"]:
    """Gaussian blur with standard deviation `sigma`, in pixels, cut off at the kernel's border.

    The image is reflected at its border. One matrix for each image blurs rows and columns.
    """
    offsets = torch.arange(kernel, device=pixels.device) - kernel // 2
    taps = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    # Far taps of a narrow blur would be denormal numbers, which CPUs multiply ten times slower.
    taps = torch.where(taps > 1e-20, taps, 0)
    taps = taps / taps.sum(dim=1, keepdim=True)
    size = pixels.shape[-1]
    source = offsets[:, None] + torch.arange(size, device=pixels.device)
    reflected = size - 1 - (size - 1 - source.abs()).abs()
    # [tap, output pixel, input pixel]: 1 where the tap falls on the input pixel.
    falls_on = F.one_hot(reflected, size).float()
    weights = (taps @ falls_on.flatten(1)).unflatten(1, (size, size))
    return _combined(pixels, rows=weights, columns=weights)


def covered(centre: Int[Tensor, "b"], places: int, *, side: int) -> Bool[Tensor, "b {places}"]:
    """Which of the rows or columns of each image a square around `centre` covers."""
    start = (centre - side // 2)[:, None]
    place = torch.arange(places, device=centre.device)
    return (place >= start) & (place < start + side)


# -- intensities ---------------------------------------------------------------------------------


def luma(pixels: Pixels) -> Float[Tensor, "b 1 height width"]:
    """The gray of each pixel; images with one channel are unchanged."""
    if pixels.shape[1] == 1:
        return pixels
    weights = constant(LUMA, device=pixels.device).view(-1, 1, 1)
    return (pixels * weights).sum(dim=1, keepdim=True)


def gray(pixels: Pixels) -> Pixels:
    """The images without colour, in as many channels."""
    return luma(pixels).repeat(1, pixels.shape[1], 1, 1)


def brightness(pixels: Pixels, factor: Float[Tensor, "b"]) -> Pixels:
    """The images blended with black: factor 0 gives black, 1 the image."""
    return (pixels * _by_image(factor)).clamp_(0, 1)


def contrast(pixels: Pixels, factor: Float[Tensor, "b"]) -> Pixels:
    """The images blended with their mean gray: factor 0 gives that gray, 1 the image."""
    return _blend(luma(pixels).mean(dim=(1, 2, 3), keepdim=True), pixels, factor)


def saturation(pixels: Pixels, factor: Float[Tensor, "b"]) -> Pixels:
    """The images blended with their gray: factor 0 gives gray, 1 the image."""
    return pixels if pixels.shape[1] == 1 else _blend(luma(pixels), pixels, factor)


def hue(pixels: Pixels, turn: Float[Tensor, "b"]) -> Pixels:
    """The images with all hues turned, in full turns; value and saturation stay.

    Source: hexagonal HSV, as in torchvision. The hue's angle is in sixths of a turn, from red.
    """
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.split(1, dim=1)
    high, low = pixels.amax(dim=1, keepdim=True), pixels.amin(dim=1, keepdim=True)
    chroma = high - low
    divisor = chroma.clamp(min=1e-12)  # a gray pixel has chroma 0, whatever its angle
    third = torch.where(green == high, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    angle = torch.where(red == high, (green - blue) / divisor, third)
    angle = (angle + 6 * _by_image(turn)).remainder_(6)
    centres, signs, offsets = constant(HUES, device=pixels.device).view(3, 3, 1, 1)
    shares = (angle - centres).abs_().mul_(signs).add_(offsets).clamp_(0, 1)
    return torch.addcmul(low, chroma, shares)


def solarise(pixels: Pixels, *, threshold: float) -> Pixels:
    """The images with all intensities from `threshold` on inverted."""
    return torch.where(pixels >= threshold, 1 - pixels, pixels)


def _blend(base: Float[Tensor, "b 1 _ _"], pixels: Pixels, factor: Float[Tensor, "b"]) -> Pixels:
    return base.lerp(pixels, _by_image(factor)).clamp_(0, 1)


def _by_image(values: Float[Tensor, "b"]) -> Float[Tensor, "b 1 1 1"]:
    return values.view(-1, 1, 1, 1)
