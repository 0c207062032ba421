"""A data set on a device: the batches of its cells, and the check that it can carry one."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from gim_bench.cells import bench as bench_module
from gim_bench.cells.bench import Bench
from gim_bench.contract import Dataset, Images, Modality, Recordings, Split, Target, label_frames
from gim_bench.datasets.images.crops import prepared
from gim_bench.errors import DataError
from tests.tiny_suite import (
    CPU,
    tiny_bench,
    tiny_cell,
    tiny_suite,
)

# -- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [Split.UNLABELLED, Split.TRAIN])
def test_every_method_sees_the_same_batches(split, suite, bench):
    first, second = (
        list(bench.batches(tiny_cell(suite, name), split).epoch(1)) for name in ("gim", "cpc")
    )
    assert len(first) == len(second) > 0
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("overrides", [(), ("augmentation.resize=24",)], ids=["gray", "resized"])
def test_an_image_split_is_prepared_once_for_all_cells_and_uses(overrides, tmp_path, monkeypatch):
    """Not by the check, which answers at once; training and the probe share one array."""
    converted = []

    def counted(images, **options):
        converted.append(images)
        return prepared(images, **options)

    monkeypatch.setattr(bench_module, "prepared", counted)
    suite = tiny_suite(tmp_path, *overrides)
    bench = tiny_bench(suite)
    for name in ("supervised", "gim"):
        bench.check(tiny_cell(suite, name).config)
    assert converted == []
    gray = [
        bench.batches(tiny_cell(suite, name), Split.TRAIN, held_out=held_out).images
        for name, held_out in (("supervised", 0.2), ("supervised", 0.0), ("gim", 0.0))
    ]
    assert len(converted) == 1
    side = suite.augmentation.resize or 26
    assert gray[0].shape == (32, 1, side, side)
    assert len({images.data_ptr() for images in gray}) == 1


def test_of_the_sizes_of_images_the_latest_alone_is_held(tmp_path):
    bench = tiny_bench(tiny_suite(tmp_path))
    for side in (24, 25, None, 26):
        option = () if side is None else (f"augmentation.resize={side}",)
        bench.batches(tiny_cell(tiny_suite(tmp_path, *option), "gim"), Split.TRAIN)
    assert {size for _, _, size in bench._prepared} == {None, 26}


def test_every_split_has_gray_images_of_its_own(suite, bench):
    cell = tiny_cell(suite, "gim")
    assert [len(bench.batches(cell, split).images) for split in Split] == [48, 32, 16]


def test_colour_images_are_the_data_sets_own(bench, tmp_path):
    statistics = ("augmentation.mean=[0.4,0.4,0.4]", "augmentation.std=[0.2,0.2,0.2]")
    suite = tiny_suite(tmp_path, "augmentation.grayscale=false", *statistics)
    images = bench.batches(tiny_cell(suite, "gim"), Split.TRAIN).images
    assert images.shape[1] == 3
    assert np.shares_memory(images.numpy(), bench.split(Split.TRAIN).images)


# -- the check ------------------------------------------------------------------------------------


class Invented(Dataset):
    """A data set of so many black images and classes."""

    def __init__(self, *, classes=2, size=26, labelled=("train", "test"), **images):
        self.classes = [str(c) for c in range(classes)]
        self.size, self.images = size, {"unlabelled": 40, "train": 40, "test": 4} | images
        self.labelled = labelled

    def prepare(self): ...

    def verify(self): ...

    def fingerprint(self):
        return "0" * 64

    def targets(self):
        return [Target(name="class", classes=self.classes)]

    def split(self, split):
        count = self.images[split]
        pixels = np.zeros((count, 1, self.size, self.size), np.uint8)
        labels = np.full(count, 0 if split in self.labelled else -1)
        return Images(images=pixels, labels={} if split is Split.UNLABELLED else {"class": labels})


class Mumbled(Invented):
    """Recordings of half a second, of which so many have phone labels."""

    modality = Modality.SPEECH

    def __init__(self, *, phones=2, **recordings):
        super().__init__(**{"labelled": {"train": 2, "test": 1}} | recordings)
        self.phones = phones

    def targets(self):
        return [
            Target(name="speaker", classes=["ann", "ben"]),
            Target(name="phone", classes=[str(p) for p in range(self.phones)], per_step=True),
        ]

    def split(self, split):
        count, length = self.images[split], 8_000
        phones = np.full((count, label_frames(length)), -1, dtype=np.int16)
        phones[count - self.labelled.get(split, 0) :, -1] = 1  # at the very end of the last ones
        return Recordings(
            samples=np.zeros(length, np.int16),
            starts=np.zeros(count, np.int64),
            lengths=np.full(count, length),
            labels={"speaker": np.zeros(count, np.int64)},
            frames={"phone": phones.reshape(-1)},
        )


@pytest.mark.parametrize(
    ("dataset", "complaint"),
    [
        ({"classes": 1}, "photos has 1 class(s): a probe needs at least two"),
        ({"unlabelled": 19}, "photos has 19 unlabelled images, fewer than one batch of 20: add "),
        ({"train": 7}, "photos has 7 train images, fewer than one batch of 20: add images, or "),
        ({"test": 0}, "photos has no test images: add some"),
        ({"size": 20}, "a crop of 24 pixels does not fit into the unlabelled images of photos"),
        ({"labelled": ["train"]}, "photos has 0 test image(s) with a class label where a probe "),
        ({"labelled": ["test"]}, "photos has 0 train image(s) with a class label where a probe "),
    ],
    ids=[
        "one class", "few to train on", "few labelled", "none to test on", "small images",
        "no label to test on", "no label to fit on",
    ],
)  # fmt: skip
def test_data_that_cannot_carry_a_cell_is_refused_before_training(dataset, complaint, suite, bench):
    other = Bench(Invented(**dataset), device=CPU, progress=bench.progress)
    with pytest.raises(DataError) as error:
        other.check(tiny_cell(suite, "gim").config)
    assert str(error.value).startswith(complaint)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("dataset", "complaint"),
    [
        ({"phones": 1}, "noise has 1 phone(s): a probe needs at least two"),
        ({"unlabelled": 3}, "noise has 3 unlabelled recordings, fewer than one batch of 4: add "),
        ({"train": 0}, "noise has 0 train recordings, fewer than one batch of 4: add recordings"),
        ({"test": 0}, "noise has no test recordings: add some"),
        (
            {"labelled": {"train": 1, "test": 1}},
            "noise has 1 train recording(s) with a phone label where a probe needs 2 or more: ",
        ),
        (
            {"labelled": {"train": 2}},
            "noise has 0 test recording(s) with a phone label where a probe needs 1 or more: ",
        ),
    ],
    ids=["one phone", "few to train on", "none labelled", "none to test on",
         "few phones to fit on", "no phones to test on"],
)  # fmt: skip
def test_speech_that_cannot_carry_a_cell_is_refused_before_training(
    dataset, complaint, speech_suite, speech_bench
):
    other = Bench(Mumbled(**dataset), device=CPU, progress=speech_bench.progress)
    with pytest.raises(DataError) as error:
        other.check(tiny_cell(speech_suite, "gim").config)
    assert str(error.value).startswith(complaint)
    assert "\n" not in str(error.value)


class Single(Invented):
    """Images each of which has a class of its own."""

    def split(self, split):
        found = super().split(split)
        labels = {name: np.arange(len(found)) for name in found.labels}
        return replace(found, labels=labels)


class SingleSpeakers(Mumbled):
    """Recordings each of which has a speaker of its own."""

    def split(self, split):
        found = super().split(split)
        return replace(found, labels={"speaker": np.arange(len(found))})


# case 10
def test_one_image_of_each_class_is_refused_before_training(suite, bench):
    other = Bench(Single(classes=40), device=CPU, progress=bench.progress)
    with pytest.raises(DataError, match="a single train image with a label for each class"):
        other.check(tiny_cell(suite, "gim").config)


# case 10
@pytest.mark.parametrize(("share", "fits"), [(0.05, True), (0.03, False)])
def test_a_share_of_one_label_a_class_is_refused_before_training(share, fits, tmp_path, bench):
    """Of 40 images of a class, 0.05 are two and 0.03 is one."""
    suite = tiny_suite(tmp_path, f"probe.labelled_fraction={share}")
    other = Bench(Invented(), device=CPU, progress=bench.progress)
    with nullcontext() if fits else pytest.raises(DataError, match="a single train image"):
        other.check(tiny_cell(suite, "gim").config)


# case 10
def test_one_recording_of_each_speaker_is_refused_before_training(speech_suite, speech_bench):
    other = Bench(SingleSpeakers(), device=CPU, progress=speech_bench.progress)
    with pytest.raises(DataError, match="label a second recording of one speaker or more"):
        other.check(tiny_cell(speech_suite, "gim").config)


def test_data_that_just_suffices_is_accepted(suite, bench):
    enough = Invented(unlabelled=20, train=20, test=1, size=24)
    Bench(enough, device=CPU, progress=bench.progress).check(tiny_cell(suite, "gim").config)


def test_speech_that_just_suffices_is_accepted(speech_suite, speech_bench):
    enough = Mumbled(unlabelled=4, train=4, test=1)
    other = Bench(enough, device=CPU, progress=speech_bench.progress)
    other.check(tiny_cell(speech_suite, "gim").config)


def test_too_little_held_out_is_one_line(tmp_path):
    """Of 48 images a tenth is 5, and a batch 20: nothing would be validated."""
    suite = tiny_suite(tmp_path, "training.held_out=0.1")
    with pytest.raises(DataError, match=r"held_out = 0.1 holds out 5 unlabelled image.* of 20"):
        tiny_bench(suite).check(tiny_cell(suite, "gim").config)
    tiny_bench(suite).check(tiny_cell(suite, "random_init").config)


def test_too_much_held_out_is_one_line(tmp_path):
    suite = tiny_suite(tmp_path, "training.held_out=0.9")
    with pytest.raises(DataError, match="48 unlabelled images, of which 5 are not held out"):
        tiny_bench(suite).check(tiny_cell(suite, "gim").config)
