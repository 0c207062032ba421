"""Records in a real SQLite store, also with several processes at the store."""

import errno
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

import pytest

from gim_bench.errors import TrackingError
from gim_bench.records.patches import Pictures, save_pictures
from gim_bench.records.record import Status
from gim_bench.system.addresses import sqlite_address
from gim_bench.system.locks import locked
from gim_bench.tracking import Tracker, client
from gim_bench.tracking.addresses import page_of
from gim_bench.tracking.client import PARAMETER_CHARACTERS
from gim_bench.tracking.entries import cell_entry, sweep_entry
from gim_bench.tracking.loading import import_mlflow
from tests.servers import answering_with
from tests.tracking.records import (
    END,
    EXPERIMENT,
    START,
    SWEPT,
    cell,
    history,
    key_of,
    picture,
    runs,
)

# MLflow 3.17 declares its tables with a strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


# -- cells -----------------------------------------------------------------------------------------


def test_a_cell_becomes_a_run_in_the_suites_experiment(tracker):
    tracker.mirror(cell(seed=3))
    (run,) = runs(tracker)
    assert run.info.run_name == "gim seed 3"
    assert run.info.status == "FINISHED"
    assert (run.info.start_time, run.info.end_time) == (START, END)
    assert run.data.metrics["accuracy"] == 60.0
    assert run.data.metrics["accuracy/module_1"] == 55.5
    assert run.data.params["encoder.width"] == "8"
    assert run.data.params["encoder.blocks"] == "[1, 1, 1]"
    assert run.data.params["method.objective"] == "info_nce"


def test_the_page_of_a_cell_s_run_is_found_by_the_key_of_the_cell(tracker):
    tracker.mirror(cell(seed=3))
    tracker.summarise("quickstart", [cell(seed=3)])
    (run,) = runs(tracker, "tags.kind = 'cell'")
    place = f"{tracker.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert tracker.pages_of_cells("quickstart") == {key_of("gim", 3): place}
    assert tracker.pages_of_cells("elsewhere") == {}


def models(tracker, run):
    return tracker._client.search_logged_models([run.info.experiment_id])


def test_each_module_is_a_model_with_its_metrics_and_the_data_set(tracker):
    modules = {"accuracy": 60.0, "accuracy/module_1": 55.5, "accuracy/module_2": 60.0}
    tracker.mirror(cell(metrics=modules))
    (run,) = runs(tracker)
    assert history(tracker, run, "by_module/accuracy") == [(1, 55.5), (2, 60.0)]
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("photos", "0123")
    assert sorted(
        (m.name, m.metrics[0].key, m.metrics[0].value, m.metrics[0].dataset_name)
        for m in models(tracker, run)
    ) == [
        ("gim seed 0 module 1", "by_module/accuracy", 55.5, "photos"),
        ("gim seed 0 module 2", "by_module/accuracy", 60.0, "photos"),
    ]
    assert {str(m.status) for m in models(tracker, run)} == {"READY"}
    assert sorted(output.step for output in run.outputs.model_outputs) == [1, 2]


def test_the_models_of_a_run_that_is_replaced_go_with_it(tracker):
    tracker.mirror(cell())
    tracker.mirror(cell(metrics={"accuracy/module_1": 70.0}))
    (run,) = runs(tracker)
    assert [m.metrics[0].value for m in models(tracker, run)] == [70.0]


def test_a_cell_that_failed_has_its_data_set_and_no_model(tracker):
    tracker.mirror(cell(status=Status.FAILED, metrics={}, error="a loss is nan"))
    (run,) = runs(tracker)
    assert run.inputs.dataset_inputs[0].dataset.name == "photos"
    assert models(tracker, run) == []


def test_figures_are_artifacts(tracker):
    tracker.mirror(cell())
    (run,) = runs(tracker)
    figures = tracker._client.list_artifacts(run.info.run_id, "figures")
    assert [figure.path for figure in figures] == ["figures/by_module.png", "figures/losses.png"]


