"""Stores are checked within seconds, and a store that cannot be used is one line."""

import re
import socket
import sqlite3
import subprocess
import sys
import tempfile

import pytest

from gim_bench.errors import TrackingError, UnwritableError
from gim_bench.system.locks import locked
from gim_bench.tracking import Tracker, stores
from tests.servers import answering_with


def complaint(uri, kind=TrackingError):
    """The one line that `check` answers with."""
    with pytest.raises(TrackingError) as caught:
        Tracker(uri).check()
    assert type(caught.value) is kind
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_usable_store_passes_and_nothing_is_written_besides_its_lock(tmp_path, tracker):
    before = (tmp_path / "mlflow.db").read_bytes()
    tracker.check()
    Tracker(f"sqlite:///{tmp_path / 'new.db'}").check()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_the_check_of_a_store_does_not_import_mlflow(tmp_path):
    """A re-run of a finished suite has nothing to mirror and should not pay for the import."""
    code = "import sys; from gim_bench.tracking import Tracker; Tracker().check(); "
    code += "assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_a_store_that_another_process_writes_to_can_be_used(tmp_path, tracker, monkeypatch):
    monkeypatch.setattr(stores, "CONNECT_SECONDS", 0.1)
    with locked(tmp_path / "mlflow.db.lock", timeout_seconds=0):
        tracker.check()


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "ftp://host", "", "sqlite:mlflow"])
def test_an_unknown_kind_of_store_is_answered_with_the_known_ones(uri):
    assert "sqlite:///FILE" in complaint(uri)


def test_without_mlflow_the_message_says_how_to_install_mlflow(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pip install mlflow" in complaint("sqlite:///mlflow.db")


# -- servers ---------------------------------------------------------------------------------------


def test_a_server_that_is_down_is_named_with_its_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        line = complaint(f"http://127.0.0.1:{port}")
    assert f"no answer from 127.0.0.1 port {port}" in line


# case 20
@pytest.mark.parametrize(
    ("status", "body"),
    [(403, ""), (401, ""), (404, "<html>"), (200, "<html>"), (200, "{}"), (200, ""), (200, "[]")],
)
def test_another_program_at_the_port_is_noticed_by_the_check(status, body, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering_with(status, body) as (uri, asked):
        assert "does not answer as MLflow's API does" in complaint(uri)
    assert asked


@pytest.mark.parametrize("uri", ["http://", "http://host:port", "https:///path"])
def test_an_address_without_a_host_or_with_a_strange_port_is_refused(uri):
    complaint(uri)


# case 14
@pytest.mark.parametrize(
    "uri",
    [
        "http://ann:s3cret@127.0.0.1:{port}",
        "http://s3cret@127.0.0.1:{port}/?token=s3cret",
        "http://ann:s3cret/@127.0.0.1:{port}",
        "ftp://ann:s3cret@host",
        "postgresql://ann:s3cret@127.0.0.1:9/name",
        "postgresql+nothing://127.0.0.1:{port}/name?user=ann&password=s3cret",
    ],
)
def test_the_complaint_about_a_store_shows_no_password(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering_with(401) as (address, _):
        assert "s3cret" not in complaint(uri.format(port=address.rpartition(":")[2]))


# -- SQLite files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_store_that_would_be_lost_is_refused(uri):
    assert "names no file" in complaint(uri)


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_text("not a database, but long enough to be looked at" * 20)
    assert f"{path}: file is not a database" in complaint(f"sqlite:///{path}")


def test_a_missing_folder_is_named(tmp_path):
    folder = tmp_path / "missing"
    assert f"there is no folder {folder}" in complaint(f"sqlite:///{folder}/mlflow.db")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    complaint(f"sqlite:///{tmp_path}")


def test_a_file_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    """Through SQLite's own switch, because permissions do not hold the superuser."""
    path = tmp_path / "mlflow.db"
    sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close()
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3,
        "connect",
        lambda file, **options: connect(str(file).replace("mode=rw", "mode=ro"), **options),
    )
    assert re.search("readonly|read-only", complaint(f"sqlite:///{path}", UnwritableError))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    line = complaint(f"sqlite:///{tmp_path / 'new.db'}", UnwritableError)
    assert "Permission denied" in line
