"""Eight processes that mirror the same records at the same time, as eight runs of a suite would."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from tests.servers import Server, names
from tests.tracking.test_client import SWEPT, cell

pytestmark = pytest.mark.slow

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
    command = [sys.executable, "-m", "gim_bench", "sync"]
    command += ["--runs-dir", str(runs_dir), "--tracking-uri", uri]
    begun = [
        subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for _ in range(processes)
    ]
    return [(process.communicate()[1], process.returncode) for process in begun]


def test_eight_processes_at_a_new_sqlite_file_make_every_run_once(runs_dir, tmp_path):
    store = tmp_path / "mlflow.db"
    uri = f"sqlite:///{store}"
    assert sync_together(uri, runs_dir, processes=8) == [("", 0)] * 8
    with closing(sqlite3.connect(store)) as database:
        found = database.execute("SELECT name, lifecycle_stage FROM runs ORDER BY name").fetchall()
        experiments = database.execute("SELECT name FROM experiments").fetchall()
    assert found == [(name, "active") for name in EXPECTED]  # nothing was made and thrown away
    assert sorted(experiments) == [("Default",), (EXPERIMENT,)]


def test_three_processes_at_a_new_server_leave_every_run_once(runs_dir, tmp_path):
    with Server(tmp_path / "server") as server:
        assert sync_together(server.uri, runs_dir, processes=3) == [("", 0)] * 3
        content = server.content(EXPERIMENT)
        assert names(content) == EXPECTED
        sync_together(server.uri, runs_dir, processes=3)
        assert server.content(EXPERIMENT) == content
