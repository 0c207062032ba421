"""The pages of a real MLflow server, in a real browser."""

import time

import pytest

from gim_bench.tracking import Tracker
from tests.browser import CHROMIUM, page
from tests.servers import Server
from tests.tracking.records import cell, runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    # MLflow 3.17 declares its tables with a strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]
PATIENCE_SECONDS = 600  # on a busy machine
METRICS = {"accuracy": 60.0, "accuracy/module_1": 55.5, "accuracy/module_2": 60.0}


@pytest.fixture(scope="module")
def shows(tmp_path_factory):
    """Whether a page comes to show all the texts; its place may name {experiment} and {run}."""
    folder = tmp_path_factory.mktemp("pages")
    with Server(folder / "server") as server:
        tracker = Tracker(server.uri)
        tracker.mirror(cell(metrics=METRICS))
        tracker.summarise("quickstart", [cell(metrics=METRICS)])
        (run,) = runs(tracker, "tags.kind = 'cell'")
        ids = {"experiment": run.info.experiment_id, "run": run.info.run_id}

        def show(place, *texts):
            address = f"{server.uri}/#/experiments/{place.format(**ids)}"
            deadline = time.monotonic() + PATIENCE_SECONDS
            while time.monotonic() < deadline:
                shown = page(address, profile=folder / "browser", timeout_seconds=PATIENCE_SECONDS)
                if all(text in shown for text in texts):
                    return True
            return False

        yield show


def test_the_table_of_runs_has_the_cell_its_data_set_and_the_summary(shows):
    assert shows("{experiment}/runs", "gim seed 0", "gim summary, n=1", "photos")


def test_the_tab_of_models_has_each_module(shows):
    assert shows("{experiment}/models", "gim seed 0 module 1", "gim seed 0 module 2")


def test_the_page_of_a_cell_says_the_protocol_and_the_command(shows):
    assert shows("{experiment}/runs/{run}", "linear probe", "--method gim --seeds 1", "photos")


def test_the_charts_of_a_cell_have_accuracy_by_module_and_the_losses(shows):
    assert shows("{experiment}/runs/{run}/model-metrics", "by_module/accuracy", "epoch_loss")
