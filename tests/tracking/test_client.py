"""Records mirrored to a real SQLite store, as `mlflow ui` would open it."""

import hashlib
import json
import re
import socket
import sqlite3
import threading
import time
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gim_bench.errors import TrackingError
from gim_bench.records.record import Record, Status
from gim_bench.system.locks import locked
from gim_bench.tracking import client as tracking
from gim_bench.tracking import entries
from gim_bench.tracking.client import PARAMETER_CHARACTERS, Tracker

EXPERIMENT = "gim_bench/quickstart"
START, END = 1_793_527_200_000, 1_793_527_260_000  # 2026-11-01T10:00 and 10:01 UTC, milliseconds

# MLflow 3.17 declares its tables with a strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


def key_of(method, seed):
    return hashlib.sha256(f"{method} {seed}".encode()).hexdigest()


def cell(method="gim", *, seed=0, accuracy=60.0, **changes):
    return Record(
        **{
            "suite": "quickstart",
            "method": method,
            "dataset": "photos",
            "seed": seed,
            "key": key_of(method, seed),
            "status": Status.DONE,
            "metrics": {"accuracy": accuracy, "accuracy/module_1": 55.5},
            "config": {
                "method": {
                    "name": method,
                    "objective": "info_nce",
                    "gradient_flow": "isolated",
                    "trains_on": "unlabelled",
                },
                "encoder": {"width": 8, "blocks": [1, 1, 1]},
                "device": "cpu",
            },
            "provenance": {
                "git_commit": "abcdef",
                "git_dirty": False,
                "data_sha256": "0123",
                "cpu": "A CPU",
                "device": "cpu",
                "started_at": "2026-11-01T10:00:00+00:00",
                "finished_at": "2026-11-01T10:01:00+00:00",
            },
            "protocol": "linear probe",
            "losses": [
                {"epoch": e, "module_1": 3.0 / e, "module_2": 2.5 / e} for e in (1.0, 2.0, 3.0)
            ],
            "probe_curves": {"module_1": [[0.1, 70.0], [0.01, 65.0]]},
        }
        | changes
    )


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store whose tables are made once: the tests copy the file."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Tracker(f"sqlite:///{path}").summarise("other", [cell(suite="other")])
    return path.read_bytes()


@pytest.fixture
def tracker(tmp_path, empty_store):
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    return Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}")


def runs(tracker, wanted="", *, experiment=EXPERIMENT, deleted=False):
    """The active runs, read through a client of their own; with `deleted`, all."""
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client = MlflowClient(tracking_uri=tracker.uri)
    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    number = client.get_experiment_by_name(experiment).experiment_id
    return client.search_runs([number], wanted, run_view_type=view)


def history(tracker, run, name):
    from mlflow import MlflowClient

    found = MlflowClient(tracking_uri=tracker.uri).get_metric_history(run.info.run_id, name)
    return [(metric.step, metric.value) for metric in sorted(found, key=lambda m: m.step)]


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


def test_a_run_is_found_by_what_people_group_and_filter_by(tracker):
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
    assert run.data.tags["mlflow.note.content"] == "linear probe"


def test_on_a_gpu_the_hardware_is_the_gpu(tracker):
    tracker.mirror(cell(provenance={"device": "cuda", "gpu": "H200", "cpu": "A CPU"}))
    (run,) = runs(tracker)
    assert run.data.tags["hardware"] == "H200"


