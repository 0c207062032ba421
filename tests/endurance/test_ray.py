"""A suite on a Ray cluster of this machine, a worker of which is killed."""

import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from tests.clusters import wait_until
from tests.endurance.commands import begin, records
from tests.endurance.slow_suite import are_done, cells_in_mlflow, claims

pytestmark = pytest.mark.slow

RUN = ("run", "--suite", "./tiny.toml", "--seeds", "4", "--launcher", "ray", "--workers", "2")

# In a process of its own, whose functions no test has wrapped. Commands end with these exit codes.
COMMANDS = """
from pathlib import Path
from gim_bench.system import ray_tasks

with ray_tasks.cluster(None):
    tasks = [
        ray_tasks.Task(
            command=["sh", "-c", f"exit {code}"],
            folder=Path.cwd(),
            environment={},
            log=Path.cwd() / f"{code}.log",
            cpus=1,
            gpus=0,
            memory_bytes=None,
            retries=0,
        )
        for code in (0, 1, 2, 9)
    ]
    print("\\n".join(filter(None, ray_tasks.run(tasks))))
"""


def tasks_of(process):
    """Ray's own processes that run a task."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if any("ray::work" in word for word in words_of(child))]


def words_of(process):
    """The command line of a process; none of one that has just ended."""
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def test_a_killed_worker_leaves_every_cell_done_once(folder, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'gim-bench[ray]'")
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps a token
    monkeypatch.setenv("SLOW_SECONDS", "0.3")
    process = begin(folder, *RUN, "--set", "training.epochs=8")
    wait_until(lambda: len(claims(folder)) == 2, seconds=300)
    workers = tasks_of(process)
    assert len(workers) == 2
    workers[0].kill()
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    assert are_done(folder, 4)
    assert "slow reaches" in out
    assert set(cells_in_mlflow(folder).values()) == {1}
    assert set(cells_in_mlflow(folder)) == {r.key for r in records(folder, "tiny").values()}
    assert not tasks_of_ray_left()


def test_a_command_that_is_refused_or_fails_is_named(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'gim-bench[ray]'")
    monkeypatch.setenv("HOME", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "a worker gave up: its command ended with exit code 2",
        f"a worker gave up: the command ended with exit code 9: its log is {tmp_path}/9.log",
    ]


def tasks_of_ray_left():
    return [p for p in psutil.process_iter(["name"]) if p.info["name"].startswith("ray::")]
