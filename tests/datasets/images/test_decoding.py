"""An image is what a viewer shows."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from gim_bench.datasets.images.decoding import SUFFIXES, decode

SIZE = 16
PIXELS = np.random.default_rng(0).integers(256, size=(SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def shown(tmp_path):
    """Saves an image and decodes it: pixels [row column channel], and the remarks."""

    def show(image, *, suffix=".png", **how):
        image.save(tmp_path / f"a{suffix}", **how)
        return _decoded(tmp_path / f"a{suffix}")

    return show


def _decoded(path):
    remarks = []
    pixels = decode(
        path, size=SIZE, remark=lambda reason, detail: remarks.append((reason.one, detail))
    )
    return pixels.transpose(1, 2, 0), remarks


def all_are(found, colour):
    return (found == np.array(colour)).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_a_format_that_is_read(shown, suffix):
    found, remarks = shown(Image.new("RGB", (SIZE, SIZE), (200, 10, 20)), suffix=suffix)
    assert abs(found.astype(int) - [200, 10, 20]).max() <= 4
    assert remarks == []


# -- orientation -----------------------------------------------------------------------------------


# case 2
@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("orientation", range(10))
def test_an_image_that_is_stored_turned_is_put_upright(shown, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(PIXELS)
    image.getexif()[0x0112] = orientation
    right = np.asarray(ImageOps.exif_transpose(image))
    how = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    found, _ = shown(Image.fromarray(PIXELS), suffix=suffix, exif=exif, **how)
    assert np.array_equal(found, right)
    assert np.array_equal(found, PIXELS) == (orientation in (0, 1, 9))


# case 2
def test_a_phone_photo_that_is_stored_turned_reads_as_the_upright_photo(shown):
    upright = np.zeros((SIZE, 2 * SIZE, 3), np.uint8)
    upright[: SIZE // 2] = 255
    exif = Image.Exif()
    exif[274] = 6
    turned = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    found, _ = shown(turned, suffix=".jpg", exif=exif, quality=100)
    assert found[: SIZE // 2].min() > 250
    assert found[SIZE // 2 :].max() < 5


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\xff", b"nonsense"])
def test_damaged_exif_data_leave_an_image_as_it_is_stored(shown, exif):
    found, _ = shown(Image.fromarray(PIXELS), exif=exif)
    assert np.array_equal(found, PIXELS)


# -- transparency ----------------------------------------------------------------------------------

TRANSPARENT = [("transparent image, shown on white", "")]


# case 2
@pytest.mark.parametrize(
    ("mode", "value", "colour"),
    [
        ("RGBA", (1, 2, 3, 0), (255, 255, 255)),
        ("RGBA", (0, 100, 200, 51), (204, 224, 244)),
        ("LA", (77, 0), (255, 255, 255)),
        ("LA", (0, 51), (204, 204, 204)),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_transparent_pixels_show_white(shown, mode, value, colour, suffix):
    how = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    found, remarks = shown(Image.new(mode, (SIZE, SIZE), value), suffix=suffix, **how)
    assert all_are(found, colour)
    assert remarks == TRANSPARENT


@pytest.mark.parametrize(("mode", "value"), [("RGBA", (1, 2, 3, 255)), ("LA", (77, 255))])
def test_an_opaque_image_with_an_alpha_channel_keeps_its_colours(shown, mode, value):
    found, remarks = shown(Image.new(mode, (SIZE, SIZE), value))
    assert all_are(found, value[:-1])
    assert remarks == []


@pytest.mark.parametrize(
    ("transparency", "colour"),
    [(None, (9, 8, 7)), (0, (9, 8, 7)), (1, (255, 255, 255)), (b"\xff\x33", (206, 206, 205))],
)
def test_transparent_entries_of_a_palette_show_white(shown, transparency, colour):
    image = Image.new("P", (SIZE, SIZE), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    options = {} if transparency is None else {"transparency": transparency}
    found, remarks = shown(image, **options)
    assert all_are(found, colour)
    assert remarks == (TRANSPARENT if colour != (9, 8, 7) else [])


def _png(pixels, *, depth, colour, transparent=()):
    """A PNG of a depth that Pillow does not write, maybe with a transparent colour."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    rows = b"".join(b"\0" + row for row in pixels)
    header = struct.pack(">IIBBBBB", SIZE, SIZE, depth, colour, 0, 0, 0)
    key = b"".join(struct.pack(">H", value) for value in transparent)
    keyed = [(b"tRNS", key)] if key else []
    chunks = [(b"IHDR", header), *keyed, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


@pytest.mark.parametrize(
    ("form", "transparent", "values", "other"),
    [
        ((1, 0), [1], [b"\xff\xff", b"\0\0"], 0),
        ((2, 0), [2], [b"\xaa" * 4, b"\x55" * 4], 85),
        ((4, 0), [3], [b"\x33" * 8, b"\x44" * 8], 4 * 17),
        ((8, 0), [3], [b"\x03" * 16, b"\x04" * 16], 4),
        ((16, 0), [0x1234], [b"\x12\x34" * 16, b"\x12\x35" * 16], 0x12),
        ((8, 2), [1, 2, 3], [b"\x01\x02\x03" * 16, b"\x04\x04\x04" * 16], 4),
        ((16, 2), [0x100, 0x200, 0x300], [b"\1\0\2\0\3\0" * 16, b"\4\0\4\0\4\0" * 16], 4),
    ],
)
def test_the_transparent_colour_of_a_png_of_any_depth_shows_white(
    tmp_path, form, transparent, values, other
):
    (depth, colour), (key, opaque) = form, values
    rows = [key] * (SIZE // 2) + [opaque] * (SIZE // 2)
    content = _png(rows, depth=depth, colour=colour, transparent=transparent)
    (tmp_path / "a.png").write_bytes(content)
    found, remarks = _decoded(tmp_path / "a.png")
    assert all_are(found[: SIZE // 2], 255)
    assert all_are(found[SIZE // 2 :], other)
    assert remarks[-1:] == TRANSPARENT


# -- depth -----------------------------------------------------------------------------------------

DEEP = "image of 16 bits, of which the upper 8 are read"
DARK = "nearly black image of 16 bits, with values below 4,096"


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize(("value", "said"), [(0x1000, DEEP), (0x0FFF, DARK)])
def test_it_is_said_that_16_bits_become_8_and_that_12_bit_data_are_nearly_black(
    tmp_path, colour, channels, value, said
):
    samples = [value] * channels if channels % 2 else [*[value] * (channels - 1), 0xFFFF]
    rows = [struct.pack(f">{channels}H", *samples) * SIZE] * SIZE
    (tmp_path / "a.png").write_bytes(_png(rows, depth=16, colour=colour))
    found, remarks = _decoded(tmp_path / "a.png")
    assert all_are(found, value >> 8)
    assert remarks == [(said, "")]


# -- colour ----------------------------------------------------------------------------------------


def _profile(gamma: float, *, name: str) -> bytes:
    """A gray profile: one curve, the exponent of 256ths in its count of one entry."""

    def padded(body):
        return body + bytes(-len(body) % 4)

    def text(words):
        return (
            b"mluc"
            + bytes(4)
            + struct.pack(">II", 1, 12)
            + b"enUS"
            + struct.pack(">II", 2 * len(words), 28)
            + words.encode("utf-16-be")
        )

    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    tags = {b"desc": text(name), b"cprt": text("none"), b"wtpt": white, b"kTRC": curve}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(content))
        body += padded(content)
    header = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"lcms", 0x04200000, b"mntr", b"GRAY", b"XYZ "
    )
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061) + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


def test_an_image_in_another_colour_space_is_converted_and_named(shown):
    profile = _profile(1.0, name="Linear gray")
    found, remarks = shown(Image.new("L", (SIZE, SIZE), 55), icc_profile=profile)
    linear = 55 / 255
    srgb = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    assert abs(found.astype(int) - srgb).max() <= 1
    assert remarks == [("image in another colour space, converted to sRGB", "Linear gray")]


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_an_image_in_srgb_is_untouched_and_not_named(shown, suffix):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    how = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    found, remarks = shown(Image.fromarray(PIXELS), suffix=suffix, icc_profile=profile, **how)
    assert np.array_equal(found, PIXELS)
    assert remarks == []


@pytest.mark.parametrize("profile", [b"nonsense", _profile(1.0, name="Linear gray")])
def test_a_profile_that_cannot_be_used_is_named(shown, profile):
    """A damaged profile, and a profile of gray images in an image in colour."""
    found, remarks = shown(Image.fromarray(PIXELS), icc_profile=profile)
    assert np.array_equal(found, PIXELS)
    assert remarks == [("image in another colour space, taken for sRGB", "unusable profile")]


@pytest.mark.parametrize(("gamma", "detail"), [(45455, None), (100_000, "gamma 1")])
def test_another_gamma_of_a_png_is_named(tmp_path, gamma, detail):
    written = io.BytesIO()
    Image.fromarray(PIXELS).save(written, "PNG")
    content = written.getvalue()
    body = b"gAMA" + struct.pack(">I", gamma)
    chunk = struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    found, remarks = _decoded(tmp_path / "a.png")
    assert np.array_equal(found, PIXELS)
    assert [said for _, said in remarks] == ([] if detail is None else [detail])


def test_a_transparent_image_in_another_colour_space_is_both(shown):
    image = Image.new("LA", (SIZE, SIZE), (55, 0))
    found, remarks = shown(image, icc_profile=_profile(1.0, name="Linear gray"))
    assert all_are(found, 255)
    assert len(remarks) == 2


# -- frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_the_first_of_several_frames_is_read_and_named(shown, suffix):
    frames = [Image.new("RGB", (SIZE, SIZE), (value,) * 3) for value in (200, 50)]
    found, remarks = shown(frames[0], suffix=suffix, save_all=True, append_images=frames[1:])
    assert abs(found.astype(int) - 200).max() <= 4
    assert remarks == [("image of several frames, of which the first is read", "")]
