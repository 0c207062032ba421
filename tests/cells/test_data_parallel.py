"""Cells whose batches are shared by processes."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gim_bench.cells import phases
from gim_bench.cells.data_parallel import rounds
from gim_bench.cells.estimate import estimate
from gim_bench.cells.resolve import configs
from gim_bench.cells.run import run_cell
from gim_bench.datasets.images.photos import Photos
from gim_bench.errors import ConfigError, DataError
from gim_bench.progress import Silence
from gim_bench.records.folder import RunsFolder
from gim_bench.records.metrics import describe
from gim_bench.records.record import Status
from gim_bench.training.audit import audit
from tests.cells.crews import Acting, At, end_all, interrupted_and_finished, workers_of_a_cell
from tests.cells.tiny_cells import same
from tests.cells.trainings import suite_in, trained_in
from tests.forked import forked_workers
from tests.tiny_suite import CPU, tiny_bench, tiny_cell

TWO, FIVE = "training.processes=2", "training.processes=5"
DROPOUT = "encoder={kind='vgg8b', width=2, hidden=4, stem='3x3'}"  # and batch norm


@pytest.fixture(scope="module", autouse=True)
def forked():
    with forked_workers():
        yield


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return trained_in(tmp_path_factory.mktemp("shared"), TWO)


def assert_equal(ours, theirs):
    """To the bit."""
    (record, weights), (other, others) = ours, theirs
    assert record.losses == other.losses
    assert all(same(weights, others))
    assert record.probe_curves == other.probe_curves


def assert_close(ours, theirs):
    """Up to rounding."""
    (record, weights), (other, others) = ours, theirs
    for row, expected in zip(record.losses, other.losses, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    for name, values in others.items():
        torch.testing.assert_close(weights[name], values, rtol=1e-4, atol=1e-5)


# -- the same numbers ------------------------------------------------------------------------------


def test_two_processes_train_images_as_one_does(shared, tmp_path):
    """Three modules, a rate that changes with every step, losses of held-out examples."""
    assert_close(shared, trained_in(tmp_path))
    assert shared[0].metrics["train/steps"] == 6


def test_modules_are_trained_one_after_the_other_by_two_processes(tmp_path):
    ours, theirs = (
        trained_in(tmp_path / name, *overrides, method="gim_iterative")
        for name, overrides in (("two", [TWO]), ("one", []))
    )
    assert_close(ours, theirs)
    assert ours[0].isolation.keys() == theirs[0].isolation.keys()


# -- the record ------------------------------------------------------------------------------------


def test_the_record_names_the_processes_and_their_peaks(shared):
    record, _ = shared
    assert record.config["training"]["processes"] == 2
    assert record.metrics["data_parallel/processes"] == 2
    peaks = [record.metrics[f"data_parallel/host_over_baseline_bytes/process_{n}"] for n in (1, 2)]
    assert min(peaks) > 0
    assert record.metrics["memory/host_over_baseline_bytes"] == max(peaks)
    assert "the highest of 2" in record.provenance["memory"]["training"]["host"]
    assert all(describe(name) for name in record.metrics)


def test_the_audit_has_the_examples_of_a_process_and_counts_those_of_all(tmp_path, monkeypatch):
    """A batch that two processes share may be too large for the one that audits."""
    audited = []

    def noted(trainer, batch, **counts):
        audited.append(len(batch.inputs))
        return audit(trainer, batch, **counts)

    monkeypatch.setattr(phases, "audit", noted)
    two, one = (trained_in(tmp_path / str(len(over)), *over)[0] for over in ([TWO], []))
    assert audited == [5, 10]
    assert two.isolation.keys() == one.isolation.keys()
    assert two.metrics["train/operations"] == one.metrics["train/operations"]


def test_the_plan_times_a_process_s_part_of_a_batch(tmp_path):
    suite = suite_in(tmp_path, TWO)
    found = estimate(tiny_cell(suite, "gim"), tiny_bench(suite))
    assert found.steps == 6
    assert found.remark == "2 processes share each batch; their exchange is not timed"


@pytest.mark.parametrize(
    ("processes", "threads", "expected"), [(2, 4, 1), (4, 4, 1), (4, 8, 2), (12, 4, 3), (3, 4, 1)]
)
def test_processes_and_threads_beyond_the_cores_take_turns(
    processes, threads, expected, monkeypatch
):
    monkeypatch.setattr("gim_bench.cells.data_parallel.cores", lambda: 4)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert rounds(processes, CPU) == expected
    assert rounds(processes, torch.device("cuda")) == 1


# -- interrupted -----------------------------------------------------------------------------------


def test_a_signal_stops_all_processes_and_the_same_command_ends_alike(tmp_path):
    """Each process goes on with its own dropout."""
    undisturbed = trained_in(tmp_path / "undisturbed", TWO, DROPOUT, method="greedy_supervised")
    suite, runs = suite_in(tmp_path, TWO, DROPOUT), RunsFolder(tmp_path / "runs")
    cell, bench = tiny_cell(suite, "greedy_supervised"), tiny_bench(suite)
    record = interrupted_and_finished(cell, bench, runs, at=At(2, end_all))
    assert record.provenance["resumed_at_step"] == [2]
    weights = load_file(runs.folder_of(record) / "encoder.safetensors")
    assert_equal((record, weights), undisturbed)


def test_a_killed_process_fails_the_cell_in_a_line_and_the_same_command_ends_alike(
    shared, tmp_path
):
    suite, runs = suite_in(tmp_path, TWO), RunsFolder(tmp_path / "runs")
    cell, bench = tiny_cell(suite, "gim"), tiny_bench(suite)
    bench.checkpoint_seconds = 0.0

    def kill():
        max(workers_of_a_cell(), key=lambda child: child.create_time()).kill()

    bench.progress = Acting(At(4, kill))
    record = run_cell(cell, bench, runs=runs)
    assert record.status is Status.FAILED
    assert record.error == (
        "process 2 of the 2 that share each batch was killed by SIGKILL (exit code -9), as by the "
        "system when memory is full: the same command resumes from the last checkpoint"
    )
    assert not workers_of_a_cell()
    bench.progress = Silence()
    record = run_cell(cell, bench, runs=runs)
    assert record.status is Status.DONE, record.error
    assert record.provenance["resumed_at_step"] == [3]
    assert_equal((record, load_file(runs.folder_of(record) / "encoder.safetensors")), shared)


class Elsewhere(Photos):
    """Cannot be read by any other process than the first."""

    def split(self, split):
        if multiprocessing.parent_process() is not None:
            raise DataError("the disk of the images is not there")
        return super().split(split)


def test_a_process_that_cannot_start_fails_the_cell_in_its_own_words(tmp_path):
    suite = suite_in(tmp_path, TWO)
    bench = tiny_bench(suite)
    options = bench.dataset.options
    bench.dataset = Elsewhere(options=options, data_dir=None, cache_dir=Path("unused"))
    record = run_cell(tiny_cell(suite, "gim"), bench, runs=RunsFolder(tmp_path / "runs"))
    assert record.status is Status.FAILED
    assert record.error == "the disk of the images is not there"
    assert not workers_of_a_cell()


# -- what does not go together ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["training.processes=0"], "training.processes"),
        (["training.processes=3"], "cannot share batches of 10 equally"),
        ([TWO, "training.schedule=pipeline"], "all units in every process"),
        ([TWO, "info_nce.negatives_within=4"], "gives 5 examples to each process"),
        ([FIVE, "info_nce.negatives_within=4"], "nor is a multiple of it that divides the batch"),
        ([TWO, "training.kept_outputs={}"], "leave out training.kept_outputs"),
        ([TWO, DROPOUT, "training.compile=true"], "leave out training.compile"),
        ([TWO, "inside={}"], r"\[inside\] looks at all modules"),
    ],
)
def test_what_does_not_go_together_is_one_line(overrides, said, tmp_path):
    with pytest.raises(ConfigError, match=said) as caught:
        configs(suite_in(tmp_path, *overrides), methods=["greedy_supervised", "gim"], device=CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("within", [1, 2, 10, 11])
def test_negatives_are_drawn_within_a_process_or_the_batch(within, tmp_path):
    """With five processes for ten examples; more than the batch is the whole batch."""
    suite = suite_in(tmp_path, FIVE, f"info_nce.negatives_within={within}")
    assert configs(suite, methods=["gim"], device=CPU)


@pytest.mark.parametrize(("device", "gpus"), [("cuda", 0), ("cuda:0", 1)])
def test_each_process_has_a_gpu_of_its_own(device, gpus, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ConfigError, match=f"there are {gpus} with --device {device}: use"):
        configs(suite_in(tmp_path, TWO), methods=["gim"], device=torch.device(device))
    assert configs(suite_in(tmp_path), methods=["gim"], device=torch.device(device))
    assert configs(suite_in(tmp_path, TWO), methods=["random_init"], device=torch.device(device))


def test_a_method_that_trains_nothing_needs_no_process(tmp_path):
    record, _ = trained_in(tmp_path, TWO, method="random_init")
    assert not any(name.startswith("data_parallel/") for name in record.metrics)
