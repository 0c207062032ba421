"""Points that a cell leaves on disk while it trains."""

from collections import Counter

import pytest

from gim_bench.cells import live
from gim_bench.cells.live import Live
from gim_bench.cells.run import run_cell
from gim_bench.records.folder import RunsFolder
from gim_bench.records.live import LiveLog, read_live
from gim_bench.training.loop import Report
from tests.cells.test_run import Stopped
from tests.clocks import Clock
from tests.tiny_suite import CPU, tiny_bench, tiny_cell, tiny_suite


@pytest.fixture
def runs(tmp_path):
    return RunsFolder(tmp_path / "runs")


def watched(suite):
    """A bench that writes points at every read of the losses."""
    bench = tiny_bench(suite)
    bench.live_seconds = 0.0
    return bench


def epoch_losses(record):
    return {
        (f"epoch_loss/{unit}", row["epoch"], loss)
        for row in record.losses
        for unit, loss in row.items()
        if unit != "epoch"
    }


def told(attempt, prefix):
    return {(p.name, p.step, p.value) for p in attempt.points if p.name.startswith(prefix)}


# -- cells -----------------------------------------------------------------------------------------


def test_a_cell_that_trains_leaves_losses_speed_memory_and_the_time_that_is_left(tmp_path, runs):
    suite = tiny_suite(tmp_path, "training.epochs=3")
    record = run_cell(tiny_cell(suite, "gim"), watched(suite), runs=runs)
    attempt = read_live(runs.folder_of(record))
    assert told(attempt, "epoch_loss/") == epoch_losses(record)
    assert {point.name for point in attempt.points} - {n for n, *_ in epoch_losses(record)} == {
        "step_loss/module_1", "step_loss/module_2", "live/samples_per_second",
        "live/host_resident_bytes", "live/seconds_left",
    }  # fmt: skip


def test_a_cell_that_ends_before_points_are_due_leaves_none(tmp_path, runs):
    suite = tiny_suite(tmp_path)
    bench = tiny_bench(suite)
    bench.live_seconds = 1e4
    record = run_cell(tiny_cell(suite, "gim"), bench, runs=runs)
    assert read_live(runs.folder_of(record)) is None


def test_points_change_no_number(tmp_path, runs):
    suite = tiny_suite(tmp_path, "training.epochs=3")
    cell = tiny_cell(suite, "gim")
    with_points = run_cell(cell, watched(suite), runs=runs)
    without = run_cell(cell, tiny_bench(suite), runs=RunsFolder(tmp_path / "others"))
    assert with_points.losses == without.losses
    assert with_points.files == without.files


def test_an_interrupted_cell_goes_on_with_its_points_and_has_each_once(tmp_path, runs):
    suite = tiny_suite(tmp_path, "training.epochs=3")
    cell = tiny_cell(suite, "gim")
    bench = tiny_bench(suite, progress=Stopped(3))
    bench.live_seconds = 0.0
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, bench, runs=runs)
    (folder,) = runs.root.glob("tiny/gim/seed-*")
    first = read_live(folder)
    record = run_cell(cell, watched(suite), runs=runs)
    attempt = read_live(folder)
    assert attempt.name == first.name
    assert attempt.points[: len(first.points)] == first.points
    assert told(attempt, "epoch_loss/") == epoch_losses(record)
    assert set(Counter((p.name, p.step) for p in attempt.points).values()) == {1}


def test_a_finished_cell_that_runs_again_begins_another_attempt(tmp_path, runs):
    suite = tiny_suite(tmp_path)
    first, second = (
        read_live(runs.folder_of(run_cell(tiny_cell(suite, "gim"), watched(suite), runs=runs)))
        for _ in range(2)
    )
    assert first.name != second.name


# -- points ----------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(live, "time", clock)
    return clock


def live_of(folder, *, every_seconds=10.0, stages=1, label="", trains_here=True):
    return Live(
        LiveLog(folder, made_by="this code"),
        label=label,
        device=CPU,
        trains_here=trains_here,
        steps=100,
        stages=stages,
        samples_per_step=8,
        every_seconds=every_seconds,
    )


def state(step, mean, *, epoch=1, before=0, stage=0):
    """After `step` steps of a stage, of which `before` were of earlier epochs."""
    return Report(stage, step, epoch, step - before, {"module_1": mean})


def values(folder, name):
    return [(p.step, p.value) for p in read_live(folder).points if p.name == name]


