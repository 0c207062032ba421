"""The process that mirrors cells as they train: when it starts, what it sends, how it ends."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import psutil
import pytest

from gim_bench.progress import Silence
from gim_bench.records.claims import CLAIM
from gim_bench.records.folder import RunsFolder
from gim_bench.tracking import followed, following
from tests.tracking.records import cell, history, runs
from tests.tracking.test_live import RUNNING, losses, measure, training

# MLflow 3.17 declares its tables with a strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
PATIENCE_SECONDS = 1200


class Lines(Silence):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, line):
        self.said.append(line)


@pytest.fixture
def folder(tmp_path):
    return RunsFolder(tmp_path / "runs")


@pytest.fixture
def progress():
    return Lines()


def followers():
    """The processes that follow cells of this process."""
    children = psutil.Process().children()
    return [child for child in children if "gim_bench.tracking.following" in child.cmdline()]


def seen(tracker):
    """The runs of the suite; none before the store has its experiment."""
    with suppress(AttributeError):
        return runs(tracker)
    return []


def follow(uri, *, folder, progress=None):
    return followed(
        "quickstart", uri=uri, runs=folder, every_seconds=0.2, progress=progress or Silence()
    )


def wait_until(is_so):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextmanager
def mute_server():
    """An address that takes connections and answers nobody."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://ann:s3cret@127.0.0.1:{server.getsockname()[1]}"


# -- which cells -----------------------------------------------------------------------------------


def test_cells_of_this_process_with_points_are_under_way(folder):
    with training(folder, cell(**RUNNING)), training(folder, cell(seed=1, **RUNNING)) as place:
        measure(place, 1)
        assert following._under_way(folder.root / "quickstart", parent=os.getpid()) == [place]


def test_cells_of_a_child_are_under_way_and_those_of_others_are_not(folder):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1)
        suite = folder.root / "quickstart"
        assert following._under_way(suite, parent=os.getppid()) == [place]
        assert following._under_way(suite, parent=1) == []


def test_a_cell_whose_process_is_gone_is_not_under_way(folder):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1)
        claim = json.loads((place / CLAIM).read_text())
        (place / CLAIM).write_text(json.dumps(claim | {"started": 1.0, "ticks": None}))
        assert following._under_way(folder.root / "quickstart", parent=os.getpid()) == []


def test_no_process_starts_while_there_is_nothing_to_mirror(folder, monkeypatch):
    looks = []

    def look(*_, **__):
        looks.append(followers())
        return []

    monkeypatch.setattr(following, "_under_way", look)
    with follow("sqlite:///unused.db", folder=folder):
        wait_until(lambda: len(looks) > 3)
    assert looks == [[]] * len(looks)


# -- the process -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_cells_are_mirrored_as_they_train_and_marked_as_killed_if_they_do_not_end(
    tracker, folder, progress
):
    with follow(tracker.uri, folder=folder, progress=progress):
        with training(folder, cell(**RUNNING)) as place:
            measure(place, 1, 2)
            wait_until(lambda: seen(tracker))
            (run,) = runs(tracker)
            wait_until(lambda: history(tracker, run, "step_loss/module_1") == losses(1, 2))
            assert run.info.status == "RUNNING"
            measure(place, 3)
            wait_until(lambda: history(tracker, run, "step_loss/module_1") == losses(1, 2, 3))
            measure(place, 4)
        wait_until(lambda: runs(tracker)[0].info.status == "KILLED")
    assert history(tracker, run, "step_loss/module_1") == losses(1, 2, 3, 4)
    assert followers() == []
    assert progress.said == []


@pytest.mark.slow
def test_a_server_that_is_away_is_named_once_and_without_its_password(folder, progress):
    with (
        training(folder, cell(**RUNNING)) as place,
        follow("http://ann:s3cret@127.0.0.1:9", folder=folder, progress=progress),
    ):
        measure(place, 1)
        wait_until(lambda: progress.said)
        (process,) = followers()
        assert "s3cret" not in " ".join([*process.cmdline(), *process.environ().values()])
        time.sleep(2)
    (line,) = progress.said
    assert line.startswith("not live in MLflow, which is tried again later: cannot track to 'http:")
    assert "s3cret" not in line
    assert followers() == []


@pytest.mark.slow
def test_a_server_that_never_answers_holds_up_neither_the_cell_nor_the_end(
    folder, progress, monkeypatch
):
    """This process, in which cells train, connects to nothing; the follower is ended."""

    def connect(*_):
        pytest.fail("the process that trains asks a server")

    monkeypatch.setattr(following, "FAREWELL_SECONDS", 0.5)
    with mute_server() as uri, training(folder, cell(**RUNNING)) as place:
        monkeypatch.setattr(socket.socket, "connect", connect)
        with follow(uri, folder=folder, progress=progress):
            measure(place, 1)
            wait_until(followers)
            (process,) = followers()
            wait_until(lambda: process.net_connections(kind="tcp"))  # it waits for an answer
            measure(place, 2)
        assert not process.is_running()


@pytest.mark.slow
def test_the_follower_of_a_command_that_is_killed_ends_by_itself(tracker, folder):
    """Its standard input ends with the command."""
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1)
        order = {
            "suite": "quickstart",
            "uri": tracker.uri,
            "runs": str(folder.root),
            "every_seconds": 600.0,
            "parent": os.getpid(),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "gim_bench.tracking.following"], stdin=subprocess.PIPE
        )
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        wait_until(lambda: seen(tracker))
    process.stdin.close()
    assert process.wait(PATIENCE_SECONDS) == 0
    assert [run.info.status for run in runs(tracker)] == ["KILLED"]
