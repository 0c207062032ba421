"""Cells in processes of their own."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from gim_bench.cells import fresh_process as apart
from gim_bench.cells.fresh_process import run_apart
from gim_bench.cells.run import run_cell
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from tests.tiny_suite import tiny_bench, tiny_cell, tiny_suite


def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def broken_off(*_, **__):
    sys.exit(3)


@pytest.mark.slow
def test_a_cell_apart_has_the_accuracies_and_losses_of_a_cell_here(suite, runs, tmp_path):
    cell = tiny_cell(suite, "gim")
    there = run_apart(cell, tiny_bench(suite), runs=runs)
    here = run_cell(cell, tiny_bench(suite), runs=RunsFolder(tmp_path / "here"))
    assert there.status is Status.DONE, there.error
    assert there.losses == here.losses
    accuracies = {name: x for name, x in here.metrics.items() if "accuracy" in name}
    assert {name: there.metrics[name] for name in accuracies} == accuracies


@pytest.mark.slow
def test_what_this_process_holds_is_no_part_of_a_cell_s_peak(suite, runs):
    """A gigabyte is held here, and the cell apart takes less than that in all."""
    held = np.ones(10**9, dtype=np.uint8)
    record = run_apart(tiny_cell(suite, "gim"), tiny_bench(suite), runs=runs)
    assert len(held) == 10**9
    assert 0 < record.metrics["memory/host_peak_bytes"] < 10**9
    assert record.metrics["memory/host_over_baseline_bytes"] < 0.5e9


@pytest.mark.slow
def test_peaks_of_the_same_cell_are_the_same(suite, runs):
    """To a tenth: the tiny cell trains in about 20 MB. The variable is not left behind."""
    cell = tiny_cell(suite, "gim")
    records = [run_apart(cell, tiny_bench(suite), runs=runs) for _ in range(3)]
    peaks = [record.metrics["memory/host_over_baseline_bytes"] for record in records]
    assert max(peaks) < 1.1 * min(peaks)
    assert "given back once free" in records[0].provenance["memory"]["training"]["host"]
    assert apart.MMAP_THRESHOLD not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize(
    ("life", "reason"),
    [(killed, "does not fit: the process was killed"), (broken_off, "exit code 3")],
    ids=["killed", "broken off"],
)
def test_a_process_that_ends_without_a_result_is_a_failed_cell(
    life, reason, suite, runs, monkeypatch
):
    monkeypatch.setattr(apart, "_run", life)
    record = run_apart(tiny_cell(suite, "gim"), tiny_bench(suite), runs=runs)
    assert record.status is Status.FAILED
    assert reason in str(record.error)
    assert record.fits is (life is broken_off)
    (kept,) = runs.records("tiny")
    assert (kept.status, kept.error) == (record.status, record.error)


@pytest.mark.slow
def test_a_record_that_cannot_be_written_is_said_in_a_line(runs, tmp_path, capfd):
    """Files may not grow beyond a size that this process's short record of the failure has."""
    suite = tiny_suite(tmp_path, "training.epochs=40")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 1024, hard))
    try:
        record = run_apart(tiny_cell(suite, "gim"), tiny_bench(suite), runs=runs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert record.error == "cannot be written: its record; is there room on the disk?"
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_finished_record_of_before_does_not_pass_for_a_process_that_was_killed(
    suite, runs, monkeypatch
):
    """As with --rerun."""
    cell, bench = tiny_cell(suite, "gim"), tiny_bench(suite)
    assert run_cell(cell, bench, runs=runs).status is Status.DONE
    monkeypatch.setattr(apart, "_run", killed)
    assert run_apart(cell, bench, runs=runs).status is Status.FAILED


@pytest.mark.slow
def test_a_cell_apart_that_takes_too_long_is_a_failure_and_its_process_is_gone(runs, tmp_path):
    suite = tiny_suite(tmp_path, "training.epochs=100000")
    bench = tiny_bench(suite)
    bench.cell_timeout = 15.0
    before = set(multiprocessing.active_children())
    record = run_apart(tiny_cell(suite, "gim"), bench, runs=runs)
    assert (record.status, record.error) == (
        Status.FAILED,
        "took longer than --cell-timeout 15 s",
    )
    assert set(multiprocessing.active_children()) == before
    assert list(tmp_path.glob("runs/tiny/gim/*/checkpoints/*.pt"))


PARENT = """
from pathlib import Path
from gim_bench.apart import run_apart
from gim_bench.store import RunsFolder
from tests.tiny_suite import tiny_bench, tiny_cell, tiny_suite

if __name__ == "__main__":
    folder = Path("{folder}")
    suite = tiny_suite(folder, "training.epochs=100000")
    run_apart(tiny_cell(suite, "gim"), tiny_bench(suite), runs=RunsFolder(folder / "runs"))
"""


@pytest.mark.slow
def test_a_cell_apart_ends_with_the_process_that_began_it(tmp_path):
    """Or it would be trained by two, once somebody has taken it over."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(folder=tmp_path))
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": str(root)}
    ) as parent:
        while not list(tmp_path.glob("runs/tiny/gim/*/losses.csv")):
            time.sleep(0.1)
        (child,) = (
            found
            for found in psutil.Process(parent.pid).children()
            if "spawn_main" in " ".join(found.cmdline())
        )
        parent.kill()
    child.wait(timeout=60)
