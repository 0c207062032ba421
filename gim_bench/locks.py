"""A lock between processes: one at a time, and one that dies lets go."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, *, timeout_seconds: float) -> Iterator[None]:
    """The block is one process's alone; others that name `path` wait before theirs.

    `path` becomes a file of SQLite's own, which locks alike on every system. It stays: whoever
    removed it would take it from under those who wait.

    Raises: TimeoutError where the lock cannot be had in time; sqlite3.Error where `path` cannot be
    a lock at all.
    """
    with closing(sqlite3.connect(path, timeout=timeout_seconds, isolation_level=None)) as file:
        try:
            file.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            message = f"{path} has been locked by another process for {timeout_seconds:g} s"
            raise TimeoutError(message) from None
        yield
