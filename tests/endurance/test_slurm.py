"""Suites on a real Slurm of two made-up nodes, whose jobs and daemons are killed.

They take minutes, as the other tests of this folder do: `tox -e endurance`.
"""

import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from gim_bench.records.claims import CLAIM
from gim_bench.records.record import Status
from tests.clusters import missing, slurm_in, wait_until
from tests.endurance.commands import begin, finish, records, results
from tests.tiny_suite import TOML

pytestmark = pytest.mark.slow

MINUTES = 60.0
# GIM whose steps take their time without keeping a core busy.
PLUGIN = '''
import os, time
from gim_bench.methods.gim import GreedyInfoMax


class Slow(GreedyInfoMax):
    """GIM that sleeps."""

    def losses(self, batch):
        time.sleep(float(os.environ.get("SLOW_SECONDS", "0")))
        yield from super().losses(batch)
'''
OPTIONS = "minutes = {minutes}\nmemory_gib = 1\ncpus = 1\n"


@pytest.fixture
def cluster(tmp_path):
    if reason := missing():
        pytest.skip(reason)
    with slurm_in(tmp_path / "slurm") as started:
        yield started


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a suite of one slow method, which a plug-in brings."""
    info = tmp_path / "site" / "slow-1.0.dist-info"
    info.mkdir(parents=True)
    (tmp_path / "site" / "slow.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gim_bench.methods]\nslow = slow:METHODS\n")
    with (tmp_path / "site" / "slow.py").open("a") as file:
        file.write('\nMETHODS = {"slow": "slow:Slow"}\n')
    place = tmp_path / "work"
    place.mkdir()
    (place / "tiny.toml").write_text(TOML.replace('["gim", "random_init"]', '["slow"]'))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return place


def submit(folder, *, seeds, workers, minutes, epochs):
    """The number of the job."""
    (folder / "slurm.toml").write_text(OPTIONS.format(minutes=minutes))
    command = ("run", "--suite", "./tiny.toml", "--seeds", str(seeds))
    launcher = ("--launcher", "slurm", "--launcher-options", "slurm.toml")
    more = ("--workers", str(workers), "--set", f"training.epochs={epochs}")
    code, err = finish(begin(folder, *command, *launcher, *more))
    assert code == 0, err
    (script,) = folder.glob("runs/tiny/slurm/*.sh")
    return script.stem


def claims(folder):
    return list(folder.glob(f"runs/tiny/slow/*/{CLAIM}"))


def are_done(folder, count):
    found = records(folder, "tiny")
    return len(found) == count and {r.status for r in found.values()} == {Status.DONE}


def cells_in_mlflow(folder):
    """The number of active runs of each cell."""
    query = (
        "SELECT value, COUNT(*) FROM tags JOIN runs USING (run_uuid) "
        "WHERE key = 'gim_bench.key' AND lifecycle_stage = 'active' GROUP BY value"
    )
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return dict(database.execute(query).fetchall())


def queue(cluster, job):
    """The states of the job's tasks that have not ended."""
    lines = cluster.ask("squeue", "-h", "-r", "-j", job, "-o", "%i %T").splitlines()
    return dict(line.split() for line in lines)


def test_a_cancelled_job_and_a_dead_node_leave_every_cell_done_once(cluster, folder, monkeypatch):
    """Three workers share eight cells; one is cancelled, and the daemon of a node is killed."""
    monkeypatch.setenv("SLOW_SECONDS", "0.5")
    job = submit(folder, seeds=8, workers=3, minutes=60, epochs=10)
    wait_until(lambda: len(claims(folder)) == 3, seconds=10 * MINUTES)
    cluster.ask("scancel", f"{job}_0")
    cluster.kill_node("n2")
    wait_until(lambda: are_done(folder, 8), seconds=20 * MINUTES)
    wait_until(lambda: f"{job}_1" not in queue(cluster, job), seconds=20 * MINUTES)
    logs = "".join(path.read_text() for path in folder.glob("runs/tiny/slurm/*.log"))
    trained = Counter(line for line in logs.splitlines() if ": test features: " in line)
    assert len({line.partition(":")[0] for line in trained}) == 8
    assert trained.total() == 8, trained
    assert "interrupted" in (folder / f"runs/tiny/slurm/{job}_0.log").read_text()
    assert set(cells_in_mlflow(folder).values()) == {1}
    assert set(cells_in_mlflow(folder)) == {r.key for r in records(folder, "tiny").values()}


def test_a_cell_longer_than_the_time_limit_ends_by_requeueing_as_one_that_never_was(
    cluster, folder, monkeypatch
):
    """A limit of a minute, and a training that sleeps for three."""
    whole = folder.parent / "whole"
    whole.mkdir()
    (whole / "tiny.toml").write_text((folder / "tiny.toml").read_text())
    sets = ("--set", "training.epochs=90", "--no-tracking")
    assert finish(begin(whole, "run", "--suite", "./tiny.toml", *sets))[0] == 0
    monkeypatch.setenv("SLOW_SECONDS", "1")
    job = submit(folder, seeds=1, workers=1, minutes=1, epochs=90)
    wait_until(lambda: are_done(folder, 1), seconds=30 * MINUTES)
    shown = cluster.ask("scontrol", "--oneliner", "show", "job", job)
    assert int(shown.partition("Restarts=")[2].split()[0]) > 0
    assert results(folder, "tiny") == results(whole, "tiny")
