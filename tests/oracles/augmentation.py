"""Crop, flip, grayscale and normalisation of one image with PIL and numpy."""

from collections.abc import Sequence

import numpy as np
from PIL import Image


def slow_augment(
    image: np.ndarray,
    *,
    top: int,
    left: int,
    flip: bool,
    size: int,
    grayscale: bool,
    mean: Sequence[float],
    std: Sequence[float],
) -> np.ndarray:
    """uint8 [channel row column] as normalised float64 [channel row column] of that crop."""
    pixels = Image.fromarray(image.transpose(1, 2, 0).squeeze())
    pixels = pixels.crop((left, top, left + size, top + size))
    if flip:
        pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = pixels.convert("L" if grayscale else "RGB")
    values = np.asarray(pixels, dtype=np.float64).reshape(size, size, -1) / 255
    return ((values - np.array(mean)) / np.array(std)).transpose(2, 0, 1)