def test_a_run_is_found_by_its_tags(tracker):
    tracker.mirror(cell(seed=3))
    tracker.mirror(cell("cpc"))
    wanted = {
        "gim_bench.key": key_of("gim", 3),
        "suite": "quickstart",
        "method": "gim",
        "seed": "3",
        "kind": "cell",
        "status": "done",
        "dataset": "photos",
        "data_sha256": "0123",
        "git_commit": "abcdef",
        "git_dirty": "false",
        "hardware": "A CPU",
        "objective": "info_nce",
        "gradient_flow": "isolated",
        "trains_on": "unlabelled",
    }
    (run,) = runs(tracker, " and ".join(f"tags.`{tag}` = '{v}'" for tag, v in wanted.items()))
    assert run.info.run_name == "gim seed 3"
    assert run.data.tags["mlflow.note.content"].startswith("linear probe\n\n")
    assert run.data.tags["mlflow.source.git.commit"] == "abcdef"


def test_losses_are_a_curve_over_epochs(tracker):
    tracker.mirror(cell())
    (run,) = runs(tracker)
    assert history(tracker, run, "epoch_loss/module_1") == [(1, 3.0), (2, 1.5), (3, 1.0)]


def test_more_losses_than_one_batch_of_mlflow_all_arrive(tracker):
    losses = [{"epoch": float(e), "a": 1.0, "b": 2.0, "c": 3.0} for e in range(1, 401)]
    tracker.mirror(cell(losses=losses))
    (run,) = runs(tracker)
    assert len(history(tracker, run, "epoch_loss/c")) == 400


def test_the_record_and_the_probe_curves_are_artifacts(tracker, tmp_path):
    (tmp_path / "record.json").write_text('{"method": "gim"}')
    tracker.mirror(cell(), folder=tmp_path)
    (run,) = runs(tracker)
    found = [path for path in tmp_path.glob("mlartifacts/**/*.*") if path.suffix != ".png"]
    files = {path.name: path.read_text() for path in found}
    assert run.info.artifact_uri.startswith((tmp_path / "mlartifacts" / EXPERIMENT).as_uri())
    assert files == {
        "record.json": '{"method": "gim"}',
        "probe_curves.csv": "module,learning_rate,validation_accuracy_percent\n"
        "module_1,0.1,70.0\nmodule_1,0.01,65.0\n",
    }


def test_pictures_of_patches_are_artifacts_and_new_ones_replace_the_run(tracker, tmp_path):
    record, folder = cell(), tmp_path / "cell"
    tracker.mirror(record, folder=folder)
    facts = Pictures(key=record.key, weights={}, images=1, pictures=(picture(b"one"),))
    save_pictures(facts, contents={"module_1.png": b"one"}, folder=folder)
    tracker.mirror(record, folder=folder)
    (run,) = runs(tracker)
    (path,) = tmp_path.glob(f"mlartifacts/**/{run.info.run_id}/artifacts/patches/*")
    assert (path.name, path.read_bytes()) == ("module_1.png", b"one")


def test_long_settings_are_cut_to_what_mlflow_takes(tracker):
    tracker.mirror(cell(config={"a": "x" * 7000}))
    (run,) = runs(tracker)
    assert run.data.params["a"] == "x" * PARAMETER_CHARACTERS


def test_mirroring_twice_changes_nothing(tracker, tmp_path):
    tracker.mirror(cell())
    (first,) = runs(tracker)
    before = (tmp_path / "mlflow.db").read_bytes()
    tracker.mirror(cell())
    Tracker(tracker.uri).mirror(cell())
    (second,) = runs(tracker)
    assert second.info.run_id == first.info.run_id
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_an_entry_that_is_put_is_new_the_first_time_alone(tracker):
    entry = cell_entry(cell())
    assert [tracker.put("quickstart", entry) for _ in range(3)] == [True, False, False]


def test_a_cell_that_failed_and_then_succeeded_is_one_run(tracker):
    tracker.mirror(cell(status=Status.FAILED, error="the loss is nan", metrics={}))
    (failed,) = runs(tracker)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["mlflow.note.content"].startswith("linear probe\n\nthe loss is nan")
    tracker.mirror(cell())
    (run,) = runs(tracker)
    assert (run.info.status, run.data.metrics["accuracy"]) == ("FINISHED", 60.0)


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_run_that_a_killed_process_left_is_replaced(tracker, monkeypatch):
    """A run without its digest is not trusted, and does not stay beside the whole one."""
    client = tracker._client
    with monkeypatch.context() as patch:
        patch.setattr(type(client), "set_tag", interrupted)
        patch.setattr(type(client), "delete_run", interrupted)
        with suppress(KeyboardInterrupt):
            tracker.mirror(cell())
    (broken,) = runs(tracker)
    tracker.mirror(cell())
    (run,) = runs(tracker)
    assert run.info.run_id != broken.info.run_id


