"""Files that installed packages bring are decoded as other decoders read them, named or refused.

Images are compared with torchvision, whose decoders of PNG, JPEG and WebP are not Pillow's, and
with the reader of the package that brings them; recordings with scipy.
"""

import importlib.util
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from gim_bench.datasets.files import UnusableError
from gim_bench.datasets.images.decoding import SUFFIXES as IMAGE_SUFFIXES
from gim_bench.datasets.images.decoding import decode
from gim_bench.datasets.speech.audio import SUFFIXES as AUDIO_SUFFIXES
from gim_bench.datasets.speech.audio import read_audio
from gim_bench.datasets.walk import UNREAD, walk
from tests.bad_input.feed import check_line

# "test" is Python's own package of tests, which some systems leave out.
PACKAGES = (
    "imageio", "matplotlib", "networkx", "scipy", "skimage", "sklearn", "soundfile",
    "sympy", "test", "tifffile",
)  # fmt: skip
UNREAD_IMAGES = (".exr", ".gif", ".ico", ".pbm", ".pgm", ".ppm", ".ras", ".sgi", ".tif", ".tiff",
                 ".xbm")  # fmt: skip


def _brought_by(package: str, suffixes: Sequence[str]) -> list[Path]:
    """Files that an installed package brings. Skips the test where there are none."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    folders = spec.submodule_search_locations or []
    found = [path for folder in folders for path in sorted(Path(folder).rglob("*"))]
    if not (files := [path for path in found if path.suffix.lower() in suffixes]):
        pytest.skip(f"{package} brings no such files")
    return files


def _walked(folder: Path, files: Sequence[Path], suffixes: tuple[str, ...]) -> list[Path]:
    """Links to the files, as far as such files are read; all others are named."""
    for number, path in enumerate(files):
        (folder / f"{number:03}-{path.name}").symlink_to(path)
    seen = walk(folder, suffixes=suffixes)
    assert len(seen.names) + len(seen.left_out.get(UNREAD, ())) == len(files)
    return seen.paths


def _say(line: str) -> None:
    print(line)  # noqa: T201 - `pytest -rP` shows how many files were compared


# -- images ----------------------------------------------------------------------------------------


def _skimage(path: Path) -> np.ndarray:
    import skimage.io

    return skimage.io.imread(path)


def _matplotlib(path: Path) -> np.ndarray:
    import matplotlib.image

    pixels = matplotlib.image.imread(path)
    return np.rint(255 * pixels).astype(np.uint8) if pixels.dtype == np.float32 else pixels


def _imageio(path: Path) -> np.ndarray:
    import imageio.v3

    return imageio.v3.imread(path, mode="RGBA")


def _torchvision(path: Path) -> np.ndarray:
    from torchvision.io import decode_image

    mode = "RGB" if path.suffix.lower() in (".jpeg", ".jpg") else "RGB_ALPHA"
    return decode_image(str(path), mode=mode).numpy().transpose(1, 2, 0)


Reader = Callable[[Path], np.ndarray]  # [row column channel], or [row column] of gray images
READERS: dict[str, Reader] = {"matplotlib": _matplotlib, "skimage": _skimage}
BY_TORCHVISION = (".jpeg", ".jpg", ".png", ".webp")


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """Three channels of 8 bits: gray is three channels, and transparent pixels show white."""
    pixels = np.atleast_3d(pixels >> 8 if pixels.dtype == np.uint16 else pixels)
    colours, opacity = (
        (pixels[..., :-1], pixels[..., -1:]) if pixels.shape[2] in (2, 4) else (pixels, 255)
    )
    if np.min(opacity) < 255:
        share = opacity / 255
        colours = np.rint(share * colours + (1 - share) * 255).astype(np.uint8)
    return np.broadcast_to(colours, (*colours.shape[:2], 3))


def _in_srgb(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Pixels in sRGB, if the file has the profile of another colour space."""
    with Image.open(path) as image:
        content, is_gray = image.info.get("icc_profile"), image.mode == "L"
    profile = ImageCms.ImageCmsProfile(io.BytesIO(content)) if content else None
    if profile is None or "sRGB" in ImageCms.getProfileDescription(profile):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if is_gray else pixels))
    srgb = ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB"))


