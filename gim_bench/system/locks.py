"""A lock between processes: one at a time, and one that dies lets go."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_SECONDS = 600.0


@contextmanager
def locked(path: Path, *, timeout_seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """The block is one process's alone; others that name `path` wait before theirs.

    `path` becomes an empty file, which needs no room on a full disk. It stays: whoever removed it
    would take it from under those who wait.

    Raises: OSError where `path` cannot be locked: TimeoutError where that is only for now.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=timeout_seconds)
    try:
        lock.acquire()
    except Timeout:
        message = f"{path} has been locked by another process for {timeout_seconds:g} s"
        raise TimeoutError(message) from None
    except NotImplementedError:
        raise OSError(f"{path}: its file system locks no files") from None
    try:
        yield
    finally:
        lock.release()
