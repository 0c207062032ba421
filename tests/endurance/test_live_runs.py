"""A suite that trains is seen in a real MLflow server, in its interface and in a browser.

python -m pytest tests/endurance/test_live_runs.py
"""

import time
from collections import Counter
from functools import partial

import pytest

from gim_bench.records.folder import RunsFolder
from gim_bench.records.live import read_live
from tests.browser import CHROMIUM, page
from tests.endurance.commands import finish, fork
from tests.servers import Server, delayed
from tests.tiny_suite import TOML

pytestmark = [
    pytest.mark.slow,
    # MLflow 3.17 declares its tables with a strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]
PATIENCE_SECONDS = 1800
EXPERIMENT = "gim_bench/tiny"
# A method that takes half a second a step as long as there is a file `slowly`.
METHOD = """
import time
from pathlib import Path
from gim_bench.methods.gim import GreedyInfoMax

class Hesitant(GreedyInfoMax):
    '''GIM that waits.'''
    def losses(self, batch):
        time.sleep(0.5 * Path("slowly").exists())
        yield from super().losses(batch)

METHODS = {"hesitant": "hesitant:Hesitant"}
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a tiny suite and a plug-in, which commands find because they run there."""
    (tmp_path / "tiny.toml").write_text(TOML)
    (tmp_path / "hesitant.py").write_text(METHOD)
    about = tmp_path / "hesitant-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: hesitant\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[gim_bench.methods]\nhesitant = hesitant:METHODS\n")
    (tmp_path / "slowly").touch()
    return tmp_path


def started(folder, uri, *, workers, seeds=1):
    return fork(
        folder, "run", "--suite", "./tiny.toml", "--method", "hesitant",
        "--set", "training.epochs=400", "--live-every", "0.5", "--checkpoint-every", "2",
        "--workers", str(workers), "--seeds", str(seeds), "--tracking-uri", uri,
    )  # fmt: skip


def wait_until(is_so):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def cells(server):
    """The active runs of cells, by name."""
    try:
        content = server.content(EXPERIMENT)
    except ValueError:  # there is no experiment yet
        return {}
    named = [
        (run["info"]["run_name"], run)
        for run in content
        if run["info"]["lifecycle_stage"] == "active" and run["data"]["tags"]["kind"] == "cell"
    ]
    assert len(dict(named)) == len(named)
    return dict(named)


def statuses(server):
    return {name: run["info"]["status"] for name, run in cells(server).items()}


def curve(server, name):
    """The points of a cell's loss by step."""
    from mlflow import MlflowClient

    found = cells(server).get(name)
    if found is None:
        return []
    client = MlflowClient(tracking_uri=server.uri)
    history = client.get_metric_history(found["info"]["run_id"], "step_loss/module_1")
    return sorted((metric.step, metric.value) for metric in history)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cell_is_seen_while_it_trains_and_is_one_run_after_a_kill_and_the_same_command(
    folder, workers
):
    seen = [f"hesitant seed {seed}" for seed in range(workers)]
    with Server(folder / "server") as server:
        command = started(folder, server.uri, workers=workers, seeds=workers)
        wait_until(lambda: all(len(curve(server, name)) > 2 for name in seen))
        assert statuses(server) == dict.fromkeys(seen, "RUNNING")
        before = {name: len(curve(server, name)) for name in seen}
        wait_until(lambda: all(len(curve(server, name)) > before[name] for name in seen))
        command.kill()
        finish(command)
        wait_until(lambda: statuses(server) == dict.fromkeys(seen, "KILLED"))
        killed = {name: run["info"]["run_id"] for name, run in cells(server).items()}

        (folder / "slowly").unlink()
        code, err = finish(started(folder, server.uri, workers=workers, seeds=workers))
        assert code == 0, err
        assert statuses(server) == dict.fromkeys(seen, "FINISHED")
        assert {name: run["info"]["run_id"] for name, run in cells(server).items()} == killed
        runs = RunsFolder(folder / "runs")
        for record in runs.records("tiny"):
            attempt = read_live(runs.folder_of(record))
            points = curve(server, f"hesitant seed {record.seed}")
            on_disk = [(p.step, p.value) for p in attempt.points if p.name == "step_loss/module_1"]
            assert points == on_disk
            assert set(Counter(step for step, _ in points).values()) == {1}


def test_a_server_that_answers_after_two_seconds_gets_every_point(folder):
    with Server(folder / "server") as server, delayed(server.port, seconds=2.0) as uri:
        command = started(folder, uri, workers=1)
        wait_until(lambda: len(curve(server, "hesitant seed 0")) > 4)
        (folder / "slowly").unlink()
        code, err = finish(command)
        assert code == 0, err
        assert statuses(server) == {"hesitant seed 0": "FINISHED"}
        runs = RunsFolder(folder / "runs")
        (record,) = runs.records("tiny")
        points = read_live(runs.folder_of(record)).points
        on_disk = [(p.step, p.value) for p in points if p.name == "step_loss/module_1"]
        assert curve(server, "hesitant seed 0") == on_disk


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_of_a_server_shows_the_run_in_a_browser(folder):
    with Server(folder / "server") as server:
        command = started(folder, server.uri, workers=1)
        try:
            wait_until(lambda: len(curve(server, "hesitant seed 0")) > 2)
            run = cells(server)["hesitant seed 0"]["info"]
            shown = partial(page, profile=folder / "browser", timeout_seconds=PATIENCE_SECONDS)
            place = f"#/experiments/{run['experiment_id']}/runs"
            wait_until(lambda: "hesitant seed 0" in shown(f"{server.uri}/{place}"))
            charts = f"{place}/{run['run_id']}/model-metrics"
            wait_until(lambda: "step_loss" in shown(f"{server.uri}/{charts}"))
            overview = shown(f"{server.uri}/{place}/{run['run_id']}")
            assert "Running" in overview or "RUNNING" in overview
        finally:
            command.kill()
            finish(command)
