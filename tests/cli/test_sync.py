"""`sync` brings MLflow up to date with the records, also from several processes."""

import os
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from gim_bench.errors import TrackingError
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from gim_bench.records.sealed import read_record
from gim_bench.tracking import Tracker
from gim_bench.tracking.mirror import Synced
from tests.cli.commands import PLAIN, RUN, SWEEP, statuses
from tests.forked import Command
from tests.servers import Server, names
from tests.tracking.records import SWEPT, cell

# MLflow 3.17 declares its tables with a strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


SYNC = ("sync", "--runs-dir", "runs")


def test_sync_mirrors_cells_that_were_run_without_tracking_and_the_second_time_none(
    finished, gim_bench, tmp_path, store
):
    gim_bench(*SWEEP, "--no-tracking")
    first = gim_bench(*SYNC, *store)
    assert (first.code, first.err) == (0, "")
    assert first.out.splitlines() == [
        "tiny: new in MLflow: gim seed 0",
        "tiny: new in MLflow: random_init seed 0",
        "tiny: new in MLflow: gim seed 0 sweep",
        "tiny: new in MLflow: gim summary, n=1",
        "tiny: new in MLflow: random_init summary, n=1",
        "tiny: 5 new in MLflow, 0 there already",
    ]
    before = (tmp_path / "mlflow.db").read_bytes()
    assert gim_bench(*SYNC, *store).out == "tiny: 0 new in MLflow, 5 there already\n"
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_sync_mirrors_results_of_protocols_and_the_second_time_none(finished, gim_bench, store):
    gim_bench(*SYNC, *store)
    gim_bench("probe", "--suite", "./tiny.toml", "--protocol", "top", "--protocol", "knn")
    assert gim_bench(*SYNC, *store).out.splitlines() == [
        "tiny: new in MLflow: gim seed 0 under knn",
        "tiny: new in MLflow: gim seed 0 under top",
        "tiny: new in MLflow: random_init seed 0 under knn",
        "tiny: new in MLflow: random_init seed 0 under top",
        "tiny: 4 new in MLflow, 4 there already",
    ]
    assert gim_bench(*SYNC, *store).out == "tiny: 0 new in MLflow, 8 there already\n"


def test_a_seed_from_before_a_setting_was_there_counts_in_the_summary(
    finished, gim_bench, tmp_path, store
):
    (path,) = tmp_path.glob("runs/tiny/gim/*/record.json")
    record = read_record(path)
    config = {name: value for name, value in record.config.items() if name != "inside"}
    runs = RunsFolder(tmp_path / "runs")
    runs.save(replace(record, seed=1, key="1" * 64, config=config, files={}))
    assert "tiny: new in MLflow: gim summary, n=2" in gim_bench(*SYNC, *store).out.splitlines()


def test_after_a_run_that_was_mirrored_there_is_nothing_to_sync(gim_bench, tmp_path, store):
    gim_bench(*RUN, *store)
    before = (tmp_path / "mlflow.db").read_bytes()
    assert gim_bench(*SYNC, *store).out == "tiny: 0 new in MLflow, 4 there already\n"
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_sync_leaves_the_records_alone(finished, gim_bench, tmp_path, store):
    before = sorted(tmp_path.glob("runs/**/*"))
    gim_bench(*SYNC, *store)
    assert sorted(tmp_path.glob("runs/**/*")) == before


def test_sync_takes_records_of_all_settings_or_of_those_named_by_set(finished, gim_bench, store):
    changed = ("--set", "training.epochs=2")
    gim_bench(*PLAIN, *changed, "--method", "gim")
    named = gim_bench(*SYNC, "--suite", "./tiny.toml", *changed, *store)
    assert named.out.endswith("tiny: 2 new in MLflow, 0 there already\n")
    every = gim_bench(*SYNC, "--suite", "./tiny.toml", *store)
    assert every.out.endswith("tiny: 4 new in MLflow, 2 there already\n")


def test_a_cell_that_is_finished_during_sync_is_mirrored_and_summarised(
    finished, gim_bench, tmp_path, store, monkeypatch
):
    (folder,) = tmp_path.glob("runs/tiny/gim/seed-*")
    put = Tracker.put

    def slowly(tracker, suite, entry):
        record = read_record(folder / "record.json")
        RunsFolder(tmp_path / "runs").save(replace(record, seed=1, key="1" * 64))
        return put(tracker, suite, entry)

    monkeypatch.setattr(Tracker, "put", slowly)
    lines = gim_bench(*SYNC, *store).out.splitlines()
    assert "tiny: new in MLflow: gim seed 1" in lines
    assert "tiny: new in MLflow: gim summary, n=2" in lines
    assert lines[-1] == "tiny: 5 new in MLflow, 0 there already"


def test_a_store_that_breaks_during_sync_is_one_line_and_exit_code_1(
    finished, gim_bench, monkeypatch
):
    def away(*_):
        raise TrackingError("cannot track to 'sqlite:///mlflow.db': it went away")

    monkeypatch.setattr(Tracker, "put", away)
    answer = gim_bench(*SYNC)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "error: cannot track to 'sqlite:///mlflow.db': it went away\n"


