"""`run` mirrors its cells to MLflow, and loses no cell when MLflow is away."""

import re
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from gim_bench.records.folder import RunsFolder
from gim_bench.records.sealed import read_record
from gim_bench.tracking import Tracker
from tests.cli.commands import RUN, statuses

# MLflow 3.17 declares its tables with a strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


def test_cells_are_mirrored_one_by_one_and_then_summarised(gim_bench, mirror):
    answer = gim_bench(*RUN)
    assert answer.code == 0
    assert answer.out.splitlines()[-1] == "MLflow:  mlflow ui"
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

    def slowly(tracker, suite, records):
        summarise(tracker, suite, records)
        record = read_record(folder / "record.json")
        RunsFolder(tmp_path / "runs").save(replace(record, seed=1, key="1" * 64))

    monkeypatch.setattr(Tracker, "summarise", slowly)
    gim_bench(*RUN)
    assert mirror.summaries == [["gim", "random_init"], ["gim", "gim", "random_init"]]


def test_the_tracking_store_can_come_from_mlflows_own_variable(gim_bench, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://elsewhere")
    assert "cannot track to 'ftp://elsewhere'" in gim_bench(*RUN).err


# -- a store that is away --------------------------------------------------------------------------


def test_mlflow_that_breaks_in_the_middle_costs_no_cell(gim_bench, mirror, tmp_path):
    mirror.broken = True
    answer = gim_bench(*RUN)
    assert answer.code == 0
    assert statuses(tmp_path) == {("gim", 0): "done", ("random_init", 0): "done"}
    assert "not mirrored: cannot track to 'sqlite:///mlflow.db': it went away" in answer.err
    assert "Traceback" not in answer.err
    assert re.search(r"^\| *gim\b", answer.out, re.MULTILINE)


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

    def asked(*_, **__):
        pytest.fail("a finished suite does not load MLflow")

    monkeypatch.setattr(Tracker, "mirror", asked)
    monkeypatch.setattr(Tracker, "summarise", asked)
    second = gim_bench(*command)
    assert (second.code, second.out) == (0, first.out)
    assert mlflow_runs(tmp_path) == expected
