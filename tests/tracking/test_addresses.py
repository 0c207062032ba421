"""Addresses of MLflow stores."""

import shlex

import pytest

from gim_bench.errors import TrackingError
from gim_bench.tracking.addresses import (
    DEFAULT_URI,
    for_mlflow,
    lock_beside,
    page_of,
    pages_at,
    scheme_of,
    store_file,
    sync_command,
    unusable,
)


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("sqlite:///a.db", "sqlite"),
        ("HTTPS://host", "https"),
        ("postgresql+psycopg://host/name", "postgresql"),
        ("mlruns", ""),
    ],
)
def test_a_scheme_is_lower_case_and_without_a_driver(uri, scheme):
    assert scheme_of(uri) == scheme


def test_the_default_store_is_a_file_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert store_file(DEFAULT_URI) == tmp_path / "mlflow.db"


def test_options_after_a_sqlite_file_are_not_of_its_name():
    assert str(store_file("sqlite:////data/a.db?timeout=5")) == "/data/a.db"


# case 19
def test_an_escaped_character_of_a_sqlite_file_is_the_character():
    assert str(store_file("sqlite:////my%20drive/lr%3F1.db")) == "/my drive/lr?1.db"


@pytest.mark.parametrize(
    ("uri", "handed_on"),
    [
        ("sqlite:////data/my drive/a.db", "sqlite:////data/my drive/a.db"),
        ("sqlite:////data/my%20drive/a.db", "sqlite+pysqlite:////data/my%20drive/a.db"),
        ("http://host:5000/a%20b", "http://host:5000/a%20b"),
    ],
)
def test_mlflow_is_given_a_driver_where_it_would_not_decode_the_file(uri, handed_on):
    assert for_mlflow(uri) == handed_on


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_sqlite_store_that_would_be_lost_is_refused(uri):
    with pytest.raises(TrackingError, match="names no file; use sqlite:///FILE"):
        store_file(uri)


def test_a_file_and_a_link_to_it_share_a_lock(tmp_path):
    (tmp_path / "link.db").symlink_to(tmp_path / "mlflow.db")
    assert lock_beside(tmp_path / "link.db") == lock_beside(tmp_path / "mlflow.db")


# case 14
def test_an_error_shows_no_password_of_the_address_also_where_another_program_quotes_it():
    cause = RuntimeError("request to http://me:s3cret@127.0.0.1:1/api failed: is s3cret right?")
    message = str(unusable("http://me:s3cret@127.0.0.1:1", cause))
    assert "s3cret" not in message
    assert message.startswith("cannot track to 'http://***@127.0.0.1:1': request to http://***@")


# case 18
@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:///mlflow.db", "mlflow ui --backend-store-uri sqlite:///mlflow.db"),
        ("http://ann:s3cret@host:5000", "http://***@host:5000"),
        ("https://host/mlflow", "https://host/mlflow"),
        ("sqlite:////data/b.db", "mlflow ui --backend-store-uri sqlite:////data/b.db"),
        ("sqlite:////my data/b.db", "mlflow ui --backend-store-uri 'sqlite:////my data/b.db'"),
        ("postgresql://ann:s3cret@host/name", "postgresql://***@host/name"),
        ("postgresql://host/name", "mlflow ui --backend-store-uri postgresql://host/name"),
    ],
)
def test_a_server_is_shown_by_its_address_and_a_database_by_a_command_that_serves_it(uri, shown):
    assert page_of(uri) == shown


def test_the_command_that_syncs_names_the_folder_and_the_store_that_are_meant(tmp_path):
    command = sync_command("sqlite:////my data/b.db", runs_dir=tmp_path / "my runs")
    assert shlex.split(command) == [
        *("python", "-m", "gim_bench", "sync", "--runs-dir", str(tmp_path / "my runs")),
        *("--tracking-uri", "sqlite:////my data/b.db"),
    ]


@pytest.mark.parametrize(
    "uri",
    [
        "https://host:5000/mlflow/",
        "https://ann:s3cret@host:5000/mlflow",
        "https://host:5000/mlflow?token=s3cret",
        "https://host:5000/mlflow;token=s3cret",
    ],
)
def test_links_to_pages_hold_scheme_host_port_and_path_alone(uri):
    assert pages_at(uri) == "https://host:5000/mlflow"
