"""One cell from its start to its end: repeated, failed, interrupted, resumed."""

import os
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from gim_bench.cells import phases, table
from gim_bench.cells.run import run_cell
from gim_bench.progress import Silence
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from gim_bench.training.loop import fit
from tests.alarms import LIMIT_SECONDS, over_once
from tests.cells.tiny_cells import as_read
from tests.tiny_suite import (
    tiny_bench,
    tiny_cell,
    tiny_suite,
)

# -- finished -------------------------------------------------------------------------------------


def test_every_cell_is_done_and_its_record_is_on_disk(done, spoken, archive):
    for record in (*done.values(), *spoken.values()):
        assert (record.status, record.error) == (Status.DONE, None)
        assert archive.find(record.suite, record.method, seed=0, key=record.key) == as_read(record)


def test_an_encoder_that_was_altered_since_makes_its_record_unbelievable(done, archive):
    """One bit."""
    record = done["gim"]
    path = archive.folder_of(record) / "encoder.safetensors"
    content = path.read_bytes()
    identity = {"seed": record.seed, "key": record.key}
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert archive.find(record.suite, record.method, **identity) is None
    path.write_bytes(content)
    assert archive.find(record.suite, record.method, **identity) is not None


# -- repeating ------------------------------------------------------------------------------------


def test_the_same_cell_gives_the_same_numbers_bit_for_bit(suite, bench, done, tmp_path):
    again = run_cell(tiny_cell(suite, "gim"), bench, runs=RunsFolder(tmp_path))
    first = done["gim"]
    assert again.key == first.key
    assert again.losses == first.losses
    assert again.probe_curves == first.probe_curves
    timed = ("second", "memory", "calibration")
    timeless = {n for n in first.metrics if not any(word in n for word in timed)}
    assert {n: again.metrics[n] for n in timeless} == {n: first.metrics[n] for n in timeless}


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_the_same_cell_gives_the_same_numbers_with_two_threads(suite, bench, tmp_path):
    """Also where the other tests are run with one."""
    first, again = (
        run_cell(tiny_cell(suite, "gim"), bench, runs=RunsFolder(tmp_path / name))
        for name in ("first", "again")
    )
    assert first.provenance["threads"] == 2
    assert again.losses == first.losses
    assert again.probe_curves == first.probe_curves
    assert again.files == first.files


def test_the_same_cell_of_speech_gives_the_same_numbers_bit_for_bit(
    speech_suite, speech_bench, spoken, tmp_path
):
    for method in ("gim", "supervised"):
        again = run_cell(tiny_cell(speech_suite, method), speech_bench, runs=RunsFolder(tmp_path))
        first = spoken[method]
        assert again.losses == first.losses
        assert again.probe_curves == first.probe_curves
        accuracies = [name for name in first.metrics if "accuracy" in name]
        assert all(again.metrics[name] == first.metrics[name] for name in accuracies)


def test_another_seed_gives_other_losses_and_another_record(suite, bench, done, tmp_path):
    other = run_cell(tiny_cell(suite, "gim", seed=1), bench, runs=RunsFolder(tmp_path))
    assert other.losses != done["gim"].losses
    assert (other.seed, other.key != done["gim"].key) == (1, True)


# -- failing --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("misbehaving")
def test_an_error_nobody_foresaw_is_a_failed_record_with_a_log(suite, bench, tmp_path):
    runs = RunsFolder(tmp_path)
    record = run_cell(tiny_cell(suite, "broken"), bench, runs=runs)
    log = runs.folder_of(record) / "error.log"
    assert record.status is Status.FAILED
    assert record.error == f"RuntimeError: the forward pass fell over (traceback in {log})"
    assert "Traceback" in log.read_text()
    assert "in a second line" in log.read_text()
    assert runs.records("tiny")[0].error == record.error
    assert "finished_at" in record.provenance


@pytest.mark.usefixtures("misbehaving")
def test_an_error_that_cannot_be_printed_is_a_failed_record_that_can(bench, tmp_path):
    """And be read back, which no record with half a character can."""
    suite, runs = tiny_suite(tmp_path, 'methods=["unprintable"]'), RunsFolder(tmp_path / "runs")
    record = run_cell(tiny_cell(suite, "unprintable"), bench, runs=runs)
    assert record.error.startswith(r"RuntimeError: no file \x1b[31mcaf\udce9.jpg (traceback in ")
    assert [found.error for found in runs.records("tiny")] == [record.error]


@pytest.mark.usefixtures("misbehaving")
def test_a_diverging_cell_fails_in_one_line_without_a_log(suite, bench, tmp_path):
    runs = RunsFolder(tmp_path)
    record = run_cell(tiny_cell(suite, "diverging"), bench, runs=runs)
    assert record.status is Status.FAILED
    assert record.error.startswith("the loss of module_2 is nan at or shortly before step ")
    assert not (runs.folder_of(record) / "error.log").exists()


