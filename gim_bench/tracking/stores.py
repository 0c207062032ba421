"""Checks that an MLflow store can be used. They take seconds and do not import MLflow."""

import importlib.util
import socket
import sqlite3
import tempfile
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from gim_bench.errors import first_line
from gim_bench.system.locks import locked
from gim_bench.tracking.addresses import PORTS, lock_beside, scheme_of, sqlite_file, unusable

CONNECT_SECONDS = 5


def check_store(uri: str) -> None:
    """Check that MLflow is installed and that the store takes connections, or can be written.

    Raises: TrackingError in one line.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise unusable(uri, "MLflow is not installed: pip install mlflow")
    if scheme_of(uri) == "sqlite":
        _check_sqlite(uri)
    elif scheme_of(uri) in PORTS:
        check_server(uri)
    else:
        raise unusable(uri, "use sqlite:///FILE or http(s)://HOST:PORT")


def check_server(uri: str) -> None:
    """Check that a server takes connections. Behind a proxy only the proxy can tell.

    Raises: TrackingError in one line.
    """
    scheme = scheme_of(uri)
    try:
        address = urlsplit(uri)
        host, port = address.hostname or "", address.port or PORTS[scheme]
    except ValueError as error:  # a port that is not a number
        raise unusable(uri, str(error)) from None
    if not host:
        raise unusable(uri, "the address names no host")
    if scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise unusable(uri, f"no answer from {host} port {port} ({first_line(error)})") from None


def _check_sqlite(uri: str) -> None:
    path = sqlite_file(uri)
    try:
        if path.exists():
            _try_to_write(path)
        elif not path.parent.is_dir():
            raise unusable(uri, f"there is no folder {path.parent}")
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except TimeoutError:
        pass  # another process is writing, so the file can be written
    except (OSError, sqlite3.Error) as error:
        raise unusable(uri, f"{path}: {first_line(error)}") from None


def _try_to_write(path: Path) -> None:
    """Raises: sqlite3.Error; TimeoutError if another process is writing."""
    with (
        locked(lock_beside(path), timeout_seconds=CONNECT_SECONDS),
        closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)) as database,
    ):
        database.execute("BEGIN IMMEDIATE")
        # BEGIN alone succeeds on a file that cannot be written. Closing undoes the new table.
        database.execute("CREATE TABLE gim_bench_can_write (x)")
