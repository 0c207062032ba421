"""Batch scripts of workers, at a real Slurm: signals, checkpoints and requeueing."""

import sys

import pytest

from gim_bench.errors import ConfigError
from gim_bench.system import slurm
from tests.clusters import missing, slurm_in, wait_until

NAME = "gim_bench:tiny"
# A worker that says when it starts, and at SIGTERM writes a checkpoint and ends with a code.
WORKER = """
import os, signal, sys, time
from pathlib import Path

folder, code = Path(sys.argv[1]), int(sys.argv[2])

def stop(*_):
    (folder / "checkpoint").write_text("step 7")
    sys.exit(code)

signal.signal(signal.SIGTERM, stop)
if (folder / "checkpoint").exists():
    (folder / "done").write_text((folder / "checkpoint").read_text())
    sys.exit(0)
(folder / "started").touch()
time.sleep(300)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    with slurm_in(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture
def submitted(cluster, tmp_path, monkeypatch):
    """Submits a worker that ends with an exit code at SIGTERM, and waits until it has started."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "worker.py").write_text(WORKER)

    def submit(code, *, requeues=1):
        options = [f"--job-name={NAME}", f"--output={tmp_path}/%j.log", "--open-mode=append"]
        script = slurm.worker_script(
            [sys.executable, "-S", "worker.py", str(tmp_path), str(code)],
            options=options,
            setup=["export GREETING='two words'"],
            requeues=requeues,
        )
        job = slurm.submit(script, options=options, environment={})
        wait_until((tmp_path / "started").exists)
        return job

    return submit


def ended(cluster, job):
    return cluster.state(job) in {"COMPLETED", "CANCELLED", "FAILED"}


@pytest.mark.slow
def test_a_worker_that_is_told_of_its_time_limit_is_requeued_and_goes_on(
    cluster, submitted, tmp_path
):
    job = submitted(130)
    cluster.ask("scancel", "--batch", "--signal=USR1", job)
    wait_until((tmp_path / "checkpoint").exists)
    wait_until(lambda: cluster.state(job) == "PENDING")
    wait_until(lambda: ended(cluster, job))
    assert cluster.state(job) == "COMPLETED"
    assert (tmp_path / "done").read_text() == "step 7"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "requeues"), [(1, 1), (130, 0)], ids=["a cell failed", "no requeue is left"]
)
def test_a_worker_that_requeueing_does_not_help_ends(code, requeues, cluster, submitted, tmp_path):
    job = submitted(code, requeues=requeues)
    cluster.ask("scancel", "--batch", "--signal=USR1", job)
    wait_until(lambda: ended(cluster, job))
    assert cluster.state(job) == "FAILED"
    assert (tmp_path / "checkpoint").exists()


@pytest.mark.slow
def test_a_worker_that_is_cancelled_writes_its_checkpoint_and_is_not_requeued(
    cluster, submitted, tmp_path
):
    job = submitted(130)
    assert slurm.states([job, "999"], name=NAME) == {job: {"running": 1}}
    assert slurm.states([job], name="gim_bench:other") == {}
    slurm.cancel(job)
    wait_until(lambda: ended(cluster, job))
    assert cluster.state(job) == "CANCELLED"
    assert (tmp_path / "checkpoint").exists()
    assert slurm.states([job], name=NAME) == {}


@pytest.mark.slow
def test_what_slurm_refuses_is_one_line(cluster):
    with pytest.raises(ConfigError, match=r"^Slurm refuses \(sbatch: error: invalid partition"):
        slurm.submit("#!/bin/bash\n", options=["--partition=gpu"], environment={})


def test_a_machine_without_slurm_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no sbatch on this machine: use a login node"):
        slurm.submit("#!/bin/bash\n", options=[], environment={})


@pytest.mark.parametrize(("minutes", "lead"), [(None, 120), (24, 120), (12, 60), (1, 5)])
def test_the_signal_leaves_a_short_limit_most_of_its_time(minutes, lead):
    assert slurm.signal_before_limit(minutes) == f"B:USR1@{lead}"
