"""A lock between processes, which the system releases when its holder dies."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_SECONDS = 600.0


@contextmanager
def locked(path: Path, *, timeout_seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """A context that one process at a time can enter; others with the same `path` wait.

    `path` becomes an empty file, which needs no room on a full disk. The file stays after the
    block, because other processes may be waiting for its lock.

    Raises: TimeoutError if another process holds the lock for too long; OSError if the file
    system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=timeout_seconds, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        message = f"another process has held the lock {path} for {timeout_seconds:g} s"
        raise TimeoutError(message) from None
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        raise OSError(errno.ENOSYS, "the file system has no locks", str(path)) from None
    try:
        yield
    finally:
        lock.release()