# case 30
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("the disk is full")])
def test_a_run_that_is_begun_and_fails_is_removed(tracker, monkeypatch, error):
    def fail(*_, **__):
        raise error

    swept = cell(sweeps={"module_2": SWEPT})
    monkeypatch.setattr(type(tracker._client), "log_batch", fail)
    for mirror in (tracker.mirror, tracker.mirror_sweeps) * 2:
        with suppress(KeyboardInterrupt, TrackingError):
            mirror(swept)
    assert runs(tracker) == []


# case 30
def test_artifacts_out_of_reach_cost_the_artifacts_alone(tracker, tmp_path):
    (tmp_path / "mlartifacts").write_text("a file where the folder should be")
    for _ in range(2):
        tracker.mirror(cell())
        tracker.mirror_sweeps(cell(sweeps={"module_2": SWEPT}))
    run, sweep = runs(tracker, "tags.kind != 'probe_trial'")
    assert {run.info.status, sweep.info.status} == {"FINISHED"}
    assert len(runs(tracker, deleted=True)) == 2 + len(SWEPT["curve"])
    assert str(tmp_path / "mlartifacts") in tracker.artifacts_away


# case 30
def test_artifacts_are_written_into_the_same_run_once_they_are_in_reach(tracker, tmp_path):
    (tmp_path / "mlartifacts").write_text("a file where the folder should be")
    tracker.mirror(cell())
    (before,) = runs(tracker)
    (tmp_path / "mlartifacts").unlink()
    assert Tracker(tracker.uri).put("quickstart", cell_entry(cell()))
    (after,) = runs(tracker)
    assert after.info.run_id == before.info.run_id
    assert [path.name for path in tmp_path.glob("mlartifacts/**/*.csv")] == ["probe_curves.csv"]
    assert not Tracker(tracker.uri).put("quickstart", cell_entry(cell()))


# case 15
@pytest.mark.parametrize("copied", [False, True])
def test_the_artifacts_of_a_folder_that_was_moved_or_copied_stay_beside_its_database(
    tmp_path, empty_store, copied
):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "mlflow.db").write_bytes(empty_store)
    Tracker(f"sqlite:///{old}/mlflow.db").mirror(cell())
    shutil.copytree(old, new)
    if not copied:
        shutil.rmtree(old)
    left = sorted(tmp_path.glob("old/**/*"))
    moved = Tracker(f"sqlite:///{new}/mlflow.db")
    assert moved.put("quickstart", cell_entry(cell(seed=1)))
    assert not moved.put("quickstart", cell_entry(cell()))
    assert sorted(tmp_path.glob("old/**/*")) == left
    for run in runs(moved):
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        assert folder.is_relative_to(new)
        assert (folder / "probe_curves.csv").is_file()


# case 15
def test_a_run_whose_artifacts_are_gone_is_not_complete(tracker, tmp_path):
    tracker.mirror(cell())
    shutil.rmtree(tmp_path / "mlartifacts")
    assert tracker.put("quickstart", cell_entry(cell()))
    assert len(list(tmp_path.glob("mlartifacts/**/probe_curves.csv"))) == 1
    assert len(runs(tracker)) == 1


