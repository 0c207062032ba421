"""Addresses of MLflow stores: what they name, and how messages show them."""

import shlex
from pathlib import Path
from urllib.parse import urlsplit

from gim_bench.errors import TrackingError, first_line
from gim_bench.system.addresses import HIDDEN, concealed, masked, parse, sqlite_file

DEFAULT_URI = "sqlite:///mlflow.db"
DEFAULT_RUNS_DIR = Path("runs")
# The default port of each kind of server.
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def scheme_of(uri: str) -> str:
    """The scheme of an address without a database driver; empty if it cannot be parsed.

    >>> scheme_of("postgresql+psycopg://host/name")
    'postgresql'
    """
    try:
        return parse(uri).get_backend_name().lower()
    except ValueError:
        return ""


def store_file(uri: str) -> Path:
    """The absolute path of the file that a SQLite address names.

    Raises: TrackingError if the address names no file.
    """
    path = sqlite_file(parse(uri))
    if path is None:
        raise unusable(uri, "the address names no file; use sqlite:///FILE")
    return path


def lock_beside(path: Path) -> Path:
    """The lock file of a SQLite file. Processes that name the file by links share the lock."""
    return path.resolve().with_name(f"{path.resolve().name}.lock")


def for_mlflow(uri: str) -> str:
    """The address under which MLflow finds a store.

    MLflow 3.17 takes the text after `sqlite:///` for a path, and makes a folder with the name as it
    is escaped. With a driver the same address is parsed.
    """
    plain = "sqlite:///"
    if not uri.startswith(plain) or uri.removeprefix(plain) == parse(uri).database:
        return uri
    return f"sqlite+pysqlite:///{uri.removeprefix(plain)}"


def page_of(uri: str) -> str:
    """What shows a store: the address of a server, or the command that serves a database.

    A bare `mlflow ui` opens another store where a folder `mlruns` of older versions lies.
    """
    if scheme_of(uri) in {"http", "https"} or masked(uri) != uri:
        return masked(uri)
    return f"mlflow ui --backend-store-uri {shlex.quote(for_mlflow(uri))}"


def pages_at(uri: str) -> str:
    """The address that a server's pages begin with: without user, password and options.

    >>> pages_at("https://ann:s3cret@host:5000/mlflow/?token=s3cret")
    'https://host:5000/mlflow'
    """
    split = urlsplit(masked(uri))
    place, path = split.netloc.rpartition("@")[2], split.path.removesuffix(HIDDEN).rstrip("/")
    return f"{split.scheme}://{place}{path}"


def restore_command(uri: str, *, experiment_id: str) -> str:
    """The command that restores a deleted experiment of a store."""
    where = shlex.quote(masked(for_mlflow(uri)))
    return f"MLFLOW_TRACKING_URI={where} mlflow experiments restore --experiment-id {experiment_id}"


def sync_command(uri: str, *, runs_dir: Path) -> str:
    """The command that brings a store up to date with the records of a folder."""
    options = []
    if runs_dir != DEFAULT_RUNS_DIR:
        options.append(f" --runs-dir {shlex.quote(str(runs_dir))}")
    if uri != DEFAULT_URI:
        options.append(f" --tracking-uri {shlex.quote(masked(uri))}")
    return f"python -m gim_bench sync{''.join(options)}"


def unusable(
    uri: str, reason: str | BaseException, *, kind: type[TrackingError] = TrackingError
) -> TrackingError:
    """The error for a store that cannot be used; the reason may be an error of another program."""
    text = reason if isinstance(reason, str) else concealed(first_line(reason), uri)
    return kind(f"cannot track to {masked(uri)!r}: {text}")
