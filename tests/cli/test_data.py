"""`data` prepares and verifies the data of a suite."""

import numpy as np
import pytest
from PIL import Image


def test_data_that_ship_with_a_package_are_ready_and_intact(gim_bench):
    assert gim_bench("data", "prepare", "--suite", "quickstart").out == (
        "the data of suite 'quickstart' is ready\n"
    )
    assert gim_bench("data", "verify", "--suite", "quickstart").out == (
        "the data of suite 'quickstart' is intact\n"
    )


# case 1
@pytest.mark.parametrize("command", ["prepare", "verify"])
def test_files_that_are_left_out_of_a_folder_are_counted_with_an_example(
    gim_bench, tmp_path, command
):
    draw, mine = np.random.default_rng(0), tmp_path / "mine"
    for place in ("train/a/0.png", "train/b/0.png", "test/a/0.png", "train/b/1.tif", "train/2.png"):
        (mine / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(256, size=(40, 40, 3), dtype=np.uint8)).save(mine / place)
    done = gim_bench("data", command, "--suite", "folder", "--data-dir", mine)
    assert (
        "left out: 1 file that is not read (.tif): train/b/1.tif; "
        "1 image beside the class folders: train/2.png\n"
    ) in done.err