# case 15
def test_artifacts_that_stayed_in_reach_are_left_where_they_are(tmp_path, empty_store):
    """The database alone was copied."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mlflow.db").write_bytes(empty_store)
    Tracker(f"sqlite:///{tmp_path}/old/mlflow.db").mirror(cell())
    (tmp_path / "new").mkdir()
    shutil.copy(tmp_path / "old" / "mlflow.db", tmp_path / "new" / "mlflow.db")
    moved = Tracker(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert not moved.put("quickstart", cell_entry(cell()))
    moved.mirror(cell(seed=1))
    assert len(list(tmp_path.glob("old/mlartifacts/**/probe_curves.csv"))) == 2


# case 15
@pytest.mark.parametrize("code", [errno.EACCES, errno.ESTALE, errno.EIO])
def test_artifacts_out_of_reach_cost_no_run(tracker, tmp_path, monkeypatch, code):
    tracker.mirror(cell())
    stat, artifacts = os.stat, str(tmp_path / "mlartifacts")

    def out_of_reach(path, **options):
        if str(path).startswith(artifacts):
            raise OSError(code, os.strerror(code), str(path))
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", out_of_reach)
        later = Tracker(tracker.uri)
        assert not later.put("quickstart", cell_entry(cell()))
        assert later.put("quickstart", cell_entry(cell(seed=1)))
    assert os.strerror(code) in str(later.artifacts_away)
    assert len(runs(tracker)) == 2
    for run in runs(tracker):
        assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(artifacts)


# case 19
@pytest.mark.parametrize("name", ["my%20drive", "lr?1", "50%", "a b#c"])
def test_lock_database_and_artifacts_lie_in_one_folder_whatever_its_name(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    tracker = Tracker(sqlite_address(folder / "mlflow.db"))
    tracker.check()
    tracker.mirror(cell())
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sorted(p.name for p in folder.iterdir()) == [
        "mlartifacts",
        "mlflow.db",
        "mlflow.db.lock",
    ]
    assert not tracker.put("quickstart", cell_entry(cell()))


def test_no_other_folder_of_mlflow_is_created(tmp_path, monkeypatch):
    """`mlruns` with a meta.yaml would change what a bare `mlflow ui` opens."""
    monkeypatch.chdir(tmp_path)
    Tracker().mirror(cell())
    left = ["mlartifacts", "mlflow.db", "mlflow.db.lock"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_the_command_shows_the_runs_where_an_older_mlflow_has_left_its_folder(
    tmp_path, monkeypatch
):
    """A bare `mlflow ui` would open `mlruns`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("experiment_id: '0'\n")
    tracker = Tracker()
    tracker.mirror(cell())
    *_, option, uri = shlex.split(page_of(tracker.uri))
    assert option == "--backend-store-uri"
    assert len(runs(Tracker(uri))) == 1


# -- summaries -------------------------------------------------------------------------------------


def test_a_summary_is_kept_up_to_date_in_one_run(tracker):
    tracker.summarise("quickstart", [cell()])
    tracker.summarise("quickstart", [cell()])
    tracker.summarise("quickstart", [cell(), cell(seed=1, accuracy=62.0)])
    (run,) = runs(tracker)
    assert (run.data.metrics["n"], run.data.metrics["accuracy"]) == (2, 61.0)


def test_each_method_has_its_summary_and_failed_cells_have_none(tracker):
    failed = cell("random_init", status=Status.FAILED)
    tracker.summarise("quickstart", [cell(), cell("cpc"), failed, cell("mfcc", suite="other")])
    assert {run.data.tags["method"] for run in runs(tracker)} == {"gim", "cpc"}


# case 28
def test_two_runs_folders_at_one_store_leave_the_summary_of_the_other_alone(tracker):
    """Both settle, whether they hold other seeds or ran the same seeds."""
    ours, theirs = [cell(), cell(seed=1)], [cell(seed=2)]
    later = cell().provenance | {"finished_at": "2026-11-02T10:00:00+00:00"}
    for _ in range(2):
        tracker.summarise("quickstart", ours, place="a:/runs")
        tracker.summarise("quickstart", theirs, place="b:/runs")
        tracker.summarise("quickstart", [cell(provenance=later)], place="c:/runs")
    found = runs(tracker)
    assert sorted(run.data.tags["seeds"] for run in found) == ["0", "0, 1", "2"]
    assert sorted(run.data.tags["gim_bench.runs"] for run in found) == [
        "a:/runs",
        "b:/runs",
        "c:/runs",
    ]
    assert len(runs(tracker, deleted=True)) == 3


# case 28
def test_a_summary_of_the_same_records_and_more_replaces_that_of_fewer(tracker):
    """A folder that was moved, or a copy that went on."""
    for _ in range(2):
        tracker.summarise("quickstart", [cell()], place="a:/runs")
        tracker.summarise("quickstart", [cell(), cell(seed=1)], place="b:/runs")
    (run,) = runs(tracker)
    assert run.data.tags["seeds"] == "0, 1"
    covered = run.data.tags["gim_bench.records"].split()
    assert [name.partition(".")[0] for name in covered] == sorted(
        key_of("gim", seed)[:8] for seed in (0, 1)
    )
    assert len(runs(tracker, deleted=True)) == 2


# case 28
def test_a_summary_of_fewer_records_replaces_that_of_its_own_folder(tracker):
    tracker.summarise("quickstart", [cell(), cell(seed=1)], place="a:/runs")
    tracker.summarise("quickstart", [cell()], place="a:/runs")
    (run,) = runs(tracker)
    assert run.data.tags["seeds"] == "0"


