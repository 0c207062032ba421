"""Batches of images: what PIL would cut image by image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gim_bench.contract import Images
from gim_bench.datasets.images import crops
from gim_bench.datasets.images.crops import ImageBatches, crop, in_gray, normalise, prepared
from gim_bench.datasets.images.transforms import resize
from gim_bench.errors import DataError
from gim_bench.settings.augmentations import CropSettings
from tests.oracles.augmentation import slow_augment

CPU = torch.device("cpu")
GRAY = {"grayscale": True, "mean": (0.412,), "std": (0.257,)}
COLOUR = {"grayscale": False, "mean": (0.43, 0.42, 0.37), "std": (0.27, 0.26, 0.28)}
PLAIN = {"grayscale": False, "mean": (0.0,) * 3, "std": (1 / 255,) * 3}  # leaves 0..255


def photographs(*, number: int = 12, channels: int = 3, height: int = 20, width: int = 23):
    draw = np.random.default_rng(0)
    images = draw.integers(256, size=(number, channels, height, width), dtype=np.uint8)
    return Images(images=images, labels={"class": np.arange(number, dtype=np.int64)})


def batches(
    examples: Images | None = None,
    *,
    size: int = 9,
    batch_size: int = 4,
    stream: tuple[str, int] = ("photos", 0),
    **augmentation,
) -> ImageBatches:
    return ImageBatches(
        photographs() if examples is None else examples,
        augmentation=CropSettings(kind="crop", crop=size, **(GRAY | augmentation)),
        batch_size=batch_size,
        stream=stream,
        device=CPU,
    )


# -- sources -------------------------------------------------------------------------------------


def test_without_sources_every_image_is_a_group_of_its_own():
    assert batches().groups.tolist() == list(range(12))


@pytest.mark.parametrize("settings_", [GRAY, COLOUR], ids=["gray", "colour"])
def test_images_of_one_source_are_one_group(settings_):
    """Also where a gray copy of the images is made."""
    sources = np.arange(12, dtype=np.int64) // 3 + 7
    examples = replace(photographs(), sources=sources)
    assert batches(examples, **settings_).groups.tolist() == sources.tolist()


# -- pixels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings_", [GRAY, COLOUR], ids=["gray", "colour"])
def test_a_batch_is_what_pil_makes_of_each_image(channels, settings_):
    images = photographs(channels=channels)
    ours = batches(images, **settings_).images
    chosen = torch.tensor([3, 0, 7, 3])
    top, left = torch.tensor([0, 11, 4, 2]), torch.tensor([14, 0, 5, 3])
    flip = torch.tensor([True, False, True, False])
    augmentation = CropSettings(kind="crop", crop=9, **settings_)
    pixels = crop(ours, chosen, top=top, left=left, flip=flip, size=9)
    normalised = normalise(pixels, augmentation=augmentation).double().numpy()
    for b, image in enumerate(chosen.tolist()):
        slow = slow_augment(
            images.images[image],
            top=int(top[b]),
            left=int(left[b]),
            flip=bool(flip[b]),
            size=9,
            **settings_,
        )
        np.testing.assert_allclose(normalised[b], slow, rtol=0, atol=1e-6)


def by_columns(images: np.ndarray) -> np.ndarray:
    """The same images, in memory column by column, as STL-10's are."""
    return np.ascontiguousarray(images.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)


