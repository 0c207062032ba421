"""A database of studies, and what works at its studies."""

import pytest

from gim_bench.sweep.studies import Studies


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """A database whose tables are made once: the tests copy the file."""
    path = tmp_path_factory.mktemp("optuna") / "sweep.db"
    Studies(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def url(tmp_path, empty_database):
    (tmp_path / "sweep.db").write_bytes(empty_database)
    return f"sqlite:///{tmp_path / 'sweep.db'}"


@pytest.fixture
def studies(url):
    return Studies(url)
