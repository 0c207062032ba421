"""Addresses of MLflow stores."""

import pytest

from gim_bench.errors import TrackingError
from gim_bench.tracking.addresses import (
    DEFAULT_URI,
    lock_beside,
    scheme_of,
    sqlite_file,
    unusable,
    without_password,
)


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("sqlite:///a.db", "sqlite"),
        ("HTTPS://host", "https"),
        ("postgresql+psycopg2://host/name", "postgresql"),
        ("mlruns", ""),
    ],
)
def test_a_scheme_is_lower_case_and_without_a_driver(uri, scheme):
    assert scheme_of(uri) == scheme


def test_the_default_store_is_a_file_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sqlite_file(DEFAULT_URI) == tmp_path / "mlflow.db"


def test_options_after_a_sqlite_file_are_not_of_its_name():
    assert str(sqlite_file("sqlite:////data/a.db?timeout=5")) == "/data/a.db"


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_sqlite_store_that_would_be_lost_is_refused(uri):
    with pytest.raises(TrackingError, match="names no file; use sqlite:///FILE"):
        sqlite_file(uri)


def test_a_file_and_a_link_to_it_share_a_lock(tmp_path):
    (tmp_path / "link.db").symlink_to(tmp_path / "mlflow.db")
    assert lock_beside(tmp_path / "link.db") == lock_beside(tmp_path / "mlflow.db")


def test_an_address_without_a_password_is_shown_as_it_is():
    assert without_password("http://host:5000") == "http://host:5000"


def test_a_password_is_not_printed():
    message = str(unusable("http://me:secret@127.0.0.1:1", "it is away"))
    assert "secret" not in message
    assert "http://…@127.0.0.1:1" in message