def with_channels_last(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def second_halves(images: np.ndarray) -> np.ndarray:
    """The same images, each preceded in memory by another."""
    return np.stack([255 - images, images], axis=1)[:, 1]


LAYOUTS = [np.ascontiguousarray, by_columns, with_channels_last, second_halves]


@given(
    place=st.tuples(st.integers(0, 11), st.integers(0, 14)),
    size=st.integers(1, 9),
    flip=st.booleans(),
    image=st.integers(0, 11),
    layout=st.sampled_from(LAYOUTS),
)
@settings(max_examples=100)
def test_a_crop_is_the_slice_of_the_image(place, size, flip, image, layout):
    """However the images lie in memory."""
    (top, left), images = place, torch.from_numpy(layout(photographs().images))
    found = crop(
        images,
        torch.tensor([image]),
        top=torch.tensor([top]),
        left=torch.tensor([left]),
        flip=torch.tensor([flip]),
        size=size,
    )
    square = images[image, :, top : top + size, left : left + size]
    assert torch.equal(found[0], square.flip(-1) if flip else square)


def test_every_colour_has_the_gray_of_pil():
    """All 2^24 of them: an image for each red, with a row for each green."""
    colours = np.empty((256, 3, 256, 256), dtype=np.uint8)
    for channel, axes in enumerate([(1, 2), (0, 2), (0, 1)]):
        colours[:, channel] = np.expand_dims(np.arange(256), axes)
    gray = in_gray(Images(images=colours, labels={})).images
    for found, colour in zip(gray, colours, strict=True):
        expected = Image.fromarray(colour.transpose(1, 2, 0)).convert("L")
        assert np.array_equal(found[0], np.asarray(expected))


@pytest.mark.parametrize("at_a_time", [1, 5, 100])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_slices_and_layout_move_no_gray_pixel(layout, at_a_time, monkeypatch):
    """And no more images are converted at a time than a slice has pixels for."""
    sizes, whole = [], in_gray(photographs()).images
    luma = crops.luma
    monkeypatch.setattr(crops, "SLICE_PIXELS", at_a_time * 20 * 23 + 1)
    monkeypatch.setattr(crops, "luma", lambda pixels: sizes.append(len(pixels)) or luma(pixels))
    images = Images(images=layout(photographs().images), labels={})
    assert np.array_equal(in_gray(images).images, whole)
    assert max(sizes) == min(at_a_time, 12)
    assert sum(sizes) == 12


def test_an_image_larger_than_a_slice_is_converted_nevertheless(monkeypatch):
    monkeypatch.setattr(crops, "SLICE_PIXELS", 20 * 23 - 1)
    assert in_gray(photographs()).images.shape == (12, 1, 20, 23)


def test_in_gray_keeps_labels_and_gray_images_as_they_are():
    gray = in_gray(photographs())
    assert gray.labels["class"].tolist() == list(range(12))
    assert in_gray(gray) is gray


@pytest.mark.parametrize("settings_", [GRAY, COLOUR], ids=["gray", "colour"])
def test_resized_images_are_seen_whole_in_training_and_by_the_probe(settings_):
    """In a gray suite they are gray afterwards, as in a pipeline of torchvision."""
    examples = photographs(height=20, width=20)
    whole = batches(examples, size=9, resize=9, flip=False, **settings_)
    (epoch,) = batches(examples, size=9, resize=9, flip=False, batch_size=12, **settings_).epoch(0)
    probed = torch.cat([batch.inputs for batch in whole.in_order()])
    smaller = resize(torch.from_numpy(examples.images), side=9)
    small = prepared(replace(examples, images=smaller.numpy()), augmentation=whole.augmentation)
    expected = normalise(torch.from_numpy(small.images), augmentation=whole.augmentation)
    assert torch.equal(probed, expected)
    assert torch.equal(epoch.inputs, expected[epoch.labels["class"]])


def test_images_are_resized_once_and_in_slices(monkeypatch):
    augmentation = CropSettings(kind="crop", crop=9, resize=9, **COLOUR)
    resized = prepared(photographs(), augmentation=augmentation)
    assert resized.images.shape == (12, 3, 9, 10)
    assert resized.labels["class"].tolist() == list(range(12))
    assert prepared(resized, augmentation=augmentation) is resized
    monkeypatch.setattr(crops, "SLICE_PIXELS", 5 * 20 * 23)
    sliced = prepared(photographs(), augmentation=augmentation)
    assert np.array_equal(sliced.images, resized.images)


def test_normalised_images_have_mean_0_and_deviation_1_where_the_statistics_are_theirs():
    examples = photographs(channels=1)
    values = examples.images / 255
    whole = batches(
        examples, size=20, batch_size=12, mean=(float(values.mean()),), std=(float(values.std()),)
    )
    (batch,) = whole.in_order()
    assert batch.inputs.mean().item() == pytest.approx(0, abs=0.05)
    assert batch.inputs.std().item() == pytest.approx(1, abs=0.05)


# -- what is drawn -------------------------------------------------------------------------------


def test_crops_and_flips_differ_within_a_batch():
    """The same image many times over: each copy is cropped on its own."""
    image = photographs(number=1).images
    examples = Images(images=np.repeat(image, 64, axis=0), labels={})
    (batch,) = batches(examples, batch_size=64).epoch(1)
    assert len({inputs.numpy().tobytes() for inputs in batch.inputs}) > 40


def test_all_places_and_both_directions_are_drawn_alike():
    """Images whose pixels say where they are: column first, then row."""
    columns = np.broadcast_to(np.arange(6, dtype=np.uint8), (5, 6))
    rows = np.broadcast_to(np.arange(5, dtype=np.uint8)[:, None], (5, 6))
    places = np.stack([rows, columns, columns])
    examples = Images(images=np.repeat(places[None], 4000, axis=0), labels={})
    (batch,) = batches(examples, size=3, batch_size=4000, **PLAIN).epoch(1)
    pixels = batch.inputs.round().long()
    tops = pixels[:, 0, 0, 0].bincount()
    lefts = pixels[:, 1].amin(dim=(1, 2)).bincount()
    flips = (pixels[:, 1, 0, 0] > pixels[:, 1, 0, 2]).long().bincount()
    for counts, outcomes in ((tops, 3), (lefts, 4), (flips, 2)):
        assert len(counts) == outcomes
        assert counts.double().numpy() == pytest.approx(4000 / outcomes, rel=0.1)


def test_the_first_places_and_flips_of_a_stream_are_golden():
    """A change here moves every number that was ever measured: raise RESULTS_VERSION with it."""
    image, row, column = np.indices((12, 20, 23), dtype=np.uint8)
    examples = Images(images=np.stack([image, row, column], axis=1), labels={})
    batch = next(batches(examples, **PLAIN).epoch(1))
    pixels = batch.inputs.round().long()
    first = pixels[:, :, 0, 0].tolist()
    assert first == [[9, 11, 1], [11, 11, 19], [0, 4, 7], [1, 3, 12]]  # image, row, column
    assert (pixels[:, 2, 0, 0] > pixels[:, 2, 0, 8]).tolist() == [False, True, False, True]


def test_turning_flips_off_moves_no_crop():
    with_flips = torch.cat([b.inputs for b in batches().epoch(1)])
    without = torch.cat([b.inputs for b in batches(flip=False).epoch(1)])
    same = [torch.equal(a, b) for a, b in zip(with_flips, without, strict=True)]
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(with_flips, without, strict=True)]
    assert all(s or m for s, m in zip(same, mirrored, strict=True))
    assert any(same)
    assert not all(same)


