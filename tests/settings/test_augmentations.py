"""Settings of augmentations: views, defaults, and complaints in one line."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gim_bench.errors import ConfigError
from gim_bench.settings.augmentations import (
    BlurSettings,
    CropSettings,
    JitterSettings,
    ResizedSettings,
    SolariseSettings,
)
from gim_bench.settings.suites import parse

COLOUR = {"kind": "crop", "crop": 32, "grayscale": False, "mean": [0.4] * 3, "std": [0.2] * 3}
GRAY = {"kind": "crop", "crop": 32, "mean": [0.4], "std": [0.2]}
BYOL = {
    "resized": {},
    "jitter": {},
    "gray": 0.2,
    "blur": {"kernel": 7},
    "further_views": [{"blur": {"probability": 0.1}, "solarise": {}}],
}


def crops(table: dict[str, Any], **further: Any) -> CropSettings:
    return parse(CropSettings, {**table, **further}, origin="mine.toml")


def complaint(table: dict[str, Any], **further: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        crops(table, **further)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_without_tables_no_transform_is_on():
    settings = crops(COLOUR)
    assert not settings.photometric
    assert settings.resized is None
    assert settings.view(2) is settings.view(1) is settings


def test_a_crop_larger_than_the_resized_images_is_refused():
    assert crops(COLOUR, resize=32).resize == 32
    assert "a crop of 32 pixels does not fit into images" in complaint(COLOUR, resize=31)


@pytest.mark.parametrize("name", ["jitter", "blur", "solarise"])
def test_a_view_is_photometric_if_any_transform_may_change_its_intensities(name):
    assert crops(COLOUR, **{name: {"probability": 0.1}}).photometric
    assert not crops(COLOUR, **{name: {"probability": 0.0}}).photometric
    assert crops(COLOUR, gray=0.1).photometric
    assert not crops(COLOUR, resized={}).photometric


def test_empty_tables_have_the_settings_of_byol():
    settings = crops(COLOUR, resized={}, jitter={}, blur={}, solarise={})
    assert settings.resized == ResizedSettings(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    assert settings.jitter == JitterSettings(
        brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, probability=0.8
    )
    assert settings.blur == BlurSettings(kernel=23, sigma=(0.1, 2.0), probability=1.0)
    assert settings.solarise == SolariseSettings(threshold=0.5, probability=0.2)


def test_a_further_view_differs_from_view_1_where_its_table_says_so():
    settings = crops(COLOUR, **BYOL)
    first, second = settings.view(1), settings.view(2)
    assert first.blur == BlurSettings(kernel=7, probability=1.0)
    assert second.blur == BlurSettings(kernel=7, probability=0.1)
    assert (first.solarise, second.solarise) == (None, SolariseSettings())
    for name in ("resized", "jitter", "gray"):
        assert getattr(first, name) == getattr(second, name)


def test_a_further_view_may_turn_a_transform_off():
    view = crops(COLOUR, gray=0.2, jitter={}, further_views=[{"gray": 0.0}]).view(2)
    assert view.gray == 0
    assert view.jitter == JitterSettings()


def test_a_view_without_a_table_has_the_settings_of_view_1():
    settings = crops(COLOUR, gray=0.2, further_views=[{"gray": 0.5}])
    assert [settings.view(number).gray for number in (1, 2, 3, 4)] == [0.2, 0.5, 0.2, 0.2]


def test_settings_that_were_written_out_are_read_back_as_they_were():
    """A record names every setting of every view; read again, none of them changes."""
    settings = crops(COLOUR, **BYOL)
    assert crops(settings.model_dump(mode="json")) == settings


def test_gray_images_may_be_jittered_in_brightness_and_contrast():
    jitter = crops(GRAY, jitter={"saturation": 0.0, "hue": 0.0}).jitter
    assert jitter == JitterSettings(brightness=0.4, contrast=0.4, saturation=0.0, hue=0.0)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"gray": 1.5}, ["gray = 1.5", "less than or equal to 1"]),
        ({"gray": -0.1}, ["gray = -0.1", "greater than or equal to 0"]),
        ({"jitter": {"probability": 2.0}}, ["jitter.probability = 2.0"]),
        ({"jitter": {"brightness": -1.0}}, ["jitter.brightness = -1.0"]),
        ({"jitter": {"hue": 0.6}}, ["jitter.hue = 0.6", "0.5"]),
        ({"jitter": 0.4}, ["jitter = 0.4", "table"]),
        ({"jitter": {"colour": 0.4}}, ["jitter.colour", "Available: brightness, contrast, hue"]),
        ({"blur": {"kernel": 4}}, ["blur.kernel", "4 pixels", "odd"]),
        ({"blur": {"kernel": 0}}, ["blur.kernel = 0"]),
        ({"blur": {"kernel": 65}}, ["blur.kernel = 65 (view 1)", "32 pixels", "63 or less"]),
        ({"blur": {"sigma": [2.0, 0.1]}}, ["blur.sigma", "[2.0, 0.1]", "smaller number first"]),
        ({"blur": {"sigma": [0.0, 1.0]}}, ["blur.sigma.0 = 0.0"]),
        ({"blur": {"sigma": [1.0]}}, ["blur.sigma.1", "missing"]),
        ({"resized": {"scale": [0.5, 0.2]}}, ["resized.scale", "smaller number first"]),
        ({"resized": {"scale": [0.5, 1.2]}}, ["resized.scale.1 = 1.2"]),
        ({"resized": {"scale": [0.0, 1.0]}}, ["resized.scale.0 = 0.0"]),
        ({"resized": {"ratio": [2.0, 1.0]}}, ["resized.ratio", "smaller number first"]),
        ({"resized": {"ratio": [0.0, 1.0]}}, ["resized.ratio.0 = 0.0"]),
        ({"solarise": {"threshold": 128.0}}, ["solarise.threshold = 128.0"]),
        ({"further_views": {"gray": 0.1}}, ["further_views"]),
        ({"further_views": [{"blur": {"kernel": 2}}]}, ["further_views.0.blur.kernel", "odd"]),
        ({"further_views": [{}, {"blur": {}}], "crop": 8}, ["blur.kernel = 23 (view 3)"]),
        ({"further_views": [{"crop": 8}]}, ["further_views.0.crop", "Available: blur, cutout"]),
        ({"further_views": [{"blur": {"sgima": 1}}]}, ["further_views.0.blur.sgima", "'sigma'"]),
    ],
)
def test_what_makes_no_sense_is_one_line(settings, parts):
    message = complaint(COLOUR, **settings)
    assert message.startswith(("mine.toml: ", "no setting "))
    for part in parts:
        assert part in message


@pytest.mark.parametrize("view", [1, 2])
@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ({"gray": 0.2}, ["gray = 0.2", "grayscale = true", "set gray = 0"]),
        ({"jitter": {"hue": 0.0}}, ["jitter.saturation = 0.2", "set both to 0"]),
        ({"jitter": {"saturation": 0.0}}, ["jitter.hue = 0.1", "set both to 0"]),
    ],
)
def test_transforms_of_colour_are_refused_where_all_images_are_gray(view, table, parts):
    message = complaint(GRAY, **(table if view == 1 else {"further_views": [table]}))
    assert f"(view {view})" in message
    for part in parts:
        assert part in message


# -- the page --------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2].joinpath("docs", "augmentations.md").read_text(encoding="utf-8")


def test_the_pages_example_is_two_views_of_byol():
    (example,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    settings = crops(tomllib.loads(example)["augmentation"])
    first, second = settings.view(1), settings.view(2)
    assert first.jitter == second.jitter == JitterSettings()
    assert (first.blur.probability, second.blur.probability) == (1.0, 0.1)
    assert (first.solarise, second.solarise) == (None, SolariseSettings(probability=0.2))


@pytest.mark.parametrize("table", [ResizedSettings, JitterSettings, BlurSettings, SolariseSettings])
def test_the_page_names_every_setting_with_its_default(table):
    for name, default in table():
        shown = [round(n, 4) for n in default] if isinstance(default, tuple) else default
        assert f"`{name} = {shown}`" in PAGE