@pytest.mark.usefixtures("misbehaving")
def test_the_cell_after_a_failed_one_gives_what_it_always_gives(suite, bench, done, tmp_path):
    runs = RunsFolder(tmp_path)
    run_cell(tiny_cell(suite, "broken"), bench, runs=runs)
    assert run_cell(tiny_cell(suite, "gim"), bench, runs=runs).losses == done["gim"].losses


@pytest.mark.usefixtures("misbehaving")
def test_an_interruption_passes_through_and_leaves_a_running_record(suite, bench, tmp_path):
    runs = RunsFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_cell(tiny_cell(suite, "interrupted"), bench, runs=runs)
    (record,) = runs.records("tiny")
    assert record.status is Status.RUNNING


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ],
    ids=["gpu", "cpu"],
)
def test_what_does_not_fit_is_a_result(error, tmp_path, monkeypatch):
    suite = tiny_suite(tmp_path)

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(phases, "build", refuse)
    record = run_cell(
        tiny_cell(suite, "gim"), tiny_bench(suite), runs=RunsFolder(tmp_path / "runs")
    )
    assert record.status is Status.FAILED
    assert str(record.error).startswith("does not fit: ")
    assert not record.fits


@pytest.mark.usefixtures("misbehaving")
def test_another_failure_says_nothing_of_memory(suite, bench, tmp_path):
    record = run_cell(tiny_cell(suite, "broken"), bench, runs=RunsFolder(tmp_path))
    assert (record.status, record.fits) == (Status.FAILED, True)


def test_a_loss_that_is_not_finite_leaves_nothing_to_go_on_from(tmp_path):
    suite = tiny_suite(tmp_path, "training.learning_rate=1e30", "training.epochs=4")
    suite_bench = tiny_bench(suite)
    suite_bench.checkpoint_seconds = 0.0
    runs = RunsFolder(tmp_path / "runs")
    record = run_cell(tiny_cell(suite, "gim"), suite_bench, runs=runs)
    assert "lower training.learning_rate" in record.error
    assert not list(runs.root.glob("**/checkpoint*"))


# -- gone on with ---------------------------------------------------------------------------------


class Stopped(Silence):
    """Interrupts in the step of that number."""

    def __init__(self, step):
        self.left = step

    def task(self, title, *, total, unit):
        self.counts = "training" in title
        return self

    def advance(self, steps=1, **facts):
        self.left -= steps if self.counts else 0
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def interrupted_cell(cell, suite, runs, *, step):
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, tiny_bench(suite, progress=Stopped(step)), runs=runs)
    return list(runs.root.glob("**/checkpoint-*.pt"))


def test_an_interrupted_cell_ends_as_one_that_never_was(tmp_path):
    """Weights and numbers; what was measured of a part of its training is not given for all."""
    suite = tiny_suite(tmp_path, "training.epochs=3")
    cell = tiny_cell(suite, "gim")
    runs, others = RunsFolder(tmp_path / "runs"), RunsFolder(tmp_path / "others")
    assert interrupted_cell(cell, suite, runs, step=4)
    resumed = run_cell(cell, tiny_bench(suite), runs=runs)
    whole = run_cell(cell, tiny_bench(suite), runs=others)
    assert (resumed.losses, resumed.probe_curves) == (whole.losses, whole.probe_curves)
    weights = [load_file(r.folder_of(whole) / "encoder.safetensors") for r in (runs, others)]
    assert all(torch.equal(weights[0][name], w) for name, w in weights[1].items())
    assert resumed.provenance["resumed_at_step"] == [4]
    lost = whole.metrics.keys() - resumed.metrics.keys()
    assert lost == {"memory/host_peak_bytes", "memory/host_over_baseline_bytes"}
    assert "resumed after step 4" in resumed.provenance["memory"]["training"]["training"]
    assert not list(runs.root.glob("**/checkpoint*"))


def test_another_version_of_a_method_does_not_go_on_from_what_the_one_before_left(
    tmp_path, monkeypatch
):
    """Half a training each by two would be neither's."""
    suite, runs = tiny_suite(tmp_path), RunsFolder(tmp_path / "runs")
    cell = tiny_cell(suite, "gim")
    assert interrupted_cell(cell, suite, runs, step=1)
    monkeypatch.setattr("gim_bench.records.provenance.code_sha256", lambda *kinds: "f" * 64)
    assert "resumed_at_step" not in run_cell(cell, tiny_bench(suite), runs=runs).provenance