# case 28
@pytest.mark.parametrize("kind", ["cell", "sweep"])
def test_of_two_records_of_one_cell_in_two_folders_the_later_one_stays(tracker, kind):
    later = cell().provenance | {"finished_at": "2026-11-02T10:00:00+00:00"}
    old = cell(accuracy=60.0, sweeps={"module_2": SWEPT})
    new = cell(accuracy=61.0, sweeps={"module_2": SWEPT}, provenance=later)
    entry = cell_entry if kind == "cell" else sweep_entry
    assert [tracker.put("quickstart", entry(r)) for r in (old, new, old, new)] == [
        *(True, True, False, False)
    ]


def test_a_cell_that_ran_again_after_the_clock_went_back_is_mirrored(tracker, tmp_path):
    """Where it is the same folder; a record of another folder is no newer."""
    later = cell().provenance | {"finished_at": "2026-11-02T10:00:00+00:00"}
    first = cell(provenance=later, sweeps={"module_2": SWEPT})
    again = cell(accuracy=61.0, sweeps={"module_2": SWEPT})
    for entry in (cell_entry, sweep_entry):
        for record, folder, is_new in (
            (first, "a", True),
            (again, "b", False),
            (again, "a", True),
        ):
            place = entry(record, folder=tmp_path / folder)
            assert tracker.put("quickstart", place) is is_new


# -- sweeps ----------------------------------------------------------------------------------------


def test_a_sweep_is_a_run_with_a_table_and_a_plot(tracker, tmp_path):
    tracker.mirror_sweeps(cell(sweeps={"module_2": SWEPT}))
    (run,) = runs(tracker, "tags.kind = 'sweep' and tags.method = 'gim'")
    assert run.data.metrics["best/learning_rate/module_2"] == 0.01
    assert run.data.metrics["paper/validation_accuracy/module_2"] == 70.0
    (table,) = tmp_path.glob("mlartifacts/**/curves.json")
    written = json.loads(table.read_text())
    rows = [dict(zip(written["columns"], row, strict=True)) for row in written["data"]]
    assert [row["learning_rate"] for row in rows] == [1e-3, 1.0, 1e-2]
    assert {row["probe"] for row in rows} == {"module_2"}
    (plot,) = tmp_path.glob("mlartifacts/**/curves.png")
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_trials_of_a_sweep_are_child_runs_that_are_found_by_tag(tracker):
    tracker.mirror_sweeps(cell(sweeps={"module_2": SWEPT}))
    (parent,) = runs(tracker, "tags.kind = 'sweep'")
    trials = runs(tracker, "tags.kind = 'probe_trial' and tags.module = 'module_2'")
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert {run.data.tags["gim_bench.key"] for run in trials} == {key_of("gim", 0)}
    found = {float(run.data.params["learning_rate"]): run.data.metrics for run in trials}
    assert found == {
        1e-3: {"validation_accuracy": 70.0, "validation_loss": 1.5},
        1.0: {"validation_accuracy": 5.0},
        1e-2: {"validation_accuracy": 71.0, "validation_loss": 1.4},
    }


def test_a_sweep_that_is_mirrored_twice_is_there_once_and_a_longer_one_replaces_it(tracker):
    tracker.mirror_sweeps(cell(sweeps={"module_2": SWEPT}))
    before = {run.info.run_id for run in runs(tracker)}
    tracker.mirror_sweeps(cell(sweeps={"module_2": SWEPT}))
    assert {run.info.run_id for run in runs(tracker)} == before
    longer = SWEPT | {"curve": [*SWEPT["curve"], SWEPT["curve"][0]]}
    tracker.mirror_sweeps(cell(sweeps={"module_2": longer}))
    after = runs(tracker)
    assert len(after) == 1 + 4
    assert not before & {run.info.run_id for run in after}


def test_a_run_with_a_trial_too_many_is_replaced(tracker):
    """A request that was sent twice, because its answer was late, makes a child twice."""
    tracker.mirror_sweeps(cell(sweeps={"module_2": SWEPT}))
    (parent,) = runs(tracker, "tags.kind = 'sweep'")
    entry = sweep_entry(cell(sweeps={"module_2": SWEPT}))
    experiment = parent.info.experiment_id
    tracker._begin(experiment, entry.children[0], parent=parent.info.run_id)
    tracker.mirror_sweeps(cell(sweeps={"module_2": SWEPT}))
    assert len(runs(tracker, "tags.kind = 'probe_trial'")) == len(SWEPT["curve"])


