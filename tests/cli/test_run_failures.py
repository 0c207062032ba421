"""Cells that fail, take too long or are interrupted during `run`."""

import errno
import json
import re

import pytest
import torch

from gim_bench.cells.run import run_cell
from gim_bench.records.folder import RunsFolder
from tests.alarms import LIMIT_SECONDS, over_once
from tests.cli.commands import PLAIN, statuses


@pytest.mark.usefixtures("misbehaving")
def test_a_cell_that_fails_is_exit_code_1_and_the_others_are_done(gim_bench, tmp_path):
    methods = ("broken", "diverging", "gim")
    answer = gim_bench(*PLAIN, *(part for name in methods for part in ("--method", name)))
    assert answer.code == 1
    assert statuses(tmp_path) == {
        ("broken", 0): "failed",
        ("diverging", 0): "failed",
        ("gim", 0): "done",
    }
    assert "broken seed 0 failed: RuntimeError: the forward pass fell over" in answer.err
    assert "diverging seed 0 failed: the loss of module_2 is nan" in answer.err
    assert answer.err.splitlines()[-1] == (
        "error: 2 cell(s) failed: broken seed 0, diverging seed 0"
    )
    assert "Traceback" not in answer.err
    assert re.search(r"^\| *gim\b", answer.out, re.MULTILINE)


@pytest.mark.usefixtures("misbehaving")
def test_a_failed_cell_is_tried_again_and_a_finished_one_is_not(gim_bench, tmp_path):
    command = (*PLAIN, "--method", "broken", "--method", "random_init")
    gim_bench(*command)
    again = gim_bench(*command)
    assert "1 of 2 cells are done already" in again.err
    assert "broken seed 0 failed" in again.err
    assert again.code == 1


@pytest.mark.parametrize(("measures_memory", "code"), [("true", 0), ("false", 1)])
def test_a_cell_that_does_not_fit_is_a_result_where_memory_is_measured_and_a_failure_elsewhere(
    measures_memory, code, gim_bench, monkeypatch
):
    def refuse(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr("gim_bench.cells.phases.build", refuse)
    monkeypatch.setattr("gim_bench.cli.workload.run_apart", run_cell)
    answer = gim_bench(*PLAIN, "--set", f"fresh_process={measures_memory}", "--json")
    assert answer.code == code
    for cell in json.loads(answer.out):
        assert (cell["status"], cell["fits"]) == ("failed", False)
        assert cell["error"] == "does not fit: CUDA out of memory. Tried to allocate 9 GiB"


@pytest.mark.usefixtures("misbehaving")
def test_a_cell_that_fails_for_another_reason_is_exit_code_1_where_memory_is_measured(
    gim_bench, monkeypatch
):
    monkeypatch.setattr("gim_bench.cli.workload.run_apart", run_cell)
    answer = gim_bench(*PLAIN, "--method", "broken", "--set", "fresh_process=true")
    assert answer.code == 1


def test_a_full_disk_is_one_line_and_exit_code_1(gim_bench, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "record.json")

    monkeypatch.setattr(RunsFolder, "save", full)
    answer = gim_bench(*PLAIN)
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    assert "No space left on device" in line
    assert "finished cells are kept" in line


def test_a_cell_that_takes_too_long_has_failed_and_the_next_one_runs(gim_bench, tmp_path):
    slow = ("--method", "gim", "--method", "random_init", "--set", "training.epochs=100000")
    with over_once(lambda: list(tmp_path.glob("runs/tiny/gim/*/losses.csv"))):
        answer = gim_bench(*PLAIN, *slow, "--cell-timeout", f"{LIMIT_SECONDS:g}")
    assert answer.code == 1
    assert f"gim seed 0 failed: took longer than --cell-timeout {LIMIT_SECONDS:g} s" in answer.err
    assert statuses(tmp_path) == {("gim", 0): "failed", ("random_init", 0): "done"}


@pytest.mark.parametrize("seconds", ["inf", "nan", "0", "1e9"])
def test_a_time_limit_that_no_clock_can_be_set_to_is_wrong_use(seconds, gim_bench, tmp_path):
    answer = gim_bench(*PLAIN, "--cell-timeout", seconds)
    assert answer.code == 2
    assert "'--cell-timeout'" in answer.err
    assert not (tmp_path / "runs").exists()


# -- interruptions ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("misbehaving")
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(gim_bench, tmp_path):
    command = (*PLAIN, "--method", "random_init", "--method", "interrupted", "--method", "gim")
    answer = gim_bench(*command)
    assert (answer.code, answer.out) == (130, "")
    assert answer.err.splitlines()[-1] == (
        "interrupted: 1 of 3 cells are done and kept; the same command resumes"
    )
    assert statuses(tmp_path) == {("random_init", 0): "done", ("interrupted", 0): "running"}
    assert "1 of 3 cells are done already" in gim_bench(*command).err


def test_ctrl_c_before_the_first_cell_is_exit_code_130(gim_bench, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gim_bench.datasets.images.photos.Photos.fingerprint", interrupt)
    answer = gim_bench(*PLAIN)
    assert (answer.code, answer.out) == (130, "")
    assert answer.err == "interrupted; finished cells are kept: run the same command again\n"
