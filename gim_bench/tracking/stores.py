"""What can be known of an MLflow store within a second, without importing MLflow."""

import errno
import importlib.util
import socket
import sqlite3
import tempfile
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from gim_bench.errors import TrackingError, UnwritableError, first_line
from gim_bench.system.addresses import parse
from gim_bench.system.locks import locked
from gim_bench.tracking.addresses import PORTS, lock_beside, scheme_of, store_file, unusable

CONNECT_SECONDS = 5


class Found(NamedTuple):
    """A run that a store holds."""

    run_id: str
    started_ms: int
    ended_ms: int | None
    status: str
    artifact_uri: str
    tags: Mapping[str, str]


def check_store(uri: str) -> None:
    """Check that MLflow is installed, that the address is of a known kind, and a file writable.

    Raises: TrackingError in one line.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise unusable(uri, "MLflow is not installed: pip install mlflow")
    if "://" in uri:
        try:
            parse(uri)
        except ValueError as error:
            raise unusable(uri, error) from None
    if scheme_of(uri) == "sqlite":
        _check_sqlite(uri)
    elif scheme_of(uri) not in PORTS:
        raise unusable(uri, "use sqlite:///FILE or http(s)://HOST:PORT")


def check_server(uri: str) -> None:
    """Check that a server takes connections. Behind a proxy only the proxy can tell.

    Raises: TrackingError in one line.
    """
    scheme, address = scheme_of(uri), parse(uri)
    host, port = address.host, address.port or PORTS[scheme]
    if not host:
        if scheme in {"http", "https"}:
            raise unusable(uri, "the address names no host")
        return  # a database may be found by an option, such as the folder of its socket
    if scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise unusable(uri, f"no answer from {host} port {port} ({first_line(error)})") from None


def _check_sqlite(uri: str) -> None:
    path = store_file(uri)
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
        kind = UnwritableError if _forbids_writing(error) else TrackingError
        why = getattr(error, "strerror", None) or first_line(error)
        raise unusable(uri, f"{path}: {why}", kind=kind) from None


def _forbids_writing(error: OSError | sqlite3.Error) -> bool:
    if isinstance(error, sqlite3.Error):
        return error.sqlite_errorcode == sqlite3.SQLITE_READONLY
    return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def _try_to_write(path: Path) -> None:
    """Raises: sqlite3.Error; TimeoutError if another process is writing."""
    with (
        locked(lock_beside(path), timeout_seconds=CONNECT_SECONDS),
        closing(_opened(path, mode="rw")) as database,
    ):
        database.execute("BEGIN IMMEDIATE")
        # BEGIN alone succeeds on a file that cannot be written. Closing undoes the new table.
        database.execute("CREATE TABLE gim_bench_can_write (x)")


def runs_in_file(path: Path, *, experiment: str, tags: Mapping[str, str]) -> list[Found]:
    """The active runs of an experiment with all these tags, read from MLflow's own tables.

    Empty where the file or its tables are missing, or another version of MLflow made them.
    """
    first = max(tags.items(), key=lambda item: len(item[1]))  # a hash, which few runs have
    query = (
        "SELECT run_uuid, start_time, end_time, status, artifact_uri FROM runs "
        "JOIN experiments USING (experiment_id) WHERE experiments.name = ? "
        "AND experiments.lifecycle_stage = 'active' AND runs.lifecycle_stage = 'active' "
        "AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)"
    )
    tags_of = "SELECT key, value FROM tags WHERE run_uuid = ?"
    try:
        with closing(_opened(path, mode="ro")) as database:
            runs = database.execute(query, (experiment, *first)).fetchall()
            found = [Found._make((*r, dict(database.execute(tags_of, r[:1])))) for r in runs]
    except sqlite3.Error:
        return []
    return [run for run in found if tags.items() <= run.tags.items()]


def move_artifacts(path: Path, *, old: str, new: str) -> None:
    """Let the experiments and runs of a SQLite store look for artifacts in another folder.

    MLflow has no function for that. Raises: sqlite3.Error.
    """
    with closing(_opened(path, mode="rw")) as database, database:
        database.execute(
            "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (new, old)
        )
        database.execute(
            "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
            "WHERE substr(artifact_uri, 1, ?) = ?",
            (new, len(old) + 1, len(old) + 1, f"{old}/"),
        )


def _opened(path: Path, *, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True)
