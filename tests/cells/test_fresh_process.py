"""Cells in processes of their own."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from gim_bench.cells import fresh_process as apart
from gim_bench.cells.bench import maker_of
from gim_bench.cells.fresh_process import run_apart
from gim_bench.cells.run import run_cell
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from tests.alarms import LIMIT_SECONDS, over_once
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


BALLAST_BYTES = 600 * 10**6


@pytest.fixture(scope="module")
def apart_beside_ballast(tmp_path_factory):
    """The same cell apart three times: the last time this process holds BALLAST_BYTES more."""
    folder = tmp_path_factory.mktemp("apart")
    suite = tiny_suite(folder, "encoder.width=32")

    def record(number):
        runs = RunsFolder(folder / f"runs-{number}")
        return run_apart(tiny_cell(suite, "gim"), tiny_bench(suite), runs=runs)

    without = [record(number) for number in range(2)]
    held = np.ones(BALLAST_BYTES, dtype=np.uint8)
    beside = record(2)
    assert len(held) == BALLAST_BYTES
    return [*without, beside]


@pytest.mark.slow
def test_what_this_process_holds_is_no_part_of_a_cell_s_peak(apart_beside_ballast):
    """The peak of the same cell grows by less than half of the ballast."""
    peaks = [record.metrics["memory/host_peak_bytes"] for record in apart_beside_ballast]
    without, _, beside = peaks
    assert beside < without + BALLAST_BYTES / 2


@pytest.mark.slow
def test_peaks_of_the_same_cell_are_the_same(apart_beside_ballast):
    """To a tenth: the tiny cell trains in about 20 MB. The variable is not left behind."""
    peaks = [record.metrics["memory/host_over_baseline_bytes"] for record in apart_beside_ballast]
    assert max(peaks) < 1.1 * min(peaks)
    notes = apart_beside_ballast[0].provenance["memory"]["training"]
    assert "given back once free" in notes["host"]
    assert apart.MMAP_THRESHOLD not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize(
    ("life", "reason"),
    [(killed, "its process was killed by SIGKILL (exit code -9)"), (broken_off, "exit code 3")],
    ids=["killed", "broken off"],
)
def test_a_process_that_ends_without_a_result_is_a_failed_cell(
    life, reason, suite, runs, monkeypatch
):
    monkeypatch.setattr(apart, "_run", life)
    record = run_apart(tiny_cell(suite, "gim"), tiny_bench(suite), runs=runs)
    assert record.status is Status.FAILED
    assert reason in str(record.error)
    assert record.fits
    (kept,) = runs.records("tiny")
    assert (kept.status, kept.error) == (record.status, record.error)
    assert "finished_at" in kept.provenance  # it has ended, and is not tried again by itself


LIMIT = 2 * 10**9


@pytest.mark.parametrize(
    ("code", "limit", "kills", "fits"),
    [
        (-signal.SIGKILL, None, 1, False),
        (-signal.SIGKILL, None, 0, True),
        (-signal.SIGKILL, LIMIT, 0, True),
        (-signal.SIGABRT, LIMIT, 0, False),
        (-signal.SIGSEGV, LIMIT, 0, False),
        (-signal.SIGSEGV, None, 1, True),
        (apart.WITHOUT_MEMORY, None, 0, False),
        (-signal.SIGTERM, LIMIT, 1, True),
        (1, LIMIT, 1, True),
        (apart.WITHOUT_RECORD, LIMIT, 1, True),
    ],
)
def test_only_ends_for_lack_of_memory_say_that_a_cell_does_not_fit(code, limit, kills, fits):
    others = dict.fromkeys(("join", "kill", "terminate"), lambda *_: None)
    process = SimpleNamespace(exitcode=code, sentinel=0, **others)
    error, found = apart._why(process, memory_limit=limit, kills=kills)
    assert found is fits
    assert error.startswith("does not fit: its process ") is not fits
    assert ("at the limit of 2.00 GB" in error) is (not fits and limit is not None)


# The exit codes of errors, by their origin; without one, the error is raised.
CODES = {
    MemoryError: {"the data": apart.WITHOUT_MEMORY, "the cell": apart.WITHOUT_MEMORY},
    ValueError: {},
    OSError: {"the cell": apart.WITHOUT_RECORD},
}


@pytest.mark.parametrize("error", CODES)
@pytest.mark.parametrize("of", ["the data", "the cell"])
def test_an_error_is_of_memory_or_of_a_record_that_cannot_be_written_or_raised(
    of, error, suite, tmp_path, monkeypatch
):
    for name in ("terminate_as_interrupt", "forgive", "end_with_parent"):
        monkeypatch.setattr(apart, name, lambda: None)

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(apart, "run_cell", broken)
    code = CODES[error].get(of)
    with pytest.raises(error if code is None else SystemExit) as caught:
        apart._run(
            tiny_cell(suite, "gim"),
            broken if of == "the data" else maker_of(tiny_bench(suite).dataset),
            device="cpu",
            runs=tmp_path,
            checkpoint_seconds=60,
            memory_limit=None,
            live_seconds=10,
            devices=(),
        )
    assert getattr(caught.value, "code", None) == code


@pytest.mark.slow
def test_a_record_that_cannot_be_written_is_said_in_a_line(runs, tmp_path, capfd):
    """Files may not grow beyond a size that this process's short record of the failure has."""
    suite = tiny_suite(tmp_path, "training.epochs=40")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 * 1024, hard))
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
    bench.checkpoint_seconds, bench.cell_timeout = 0.0, LIMIT_SECONDS
    checkpoints = "runs/tiny/gim/*/checkpoints/*.pt"
    before = set(multiprocessing.active_children())
    with over_once(lambda: list(tmp_path.glob(checkpoints))):
        record = run_apart(tiny_cell(suite, "gim"), bench, runs=runs)
    assert (record.status, record.error) == (
        Status.FAILED,
        f"took longer than --cell-timeout {LIMIT_SECONDS:g} s",
    )
    assert set(multiprocessing.active_children()) == before
    assert list(tmp_path.glob(checkpoints))


PARENT = """
from pathlib import Path
from gim_bench.cells.fresh_process import run_apart
from gim_bench.records.folder import RunsFolder
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
            assert parent.poll() is None
            time.sleep(0.1)
        (child,) = (
            found
            for found in psutil.Process(parent.pid).children()
            if "spawn_main" in " ".join(found.cmdline())
        )
        parent.kill()
    child.wait(timeout=300)