def test_a_cell_on_speech_is_mirrored_with_the_metrics_losses_and_curves_of_both_targets(
    tracker, tmp_path
):
    tracker.mirror(
        cell(
            "supervised",
            metrics={"speaker_accuracy": 98.0, "phone_accuracy/module_6": 60.0},
            losses=[{"epoch": 1.0, "speaker_module_6": 3.0, "phone_module_6": 2.0}],
            probe_curves={"speaker/module_6": [[0.1, 97.0]], "phone/module_6": [[0.1, 59.0]]},
        )
    )
    (run,) = runs(tracker)
    assert run.data.metrics["speaker_accuracy"] == 98.0
    assert run.data.metrics["phone_accuracy/module_6"] == 60.0
    assert history(tracker, run, "epoch_loss/speaker_module_6") == [(1, 3.0)]
    assert history(tracker, run, "epoch_loss/phone_module_6") == [(1, 2.0)]
    (curves,) = tmp_path.glob("mlartifacts/**/probe_curves.csv")
    assert curves.read_text().splitlines()[1:] == [
        "speaker/module_6,0.1,97.0", "phone/module_6,0.1,59.0",
    ]  # fmt: skip


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
    files = {file.name: file.read_text() for file in tmp_path.glob("mlartifacts/**/*.*")}
    assert run.info.artifact_uri.startswith((tmp_path / "mlartifacts" / EXPERIMENT).as_uri())
    assert files == {
        "record.json": '{"method": "gim"}',
        "probe_curves.csv": "module,learning_rate,validation_accuracy_percent\n"
        "module_1,0.1,70.0\nmodule_1,0.01,65.0\n",
    }


def test_mirroring_twice_changes_nothing(tracker, tmp_path):
    tracker.mirror(cell())
    (first,) = runs(tracker)
    before = (tmp_path / "mlflow.db").read_bytes()
    tracker.mirror(cell())
    Tracker(tracker.uri).mirror(cell())
    (second,) = runs(tracker)
    assert second.info.run_id == first.info.run_id
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_a_cell_that_failed_and_then_succeeded_is_one_run(tracker):
    tracker.mirror(cell(status=Status.FAILED, error="the loss is nan", metrics={}))
    (failed,) = runs(tracker)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["mlflow.note.content"] == "linear probe\n\nthe loss is nan"
    tracker.mirror(cell())
    (run,) = runs(tracker)
    assert (run.info.status, run.data.metrics["accuracy"]) == ("FINISHED", 60.0)


