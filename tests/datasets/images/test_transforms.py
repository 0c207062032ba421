"""Transforms of batches, against torchvision's on one image after the other.

Torchvision computes in float32 too, in another order: what differs is rounding.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V

from gim_bench.datasets.images import transforms
from gim_bench.datasets.images.transforms import Boxes, resize, resized_crop

ROUNDING = 2e-6  # of intensities in 0..1
IMAGES = 6


def photographs(*, channels: int = 3, height: int = 20, width: int = 20) -> Tensor:
    """Random intensities; a black image, a white one and one of a single gray are among them."""
    pixels = torch.rand(IMAGES, channels, height, width, generator=torch.Generator().manual_seed(0))
    for image, gray in enumerate([0.0, 1.0, 0.5]):
        pixels[image] = gray
    return pixels


def assert_alike(ours: Tensor, theirs: list[Tensor], *, within: float = ROUNDING) -> None:
    torch.testing.assert_close(ours, torch.stack(theirs), rtol=0, atol=within)


# -- whole images resized --------------------------------------------------------------------------


@pytest.mark.parametrize("side", [4, 13, 20, 32])
def test_a_resized_image_is_torchvisions_of_pil(side):
    """Up to one level; the longer side keeps the ratio, rounded down."""
    pixels = (255 * photographs(height=27, width=20)).round().to(torch.uint8)
    theirs = [
        V.pil_to_tensor(V.resize(V.to_pil_image(image), side, InterpolationMode.BILINEAR)).int()
        for image in pixels
    ]
    assert_alike(resize(pixels, side=side).int(), theirs, within=1)


# -- resized crops ---------------------------------------------------------------------------------

# Whole images, parts at each border, enlarged and made smaller, one pixel, and a row.
BOXES = [
    (0, 0, 20, 23), (0, 3, 12, 20), (8, 0, 12, 5), (13, 16, 7, 7), (5, 6, 1, 1), (19, 0, 1, 23),
]  # fmt: skip


def boxes() -> Boxes:
    return Boxes(*torch.tensor(BOXES).unbind(1))


def stored(*, height: int = 20, width: int = 23) -> Tensor:
    """The photographs in uint8."""
    return (255 * photographs(height=height, width=width)).round().to(torch.uint8)


@pytest.mark.parametrize("size", [1, 4, 9, 16, 40])
def test_a_resized_crop_is_torchvisions(size):
    """Antialiased where the box is larger than the square, and interpolated where it is smaller."""
    pixels = stored()
    ours = resized_crop(pixels, boxes(), flip=torch.zeros(IMAGES, dtype=torch.bool), size=size)
    theirs = [
        V.resized_crop(image / 255, *box, [size, size], InterpolationMode.BILINEAR, antialias=True)
        for image, box in zip(pixels, BOXES, strict=True)
    ]
    assert_alike(ours, theirs)


def test_a_resized_crop_is_mirrored_after_resizing():
    pixels, flip = stored(), torch.tensor([True, False] * 3)
    mirrored = resized_crop(pixels, boxes(), flip=flip, size=9)
    straight = resized_crop(pixels, boxes(), flip=torch.zeros_like(flip), size=9)
    torch.testing.assert_close(mirrored[0::2], straight[0::2].flip(-1), rtol=0, atol=ROUNDING)
    assert torch.equal(mirrored[1::2], straight[1::2])


def test_a_box_as_large_as_the_square_is_a_plain_crop():
    pixels = stored()
    same = Boxes(*(torch.full((IMAGES,), number) for number in (4, 7, 9, 9)))
    found = resized_crop(pixels, same, flip=torch.zeros(IMAGES, dtype=torch.bool), size=9)
    torch.testing.assert_close(found, pixels[:, :, 4:13, 7:16] / 255, rtol=0, atol=ROUNDING)


# -- blur ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 3, 23, 39])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_blur_is_torchvisions(channels, kernel):
    """Up to the largest kernel that torchvision can reflect in 20 pixels."""
    pixels = photographs(channels=channels)
    sigma = torch.tensor([0.1, 0.3, 0.5, 1.0, 2.0, 10.0])
    ours = transforms.blur(pixels, sigma, kernel=kernel)
    theirs = [
        V.gaussian_blur(image, [kernel, kernel], [float(deviation)])
        for image, deviation in zip(pixels, sigma, strict=True)
    ]
    assert_alike(ours, theirs)


# -- colours ---------------------------------------------------------------------------------------

FACTORS = [0.0, 0.3, 0.8, 1.0, 1.2, 1.9]
TURNS = [-0.5, -0.2, 0.0, 0.1, 0.37, 0.5]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("ours", "theirs", "amounts"),
    [
        (transforms.brightness, V.adjust_brightness, FACTORS),
        (transforms.contrast, V.adjust_contrast, FACTORS),
        (transforms.saturation, V.adjust_saturation, FACTORS),
        (transforms.hue, V.adjust_hue, TURNS),
    ],
    ids=["brightness", "contrast", "saturation", "hue"],
)
def test_a_change_of_colour_is_torchvisions(
    channels, order, ours: Callable, theirs: Callable, amounts
):
    """Every amount, on single grays (the first images) and on random pixels (the last)."""
    pixels, amounts = photographs(channels=channels), amounts[::order]
    expected = [theirs(image, amount) for image, amount in zip(pixels, amounts, strict=True)]
    assert_alike(ours(pixels, torch.tensor(amounts)), expected)


def test_hues_of_all_sectors_and_borders_turn_as_in_torchvision():
    """All colours of three intensities: pure, mixed in pairs, and gray."""
    levels = torch.tensor([0.0, 0.5, 1.0])
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 3, 9)
    for turn in torch.linspace(-0.5, 0.5, 25).tolist():
        ours = transforms.hue(colours, torch.tensor([turn]))
        assert_alike(ours, [V.adjust_hue(colours[0], turn)])


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_is_torchvisions(channels):
    pixels = photographs(channels=channels)
    theirs = [V.rgb_to_grayscale(image, num_output_channels=channels) for image in pixels]
    assert_alike(transforms.gray(pixels), theirs)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_solarisation_is_torchvisions(threshold):
    """A gray at the threshold itself is inverted."""
    pixels = photographs()
    theirs = [V.solarize(image, threshold) for image in pixels]
    assert torch.equal(transforms.solarise(pixels, threshold=threshold), torch.stack(theirs))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_a_change_of_colour_leaves_the_given_pixels_as_they_are(name):
    pixels = photographs()
    getattr(transforms, name)(pixels, torch.full((IMAGES,), 0.4))
    assert torch.equal(pixels, photographs())