def test_more_runs_than_one_page_of_mlflow_are_all_found(tracker, monkeypatch):
    search_runs = type(tracker._client).search_runs
    monkeypatch.setattr(
        type(tracker._client),
        "search_runs",
        lambda *args, **options: search_runs(*args, **options, max_results=2),
    )
    tracker.mirror_sweeps(cell(sweeps={"module_2": SWEPT}))
    assert not tracker.put("quickstart", sweep_entry(cell(sweeps={"module_2": SWEPT})))


# -- several processes at one store ----------------------------------------------------------------


@pytest.fixture
def rival(tracker, monkeypatch):
    """Another process's tracker at the same store, where none can wait for its turn: a server."""
    monkeypatch.setattr(Tracker, "_turn", lambda _: nullcontext())
    return Tracker(tracker.uri)


def test_of_two_processes_that_create_the_same_run_the_older_run_stays(tracker, rival, monkeypatch):
    create = tracker._create

    def late(experiment, entry):
        rival.mirror(cell())  # between the look and the creation
        create(experiment, entry)

    monkeypatch.setattr(tracker, "_create", late)
    tracker.mirror(cell())
    (run,) = runs(tracker)
    assert run.data.metrics["accuracy"] == 60.0
    both = runs(tracker, deleted=True)
    assert run.info.run_id == min(other.info.run_id for other in both)
    assert len(both) == 2


@pytest.mark.parametrize(("step", "number"), [("_fill", 0), ("_fill", 2), ("_begin", 2)])
def test_a_half_written_run_that_another_process_deletes_is_not_missed(
    tracker, rival, monkeypatch, step, number
):
    """A sweep, when its parent (0) or a child (2) is begun or filled; no child is left over."""
    ours, steps = getattr(tracker, step), []
    swept = cell(sweeps={"module_2": SWEPT})

    def beside(*arguments, **options):
        if len(steps) == number:
            rival.mirror_sweeps(swept)
        steps.append(arguments)
        return ours(*arguments, **options)

    monkeypatch.setattr(tracker, step, beside)
    tracker.mirror_sweeps(swept)
    (parent,) = runs(tracker, "tags.kind = 'sweep'")
    children = runs(tracker, "tags.kind = 'probe_trial'")
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert len(children) == len(SWEPT["curve"])


def test_a_complete_run_that_another_process_deletes_is_created_again(tracker, rival, monkeypatch):
    """Two that each remove the other's: whoever is last to do so looks once more."""
    search, looks = tracker._search, []

    def beside(experiment, tags):
        found = search(experiment, tags)
        looks.append(len(found))
        if len(looks) == 2:
            rival._create(experiment, cell_entry(cell()))
            found = search(experiment, tags)
            for run in found:  # after this look, the other process removes both
                rival._delete(experiment, run.run_id)
        return found

    monkeypatch.setattr(tracker, "_search", beside)
    tracker.mirror(cell())
    (run,) = runs(tracker)
    assert run.data.metrics["accuracy"] == 60.0