def test_an_interrupted_mirroring_is_made_good(tracker, monkeypatch):
    """A run without its digest is not trusted, and does not stay beside the whole one."""
    client = tracker._client
    with monkeypatch.context() as patch:
        patch.setattr(type(client), "set_tag", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tracker.mirror(cell())
    (broken,) = runs(tracker)
    tracker.mirror(cell())
    (run,) = runs(tracker)
    assert run.info.run_id != broken.info.run_id


def test_a_loss_that_is_not_finite_leaves_a_gap(tracker):
    tracker.mirror(cell(losses=[{"epoch": 1.0, "a": 2.0}, {"epoch": 2.0, "a": float("inf")}]))
    (run,) = runs(tracker)
    assert history(tracker, run, "epoch_loss/a") == [(1, 2.0)]


def test_long_settings_are_cut_to_what_mlflow_takes(tracker):
    tracker.mirror(cell(config={"a": "x" * 7000}))
    (run,) = runs(tracker)
    assert run.data.params["a"] == "x" * PARAMETER_CHARACTERS


def test_no_other_folder_of_mlflow_is_made(tmp_path, monkeypatch):
    """`mlruns` with a meta.yaml would change what a bare `mlflow ui` opens."""
    monkeypatch.chdir(tmp_path)
    Tracker().mirror(cell())
    left = ["mlartifacts", "mlflow.db", "mlflow.db.lock"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left


# -- summaries -------------------------------------------------------------------------------------


def test_a_summary_run_holds_mean_spread_and_interval(tracker):
    """Values 2, 4, 6, 8: mean 5, standard deviation √(20/3), t(0.975, 3) = 3.1824463."""
    values = (2.0, 4.0, 6.0, 8.0)
    tracker.summarise("quickstart", [cell(seed=s, accuracy=v) for s, v in enumerate(values)])
    (run,) = runs(tracker, "tags.kind = 'summary' and tags.method = 'gim'")
    assert run.info.run_name == "gim summary, n=4"
    assert run.data.metrics == pytest.approx(
        {
            "n": 4,
            "accuracy": 5.0,
            "accuracy/std": 2.5819889,
            "accuracy/ci95": 4.1085205,
            "accuracy/module_1": 55.5,
            "accuracy/module_1/std": 0.0,
            "accuracy/module_1/ci95": 0.0,
        }
    )
    assert run.data.tags["seeds"] == "0, 1, 2, 3"
    assert run.data.params["encoder.width"] == "8"


def test_a_summary_is_as_new_as_its_newest_cell(tracker):
    """MLflow lists the newest first: a summary stands with its cells, not below the first."""
    late = cell().provenance | {"finished_at": "2026-11-01T11:00:00+00:00"}
    tracker.summarise("quickstart", [cell(seed=1, provenance=late), cell()])
    (run,) = runs(tracker)
    assert run.info.start_time == run.info.end_time == END + 59 * 60_000


def test_one_seed_has_a_summary_without_an_interval(tracker):
    tracker.summarise("quickstart", [cell()])
    (run,) = runs(tracker)
    assert run.data.metrics == {"n": 1, "accuracy": 60.0, "accuracy/module_1": 55.5}


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


def test_what_the_seeds_do_not_share_is_left_out_of_the_summary(tracker):
    moved = cell().provenance | {"git_commit": "later"}
    tracker.summarise("quickstart", [cell(), cell(seed=1, provenance=moved)])
    (run,) = runs(tracker)
    assert "git_commit" not in run.data.tags
    assert run.data.tags["data_sha256"] == "0123"


def test_a_summary_says_whether_its_seeds_are_of_one_experiment(tracker):
    moved = cell().provenance | {"git_commit": "later", "data_sha256": "4567"}
    tracker.summarise("quickstart", [cell(), cell(seed=1, provenance=moved)])
    (run,) = runs(tracker)
    assert run.data.tags["mixed"] == "data_sha256, git_commit"
    tracker.summarise("quickstart", [cell(), cell(seed=1)])
    (run,) = runs(tracker)
    assert run.data.tags["mixed"] == "nothing"


def test_cells_of_other_settings_have_a_summary_of_their_own(tracker):
    other = cell().config | {"encoder": {"width": 16}}
    records = [cell(accuracy=60.0), cell(seed=1, accuracy=62.0)]
    records += [cell(seed=s, key=f"w{s}", accuracy=90.0, config=other) for s in (0, 1, 2)]
    tracker.summarise("quickstart", records)
    found = {run.data.params.get("encoder.width"): run.data.metrics for run in runs(tracker)}
    assert {width: (m["n"], m["accuracy"]) for width, m in found.items()} == {
        "8": (2, 61.0), "16": (3, 90.0),
    }  # fmt: skip


def test_a_cell_that_ran_on_another_device_counts_in_the_same_summary(tracker):
    moved = cell().config | {"device": "cuda"}
    tracker.summarise("quickstart", [cell(), cell(seed=1, accuracy=62.0, config=moved)])
    (run,) = runs(tracker)
    assert (run.data.metrics["n"], run.data.metrics["accuracy"]) == (2, 61.0)


# -- everything that a suite's records ask for -----------------------------------------------------


def test_records_ask_for_their_cells_sweeps_and_summaries_but_not_while_running(tmp_path):
    records = [
        cell(sweeps={"module_2": SWEPT}),
        cell("cpc", status=Status.FAILED),
        cell("supervised", status=Status.RUNNING),
    ]
    entries = entries.suite_entries(records, folder_of=lambda _: tmp_path)
    assert [entry.name for entry in entries] == [
        "gim seed 0", "cpc seed 0", "gim seed 0 sweep", "gim summary, n=1",
    ]  # fmt: skip


def test_what_is_put_is_new_the_first_time_alone(tracker):
    entry = entries.cell_entry(cell())
    assert [tracker.put("quickstart", entry) for _ in range(3)] == [True, False, False]


# -- several processes at one store ----------------------------------------------------------------


@pytest.fixture
def rival(tracker, monkeypatch):
    """Another process's tracker at the same store, where none can wait for its turn: a server."""
    monkeypatch.setattr(Tracker, "_turn", lambda _: nullcontext())
    return Tracker(tracker.uri)


def test_of_two_that_find_nothing_and_create_the_older_run_stays(tracker, rival, monkeypatch):
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
def test_a_run_that_another_process_takes_away_half_written_is_not_missed(
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


def test_a_run_that_is_taken_away_when_it_is_whole_is_made_again(tracker, rival, monkeypatch):
    """Two that each remove the other's: whoever is last to do so looks once more."""
    search, looks = tracker._search, []

    def beside(experiment, tags):
        found = search(experiment, tags)
        looks.append(len(found))
        if len(looks) == 2:
            rival._create(experiment, entries.cell_entry(cell()))
            found = search(experiment, tags)
            for run in found:  # after this look, the other process removes both
                rival._delete(experiment, run.info.run_id)
        return found

    monkeypatch.setattr(tracker, "_search", beside)
    tracker.mirror(cell())
    (run,) = runs(tracker)
    assert run.data.metrics["accuracy"] == 60.0


def test_a_store_where_nothing_stays_is_told(tracker, monkeypatch):
    monkeypatch.setattr(tracker, "_search", lambda *_: [])
    monkeypatch.setattr(tracker, "_create", lambda *_: None)
    with pytest.raises(TrackingError, match="'gim seed 0' did not stay as it was written"):
        tracker.mirror(cell())


def test_a_trial_too_many_is_made_good(tracker):
    """A request that was sent twice, because its answer was late, makes a child twice."""
    tracker.mirror_sweeps(cell(sweeps={"module_2": SWEPT}))
    (parent,) = runs(tracker, "tags.kind = 'sweep'")
    entry = entries.sweep_entry(cell(sweeps={"module_2": SWEPT}))
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
    assert not tracker.put("quickstart", entries.sweep_entry(cell(sweeps={"module_2": SWEPT})))


# -- sweeps ----------------------------------------------------------------------------------------


SWEPT = {
    "trials": 3,
    "decades_within_one_point": 1.0,
    "best": {
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "validation_accuracy": 71.0,
        "test_accuracy": 69.0,
    },
    "paper": {
        "learning_rate": 0.001,
        "weight_decay": 0.0,
        "validation_accuracy": 70.0,
        "test_accuracy": 68.0,
    },
    "curve": [
        {
            "learning_rate": rate,
            "weight_decay": 0.0,
            "validation_accuracy": accuracy,
            "validation_loss": loss,
        }
        for rate, accuracy, loss in ((1e-3, 70.0, 1.5), (1.0, 5.0, None), (1e-2, 71.0, 1.4))
    ],
}


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


# -- stores that cannot be used --------------------------------------------------------------------


def complaint(uri):
    """The one line that `check` answers with."""
    with pytest.raises(TrackingError) as caught:
        Tracker(uri).check()
    line = str(caught.value)
    assert "\n" not in line
    assert "--no-tracking" in line
    return line


def test_a_usable_store_passes_and_nothing_is_written_besides_its_lock(tmp_path, tracker):
    before = (tmp_path / "mlflow.db").read_bytes()
    tracker.check()
    Tracker(f"sqlite:///{tmp_path / 'new.db'}").check()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_the_check_does_not_import_mlflow(tmp_path):
    """A re-run of a finished suite has nothing to mirror and should not pay for the import."""
    import subprocess
    import sys

    code = "import sys; from gim_bench.tracking import Tracker; Tracker().check(); "
    code += "assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_a_store_that_another_process_writes_to_can_be_used(tmp_path, tracker, monkeypatch):
    monkeypatch.setattr(tracking, "CONNECT_SECONDS", 0.1)
    with locked(tmp_path / "mlflow.db.lock", timeout_seconds=0):
        tracker.check()


def test_a_store_that_another_process_does_not_leave_is_told_after_a_time(
    tmp_path, tracker, monkeypatch
):
    monkeypatch.setattr(tracking, "LOCK_SECONDS", 0.1)
    with (
        locked(tmp_path / "mlflow.db.lock", timeout_seconds=0),
        pytest.raises(TrackingError, match=r"locked by another process for 0\.1 s"),
    ):
        tracker.mirror(cell())


def test_a_server_that_is_down_is_told():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        line = complaint(f"http://127.0.0.1:{port}")
    assert f"no answer from 127.0.0.1 port {port}" in line
    assert "python -m gim_bench sync" in line


def test_a_server_that_listens_passes():
    with socket.create_server(("127.0.0.1", 0)) as server:
        Tracker(f"http://127.0.0.1:{server.getsockname()[1]}").check()


def test_mirroring_to_a_server_that_has_gone_away_is_one_error():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(TrackingError, match="no answer from"):
            Tracker(f"http://127.0.0.1:{unused.getsockname()[1]}").mirror(cell())


def test_a_server_that_never_answers_costs_no_more_than_the_patience(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    with socket.create_server(("127.0.0.1", 0)) as server:
        tracker = Tracker(f"http://127.0.0.1:{server.getsockname()[1]}", patience_seconds=0.5)
        tracking._import_mlflow()
        began = time.monotonic()
        with pytest.raises(TrackingError, match=r"it took more than 0\.5 s"):
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


@contextmanager
def answering_with(status):
    """A server whose every answer is that error; its address, and the paths it is asked for."""
    asked = []

    class Failing(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Retry-After", "3600")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_): ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_a_password_in_the_address_is_not_printed():
    with pytest.raises(TrackingError) as caught:
        Tracker("http://me:secret@127.0.0.1:1").check()
    assert "secret" not in str(caught.value)
    assert "http://…@127.0.0.1:1" in str(caught.value)


@pytest.mark.parametrize("uri", ["http://", "http://host:port", "https:///path"])
def test_an_address_without_a_host_or_with_a_strange_port_is_refused(uri):
    complaint(uri)


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "ftp://host", "", "sqlite:mlflow"])
def test_an_unknown_kind_of_store_is_answered_with_the_known_ones(uri):
    assert "sqlite:///FILE" in complaint(uri)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_store_that_would_be_lost_is_refused(uri):
    assert "names no file" in complaint(uri)


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_text("not a database, but long enough to be looked at" * 20)
    assert f"{path}: file is not a database" in complaint(f"sqlite:///{path}")


def test_a_missing_folder_is_named(tmp_path):
    folder = tmp_path / "missing"
    assert f"there is no folder {folder}" in complaint(f"sqlite:///{folder}/mlflow.db")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    complaint(f"sqlite:///{tmp_path}")


def test_a_file_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    """Through SQLite's own switch, because permissions do not hold the superuser."""
    path = tmp_path / "mlflow.db"
    sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close()
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3,
        "connect",
        lambda file, **options: connect(str(file).replace("mode=rw", "mode=ro"), **options),
    )
    assert re.search("readonly|read-only", complaint(f"sqlite:///{path}"))


def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    import tempfile

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert "Permission denied" in complaint(f"sqlite:///{tmp_path / 'new.db'}")


def test_without_mlflow_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pip install mlflow" in complaint("sqlite:///mlflow.db")


def test_what_breaks_inside_mlflow_is_one_line_too(tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_text("not a database, but long enough to be looked at" * 20)
    with pytest.raises(TrackingError, match="--no-tracking") as caught:
        Tracker(f"sqlite:///{path}").mirror(cell())
    assert "\n" not in str(caught.value)


def test_a_deleted_experiment_is_told_with_the_command_that_restores_it(tracker):
    from mlflow import MlflowClient

    tracker.mirror(cell())
    client = MlflowClient(tracking_uri=tracker.uri)
    client.delete_experiment(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    with pytest.raises(TrackingError, match="mlflow experiments restore --experiment-id"):
        Tracker(tracker.uri).mirror(cell())
