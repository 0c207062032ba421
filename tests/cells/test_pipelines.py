"""Cells whose units are trained in processes of their own."""

import copy
import os
import random
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gim_bench.cells import phases, pipelines
from gim_bench.cells.build import build, models_of
from gim_bench.cells.fresh_process import run_apart
from gim_bench.cells.outcome import begun
from gim_bench.cells.pipelines import (
    Prediction,
    check_devices_of_workers,
    is_pipelined,
    pipelined_trainer_of,
    predict,
    workers_of,
)
from gim_bench.cells.resolve import configs
from gim_bench.cells.run import run_cell
from gim_bench.contract import Split
from gim_bench.datasets.images.photos import Photos
from gim_bench.errors import ConfigError, DataError
from gim_bench.progress import Silence
from gim_bench.records.folder import RunsFolder
from gim_bench.records.metrics import describe
from gim_bench.records.record import Status
from gim_bench.training.checkpoints import Checkpoints
from tests.cells.crews import (
    Acting,
    At,
    end_all,
    interrupted_and_finished,
    workers_of_a_cell,
)
from tests.cells.tiny_cells import same
from tests.cells.trainings import assert_equal, suite_in, trained_in
from tests.forked import forked_workers, spawned_workers
from tests.tiny_suite import (
    CPU,
    noise_registered,
    tiny_bench,
    tiny_cell,
)

PIPELINE = "training.schedule=pipeline"


@pytest.fixture(scope="module", autouse=True)
def forked():
    """Most tests need no workers that import everything anew."""
    with forked_workers():
        yield


# -- the same numbers ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interleaved(tmp_path_factory):
    return trained_in(tmp_path_factory.mktemp("interleaved"))


@pytest.fixture(scope="module")
def pipelined(tmp_path_factory):
    with spawned_workers():
        return trained_in(tmp_path_factory.mktemp("pipelined"), PIPELINE)


def test_three_processes_train_images_to_the_bits_of_one(pipelined, interleaved):
    assert_equal(pipelined, interleaved)
    assert pipelined[0].metrics["pipeline/workers"] == 3


def test_two_processes_share_three_units_in_bf16_to_the_bits_of_one(tmp_path):
    precision = "training.precision=bf16"
    two = trained_in(tmp_path / "two", PIPELINE, "training.workers=2", precision)
    assert_equal(two, trained_in(tmp_path / "one", precision))
    assert two[0].metrics["pipeline/workers"] == 2
    measured = [n for n in two[0].metrics if n.startswith("pipeline/idle_share/")]
    assert measured == ["pipeline/idle_share/module_2", "pipeline/idle_share/module_3"]


@pytest.mark.slow
def test_six_processes_train_speech_to_the_bits_of_one(tmp_path):
    with noise_registered():
        six, one = (
            trained_in(tmp_path / name, *schedule, speech=True)
            for name, schedule in (("six", [PIPELINE]), ("one", []))
        )
    assert_equal(six, one)
    assert six[0].metrics["pipeline/workers"] == 6


@pytest.mark.slow
def test_labels_go_up_with_the_activations(tmp_path):
    """Every unit of greedy_supervised needs them, and several views go up side by side."""
    ours, theirs = (
        trained_in(tmp_path / name, *schedule, method="greedy_supervised")
        for name, schedule in (("pipeline", [PIPELINE]), ("one", []))
    )
    assert_equal(ours, theirs)


def test_a_method_with_one_unit_needs_no_worker(tmp_path):
    record, _ = trained_in(tmp_path, PIPELINE, method="cpc")
    assert not any(name.startswith("pipeline/") for name in record.metrics)


def test_an_epoch_that_ends_early_ends_like_any_other(tmp_path):
    """As many steps as the unlabelled images give, 6, in epochs of 4 and 2 labelled batches."""
    settings = (
        "training.budget=steps",
        "training.held_out=0",
        "training.epochs=1",
        "training.batch_size=8",
        "training.rate_schedule={kind='constant'}",
    )
    ours, theirs = (
        trained_in(tmp_path / name, *settings, *schedule, method="greedy_supervised")
        for name, schedule in (("pipeline", [PIPELINE]), ("one", []))
    )
    assert ours[0].metrics["train/steps"] == 6
    assert_equal(ours, theirs)


# -- what is measured ------------------------------------------------------------------------------


