"""`run` mirrors its cells to MLflow, and loses no cell when MLflow is away."""

import errno
import re
import shlex
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gim_bench.records.folder import RunsFolder
from gim_bench.records.sealed import read_record
from gim_bench.tracking import Tracker
from tests.cli.commands import RUN, statuses
from tests.servers import Server, answering_with, names

SYNC = "python -m gim_bench sync"
# MLflow 3.17 declares its tables with a strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


def test_cells_are_mirrored_one_by_one_and_then_summarised(gim_bench, mirror):
    answer = gim_bench(*RUN)
    assert answer.code == 0
    assert answer.out.splitlines()[-1] == (
        "MLflow:  mlflow ui --backend-store-uri sqlite:///mlflow.db"
    )
    assert mirror.mirrored == [("gim", "done"), ("random_init", "done")]
    assert mirror.summaries == [["gim", "random_init"]]


@pytest.mark.usefixtures("misbehaving")
def test_a_failed_cell_is_mirrored_as_failed(gim_bench, mirror):
    gim_bench(*RUN, "--method", "broken")
    assert mirror.mirrored == [("broken", "failed")]


def test_a_run_of_some_seeds_summarises_all_finished_seeds(gim_bench, mirror):
    gim_bench(*RUN, "--seeds", "2", "--method", "gim")
    gim_bench(*RUN, "--seeds", "1")
    assert mirror.summaries == [["gim", "gim"], ["gim", "gim", "random_init"]]


def test_a_cell_that_another_process_finishes_meanwhile_is_summarised_too(
    finished, gim_bench, mirror, monkeypatch, tmp_path
):
    """Or the summary of eight seeds, if that process was quicker, would become one of seven."""
    (folder,) = tmp_path.glob("runs/tiny/gim/seed-*")
    summarise = Tracker.summarise

    def slowly(tracker, suite, records, **options):
        summarise(tracker, suite, records, **options)
        record = read_record(folder / "record.json")
        RunsFolder(tmp_path / "runs").save(replace(record, seed=1, key="1" * 64))

    monkeypatch.setattr(Tracker, "summarise", slowly)
    gim_bench(*RUN)
    assert mirror.summaries == [["gim", "random_init"], ["gim", "gim", "random_init"]]


def test_the_tracking_store_can_come_from_mlflows_own_variable(gim_bench, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://elsewhere")
    assert "cannot track to 'ftp://elsewhere'" in gim_bench(*RUN).err


@pytest.fixture
def read_only(monkeypatch, tmp_path):
    """Nothing new can be made in the working folder itself; permissions do not hold root."""
    make = tempfile.TemporaryFile

    def refuse_here(**options):
        if Path(options["dir"]) == tmp_path:
            raise OSError(errno.EROFS, "Read-only file system")
        return make(**options)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse_here)


@pytest.mark.usefixtures("read_only")
def test_a_working_folder_that_cannot_be_written_costs_the_mirror_and_a_line(gim_bench, tmp_path):
    """Nobody named a store: the records can be mirrored later, by a command that works."""
    (tmp_path / "elsewhere").mkdir()
    answer = gim_bench(*RUN, "--runs-dir", "elsewhere/my runs")
    assert answer.code == 0
    first, *_ = answer.err.splitlines()
    store = f"sqlite:///{tmp_path}/elsewhere/my runs/mlflow.db"
    assert first == (
        f"not mirrored: cannot track to 'sqlite:///mlflow.db': {tmp_path}/mlflow.db: Read-only "
        f"file system; later run {SYNC} --runs-dir 'elsewhere/my runs' --tracking-uri '{store}'"
    )
    assert "MLflow:" not in answer.out
    assert not list(tmp_path.glob("mlflow*"))


@pytest.mark.usefixtures("read_only")
def test_a_named_store_that_cannot_be_written_is_an_error_before_training(gim_bench, tmp_path):
    answer = gim_bench(*RUN, "--tracking-uri", f"sqlite:///{tmp_path}/mine.db")
    assert (answer.code, answer.out) == (2, "")
    assert "Read-only file system; run with --no-tracking" in answer.err
    assert statuses(tmp_path) == {}


# case 20
def test_another_program_at_the_servers_port_is_an_error_before_training(gim_bench, tmp_path):
    with answering_with(403) as (uri, _):
        answer = gim_bench(*RUN, "--tracking-uri", uri)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert answer.err.endswith(f"run with --no-tracking, and later {SYNC} --tracking-uri {uri}\n")
    assert statuses(tmp_path) == {}


def test_a_worker_of_a_launcher_trains_where_no_server_answers(gim_bench, tmp_path):
    """It may have been started again while the server was away, and exit code 2 would end it."""
    with answering_with(403) as (uri, _):
        answer = gim_bench(*RUN, "--tracking-uri", uri, "--since", "2026-11-27T14:00:00+00:00")
    assert answer.code == 0, answer.err
    assert answer.err.count("not mirrored: ") == 1
    assert f"later run {SYNC} --tracking-uri {uri}\n" in answer.err
    assert statuses(tmp_path) == {("gim", 0): "done", ("random_init", 0): "done"}


# case 18
@pytest.mark.usefixtures("finished", "mirror")
def test_the_last_line_is_a_command_for_the_store_that_a_shell_understands(gim_bench, tmp_path):
    uri = f"sqlite:///{tmp_path}/my drive.db"
    last = gim_bench(*RUN, "--tracking-uri", uri).out.splitlines()[-1]
    assert shlex.split(last) == ["MLflow:", "mlflow", "ui", "--backend-store-uri", uri]


