"""A suite on a Ray cluster of this machine, a worker of which is killed."""

from contextlib import suppress

import psutil
import pytest

from tests.clusters import wait_until
from tests.endurance.commands import begin, records
from tests.endurance.slow_suite import are_done, cells_in_mlflow, claims

pytestmark = pytest.mark.slow

RUN = ("run", "--suite", "./tiny.toml", "--seeds", "4", "--launcher", "ray", "--workers", "2")


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


def tasks_of_ray_left():
    return [p for p in psutil.process_iter(["name"]) if p.info["name"].startswith("ray::")]