def test_workers_tell_what_they_hand_on_and_how_long_they_wait(pipelined):
    """24 pixels make 5×5 patches; a module of width 2 hands on 8 channels of 8×8 floats each."""
    metrics = pipelined[0].metrics
    handed = {n: x for n, x in metrics.items() if n.startswith("pipeline/bytes_per_sample/")}
    per_training_sample = 25 * 8 * 8 * 8 * 4
    assert handed["pipeline/bytes_per_sample/module_1"] == per_training_sample
    assert handed["pipeline/bytes_per_sample/module_3"] == 0
    for module in (1, 2, 3):
        assert 0 <= metrics[f"pipeline/idle_share/module_{module}"] < 1
        assert metrics[f"pipeline/host_over_baseline_bytes/module_{module}"] > 0
    assert metrics["pipeline/seconds_without_batch/module_1"] == 0
    assert metrics["pipeline/seconds_without_room/module_3"] == 0
    assert all(describe(name) for name in metrics)


def test_the_peak_of_a_pipelined_cell_is_its_largest_worker_s(pipelined):
    record, _ = pipelined
    name = "host_over_baseline_bytes"
    workers = [record.metrics[f"pipeline/{name}/module_{m}"] for m in (1, 2, 3)]
    assert record.metrics[f"memory/{name}"] == max(workers)
    assert "the highest of 3" in record.provenance["memory"]["training"]["host"]


LONG = "training.epochs=100"  # workers run ahead, and are to be killed before they are done


@pytest.fixture(scope="module")
def long_interleaved(tmp_path_factory):
    return trained_in(tmp_path_factory.mktemp("long"), LONG)


# -- interrupted -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 4])
def test_a_signal_stops_all_workers_after_one_step_and_the_same_command_ends_alike(
    number, interleaved, tmp_path
):
    suite, runs = suite_in(tmp_path, PIPELINE), RunsFolder(tmp_path / "runs")
    cell, bench = tiny_cell(suite, "gim"), tiny_bench(suite)
    at = At(number, lambda: os.kill(os.getpid(), signal.SIGINT))
    record = interrupted_and_finished(cell, bench, runs, at=at)
    assert record.provenance["resumed_at_step"][0] >= number
    assert_equal((record, load_file(runs.folder_of(record) / "encoder.safetensors")), interleaved)


@pytest.mark.slow
def test_a_signal_to_all_processes_stops_after_a_checkpoint_as_well(long_interleaved, tmp_path):
    """As `timeout`, a scheduler or a terminal that hangs up sends it."""
    suite, runs = suite_in(tmp_path, PIPELINE, LONG), RunsFolder(tmp_path / "runs")
    cell, bench = tiny_cell(suite, "gim"), tiny_bench(suite)
    record = interrupted_and_finished(cell, bench, runs, at=At(5, end_all))
    assert record.provenance["resumed_at_step"][0] >= 5
    assert_equal(
        (record, load_file(runs.folder_of(record) / "encoder.safetensors")), long_interleaved
    )