def test_labels_follow_their_images():
    """The image's own number is painted on it."""
    number = np.arange(12, dtype=np.uint8)
    images = np.broadcast_to(number[:, None, None, None], (12, 1, 20, 20)).copy()
    examples = Images(images=images, labels={"class": number.astype(np.int64)})
    for batch in batches(examples, mean=(0.0,), std=(1 / 255,)).epoch(3):
        assert batch.inputs[:, 0, 0, 0].round().long().tolist() == batch.labels["class"].tolist()


def test_unlabelled_images_come_without_labels():
    examples = Images(images=photographs().images, labels={})
    assert all(batch.labels == {} for batch in batches(examples).epoch(1))


# -- in order ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 9, 20])
def test_in_order_shows_the_centre_crop_unflipped(size):
    examples = photographs()
    inputs = torch.cat([batch.inputs for batch in batches(size=size, batch_size=5).in_order()])
    for image in range(12):
        slow = slow_augment(
            examples.images[image],
            top=(20 - size) // 2,
            left=(23 - size) // 2,
            flip=False,
            size=size,
            **GRAY,
        )
        np.testing.assert_allclose(inputs[image].numpy(), slow, rtol=0, atol=1e-6)


# -- limits --------------------------------------------------------------------------------------


def test_a_crop_as_large_as_the_image_is_the_image():
    (batch,) = batches(photographs(height=20, width=20), size=20, batch_size=12).in_order()
    assert batch.inputs.shape == (12, 1, 20, 20)


@pytest.mark.parametrize("size", [21, 500])
def test_a_crop_larger_than_the_images_is_one_line(size):
    with pytest.raises(DataError) as caught:
        batches(size=size)
    message = str(caught.value)
    assert message.startswith(f"a crop of {size} pixels does not fit into the images, 20×23")
    assert "augmentation.crop" in message
    assert len(message.splitlines()) == 1