def test_artifacts_out_of_reach_are_a_line_and_exit_code_1(gim_bench, runs_dir, monkeypatch):
    away = Synced(new=[], unchanged=[], artifacts_away="OSError: no such disk")
    monkeypatch.setattr(Tracker, "check", lambda _: None)
    monkeypatch.setattr("gim_bench.tracking.sync", lambda *_, **__: away)
    answer = gim_bench("sync", "--runs-dir", str(runs_dir))
    assert (answer.code, answer.out) == (1, "quickstart: 0 new in MLflow, 0 there already\n")
    assert "out of reach (OSError: no such disk); the same command tries again" in answer.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--tracking-uri", "http://127.0.0.1:9"), "no answer from 127.0.0.1 port 9"),
        (("--runs-dir", "nowhere"), "no records in nowhere: name the folder with --runs-dir"),
        (("--suite", "smoke"), "no records of suite 'smoke' in runs"),
        (
            ("--suite", "./tiny.toml", "--set", "training.epochs=9"),
            "no records of suite './tiny.toml' with these settings in runs",
        ),
        (("--set", "training.epochs=9"), "--set is for the settings of one suite: add --suite"),
    ],
)
def test_a_sync_of_nothing_or_to_no_store_is_one_line_and_exit_code_2(
    finished, gim_bench, arguments, complaint
):
    answer = gim_bench(*SYNC, *arguments)
    assert answer.code == 2
    assert complaint in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("end", [Server.kill, Server.pause])
def test_a_server_that_dies_or_hangs_costs_no_cell_and_sync_makes_it_good(
    gim_bench, tmp_path, monkeypatch, end
):
    """In the middle of the second of four cells; twice the same afterwards changes nothing."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    fill, filled = Tracker._fill, []

    def in_the_middle(tracker, run_id, entry, **models):
        filled.append(entry.name)
        if len(filled) == 2:
            end(server)
        fill(tracker, run_id, entry, **models)

    monkeypatch.setattr(Tracker, "_fill", in_the_middle)
    with Server(tmp_path / "server") as server:
        tracking = ("--tracking-uri", server.uri)
        answer = gim_bench(*RUN, "--seeds", "2", *tracking)
        assert answer.code == 0
        assert set(statuses(tmp_path).values()) == {"done"}
        assert len(statuses(tmp_path)) == 4
        assert answer.err.count("not mirrored") == 1
        assert "python -m gim_bench sync" in answer.err
        assert len(filled) == 2

        server.bring_back()
        assert gim_bench(*SYNC, *tracking).out.endswith("tiny: 5 new in MLflow, 1 there already\n")
        synced = server.content("gim_bench/tiny")
        assert names(synced) == [
            "gim seed 0", "gim seed 1", "gim summary, n=2",
            "random_init seed 0", "random_init seed 1", "random_init summary, n=2",
        ]  # fmt: skip
        assert gim_bench(*SYNC, *tracking).out == "tiny: 0 new in MLflow, 6 there already\n"
        assert server.content("gim_bench/tiny") == synced


# -- several processes -----------------------------------------------------------------------------


EXPERIMENT = "gim_bench/quickstart"
EXPECTED = [
    "cpc seed 0",
    "cpc seed 1",
    "cpc summary, n=1",
    "gim seed 0",
    "gim seed 0 sweep",
    "gim seed 1",
    "gim summary, n=2",
    *["module_2 0.001", "module_2 0.01", "module_2 1"],
]


@pytest.fixture
def runs_dir(tmp_path):
    """Two methods with two seeds; one cell has failed, one is swept."""
    runs = RunsFolder(tmp_path / "runs")
    runs.save(cell(sweeps={"module_2": SWEPT}))
    runs.save(cell(seed=1))
    runs.save(cell("cpc"))
    runs.save(cell("cpc", seed=1, status=Status.FAILED, error="the loss is nan", metrics={}))
    return runs.root


def sync_together(uri, runs_dir, *, processes):
    """(standard error, exit code) of each process."""
    command = ("sync", "--runs-dir", str(runs_dir), "--tracking-uri", uri)
    begun = [Command(runs_dir.parent, *command, variables=os.environ) for _ in range(processes)]
    return [(process.communicate()[1], process.returncode) for process in begun]


def test_a_record_that_was_cut_off_is_left_out_of_sync_with_a_line(
    gim_bench, runs_dir, monkeypatch
):
    monkeypatch.setattr(Tracker, "check", lambda _: None)
    monkeypatch.setattr("gim_bench.tracking.sync", lambda *_, **__: Synced(new=[], unchanged=[]))
    (path,) = runs_dir.glob("*/cpc/seed-0-*/record.json")
    path.write_bytes(path.read_bytes()[:300])
    answer = gim_bench("sync", "--runs-dir", str(runs_dir))
    assert (answer.code, answer.out) == (0, "quickstart: 0 new in MLflow, 0 there already\n")
    assert answer.err == (
        f"left out: 1 record(s) that were altered, cut off, moved or written by another version, "
        f"such as {path}; run replaces the records of its settings; move copies out of the folder "
        f"or remove them\n"
    )


@pytest.mark.slow
def test_eight_processes_at_a_new_sqlite_file_make_every_run_once(runs_dir, tmp_path):
    store = tmp_path / "mlflow.db"
    uri = f"sqlite:///{store}"
    assert sync_together(uri, runs_dir, processes=8) == [("", 0)] * 8
    with closing(sqlite3.connect(store)) as database:
        found = database.execute("SELECT name, lifecycle_stage FROM runs ORDER BY name").fetchall()
        experiments = database.execute("SELECT name FROM experiments").fetchall()
    assert found == [(name, "active") for name in EXPECTED]  # nothing was made and thrown away
    assert sorted(experiments) == [("Default",), (EXPERIMENT,)]


@pytest.mark.slow
def test_three_processes_at_a_new_server_leave_every_run_once(runs_dir, tmp_path):
    with Server(tmp_path / "server") as server:
        assert sync_together(server.uri, runs_dir, processes=3) == [("", 0)] * 3
        content = server.content(EXPERIMENT)
        assert names(content) == EXPECTED
        sync_together(server.uri, runs_dir, processes=3)
        assert server.content(EXPERIMENT) == content