def test_a_training_of_an_hour_writes_every_ten_seconds_whatever_the_number_of_steps(
    tmp_path, clock, monkeypatch
):
    written = []
    monkeypatch.setattr(LiveLog, "write", lambda log: written.append(clock.now))
    tell = live_of(tmp_path)
    for step in range(1, 7201):
        clock.now = step * 0.5
        tell(state(step, 1.0))
    assert len(written) == 360


def test_a_step_loss_is_the_mean_since_the_last_point(tmp_path, clock):
    """Means over 10 and over 30 steps of the epoch: 2.0 and 1.0, so 0.5 over the last 20."""
    tell = live_of(tmp_path)
    for step, mean in ((1, 4.0), (10, 2.0), (30, 1.0)):
        clock.now += 10
        tell(state(step, mean))
    steps = values(tmp_path, "step_loss/module_1")
    assert steps[-1] == (30, pytest.approx(0.5))


def test_a_step_loss_of_a_new_epoch_is_the_mean_of_this_epoch(tmp_path, clock):
    tell = live_of(tmp_path)
    for report in (state(10, 2.0), state(25, 1.5, epoch=2, before=20)):
        clock.now += 10
        tell(report)
    assert values(tmp_path, "step_loss/module_1")[-1] == (25, 1.5)


def test_speed_and_the_time_that_is_left_are_of_the_steps_since_the_last_point(tmp_path, clock):
    """Four steps of 8 examples a second; 2 stages of 100 steps, of which 150 steps are left."""
    tell = live_of(tmp_path, stages=2)
    tell(state(10, 2.0))
    clock.now = 10
    tell(state(50, 2.0))
    assert values(tmp_path, "live/samples_per_second") == [(50, 32.0)]
    assert values(tmp_path, "live/seconds_left") == [(50, 37.5)]


def test_a_slow_start_is_no_speed(tmp_path, clock):
    """Speed is known from the second state on, losses and memory from the first."""
    tell = live_of(tmp_path)
    clock.now = 30  # until the first batch is there
    tell(state(1, 4.0))
    assert values(tmp_path, "step_loss/module_1") == [(1, 4.0)]
    assert values(tmp_path, "live/samples_per_second") == []
    clock.now = 40
    tell(state(41, 2.0))
    assert values(tmp_path, "live/samples_per_second") == [(41, 32.0)]


@pytest.mark.parametrize("waited", [5, 500])
def test_the_time_between_two_stages_is_not_that_of_steps(waited, tmp_path, clock):
    """In which the outputs of the lower stage are computed and kept."""
    tell = live_of(tmp_path, stages=2)
    tell(state(60, 2.0))
    clock.now = 10
    tell(state(100, 2.0))
    clock.now += waited
    tell(state(1, 2.0, stage=1))
    clock.now += 10
    tell(state(41, 2.0, stage=1))
    assert values(tmp_path, "live/samples_per_second") == [(100, 32.0), (141, 32.0)]


def test_steps_of_the_second_stage_are_counted_after_those_of_the_first(tmp_path, clock):
    tell = live_of(tmp_path, stages=2)
    tell(state(10, 2.0, stage=1))
    clock.now = 10
    tell(state(50, 2.0, stage=1))
    assert [step for step, _ in values(tmp_path, "live/samples_per_second")] == [150]
    assert values(tmp_path, "step_loss/module_1") == [(50, 2.0)]


def test_the_label_tells_trainings_of_one_cell_apart(tmp_path, clock):
    for label in ("selection/", ""):
        tell = live_of(tmp_path, label=label)
        clock.now += 10
        tell(state(50, 2.0))
    names = {p.name for p in read_live(tmp_path).points}
    assert {"step_loss/module_1", "step_loss/selection/module_1"} <= names


def test_epochs_that_end_between_points_are_written_with_the_next(tmp_path, clock):
    tell = live_of(tmp_path)
    tell(state(20, 2.0)._replace(ended={"epoch": 1, "module_1": 2.0, "validation_module_1": 2.5}))
    assert read_live(tmp_path) is None
    clock.now = 10
    tell(state(25, 1.5, epoch=2, before=20))
    assert values(tmp_path, "epoch_loss/module_1") == [(1, 2.0)]
    assert values(tmp_path, "epoch_loss/validation_module_1") == [(1, 2.5)]


def test_the_last_epochs_are_written_at_the_end_if_points_were_written_before(tmp_path, clock):
    tell = live_of(tmp_path)
    clock.now = 10
    tell(state(10, 2.0))
    tell(state(20, 2.0)._replace(ended={"epoch": 1, "module_1": 2.0}))
    tell.close()
    assert values(tmp_path, "epoch_loss/module_1") == [(1, 2.0)]
