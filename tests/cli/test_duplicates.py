"""Images that are in a folder more than once, from the command to the report."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import gim_bench, records

QUICK = ("--set", "probe.steps=20")
PIXELS = ("--method", "pixels", "--no-tracking")
SEEN = "SEEN IN TRAINING: 40 of 40 test images are also train images"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twenty images of noise for each of two classes, the same in train as in test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIM_BENCH_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for name in ("left", "top"):
        for number in range(20):
            path = tmp_path / "b" / "train" / name / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(256, size=(40, 40, 3), dtype=np.uint8)).save(path)
    shutil.copytree(tmp_path / "b" / "train", tmp_path / "b" / "test")
    return tmp_path / "b"


# case 3
def test_test_images_in_training_are_said_by_run_and_stand_beside_the_accuracy(folder, tmp_path):
    ran = gim_bench("run", "--suite", "folder", "--data-dir", "b", *PIXELS, *QUICK)
    assert ran.code == 0
    assert SEEN in ran.err
    (record,) = records(tmp_path)
    assert [note for note in record["provenance"]["data_notes"] if SEEN in note]
    for text in (ran.out, gim_bench("report", "--suite", "folder", *QUICK).out):
        _, _, below_the_title = text.partition("## Accuracy")
        assert SEEN in below_the_title.partition("\n## ")[0]


# case 3
@pytest.mark.parametrize("command", ["prepare", "verify"])
def test_test_images_in_training_are_said_with_the_data(folder, command):
    said = gim_bench("data", command, "--suite", "folder", "--data-dir", "b")
    assert said.code == 0
    assert said.err.count(SEEN) == 1
    assert "such as test/left/000.png (train/left/000.png)" in said.err


# case 3
@pytest.mark.parametrize("command", [("data", "verify"), ("run", *PIXELS)])
def test_one_image_in_two_classes_ends_a_command_with_one_line(folder, command):
    shutil.copy(folder / "train" / "left" / "003.png", folder / "train" / "top" / "odd.png")
    said = gim_bench(*command, "--suite", "folder", "--data-dir", "b")
    assert said.code == 2
    (line,) = (line for line in said.err.splitlines() if line.startswith("error: "))
    assert "3 images have a copy in another class" in line
    assert "train/left/003.png and train/top/odd.png" in line
