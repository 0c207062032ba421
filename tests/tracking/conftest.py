"""A SQLite store, as `mlflow ui` would open it."""

import pytest

from gim_bench.tracking import Tracker
from tests.stores import empty_store as without_runs
from tests.tracking.records import cell


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A store with a summary of another suite: the tests copy the file."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    path.write_bytes(without_runs())
    Tracker(f"sqlite:///{path}").summarise("other", [cell(suite="other")])
    return path.read_bytes()


@pytest.fixture
def tracker(tmp_path, empty_store):
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    return Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}")