def _twice_the_centre(pixels: np.ndarray) -> np.ndarray:
    """Twice the square in the middle: the sum of both where the longer side leaves an odd rest."""
    short = min(pixels.shape[:2])
    (top, left), (low, right) = (
        [(side - short + rest) // 2 for side in pixels.shape[:2]] for rest in (0, 1)
    )
    one = pixels[top : top + short, left : left + short].astype(np.int16)
    return one + pixels[low : low + short, right : right + short]


def _compare(path: Path, *, own: Reader) -> None:
    """The decoded image is what other decoders read."""
    with Image.open(path) as image:
        size = min(image.size)
    found = 2 * decode(path, size=size).transpose(1, 2, 0).astype(np.int16)
    for read in (own, *([_torchvision] if path.suffix.lower() in BY_TORCHVISION else [])):
        right = _twice_the_centre(_in_srgb(_on_white(read(path.resolve())), path))
        assert abs(found - right).max() <= 1, (path.resolve(), read)


@pytest.mark.parametrize("package", PACKAGES)
def test_images_that_packages_bring_are_decoded_as_others_decode_them(package, tmp_path):
    files = _brought_by(package, (*IMAGE_SUFFIXES, *UNREAD_IMAGES))
    own = READERS.get(package, _imageio)
    compared = _walked(tmp_path, files, IMAGE_SUFFIXES)
    for path in compared:
        _compare(path, own=own)
    _say(f"{package}: {len(compared)} of {len(files)} images compared, the others named")
    assert compared


# -- recordings ------------------------------------------------------------------------------------


def _scipy(path: Path) -> tuple[np.ndarray, int] | str:
    """Samples [sample channel] as they are stored, and the rate; or why there are none."""
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Reached EOF", category=wavfile.WavFileWarning)
        warnings.filterwarnings("ignore", message="Chunk", category=wavfile.WavFileWarning)
        try:
            rate_hz, samples = wavfile.read(path)
        except (ValueError, wavfile.WavFileWarning) as error:
            return str(error)
    return samples.reshape(len(samples), -1), rate_hz


def _averaged(stored: np.ndarray) -> np.ndarray:
    """The mean over channels of stored samples, of which 1 is full scale."""
    if stored.dtype.kind == "f":
        return stored.mean(axis=1)
    if stored.dtype == np.uint8:
        return (stored.astype(float) - 128).mean(axis=1) / 128
    return stored.mean(axis=1) / 2.0 ** (8 * stored.dtype.itemsize - 1)


def _heard(path: Path) -> tuple[np.ndarray, int] | None:
    """Samples and rate as the data sets read them; None after a refusal in one line."""
    try:
        return read_audio(path)
    except UnusableError as error:
        check_line(str(error))
        return None


# Scipy alone refuses such files: another coding than PCM, and a bit rate that contradicts the rest.
SCIPY_ALONE = ("Unknown wave file format: MULAW", "WAV header is invalid: nAvgBytesPerSec")


def test_recordings_that_scipy_brings_are_decoded_as_scipy_decodes_them(tmp_path):
    """Soundfile alone refuses PCM of more than 32 bits."""
    files, compared = _brought_by("scipy", AUDIO_SUFFIXES), 0
    for path in _walked(tmp_path, files, AUDIO_SUFFIXES):
        found, other = _heard(path), _scipy(path)
        if isinstance(other, str):
            assert (found is not None) == other.startswith(SCIPY_ALONE), (path.name, other)
        elif found is None:
            assert other[0].dtype.itemsize > 4, path.name
        else:
            right = _averaged(other[0])
            np.testing.assert_allclose(found[0], right, rtol=0, atol=2**-22, err_msg=path.name)
            assert found[1] == other[1]
            compared += 1
    _say(f"scipy: {compared} of {len(files)} recordings compared")
    assert compared >= 12


BITS = {"alaw": 8, "pcm16": 16, "pcm24": 24, "pcm32": 24, "pcm8": 8, "ulaw": 8}


def test_a_tone_that_python_brings_sounds_alike_in_all_its_containers():
    """Each file has a dither of its own, which moves samples by less than four steps."""
    files = [path for path in _brought_by("test", AUDIO_SUFFIXES) if path.stem.startswith("pluck")]
    stored, rate_hz = _scipy(files[0].with_name("pluck-pcm32.wav"))
    for path in files:
        step = 2 ** (1 - BITS[path.stem.removeprefix("pluck-")])
        found, right = _heard(path), _averaged(stored)
        np.testing.assert_allclose(found[0], right, rtol=0, atol=4 * step, err_msg=path.name)
        assert found[1] == rate_hz
    _say(f"test: {len(files)} recordings compared")
    assert {path.suffix for path in files} == {".aifc", ".aiff", ".au", ".wav"}
