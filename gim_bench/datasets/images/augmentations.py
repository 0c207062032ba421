"""Random augmentations of batches of images.

Parameters are drawn on the CPU, for each image separately. Every transform draws from a stream of
its own: a transform that is turned on or changed moves no other draw.

Letter: b = images of a batch.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gim_bench.datasets.batches import ViewStreams
from gim_bench.datasets.images import transforms
from gim_bench.datasets.images.transforms import Boxes, Pixels
from gim_bench.hardware import process_group
from gim_bench.hardware.transfers import moved
from gim_bench.settings.augmentations import (
    BlurSettings,
    JitterSettings,
    ResizedSettings,
    ViewSettings,
)

BOX_TRIALS = 10  # as in torchvision: boxes drawn for an image before the largest box is taken


def random_boxes(
    images: int, *, height: int, width: int, settings: ResizedSettings, draw: torch.Generator
) -> Boxes:
    """A random part of each of `images` images of height × width pixels.

    The first of ten random boxes that fits into the image; if no box fits, the largest centred box
    within the range of ratios.

    Source: Szegedy et al. 2015, as in torchvision's RandomResizedCrop.
    """
    areas, ratios = torch.rand(2, images, BOX_TRIALS, generator=draw, dtype=torch.float64)
    across, down = torch.rand(2, images, generator=draw, dtype=torch.float64)
    area = height * width * _between(settings.scale, areas)
    low, high = settings.ratio
    ratio = _between((math.log(low), math.log(high)), ratios).exp()
    tall, wide = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    largest = _largest_box(height, width, ratio=settings.ratio)
    tall = torch.where(found, tall.gather(1, first)[:, 0], largest[0])
    wide = torch.where(found, wide.gather(1, first)[:, 0], largest[1])
    return Boxes(
        top=torch.where(found, (down * (height - tall + 1)).long(), (height - tall) // 2),
        left=torch.where(found, (across * (width - wide + 1)).long(), (width - wide) // 2),
        height=tall,
        width=wide,
    )


def _largest_box(height: int, width: int, *, ratio: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest box whose width / height is within `ratio`."""
    low, high = ratio
    if width < low * height:
        return round(width / low), width
    return height, min(width, round(height * high))


def photometric(pixels: Pixels, *, settings: ViewSettings, streams: ViewStreams) -> Pixels:
    """Colour jitter, random gray, blur and solarisation, in this order. May change `pixels`."""
    images = len(pixels)
    if settings.jitter:
        pixels = _jittered(pixels, settings=settings.jitter, draw=streams.of("jitter"))
    if settings.gray:
        chosen = _chosen(images, settings.gray, draw=streams.of("gray"))
        pixels = _changed(pixels, chosen, transforms.gray)
    if settings.blur:
        pixels = _blurred(pixels, settings=settings.blur, draw=streams.of("blur"))
    if table := settings.solarise:
        chosen = _chosen(images, table.probability, draw=streams.of("solarise"))
        solarise = partial(transforms.solarise, threshold=table.threshold)
        pixels = _changed(pixels, chosen, solarise)
    return pixels


def cut_out(pixels: Pixels, *, side: int, draw: torch.Generator) -> Pixels:
    """Images with a square of `side` pixels set to 0, the mean of normalised images.

    The centre of a square is any pixel of its image, so that a part of the square may lie outside.

    Source: DeVries and Taylor 2017 (Cutout).
    """
    height, width = pixels.shape[2:]
    whole = process_group.size() * len(pixels)
    centres = (torch.randint(end, (whole,), generator=draw) for end in (height, width))
    row, column = (of_all[process_group.own(whole)] for of_all in centres)
    rows = transforms.covered(row, height, side=side)
    columns = transforms.covered(column, width, side=side)
    square = (rows[:, :, None] & columns[:, None, :])[:, None]
    return pixels.masked_fill(moved(square, device=pixels.device), 0)


def _jittered(pixels: Pixels, *, settings: JitterSettings, draw: torch.Generator) -> Pixels:
    """Brightness, contrast, saturation and hue in an order of its own for each image.

    The order is drawn for each image and not for the batch, as in BYOL's paper.
    """
    images = len(pixels)
    chosen = _chosen(images, settings.probability, draw=draw)
    order = process_group.drawn((images, 4), draw=draw).argsort(dim=1)
    fractions = process_group.drawn((4, images), example=1, draw=draw)
    changes = [
        (transforms.brightness, _around_1(settings.brightness)),
        (transforms.contrast, _around_1(settings.contrast)),
        (transforms.saturation, _around_1(settings.saturation)),
        (transforms.hue, (-settings.hue, settings.hue)),
    ]
    for turn in range(4):
        for number, (change, (low, high)) in enumerate(changes):
            if low < high:
                amounts = _between((low, high), fractions[number])
                pixels = _changed(pixels, chosen & (order[:, turn] == number), change, amounts)
    return pixels


def _around_1(strength: float) -> tuple[float, float]:
    return max(0.0, 1 - strength), 1 + strength


def _blurred(pixels: Pixels, *, settings: BlurSettings, draw: torch.Generator) -> Pixels:
    images = len(pixels)
    chosen = _chosen(images, settings.probability, draw=draw)
    sigma = _between(settings.sigma, process_group.drawn((images,), draw=draw))
    return _changed(pixels, chosen, partial(transforms.blur, kernel=settings.kernel), sigma)


def _chosen(images: int, probability: float, *, draw: torch.Generator) -> Bool[Tensor, "b"]:
    return process_group.drawn((images,), draw=draw) < probability


def _between(ends: tuple[float, float], fraction: Tensor) -> Tensor:
    low, high = ends
    return low + (high - low) * fraction


def _changed(
    pixels: Pixels,
    chosen: Bool[Tensor, "b"],
    change: Callable[..., Tensor],
    *amounts: Float[Tensor, "b"],
) -> Pixels:
    """The chosen images changed, each by its own amounts. `chosen` and amounts are on the CPU."""
    places = chosen.nonzero()[:, 0]
    if not len(places):
        return pixels
    there = moved(places, device=pixels.device)
    theirs = [moved(values[places], device=pixels.device) for values in amounts]
    if len(places) == len(pixels):
        return change(pixels, *theirs)
    return pixels.index_copy_(0, there, change(pixels.index_select(0, there), *theirs))
