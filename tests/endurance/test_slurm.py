"""Suites on a real Slurm of two made-up nodes, whose jobs and daemons are killed.

They take minutes, as the other tests of this folder do: `tox -e endurance`.
"""

from collections import Counter

import pytest

from tests.clusters import missing, slurm_in, wait_until
from tests.endurance.commands import begin, finish, records, results
from tests.endurance.slow_suite import are_done, cells_in_mlflow, claims

pytestmark = pytest.mark.slow

MINUTES = 60.0
OPTIONS = "minutes = {minutes}\nmemory_gib = 1\ncpus = 1\n"


@pytest.fixture
def cluster(tmp_path):
    if reason := missing():
        pytest.skip(reason)
    with slurm_in(tmp_path / "slurm") as started:
        yield started


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