# -- a store that is away --------------------------------------------------------------------------


def test_mlflow_that_breaks_in_the_middle_costs_no_cell(gim_bench, mirror, tmp_path):
    mirror.broken = True
    answer = gim_bench(*RUN)
    assert answer.code == 0
    assert statuses(tmp_path) == {("gim", 0): "done", ("random_init", 0): "done"}
    assert "not mirrored: cannot track to 'sqlite:///mlflow.db': it went away" in answer.err
    assert "Traceback" not in answer.err
    assert "MLflow:" not in answer.out  # case 18: nothing where nothing was mirrored
    assert re.search(r"^\| *gim\b", answer.out, re.MULTILINE)


# case 14
def test_an_error_of_mlflow_that_quotes_the_address_is_shown_without_the_password(
    gim_bench, monkeypatch, tmp_path
):
    uri = "http://ann:s3cret@127.0.0.1:9"

    def broken():
        raise RuntimeError(f"GET {uri}/api/2.0 failed: is s3cret the password of ann?")

    monkeypatch.setattr(Tracker, "check", lambda _: None)
    monkeypatch.setattr("gim_bench.tracking.connection.check_server", lambda _: None)
    monkeypatch.setattr("gim_bench.tracking.connection.import_mlflow", broken)
    answer = gim_bench(*RUN, "--tracking-uri", uri)
    assert answer.code == 0
    assert "GET http://***@127.0.0.1:9/api/2.0 failed: is *** the password of ann?" in answer.err
    assert "s3cret" not in answer.out + answer.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"s3cret" in path.read_bytes()]


def test_a_cell_that_mlflow_missed_is_mirrored_by_the_next_run(gim_bench, mirror):
    mirror.broken = True
    gim_bench(*RUN)
    mirror.broken = False
    answer = gim_bench(*RUN)
    assert "2 of 2 cells are done already" in answer.err
    assert mirror.mirrored == [("gim", "done"), ("random_init", "done")]
    assert mirror.summaries == [["gim", "random_init"]]


def test_a_store_that_failed_once_is_left_alone_for_the_rest_of_the_run(gim_bench, mirror):
    """Its time-outs would otherwise be paid at every cell; one line says what mirrors the rest."""
    mirror.broken = True
    answer = gim_bench(*RUN, "--seeds", "2")
    assert answer.code == 0
    assert mirror.asked == 1
    assert answer.err.count("not mirrored") == 1


# -- a real store ----------------------------------------------------------------------------------


def mlflow_runs(folder):
    """(name, status) of every run that is not deleted, as the SQLite file holds them."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return sorted(
            database.execute("SELECT name, status FROM runs WHERE lifecycle_stage = 'active'")
        )


@pytest.mark.slow
def test_mlflow_has_a_run_for_each_cell_and_a_second_run_adds_none(
    gim_bench, tmp_path, monkeypatch
):
    # By its full path: within a process, MLflow keeps a store open by its address.
    command = (*RUN, "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db")
    first = gim_bench(*command)
    assert first.code == 0
    assert first.out.splitlines()[-1] == f"MLflow:  mlflow ui --backend-store-uri {command[-1]}"
    expected = [
        ("gim seed 0", "FINISHED"),
        ("gim summary, n=1", "FINISHED"),
        ("random_init seed 0", "FINISHED"),
        ("random_init summary, n=1", "FINISHED"),
    ]
    assert mlflow_runs(tmp_path) == expected

    def loaded():
        pytest.fail("a finished suite does not load MLflow")

    monkeypatch.setattr("gim_bench.tracking.connection.import_mlflow", loaded)
    second = gim_bench(*command)
    assert (second.code, second.out) == (0, first.out)
    assert mlflow_runs(tmp_path) == expected


# cases 14, 18, 27, 29
@pytest.mark.slow
def test_a_server_with_a_password_is_shown_masked_and_asked_again_when_it_was_emptied(
    finished, gim_bench, tmp_path
):
    """The password is nowhere in what is printed, in the records, in the database, in artifacts."""
    from mlflow import MlflowClient

    with Server(tmp_path / "server") as server:
        uri = server.uri.replace("http://", "http://ann:s3cret@")
        first = gim_bench(*RUN, "--tracking-uri", uri)
        assert first.code == 0
        assert first.out.splitlines()[:-1] == finished.out.splitlines()
        assert first.out.splitlines()[-1] == f"MLflow:  {server.uri.replace('//', '//***@')}"
        whole = names(server.content("gim_bench/tiny"))
        assert len(whole) == 4
        client = MlflowClient(tracking_uri=server.uri)
        for run in server.content("gim_bench/tiny"):
            client.delete_run(run["info"]["run_id"])
        second = gim_bench(*RUN, "--tracking-uri", uri)
        assert names(server.content("gim_bench/tiny")) == whole
        restored = gim_bench("sync", "--tracking-uri", uri)
        assert restored.out == "tiny: 0 new in MLflow, 4 there already\n"
    printed = "".join(answer.out + answer.err for answer in (first, second, restored))
    assert "s3cret" not in printed
    files = [path for path in tmp_path.glob("**/*") if path.is_file()]
    places = {(path.relative_to(tmp_path).parts[0], path.name) for path in files}
    assert places >= {("runs", "record.json"), ("server", "mlflow.db"), ("server", "record.json")}
    assert not [path for path in files if b"s3cret" in path.read_bytes()]
