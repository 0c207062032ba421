"""Addresses of MLflow stores: what they name, and how messages show them."""

from pathlib import Path

from gim_bench.errors import TrackingError

DEFAULT_URI = "sqlite:///mlflow.db"  # a bare `mlflow ui` in the same folder opens this file
# The default port of each kind of server.
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def scheme_of(uri: str) -> str:
    """The scheme of an address in lower case, without a database driver.

    >>> scheme_of("postgresql+psycopg2://host/name")
    'postgresql'
    """
    scheme, separator, _ = uri.partition(":")
    return scheme.partition("+")[0].lower() if separator else ""


def sqlite_file(uri: str) -> Path:
    """The absolute path of the file that a SQLite address names.

    Raises: TrackingError if the address names no file.
    """
    path = uri.partition(":///")[2].partition("?")[0]
    if path in ("", ":memory:"):
        raise unusable(uri, "the address names no file; use sqlite:///FILE")
    return Path(path).absolute()


def lock_beside(path: Path) -> Path:
    """The lock file of a SQLite file. Processes that name the file by links share the lock."""
    return path.resolve().with_name(f"{path.resolve().name}.lock")


def without_password(uri: str) -> str:
    """The address without user and password.

    >>> without_password("http://me:secret@host:5000")
    'http://…@host:5000'
    """
    credentials, at, rest = uri.rpartition("@")
    return f"{credentials.partition('://')[0]}://…@{rest}" if at else uri


def unusable(uri: str, reason: str) -> TrackingError:
    """The error for a store that cannot be used, with what to do about it."""
    return TrackingError(
        f"cannot track to {without_password(uri)!r}: {reason}; the records stay on disk: run with "
        f"--no-tracking, mirror them later with python -m gim_bench sync"
    )
