"""`patches` draws the test patches that excite neurons most."""

import torch
from torch import nn

from gim_bench.cells.frozen import frozen
from tests.cli.commands import REPORT

PATCHES = ("patches", "--suite", "./tiny.toml", "--no-tracking", "--neurons", "2", "--patches", "3")


def test_pictures_of_finished_cells_are_drawn_and_stand_in_the_report(
    finished, gim_bench, tmp_path
):
    answer = gim_bench(*PATCHES)
    assert answer.code == 0
    files = answer.out.split()
    assert len(files) == 4  # two methods with two modules each
    assert all((tmp_path / file).is_file() for file in files)
    text = gim_bench(*REPORT).out
    assert all(f"(file: {file})" in text for file in files)


def test_pictures_are_drawn_with_the_threads_of_a_run(finished, gim_bench, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    asked = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    assert gim_bench(*PATCHES).code == 0
    assert asked == [3]


def test_without_finished_cells_the_command_says_what_to_run_first(gim_bench):
    answer = gim_bench(*PATCHES)
    assert answer.code == 2
    assert "left out: gim seed 0: not finished with these settings" in answer.err
    assert "first run python -m gim_bench run --suite ./tiny.toml" in answer.err


def test_a_cell_that_is_not_finished_is_named_beside_the_pictures_of_the_others(
    finished, gim_bench
):
    answer = gim_bench(*PATCHES, "--seeds", "2")
    assert answer.code == 1
    assert "left out: gim seed 1: not finished with these settings" in answer.err
    assert len(answer.out.split()) == 4


def test_a_cell_whose_encodings_are_not_finite_is_named_and_the_command_fails(
    finished, gim_bench, monkeypatch
):
    def broken(cell, *args, **options):
        learner = frozen(cell, *args, **options)
        if cell.config.method.name == "gim":
            for weights in learner.encoder.parameters():
                nn.init.constant_(weights, torch.nan)
        return learner

    monkeypatch.setattr("gim_bench.cells.patches.frozen", broken)
    answer = gim_bench(*PATCHES)
    assert answer.code == 1
    assert "left out: gim seed 0: its encodings are not finite" in answer.err
    assert len(answer.out.split()) == 2


def test_a_row_without_a_grid_is_named_and_is_no_failure(gim_bench):
    rows = ("--method", "random_init", "--method", "pixels")
    assert gim_bench("run", *PATCHES[1:4], *rows).code == 0
    answer = gim_bench(*PATCHES, *rows)
    assert answer.code == 0
    assert "left out: pixels seed 0 has no encoder with a grid of places" in answer.err


def test_a_suite_of_speech_is_refused_before_its_data_are_made(gim_bench):
    answer = gim_bench("patches", "--suite", "quickstart-audio", "--no-tracking")
    assert answer.code == 2
    assert "quickstart-audio is a suite of speech" in answer.err
    assert "speaking" not in answer.err


def test_a_suite_of_large_images_is_refused(gim_bench):
    answer = gim_bench("patches", "--suite", "larger-than-memory", "--no-tracking")
    assert answer.code == 2
    assert "larger-than-memory is a suite of large images" in answer.err
