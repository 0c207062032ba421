"""Low-order statistics of an image.

Letters: b = images of a batch, p = pixels.
"""

from collections.abc import Mapping
from functools import cache
from math import pi

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from baselines.fixed_features import FixedFeatures, fixed_traits
from gim_bench.contract import Ingredients, Modality
from gim_bench.settings.base import PositiveInt, Settings

REACH = 3.0  # of histograms of intensity and gradient, in the suite's standard deviations
NEIGHBOURS = 8


class ImageStatistics(FixedFeatures):
    """Histograms of intensity, of gradients and of local binary patterns, channel by channel.

    No part of the image is told from another: what these features know is no shape.

    Source: Ojala et al. 2002 for local binary patterns.
    """

    traits = fixed_traits(Modality.IMAGE)

    class Options(Settings):
        """Bins of intensity; gradients have half as many of magnitude and of orientation."""

        bins: PositiveInt = 32

    def __init__(self, ingredients: Ingredients) -> None:
        super().__init__(ingredients)
        assert isinstance(ingredients.options, self.Options)
        self.bins = ingredients.options.bins

    @torch.no_grad()
    def features(
        self, inputs: Float[Tensor, "image channel height width"]
    ) -> Mapping[str, Float[Tensor, "image 1 d"]]:
        images = rearrange(inputs, "image channel height width -> (image channel) height width")
        intensity = histogram(
            in_bins(images.flatten(1), low=-REACH, high=REACH, bins=self.bins), bins=self.bins
        )
        patterns = histogram(uniform_patterns(images).flatten(1), bins=UNIFORM_PATTERNS)
        joined = torch.cat([intensity, gradients(images, bins=max(1, self.bins // 2)), patterns], 1)
        return {"module_1": joined.view(len(inputs), 1, -1)}


def histogram(
    places: Int[Tensor, "b p"], *, bins: int, weights: Float[Tensor, "b p"] | None = None
) -> Float[Tensor, "b bins"]:
    """The share of the pixels, or of their weight, in each bin; all 0 where there is no weight."""
    if weights is None:
        of_image = bins * torch.arange(len(places), device=places.device).unsqueeze(1)
        counts = (places + of_image).flatten().bincount(minlength=bins * len(places))
        found = counts.view(-1, bins).to(torch.get_default_dtype())
    else:  # a bin at a time: a scatter would sum in no fixed order on a GPU
        found = torch.stack([(weights * (places == each)).sum(1) for each in range(bins)], dim=1)
    return found / found.sum(1, keepdim=True).clamp(min=1e-12)


def in_bins(
    values: Float[Tensor, "b p"], *, low: float, high: float, bins: int
) -> Int[Tensor, "b p"]:
    """The bin of each value among `bins` of one width; the outer bins hold what is beyond them."""
    return ((values - low) * (bins / (high - low))).floor().clamp(0, bins - 1).long()


def gradients(images: Float[Tensor, "b height width"], *, bins: int) -> Float[Tensor, "b d"]:
    """Histograms of the magnitude, and of the orientation weighted by magnitude.

    Gradients are central differences, and orientations are modulo half a turn. The border, which
    has no central difference, is left out.
    """
    vertical = (images[:, 2:, 1:-1] - images[:, :-2, 1:-1]).flatten(1) / 2
    horizontal = (images[:, 1:-1, 2:] - images[:, 1:-1, :-2]).flatten(1) / 2
    magnitude = torch.hypot(vertical, horizontal)
    turn = torch.atan2(vertical, horizontal).remainder(pi)
    return torch.cat(
        [
            histogram(in_bins(magnitude, low=0, high=REACH, bins=bins), bins=bins),
            histogram(in_bins(turn, low=0, high=pi, bins=bins), bins=bins, weights=magnitude),
        ],
        dim=1,
    )


# -- local binary patterns -------------------------------------------------------------------------


def uniform_patterns(
    images: Float[Tensor, "b height width"],
) -> Int[Tensor, "b inner_height inner_width"]:
    """The number of each pixel's local binary pattern, 0 to 58; the border is left out.

    A pattern says which of eight neighbours at distance 1 are at least as bright as the pixel.
    Neighbours on the diagonals lie between pixels and are interpolated. The 58 patterns with at
    most two changes around the circle have numbers of their own; all others share the last.
    """
    centre = images[:, 1:-1, 1:-1]
    height, width = centre.shape[1:]

    def beside(down: int, right: int) -> Float[Tensor, "b inner_height inner_width"]:
        # A difference, so that a flat image has no rounding errors to compare.
        return images[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width] - centre

    far = 0.5**0.5
    code = torch.zeros(centre.shape, dtype=torch.long, device=images.device)
    for bit, (down, right) in enumerate(CIRCLE):
        found = beside(down, right)
        if down and right:
            sides = beside(down, 0) + beside(0, right)
            found = far * far * found + far * (1 - far) * sides
        code += (found >= 0).long() << bit
    return numbers_of_patterns().to(images.device)[code]


CIRCLE = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))  # (down, right)
UNIFORM_PATTERNS = NEIGHBOURS * (NEIGHBOURS - 1) + 3


@cache
def numbers_of_patterns() -> Int[Tensor, "256"]:
    """The number of each of the 256 patterns, by its code."""
    codes = range(2**NEIGHBOURS)
    uniform = [code for code in codes if _changes(code) <= 2]
    assert len(uniform) == UNIFORM_PATTERNS - 1
    numbers = {code: number for number, code in enumerate(uniform)}
    return torch.tensor([numbers.get(code, UNIFORM_PATTERNS - 1) for code in codes])


def _changes(code: int) -> int:
    """Changes between neighbouring bits around the circle."""
    turned = code >> 1 | (code & 1) << (NEIGHBOURS - 1)
    return (code ^ turned).bit_count()
