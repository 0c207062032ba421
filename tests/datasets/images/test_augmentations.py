"""Random augmentations: what is drawn, which images it changes, and in which view."""

import math
from collections import Counter
from itertools import groupby

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from gim_bench.contract import Batch, Images
from gim_bench.datasets.batches import ViewStreams
from gim_bench.datasets.images import augmentations, transforms
from gim_bench.datasets.images.augmentations import cut_out, photometric, random_boxes
from gim_bench.datasets.images.crops import ImageBatches
from gim_bench.settings.augmentations import (
    BlurSettings,
    CropSettings,
    JitterSettings,
    ResizedSettings,
    SolariseSettings,
    ViewSettings,
)

CPU = torch.device("cpu")
ITEMS = 12
SIZE = 9
GRAY_JITTER = JitterSettings(saturation=0.0, hue=0.0)
BLUR = BlurSettings(kernel=5)


def pixels_of(*, images: int = ITEMS, channels: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(images, channels, SIZE, SIZE, generator=draw)


def streams(seed: int = 0) -> ViewStreams:
    return ViewStreams(torch.Generator(), names=("test", seed))


def changed(settings: ViewSettings, *, images: int = ITEMS, channels: int = 3) -> list[bool]:
    """Which images a view changes."""
    before = pixels_of(images=images, channels=channels)
    after = photometric(before.clone(), settings=settings, streams=streams())
    return [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]


def photographs(channels: int = 3) -> Images:
    """Images that say where their pixels are from: their number, the row and the column."""
    image, row, column = np.indices((ITEMS, 20, 23), dtype=np.uint8)
    pixels = np.stack([20 * image, 10 * row, 10 * column], axis=1)[:, :channels]
    return Images(images=pixels, labels={"class": np.arange(ITEMS, dtype=np.int64)})


def batches(
    *, views: int = 1, seed: int = 0, channels: int = 3, held_out: float = 0.0, **settings
) -> ImageBatches:
    """With mean 0 and deviation 1, so that inputs are intensities."""
    plain = {"grayscale": False, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    return ImageBatches(
        photographs(channels),
        augmentation=CropSettings(kind="crop", crop=SIZE, **(plain | settings)),
        batch_size=4,
        stream=("photos", seed),
        device=CPU,
        views=views,
        held_out=held_out,
    )


def view(found: list[Batch], number: int) -> Tensor:
    return torch.cat([batch.views[number - 1] for batch in found])


def epoch(**settings) -> list[Batch]:
    return list(batches(**settings).epoch(1))


# -- cutout ----------------------------------------------------------------------------------------


def holes(*, side: int, images: int = 500) -> Tensor:
    """Which pixels of images of ones are cut out, [image row column]."""
    ones = torch.ones(images, 2, SIZE, SIZE)
    found = cut_out(ones, side=side, draw=torch.Generator().manual_seed(0))
    assert torch.equal(found[:, 0], found[:, 1])
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    return found[:, 0] == 0


def test_cutout_removes_a_square_that_may_reach_over_the_border():
    found = holes(side=4)
    rows, columns = found.any(dim=2), found.any(dim=1)
    assert torch.equal(found, rows[:, :, None] & columns[:, None, :])
    for places in (rows, columns):
        sides = places.sum(dim=1)
        assert (sides.min(), sides.max()) == (2, 4)  # half of the square and more is inside
        first, last = places.int().argmax(dim=1), SIZE - places.flip(1).int().argmax(dim=1)
        assert torch.equal(last - first, sides)


def test_centres_of_cutout_squares_are_uniform_over_the_image():
    counts = holes(side=1, images=8100).sum(dim=0).flatten()
    assert counts.numpy() == pytest.approx(100, abs=40)


def test_cutout_is_off_by_default_and_moves_no_other_draw():
    """Outside of the squares, images are those without cutout."""
    plain, cut = (view(epoch(jitter=JitterSettings(), **given), 1) for given in ({}, {"cutout": 4}))
    removed = cut != plain
    assert removed.any()
    assert (cut[removed] == 0).all()
    assert removed.flatten(1).any(dim=1).all()


def test_cutout_leaves_centre_crops_of_the_probe_alone():
    plain, cut = (list(batches(**given).in_order()) for given in ({}, {"cutout": 4}))
    assert torch.equal(view(plain, 1), view(cut, 1))


def test_a_further_view_may_be_without_cutout():
    settings = {"cutout": 4, "further_views": (ViewSettings(cutout=0),)}
    cut = epoch(views=2, **settings)
    plain = epoch(views=2)
    assert not torch.equal(view(cut, 1), view(plain, 1))
    assert torch.equal(view(cut, 2), view(plain, 2))


# -- boxes -----------------------------------------------------------------------------------------


def boxes(*, images: int = 4000, height: int = 60, width: int = 80, **settings):
    return random_boxes(
        images,
        height=height,
        width=width,
        settings=ResizedSettings(**settings),
        draw=torch.Generator().manual_seed(0),
    )


@pytest.mark.parametrize("scale", [(0.1, 0.2), (0.08, 1.0)])
def test_boxes_lie_within_the_image_and_reach_all_of_its_borders(scale):
    """Small boxes, too, begin at the first and end at the last row and column."""
    found = boxes(scale=scale)
    bottom, right = found.top + found.height, found.left + found.width
    assert (found.top.min(), found.left.min()) == (0, 0)
    assert (bottom.max(), right.max()) == (60, 80)
    assert min(found.height.min(), found.width.min()) > 0


def test_areas_and_ratios_of_boxes_are_uniform_in_their_ranges():
    """Ratios in their logarithm; sides are whole pixels, here of a large image."""
    found = boxes(height=6000, width=6000, scale=(0.1, 0.4), ratio=(0.5, 2.0))
    area = (found.height * found.width) / 6000**2
    ratio = (found.width / found.height).log2()
    for values, low, high in ((area, 0.1, 0.4), (ratio, -1.0, 1.0)):
        counts = torch.histc(values, bins=4, min=low, max=high)
        assert counts.sum() >= 3990  # rounding to pixels may pass an end
        assert counts.numpy() == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize(
    ("height", "width", "ratio"),
    [(10, 40, (0.75, 4 / 3)), (40, 10, (0.75, 4 / 3)), (17, 90, (0.5, 0.5)), (20, 25, (2.0, 2.0))],
)
def test_where_no_box_fits_the_largest_centred_one_is_taken_as_in_torchvision(height, width, ratio):
    """Boxes of the whole area of an oblong image have no room in these ratios."""
    found = boxes(images=3, height=height, width=width, scale=(1.0, 1.0), ratio=ratio)
    theirs = v2.RandomResizedCrop(4, scale=(1.0, 1.0), ratio=ratio)
    expected = theirs.make_params([torch.zeros(3, height, width)])
    for name in ("top", "left", "height", "width"):
        assert getattr(found, name).tolist() == [expected[name]] * 3


def test_an_image_has_several_trials_before_the_centred_box_is_taken(monkeypatch):
    """Two of three squares that are drawn for this oblong image do not fit."""
    asked = {"images": 900, "height": 200, "width": 400, "scale": (0.25, 1.0), "ratio": (1.0, 1.0)}
    assert (boxes(**asked).height == 200).sum() < 60
    monkeypatch.setattr(augmentations, "BOX_TRIALS", 1)
    assert (boxes(**asked).height == 200).sum() == pytest.approx(600, rel=0.1)


# -- probabilities ---------------------------------------------------------------------------------

TABLES = {
    "jitter": lambda p: ViewSettings(jitter=JitterSettings(probability=p)),
    "gray": lambda p: ViewSettings(gray=p),
    "blur": lambda p: ViewSettings(blur=BlurSettings(kernel=5, sigma=(1.0, 2.0), probability=p)),
    "solarise": lambda p: ViewSettings(solarise=SolariseSettings(probability=p)),
}


@pytest.mark.parametrize("transform", TABLES)
def test_probability_0_changes_no_image_and_1_all_of_them(transform):
    assert not any(changed(TABLES[transform](0.0)))
    assert all(changed(TABLES[transform](1.0)))


@pytest.mark.parametrize("transform", TABLES)
def test_a_probability_is_the_share_of_images_that_are_changed(transform):
    assert sum(changed(TABLES[transform](0.3), images=2000)) == pytest.approx(600, rel=0.1)


def test_what_is_off_everywhere_is_the_plain_crop_bit_for_bit():
    off = {
        "jitter": JitterSettings(probability=0.0),
        "blur": BlurSettings(kernel=5, probability=0.0),
        "solarise": SolariseSettings(probability=0.0),
    }
    assert torch.equal(view(epoch(**off), 1), view(epoch(), 1))


# -- amounts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("only", ["brightness", "contrast", "saturation", "hue"])
def test_jitter_draws_each_images_amount_uniformly_from_its_range(only, monkeypatch):
    """A strength s allows factors of 1 - s to 1 + s, and turns of -s to s."""
    seen = []
    change = getattr(transforms, only)
    monkeypatch.setattr(
        transforms, only, lambda p, amount: seen.append(amount) or change(p, amount)
    )
    strengths = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0) | {only: 0.4}
    settings = ViewSettings(jitter=JitterSettings(**strengths, probability=1.0))
    photometric(pixels_of(images=4000), settings=settings, streams=streams())
    centre = 0.0 if only == "hue" else 1.0
    counts = torch.histc(torch.cat(seen), bins=4, min=centre - 0.4, max=centre + 0.4)
    assert counts.sum() == 4000
    assert counts.numpy() == pytest.approx(1000, rel=0.1)


def test_a_strength_above_1_draws_no_negative_factor(monkeypatch):
    seen = []
    monkeypatch.setattr(transforms, "contrast", lambda p, factor: seen.append(factor) or p)
    jitter = JitterSettings(brightness=0, contrast=1.5, saturation=0, hue=0, probability=1.0)
    photometric(pixels_of(images=2000), settings=ViewSettings(jitter=jitter), streams=streams())
    assert 0 <= torch.cat(seen).min() < 0.1
    assert 2.4 < torch.cat(seen).max() <= 2.5


def test_every_image_is_jittered_in_an_order_of_its_own(monkeypatch):
    """All 24 orders occur about as often; each image takes each step once."""
    names = ["brightness", "contrast", "saturation", "hue"]
    for step, name in enumerate(names, start=1):
        monkeypatch.setattr(transforms, name, lambda p, _, step=step: 10 * p + step)
    steps = photometric(
        torch.zeros(4800, 3, 1, 1),
        settings=ViewSettings(jitter=JitterSettings(probability=1.0)),
        streams=streams(),
    )
    orders = Counter(steps[:, 0, 0, 0].int().tolist())
    assert {"".join(sorted(str(order))) for order in orders} == {"1234"}
    assert len(orders) == math.factorial(4)
    assert list(orders.values()) == pytest.approx([200] * 24, rel=0.3)


def test_the_order_of_transforms_is_jitter_gray_blur_solarise(monkeypatch):
    order = []
    for name in ("brightness", "gray", "blur", "solarise"):
        change = getattr(transforms, name)

        def noted(*args, name=name, change=change, **kwargs):
            order.append(name)
            return change(*args, **kwargs)

        monkeypatch.setattr(transforms, name, noted)
    settings = ViewSettings(
        jitter=JitterSettings(contrast=0, saturation=0, hue=0),
        gray=0.5,
        blur=BLUR,
        solarise=SolariseSettings(probability=0.5),
    )
    photometric(pixels_of(), settings=settings, streams=streams())
    assert [name for name, _ in groupby(order)] == ["brightness", "gray", "blur", "solarise"]


def test_an_images_blur_is_drawn_from_the_range_of_sigma(monkeypatch):
    seen = []
    monkeypatch.setattr(transforms, "blur", lambda p, sigma, kernel: seen.append(sigma) or p)
    settings = ViewSettings(blur=BlurSettings(kernel=5, sigma=(0.5, 1.5)))
    photometric(pixels_of(images=4000), settings=settings, streams=streams())
    counts = torch.histc(torch.cat(seen), bins=4, min=0.5, max=1.5)
    assert counts.numpy() == pytest.approx(1000, rel=0.1)


class NotedStreams(ViewStreams):
    """Streams that note which transforms draw."""

    def __init__(self):
        super().__init__(torch.Generator(), names=("test",))
        self.asked = []

    def of(self, transform):
        self.asked.append(transform)
        return super().of(transform)


@pytest.mark.parametrize("transform", TABLES)
def test_a_transform_draws_from_a_stream_of_its_own(transform):
    """So turning a transform on moves no other, and neither order nor crop nor flip."""
    noted = NotedStreams()
    before = noted.place.get_state()
    photometric(pixels_of(), settings=TABLES[transform](0.5), streams=noted)
    assert set(noted.asked) == {transform}
    assert torch.equal(noted.place.get_state(), before)


def test_streams_of_transforms_differ_and_go_on_from_batch_to_batch():
    drawn = streams()
    first = [torch.rand(3, generator=drawn.of(name)).tolist() for name in TABLES]
    second = [torch.rand(3, generator=drawn.of(name)).tolist() for name in TABLES]
    assert len({tuple(each) for each in [*first, *second]}) == 2 * len(TABLES)


def test_turning_gray_on_changes_only_the_images_that_become_gray():
    jitter = JitterSettings(probability=0.5)
    alone, with_gray = (
        photometric(pixels_of(), settings=settings, streams=streams())
        for settings in (ViewSettings(jitter=jitter), ViewSettings(jitter=jitter, gray=0.5))
    )
    only_gray = changed(ViewSettings(gray=0.5))
    kept = [torch.equal(a, b) for a, b in zip(alone, with_gray, strict=True)]
    assert kept == [not is_gray for is_gray in only_gray]


# -- view 1 ----------------------------------------------------------------------------------------

FURTHER = {
    "jitter": JitterSettings(),
    "gray": 0.5,
    "blur": BLUR,
    "solarise": SolariseSettings(probability=0.5),
}


def places(inputs: Tensor) -> list[tuple[int, int, int, bool]]:
    """Image, row, column and whether mirrored, by the colours that say so."""
    scaled = (255 * inputs).round().long()
    first = scaled.amin(dim=(2, 3))
    mirrored = scaled[:, 2, 0, 0] > scaled[:, 2, 0, -1]
    return [
        (int(image) // 20, int(row) // 10, int(column) // 10, bool(flipped))
        for (image, row, column), flipped in zip(first, mirrored, strict=True)
    ]


def test_photometric_transforms_of_view_1_move_neither_order_nor_crop_nor_flip(monkeypatch):
    """The intensities that the transforms are given are those of the plain crops."""
    plain = epoch()
    given = []
    real = augmentations.photometric
    monkeypatch.setattr(
        "gim_bench.datasets.images.crops.photometric",
        lambda pixels, **rest: given.append(pixels.clone()) or real(pixels, **rest),
    )
    found = epoch(**FURTHER)
    assert places(torch.cat(given)) == places(view(plain, 1))
    assert not torch.equal(view(found, 1), view(plain, 1))
    for ours, theirs in zip(found, plain, strict=True):
        assert torch.equal(ours.labels["class"], theirs.labels["class"])


def test_resized_crops_move_neither_order_nor_flip():
    plain, resized = epoch(), epoch(resized=ResizedSettings())
    assert [found[0] for found in places(view(resized, 1))] == [
        found[0] for found in places(view(plain, 1))
    ]
    assert [found[3] for found in places(view(resized, 1))] == [
        found[3] for found in places(view(plain, 1))
    ]
    assert not torch.equal(view(resized, 1), view(plain, 1))


def test_resized_crops_are_those_of_the_boxes_that_are_drawn(monkeypatch):
    """Of an image that shows its rows and columns, a part from row t to row t + h is shown."""
    drawn = []
    real = augmentations.random_boxes
    monkeypatch.setattr(
        "gim_bench.datasets.images.crops.random_boxes",
        lambda images, **rest: drawn.append(real(images, **rest)) or drawn[-1],
    )
    found = epoch(resized=ResizedSettings(), flip=False)
    for batch, box in zip(found, drawn, strict=True):
        middle = 255 * batch.inputs[:, :, SIZE // 2, SIZE // 2] / 10
        torch.testing.assert_close(middle[:, 1], box.top + (box.height - 1) / 2, rtol=0, atol=0.01)
        torch.testing.assert_close(middle[:, 2], box.left + (box.width - 1) / 2, rtol=0, atol=0.01)


@pytest.mark.parametrize("settings", [{}, FURTHER, {"resized": ResizedSettings(), **FURTHER}])
def test_view_1_is_bit_for_bit_the_same_however_many_views_there_are(settings):
    one, three = epoch(**settings), epoch(views=3, **settings)
    assert torch.equal(view(one, 1), view(three, 1))
    assert [len(batch.views) for batch in three] == [3] * 3


# -- further views ---------------------------------------------------------------------------------


def test_a_further_view_without_a_table_has_the_settings_of_view_1():
    found = epoch(views=2, gray=1.0)
    for number in (1, 2):
        inputs = view(found, number)
        torch.testing.assert_close(inputs[:, 0], inputs[:, 2], rtol=0, atol=0)


def test_asymmetric_settings_reach_their_view():
    """Views 1 and 4 have colour, view 2 is gray and view 3 solarised; all are otherwise alike."""
    further = (
        ViewSettings(gray=1.0),
        ViewSettings(solarise=SolariseSettings(threshold=0.0, probability=1.0)),
    )
    found, plain = epoch(views=4, further_views=further), epoch(views=4)
    for number in (1, 4):
        assert torch.equal(view(found, number), view(plain, number))
    gray = transforms.gray(view(plain, 2))
    torch.testing.assert_close(view(found, 2), gray, rtol=0, atol=1e-6)
    torch.testing.assert_close(view(found, 3), 1 - view(plain, 3), rtol=0, atol=1e-6)


def test_a_further_view_may_have_a_probability_of_its_own():
    """BYOL's blur: always in view 1, seldom in view 2."""
    blur = BlurSettings(kernel=5, sigma=(1.0, 2.0), probability=1.0)
    further = (ViewSettings(blur=BlurSettings(probability=0.0)),)
    found, plain = epoch(views=2, blur=blur, further_views=further), epoch(views=2)
    assert not torch.equal(view(found, 1), view(plain, 1))
    assert torch.equal(view(found, 2), view(plain, 2))


def test_further_views_have_crops_and_flips_of_their_own():
    found = epoch(views=3)
    drawn = [places(view(found, number)) for number in (1, 2, 3)]
    images = [[place[0] for place in each] for each in drawn]
    assert images[0] == images[1] == images[2]
    assert len({tuple(each) for each in drawn}) == 3


@pytest.mark.parametrize("transform", FURTHER)
def test_further_views_draw_transforms_of_their_own(transform, monkeypatch):
    """With the same crop in both views, they still differ."""
    random_places = ImageBatches._random_places
    monkeypatch.setattr(
        ImageBatches,
        "_random_places",
        lambda self, images, _: random_places(self, images, torch.Generator().manual_seed(0)),
    )
    found = epoch(views=2, **{transform: FURTHER[transform]})
    assert not torch.equal(view(found, 1), view(found, 2))


# -- where nothing is drawn ------------------------------------------------------------------------


def test_in_order_shows_one_plain_centre_crop_whatever_the_views_and_transforms():
    augmented = batches(views=3, resized=ResizedSettings(), **FURTHER)
    found, plain = list(augmented.in_order()), list(batches().in_order())
    assert torch.equal(view(found, 1), view(plain, 1))
    assert all(batch.further == () for batch in found)


def test_validation_is_always_alike_and_view_1_the_same_however_many_views():
    settings = {"held_out": 0.5, "resized": ResizedSettings(), **FURTHER}
    loader = batches(views=2, **settings)
    first, second = list(loader.validation()), list(loader.validation())
    one = list(batches(**settings).validation())
    assert len(first) == 1
    for number in (1, 2):
        assert torch.equal(view(first, number), view(second, number))
    assert torch.equal(view(first, 1), view(one, 1))
    assert not torch.equal(view(first, 1), view(first, 2))


# -- kinds of images -------------------------------------------------------------------------------


def test_gray_images_in_a_colour_suite_are_augmented_in_one_channel_and_normalised_in_three():
    found = epoch(channels=1, views=2, resized=ResizedSettings(), **FURTHER)
    assert found[0].inputs.shape == (4, 3, SIZE, SIZE)
    assert torch.equal(found[0].inputs[:, 0], found[0].inputs[:, 2])


def test_a_gray_augmentation_jitters_blurs_and_solarises_one_channel():
    gray = {"grayscale": True, "mean": (0.0,), "std": (1.0,)}
    transformed = {"jitter": GRAY_JITTER, "blur": BLUR, "solarise": SolariseSettings()}
    found, plain = epoch(**gray, **transformed), epoch(**gray)
    assert found[0].inputs.shape == (4, 1, SIZE, SIZE)
    assert not torch.equal(view(found, 1), view(plain, 1))


def test_normalisation_comes_after_all_transforms():
    """Mean 0.5 and deviation 0.25 of what the suite without them yields."""
    settings = {"resized": ResizedSettings(), **FURTHER}
    raw = view(epoch(**settings), 1)
    normalised = view(epoch(mean=(0.5,) * 3, std=(0.25,) * 3, **settings), 1)
    torch.testing.assert_close(normalised, (raw - 0.5) / 0.25, rtol=0, atol=1e-5)


def test_augmented_intensities_stay_within_0_and_1():
    found = view(epoch(views=2, resized=ResizedSettings(), **FURTHER), 2)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6