def test_a_data_set_that_another_process_enters_at_the_same_time_is_an_input_all_the_same(
    tracker, monkeypatch
):
    """MLflow looks for the data set, inserts it, and fails if it is there meanwhile."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import BAD_REQUEST

    log_inputs, refused = type(tracker._client).log_inputs, []

    def refused_once(*arguments, **options):
        if not refused:
            refused.append(arguments)
            raise MlflowException("UNIQUE constraint failed", error_code=BAD_REQUEST)
        log_inputs(*arguments, **options)

    monkeypatch.setattr(type(tracker._client), "log_inputs", refused_once)
    tracker.mirror(cell())
    (run,) = runs(tracker)
    assert len(refused) == len(run.inputs.dataset_inputs) == 1


def test_a_store_in_which_no_run_stays_is_named_with_the_run(tracker, monkeypatch):
    monkeypatch.setattr(client, "LOOK_AGAIN_SECONDS", 0)
    monkeypatch.setattr(tracker, "_search", lambda *_: [])
    monkeypatch.setattr(tracker, "_create", lambda *_: None)
    with pytest.raises(TrackingError, match="'gim seed 0' did not stay as it was written"):
        tracker.mirror(cell())


def test_a_record_waits_for_its_turn_no_longer_than_the_patience(tmp_path, tracker, monkeypatch):
    tracker.patience_seconds = 0.1
    with (
        locked(tmp_path / "mlflow.db.lock", timeout_seconds=0),
        pytest.raises(TrackingError, match=r"has held the lock .* for 0\.1 s"),
    ):
        tracker.mirror(cell())


# -- servers -------------------------------------------------------------------------------------


@pytest.fixture
def at_a_server():
    """A tracker that asks its server nothing."""
    return Tracker("http://127.0.0.1:9")


def test_a_server_is_asked_independent_things_at_the_same_time(at_a_server, monkeypatch):
    """Each call waits until the other one of its pair has begun."""
    monkeypatch.setattr("gim_bench.tracking.connection.CALLS_AT_ONCE", 2)
    together = threading.Barrier(2)

    def ask(number):
        together.wait(timeout=60)
        return number

    assert at_a_server._at_once([partial(ask, number) for number in range(4)]) == [0, 1, 2, 3]


def test_an_error_of_one_call_is_raised_when_the_other_calls_are_over(at_a_server):
    over, ended = threading.Event(), []

    def fail():
        over.set()
        raise ConnectionError("it went away")

    def last():
        over.wait(60)
        time.sleep(0.1)
        ended.append("last")

    with pytest.raises(ConnectionError):
        at_a_server._at_once([fail, last])
    assert ended == ["last"]


def test_a_cell_takes_one_call_for_its_numbers_and_looks_for_no_artifact_of_a_new_run(
    tracker, monkeypatch
):
    """Each call is a wait at a slow server, those for models and artifacts apart."""
    client, calls = tracker._client, []

    class Counted:
        def __getattr__(self, name):
            calls.append(name)
            return getattr(client, name)

    tracker.summarise("quickstart", [cell(seed=9)])  # makes the experiment
    monkeypatch.setitem(vars(tracker), "_client", Counted())
    tracker.mirror(cell())
    of_models = {"create_logged_model", "finalize_logged_model"}
    assert [name for name in calls if name not in of_models] == [
        "search_runs", "create_run", "log_inputs", "log_batch", "log_outputs", "set_terminated",
        "set_tag", "search_runs",
    ]  # fmt: skip


# -- stores that fail ------------------------------------------------------------------------------


def test_mirroring_to_a_server_that_has_gone_away_is_one_error():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(TrackingError, match="no answer from"):
            Tracker(f"http://127.0.0.1:{unused.getsockname()[1]}").mirror(cell())


def test_a_server_that_never_answers_costs_no_more_than_the_patience(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    with socket.create_server(("127.0.0.1", 0)) as server:
        tracker = Tracker(f"http://127.0.0.1:{server.getsockname()[1]}", patience_seconds=0.5)
        import_mlflow()
        began = time.monotonic()
        with pytest.raises(TrackingError, match=r"the server took more than 0\.5 s"):
            tracker.mirror(cell())
        assert time.monotonic() - began < 600  # what MLflow itself would have waited


def test_a_server_that_answers_only_with_errors_is_one_line(monkeypatch):
    """It asks to be asked again in an hour, which is not done."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with answering_with(503) as (uri, asked):
        with pytest.raises(TrackingError, match="cannot track to") as caught:
            Tracker(uri).mirror(cell())
        assert len(asked) == 2
    assert "\n" not in str(caught.value)


def test_an_error_inside_mlflow_is_one_line(tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_text("not a database, but long enough to be looked at" * 20)
    with pytest.raises(TrackingError, match="cannot track to") as caught:
        Tracker(f"sqlite:///{path}").mirror(cell())
    assert "\n" not in str(caught.value)


# case 17
@pytest.mark.slow
def test_the_command_that_restores_a_deleted_experiment_works_word_for_word(
    tmp_path, empty_store, monkeypatch
):
    from mlflow import MlflowClient

    (tmp_path / "my drive").mkdir()
    (tmp_path / "my drive" / "mlflow.db").write_bytes(empty_store)
    tracker = Tracker(f"sqlite:///{tmp_path}/my drive/mlflow.db")
    tracker.mirror(cell())
    client = MlflowClient(tracking_uri=tracker.uri)
    client.delete_experiment(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    with pytest.raises(TrackingError, match="was deleted; first run ") as told:
        Tracker(tracker.uri).mirror(cell())
    command = str(told.value).partition("first run ")[2]
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)  # noqa: S602
    assert not Tracker(tracker.uri).put("quickstart", cell_entry(cell()))
