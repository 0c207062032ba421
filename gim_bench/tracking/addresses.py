"""Addresses of MLflow stores."""

from pathlib import Path

from gim_bench.errors import TrackingError

DEFAULT_URI = "sqlite:///mlflow.db"  # what a bare `mlflow ui` in the same folder opens


PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def scheme_of(uri: str) -> str:
    """Lower case, without a database driver: "postgresql" for postgresql+psycopg2://host/name."""
    scheme, separator, _ = uri.partition(":")
    return scheme.partition("+")[0].lower() if separator else ""


def sqlite_file(uri: str) -> Path:
    """The file that a SQLite address names, absolute. Raises: TrackingError where it names none."""
    path = uri.partition(":///")[2].partition("?")[0]
    if path in ("", ":memory:"):
        raise TrackingError(
            f"cannot track to {uri!r}: it names no file; use sqlite:///FILE, or --no-tracking"
        )
    return Path(path).absolute()


def lock_beside(path: Path) -> Path:
    return path.resolve().with_name(f"{path.resolve().name}.lock")


def without_password(uri: str) -> str:
    credentials, at, rest = uri.rpartition("@")
    return f"{credentials.partition('://')[0]}://…@{rest}" if at else uri


def reason_of(error: Exception) -> str:
    """The first line of what `error` says, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