def test_a_training_that_is_over_is_not_lost_with_its_probes(interleaved, tmp_path, monkeypatch):
    suite, runs = suite_in(tmp_path, PIPELINE), RunsFolder(tmp_path / "runs")
    cell, bench = tiny_cell(suite, "gim"), tiny_bench(suite)
    bench.checkpoint_seconds = 0.0

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(phases, "probe", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_cell(cell, bench, runs=runs)
    record = run_cell(cell, bench, runs=runs)
    assert record.status is Status.DONE, record.error
    assert record.provenance["resumed_at_step"] == [6]
    assert not any(name.startswith("pipeline/") for name in record.metrics)
    assert_equal((record, load_file(runs.folder_of(record) / "encoder.safetensors")), interleaved)


def checkpoints_of(folder, monkeypatch, *overrides):
    """{(steps of the training, of the epoch): state of the trainer} of every checkpoint."""
    kept = {}

    def keep(self, state):
        standing = state["standing"]
        kept[standing["done"], standing["epoch_steps"]] = copy.deepcopy(state["trainer"])

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", keep)
        trained_in(folder, *overrides, checkpoint_seconds=0.0)
    return kept


def test_checkpoints_hold_all_modules_after_the_same_step(tmp_path, monkeypatch):
    """Each is that of one process after that step: weights, moments, and negatives to come.

    Every epoch has one step, after which the evaluation draws negatives, too.
    """
    settings = ("training.epochs=40", "training.batch_size=24")
    ours, theirs = (
        checkpoints_of(tmp_path / name, monkeypatch, *settings, *schedule)
        for name, schedule in (("pipeline", [PIPELINE]), ("one", []))
    )
    assert len(theirs) == 2 * 40  # after every step, and after every evaluation
    assert ours.keys() <= theirs.keys()
    assert (40, 0) in ours
    assert any(of_epoch for _, of_epoch in ours)  # after a step that was marked, not at an end
    for moment, state in ours.items():
        expected = theirs[moment]
        assert all(same(state["learner"], expected["learner"]))
        assert state["optimisers"].keys() == expected["optimisers"].keys()
        for unit, of_unit in state["optimisers"].items():
            moments = expected["optimisers"][unit]["state"]
            assert of_unit["state"].keys() == moments.keys() != set()
            assert all(all(same(of_unit["state"][n], moments[n])) for n in moments)
        for unit in of_units(expected):
            assert torch.equal(state["generators"][unit], expected["generators"][unit])


def of_units(state):
    return [name for name in state["generators"] if name.startswith("module_")]


def assert_ends_as(undisturbed, cell, bench, runs):
    """The same command, which nothing disturbs now, resumes and ends to the bit."""
    bench.progress = Silence()
    record = run_cell(cell, bench, runs=runs)
    assert record.status is Status.DONE, record.error
    assert record.provenance["resumed_at_step"][0] > 0
    assert_equal((record, load_file(runs.folder_of(record) / "encoder.safetensors")), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("worker", [0, 2])
def test_a_killed_worker_fails_the_cell_in_a_line_and_the_same_command_ends_alike(
    worker, long_interleaved, tmp_path
):
    suite, runs = suite_in(tmp_path, PIPELINE, LONG), RunsFolder(tmp_path / "runs")
    cell, bench = tiny_cell(suite, "gim"), tiny_bench(suite)
    bench.checkpoint_seconds = 0.0

    def kill():
        oldest = sorted(workers_of_a_cell(), key=lambda child: child.create_time())
        oldest[worker].kill()

    bench.progress = Acting(At(9, kill))
    record = run_cell(cell, bench, runs=runs)
    assert record.status is Status.FAILED
    assert record.error == (
        f"worker {worker + 1} (module_{worker + 1}) of the pipeline was killed by SIGKILL (exit "
        f"code -9), as by the system when memory is full: the same command resumes from the last "
        f"checkpoint"
    )
    assert not workers_of_a_cell()
    assert_ends_as(long_interleaved, cell, bench, runs)


@pytest.mark.slow
def test_twenty_killed_workers_leave_the_bits_of_an_undisturbed_training(
    long_interleaved, tmp_path
):
    suite, runs = suite_in(tmp_path, PIPELINE, LONG), RunsFolder(tmp_path / "runs")
    cell, bench = tiny_cell(suite, "gim"), tiny_bench(suite)
    bench.checkpoint_seconds = 0.0
    draw = random.Random(0)
    for _ in range(20):
        at = At(draw.randint(1, 5), lambda: draw.choice(workers_of_a_cell()).kill())
        bench.progress = Acting(at)
        record = run_cell(cell, bench, runs=runs)
        assert "of the pipeline was killed by SIGKILL" in str(record.error)
        assert not workers_of_a_cell()
    assert_ends_as(long_interleaved, cell, bench, runs)


class Elsewhere(Photos):
    """Cannot be read by any other process than the first."""

    def split(self, split):
        if os.getppid() == int(os.environ["TEST_PARENT"]):
            raise DataError("the disk of the images is not there")
        return super().split(split)


def test_a_worker_that_cannot_start_fails_the_cell_in_its_own_words(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_PARENT", str(os.getpid()))
    suite, runs = suite_in(tmp_path, PIPELINE), RunsFolder(tmp_path / "runs")
    bench = tiny_bench(suite)
    there = bench.dataset
    bench.dataset = Elsewhere(options=there.options, data_dir=None, cache_dir=Path("unused"))
    with spawned_workers():
        record = run_cell(tiny_cell(suite, "gim"), bench, runs=runs)
    assert record.status is Status.FAILED
    assert record.error == "the disk of the images is not there"
    assert not workers_of_a_cell()


def test_a_loss_that_is_not_finite_fails_the_cell_and_ends_the_workers(tmp_path):
    suite = suite_in(tmp_path, PIPELINE, "training.learning_rate=1e30")
    record = run_cell(tiny_cell(suite, "gim"), tiny_bench(suite), runs=RunsFolder(tmp_path / "r"))
    assert record.status is Status.FAILED
    assert "lower training.learning_rate" in str(record.error)
    assert not workers_of_a_cell()


@pytest.mark.slow
def test_a_pipeline_runs_in_a_cell_s_own_process(interleaved, tmp_path):
    suite, runs = suite_in(tmp_path, PIPELINE), RunsFolder(tmp_path / "runs")
    record = run_apart(tiny_cell(suite, "gim"), tiny_bench(suite), runs=runs)
    assert record.status is Status.DONE, record.error
    assert record.losses == interleaved[0].losses
    deadline = time.monotonic() + 10
    while workers_of_a_cell() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not workers_of_a_cell()


# -- predicted -------------------------------------------------------------------------------------


def predicted(seconds, *, at_once, devices=(), lasting=None):
    return Prediction(
        shares=[["module_1"], ["module_2"], ["module_3"]],
        seconds_of=seconds,
        lasting=lasting or seconds,
        at_once=at_once,
        devices=devices,
    )


def test_a_step_takes_as_long_as_the_slowest_worker_where_there_is_room_for_all():
    assert predicted([1.0, 2.0, 3.0], at_once=3).seconds == 3.0
    assert predicted([1.0, 2.0, 3.0], at_once=8).seconds == 3.0
    assert predicted([1.0, 2.0, 3.0], at_once=1).seconds == 6.0
    assert predicted([2.0, 2.0, 2.0], at_once=2).seconds == 3.0


@pytest.mark.parametrize(
    ("gpus", "seconds"), [((0, 1, 0), 4.0), ((0, 0, 1), 5.0), ((0, 1, 2), 3.0), ((1, 1, 1), 7.0)]
)
def test_a_gpu_has_all_the_steps_of_its_workers(gpus, seconds):
    devices = [f"cuda:{number}" for number in gpus]
    assert predicted([2.0, 3.0, 2.0], at_once=len({*gpus}), devices=devices).seconds == seconds


@pytest.mark.parametrize("devices", [(), ["cuda:0"] * 3])
@pytest.mark.parametrize(("lasting", "seconds"), [(8.0, 8.0), (4.0, 6.0)])
def test_a_worker_that_is_slowed_down_delays_all_and_takes_no_more_of_the_hardware(
    devices, lasting, seconds
):
    found = predicted([2.0] * 3, at_once=1, devices=devices, lasting=[2.0, lasting, 2.0])
    assert found.seconds == seconds
    assert str(found).endswith("the slowest trains module_2, 33% of the work, slowed down")


def test_the_plan_names_the_slowest_worker():
    assert str(predicted([1.0, 2.0, 5.0], at_once=2)) == (
        "3 workers, 2 at once; the slowest trains module_3, 62% of the work"
    )


def test_the_plan_times_every_share_on_what_the_share_below_hands_on(tmp_path, monkeypatch):
    """Made-up times: 1 s for the batch, then 2, 3 and 4 s for the shares, the first step aside.

    The sleep of a slowdown is so many times the step, without the batch.
    """
    lasted = iter([0.1, 9.0, 9.0, 9.0, *([1.0, 2.0, 3.0, 4.0] * 3), 0.1])
    monkeypatch.setattr(pipelines, "timed", lambda device: nullcontext([next(lasted)]))
    slowed = "training.buffer={slowdown={module_1=5.0, module_3=1.5}}"
    suite = suite_in(tmp_path, PIPELINE, slowed, "training.held_out=0")
    cell, bench = tiny_cell(suite, "gim"), tiny_bench(suite)
    learner = build(cell, bench, target=bench.targets[0])
    found = predict(cell, learner, bench, timed_steps=9)  # an epoch has four
    assert found.seconds_of == [3.0, 3.0, 4.0]
    assert found.lasting == [11.0, 3.0, 6.0]
    assert found.shares == [["module_1"], ["module_2"], ["module_3"]]


# -- on named devices ------------------------------------------------------------------------------


def pipelined_trainer(folder, *overrides, device="cpu", devices=()):
    suite = suite_in(folder, PIPELINE, *overrides)
    cell, bench = tiny_cell(suite, "gim"), tiny_bench(suite)
    (model,) = models_of(cell, bench)
    learner = build(cell, bench, target=model.target)
    batches = bench.batches(cell, Split.UNLABELLED)
    bench.device, bench.devices = torch.device(device), devices
    return pipelined_trainer_of(cell, model, learner, bench, batches=batches, apart=None)


def devices_of(trainer):
    return [trainer.make.devices[number] for number in range(len(trainer.shares))]


def test_each_worker_has_the_device_that_is_named_for_it(tmp_path):
    named = ["cuda:2", "cuda:0", "cuda:2"]
    assert devices_of(pipelined_trainer(tmp_path, devices=named)) == named


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", ["cpu"] * 3), ("cuda:1", ["cuda:1"] * 3), ("cuda", ["cuda:0", "cuda:1", "cuda:0"])],
)
def test_without_names_workers_take_turns_on_the_device_of_the_command(
    device, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_of(pipelined_trainer(tmp_path, device=device)) == expected


def test_named_devices_are_in_the_record_of_a_pipeline_alone(tmp_path):
    suite = suite_in(tmp_path, PIPELINE)
    bench = tiny_bench(suite)
    bench.devices = ["cpu"] * 3
    said = {
        method: begun(tiny_cell(suite, method), bench).provenance.get("devices")
        for method in ("gim", "random_init")
    }
    assert said == {"gim": ["cpu"] * 3, "random_init": None}


@pytest.mark.parametrize(
    ("method", "overrides", "workers"),
    [
        ("gim", [PIPELINE], 3),
        ("gim", [PIPELINE, "training.workers=2"], 2),
        ("gim", [PIPELINE, "method.gim.units=2"], 2),
        ("gim", [PIPELINE, "method.gim.units=1"], 0),
        ("gim", [], 0),
        ("cpc", [PIPELINE], 0),
        ("random_init", [PIPELINE], 0),
    ],
)
def test_the_workers_of_a_cell_are_known_before_anything_is_built(
    method, overrides, workers, tmp_path
):
    suite = suite_in(tmp_path, *overrides)
    cell, bench = tiny_cell(suite, method), tiny_bench(suite)
    assert workers_of(cell.config) == workers
    learner = build(cell, bench, target=bench.targets[0])
    assert is_pipelined(cell, learner) == bool(workers)


def test_an_ablation_without_the_gru_has_a_worker_less(tmp_path):
    """Of six modules it has five."""
    with noise_registered():
        suite = suite_in(tmp_path, PIPELINE, speech=True)
        cells = {name: tiny_cell(suite, name) for name in ("gim", "gim_no_ar")}
        counts = {name: workers_of(cell.config) for name, cell in cells.items()}
        learner = build(cells["gim_no_ar"], bench := tiny_bench(suite), target=bench.targets[0])
    assert counts == {"gim": 6, "gim_no_ar": 5}
    assert len(learner.units()) == 5


@pytest.mark.parametrize(
    ("overrides", "devices", "said"),
    [
        ([PIPELINE], "cpu,cpu", "has 2 device(s), and 'gim' has 3 worker(s): name 3, or add"),
        ([PIPELINE, "training.workers=2"], "cpu,cpu,cpu", "and 'gim' has 2 worker(s): name 2"),
        ([], "cpu,cpu,cpu", "no cell is one: leave it out"),
        ([PIPELINE, "method.supervised.schedule='joint'", "method.supervised.training.processes=2"],
         "cpu,cpu,cpu", "that share the batches of 'supervised' have the GPUs in turn"),
    ],
)  # fmt: skip
def test_devices_are_named_for_every_worker(overrides, devices, said, tmp_path):
    methods = ["gim", "random_init", "supervised"]
    found = configs(suite_in(tmp_path, *overrides), methods=methods, device=CPU)
    with pytest.raises(ConfigError) as caught:
        check_devices_of_workers(found.values(), devices.split(","))
    assert f"--devices {devices} " in str(caught.value)
    assert said in str(caught.value)


# -- what does not go together ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["training.workers=2"], "the schedule of 'gim' is 'interleaved'"),
        ([PIPELINE, "inside={}"], r"\[inside\] looks at all modules"),
        ([PIPELINE, "training.workers=0"], "training.workers"),
    ],
)
def test_what_does_not_go_together_is_one_line(overrides, said, tmp_path):
    with pytest.raises(ConfigError, match=said) as caught:
        configs(suite_in(tmp_path, *overrides), methods=["gim"], device=CPU)
    assert "\n" not in str(caught.value)