def test_an_interrupted_rerun_leaves_the_finished_record(tmp_path):
    suite, runs = tiny_suite(tmp_path), RunsFolder(tmp_path / "runs")
    cell = tiny_cell(suite, "gim")
    before = run_cell(cell, tiny_bench(suite), runs=runs)
    interrupted_cell(cell, suite, runs, step=1)
    assert as_read(before) in runs.records("tiny")


def test_an_interrupted_rerun_resumes_to_the_same_bits(tmp_path):
    """After any number of interruptions, between which the record is the old one, and swept."""
    suite, runs = tiny_suite(tmp_path, "training.epochs=3"), RunsFolder(tmp_path / "runs")
    cell = tiny_cell(suite, "gim")
    before = run_cell(cell, tiny_bench(suite), runs=runs)
    interrupted_cell(cell, suite, runs, step=2)
    runs.save_sweeps(before)
    interrupted_cell(cell, suite, runs, step=1)
    resumed = run_cell(cell, tiny_bench(suite), runs=runs)
    assert resumed.provenance["resumed_at_step"] == [3]
    assert (resumed.losses, resumed.files) == (before.losses, before.files)
    assert not list(runs.root.glob("**/checkpoint*"))


def test_a_rerun_does_not_resume_from_what_the_finished_run_left(tmp_path):
    """As a process that is killed before it clears its checkpoints."""
    suite, runs = tiny_suite(tmp_path), RunsFolder(tmp_path / "runs")
    cell = tiny_cell(suite, "gim")
    run_cell(cell, tiny_bench(suite), runs=runs)
    for checkpoint in interrupted_cell(cell, suite, runs, step=1):
        os.utime(checkpoint, (0, 0))
    assert "resumed_at_step" not in run_cell(cell, tiny_bench(suite), runs=runs).provenance


def test_a_rerun_that_is_interrupted_between_two_models_leaves_the_finished_record(
    speech_suite, speech_bench, tmp_path, monkeypatch
):
    """Even where the first model comes out otherwise, as on a GPU or after a change of the code."""
    runs, cell = RunsFolder(tmp_path), tiny_cell(speech_suite, "supervised")
    before = run_cell(cell, speech_bench, runs=runs)

    def otherwise(trainer, *arguments, **options):
        if "phone" in options["title"]:
            raise KeyboardInterrupt
        trained = fit(trainer, *arguments, **options)
        with torch.no_grad():
            next(trainer.learner.parameters()).add_(1)
        return trained

    monkeypatch.setattr(phases, "fit", otherwise)
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, speech_bench, runs=runs)
    assert table.found(cell, runs) == as_read(before)


def test_a_cell_that_takes_longer_than_it_may_is_a_failure_that_can_be_gone_on_with(tmp_path):
    """Its checkpoints stay, and with more time it ends as if nothing had been."""
    suite, runs = tiny_suite(tmp_path, "training.epochs=20"), RunsFolder(tmp_path / "runs")
    cell = tiny_cell(suite, "gim")
    checkpoints = "runs/tiny/gim/*/checkpoints/*.pt"

    class Dawdling(Silence):
        """Training goes on no further than to its first checkpoint."""

        def advance(self, steps=1, **facts):
            while list(tmp_path.glob(checkpoints)):
                time.sleep(0.01)

    bench = tiny_bench(suite, progress=Dawdling())
    bench.checkpoint_seconds, bench.cell_timeout = 0.0, LIMIT_SECONDS
    with over_once(lambda: list(tmp_path.glob(checkpoints))):
        late = run_cell(cell, bench, runs=runs)
    assert late.status is Status.FAILED
    assert late.error == f"took longer than --cell-timeout {LIMIT_SECONDS:g} s"
    assert list(tmp_path.glob(checkpoints))
    ended = run_cell(cell, tiny_bench(suite), runs=runs)
    fresh = run_cell(cell, tiny_bench(suite), runs=RunsFolder(tmp_path / "other"))
    assert "resumed_at_step" in ended.provenance
    assert ended.losses == fresh.losses
    assert ended.files == fresh.files


def test_a_disk_without_room_costs_no_checkpoint(tmp_path, monkeypatch):
    suite = tiny_suite(tmp_path, "training.schedule=sequential", "training.kept_outputs.epochs=1")
    cell, runs = tiny_cell(suite, "gim"), RunsFolder(tmp_path / "runs")
    there = interrupted_cell(cell, suite, runs, step=1)

    class Full:
        free = 0

    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda folder: Full)
        failed = run_cell(cell, tiny_bench(suite), runs=runs)
    assert "has room for 0.00 GB" in failed.error
    assert list(runs.root.glob("**/checkpoint-*.pt")) == there
    assert run_cell(cell, tiny_bench(suite), runs=runs).error is None
