"""Image files as a viewer shows them: upright, in sRGB, and on white where they are transparent."""

import io
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngImageFile

from gim_bench.datasets.walk import Reason
from gim_bench.errors import DataError

# Raised where `decode` gives other pixels of a file than before: arrays of the older decoder are
# not read again, and records that were made with it are of other data.
DECODER = 2
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
# Formats that files may have, whatever their suffix. Pillow's other decoders are little used, and
# one of them runs a program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
# An image of more than Pillow's 89 million pixels is refused; by default it warns up to twice that.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
BACKGROUND = "white"
# The orientation of EXIF data, and the transposition that puts such an image upright (EXIF 2.3,
# tag 0x0112).
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

TRANSPARENT = Reason(
    f"transparent image, shown on {BACKGROUND}", f"transparent images, shown on {BACKGROUND}"
)
CONVERTED = Reason("image in another colour space, converted to sRGB",
                   "images in other colour spaces, converted to sRGB")  # fmt: skip
UNCONVERTED = Reason("image in another colour space, taken for sRGB",
                     "images in other colour spaces, taken for sRGB")  # fmt: skip
ANIMATED = Reason("image of several frames, of which the first is read",
                  "images of several frames, of which the first is read")  # fmt: skip
DEEP = Reason("image of 16 bits, of which the upper 8 are read",
              "images of 16 bits, of which the upper 8 are read")  # fmt: skip
DARK = Reason("nearly black image of 16 bits, with values below 4,096",
              "nearly black images of 16 bits, with values below 4,096")  # fmt: skip

SRGB_GAMMA = 0.45455  # of PNGs: the exponent of pixels in the light that they stand for
# Factors by which Pillow scales the pixels of some PNGs, but not the gray that is transparent.
SCALES = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}

# Called with a reason to name the image, and a detail.
Remark = Callable[[Reason, str], None]


def decode(path: Path, *, size: int, remark: Remark = lambda *_: None) -> np.ndarray:
    """A square of `size` pixels, uint8 [channel row column], of the image that a viewer shows.

    The short side is resized to `size`, then the centre is cut out; an image of that size is
    unchanged.

    Raises: DataError naming a file that cannot be decoded.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            coding = _coding(image)
            _scale_transparent_colour(image, scale=SCALES.get(coding, 1))
            image.load()  # the EXIF data of a PNG may come after its pixels
            if getattr(image, "is_animated", False):
                remark(ANIMATED, "")
            if coding.endswith(";16B"):
                remark(DARK if np.asarray(_opaque(image)).max() < 4_096 >> 8 else DEEP, "")
            shown = _upright(_colours(image, remark=remark), orientation=_orientation(image))
            # Bilinear weights cover the whole source area of a pixel: no aliasing.
            square = ImageOps.fit(shown, (size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise DataError(
            f"image_folder: cannot decode {path} ({error}): replace it or remove it"
        ) from None
    return np.asarray(square).transpose(2, 0, 1)


def _coding(image: Image.Image) -> str:
    """Pillow's name for the pixels that a PNG holds, as in SCALES, before these are loaded."""
    return str(image.tile[0].args) if isinstance(image, PngImageFile) and image.tile else ""


def _scale_transparent_colour(image: Image.Image, *, scale: float) -> None:
    """Give the transparent colour of a PNG in the units of the pixels; before these are loaded."""
    colour = image.info.get("transparency")
    if isinstance(colour, tuple):
        image.info["transparency"] = tuple(int(scale * value) for value in colour)
    elif isinstance(colour, int):
        image.info["transparency"] = int(scale * colour)


def _orientation(image: Image.Image) -> int:
    """The orientation of the EXIF data; 1, upright, without such data."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data raise nearly anything, and viewers pass over them
        return 1


def _upright(image: Image.Image, *, orientation: int) -> Image.Image:
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _colours(image: Image.Image, *, remark: Remark) -> Image.Image:
    """Three channels of 8 bits in sRGB, from any mode; opaque."""
    opacity = _opacity(image)
    colours = _in_srgb(_opaque(image), info=image.info, remark=remark)
    if opacity is None or opacity.getextrema() == (255, 255):
        return colours
    remark(TRANSPARENT, "")
    return Image.composite(colours, Image.new("RGB", image.size, BACKGROUND), opacity)


def _opacity(image: Image.Image) -> Image.Image | None:
    """How opaque each pixel is, from 0 to 255; None if all of them are."""
    if not image.has_transparency_data:
        return None
    if image.mode.startswith("I"):  # one of 65,536 grays is transparent
        pixels = np.asarray(image)
        return Image.fromarray(np.where(pixels == image.info["transparency"], 0, 255).astype("u1"))
    return image.convert("RGBA").getchannel("A")


def _opaque(image: Image.Image) -> Image.Image:
    """The colours of all pixels, transparent or not, in the mode L, RGB or CMYK."""
    if image.mode.startswith("I"):  # 16 bits; convert() would clip them instead of scaling
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    # convert() warns of transparent palettes that go straight to RGB
    return image.convert("RGBA").convert("RGB")


# -- colour profiles -----------------------------------------------------------------------------


def _in_srgb(image: Image.Image, *, info: Mapping[Any, Any], remark: Remark) -> Image.Image:
    """The image in sRGB; without a profile that can be used, its numbers are taken for sRGB."""
    if profile := info.get("icc_profile"):
        try:
            name, transform = _to_srgb(profile, image.mode)
        except (ImageCms.PyCMSError, OSError):  # a damaged profile, or one for another mode
            remark(UNCONVERTED, "unusable profile")
        else:
            if transform is not None:
                remark(CONVERTED, name)
                return transform.apply(image)
    elif "srgb" not in info and abs(info.get("gamma", SRGB_GAMMA) - SRGB_GAMMA) > 0.01:
        remark(UNCONVERTED, f"gamma {info['gamma']:g}")
    return image.convert("RGB")


@lru_cache(maxsize=64)  # images of one camera share a profile
def _to_srgb(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Name of a colour profile, and the transform of its images; None for sRGB itself.

    Raises: PyCMSError or OSError if the profile is damaged or is not for images of that mode.
    """
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    name = ImageCms.getProfileDescription(source).strip()
    if "sRGB" in name:
        return name, None
    return name, ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
