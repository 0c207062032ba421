"""One process at a time, on one machine or on several that share a folder."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

LOCK_SECONDS = 600.0


@contextmanager
def alone(file: Path, *, timeout_seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """No other process is within such a block of the same `file`; one that dies lets go.

    The file is a database of SQLite's, which locks alike on every system.

    Raises: OSError, or sqlite3.Error where the lock cannot be had.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(file, timeout=timeout_seconds, isolation_level=None)
    with closing(connection):
        connection.execute("BEGIN EXCLUSIVE")
        yield
