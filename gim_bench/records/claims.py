"""Claims: one process at a time works on a cell, though many share the folder of runs.

A claim is a file in the cell's folder. The file names its owner, a process that touches the file
every few seconds. When the owner dies, the claim ends at once on the owner's machine; elsewhere it
ends after a time without a touch. A lock of the suite protects reads and writes of claims.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gim_bench.system.atomic import write_atomically
from gim_bench.system.locks import locked
from gim_bench.system.processes import Owner

CLAIM = "claim.json"
HEARTBEAT_SECONDS = 10.0
# Twelve touches in a row are missing, by the clock of the file system.
SILENT_SECONDS = 120.0


class Claim:
    """The claim of one process on a cell."""

    def __init__(self, path: Path, *, lock: Path, owner: Owner) -> None:
        self.owner = owner
        self._path = path
        self._lock = lock
        self._lost = threading.Event()
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="claim", daemon=True)

    @property
    def is_lost(self) -> bool:
        """Whether another process took the cell over because this process seemed to be dead."""
        return self._lost.is_set()

    def take(self) -> None:
        """Write the claim and begin to touch it; call this under the lock. Raises: OSError."""
        write_atomically(self._path, json.dumps(self.owner.as_dict()).encode())
        self._beating.start()

    def let_go(self) -> None:
        """Remove the claim if this process still owns it, and the folder if it is empty then."""
        self._over.set()
        self._beating.join()
        with locked(self._lock):
            if owner_of(self._path.parent) == self.owner:
                self._path.unlink()
                with suppress(OSError):
                    self._path.parent.rmdir()

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            if owner_of(self._path.parent) not in {self.owner, None}:  # None: the run removed it
                self._lost.set()
                _interrupt_main_thread()
                return
            try:
                os.utime(self._path)
            except OSError:
                continue  # a disk that does not answer; the next touch may succeed


@contextmanager
def claimed(folder: Path, *, lock: Path) -> Iterator[Claim | None]:
    """A context that holds this process's claim on a cell; None if another process has the claim.

    Raises: OSError.
    """
    path = folder / CLAIM
    claim = Claim(path, lock=lock, owner=Owner.here())
    with locked(lock):
        free = _is_free(path, clock=lock)
        if free:
            claim.take()
    if not free:
        yield None
        return
    try:
        yield claim
    finally:
        claim.let_go()


def _interrupt_main_thread() -> None:
    """Send Ctrl-C's signal to the main thread, or SIGTERM if Ctrl-C is ignored.

    Shells ignore Ctrl-C for processes that a script starts in the background.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    main = threading.main_thread().ident
    assert main is not None
    # Not `_thread.interrupt_main`, which does not wake a thread that waits for another process.
    signal.pthread_kill(main, signal.SIGTERM if ignored else signal.SIGINT)


def owner_of(folder: Path) -> Owner | None:
    """The process that has claimed the cell in `folder`; None without a readable claim."""
    try:
        return Owner.read(json.loads((folder / CLAIM).read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None


def seems_held(folder: Path) -> bool:
    """Whether a process seems to work on the cell, by this machine's clock and without the lock."""
    owner = owner_of(folder)
    gone = True if owner is None else owner.is_gone()
    if gone is not None:
        return not gone
    try:
        return time.time() - (folder / CLAIM).stat().st_mtime <= SILENT_SECONDS
    except OSError:
        return False


def _is_free(path: Path, *, clock: Path) -> bool:
    """Whether the cell has no claim, or its owner is dead; call this under the lock."""
    try:
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return True
    owner = owner_of(path.parent)
    gone = None if owner is None else owner.is_gone()
    if gone is not None:
        return gone
    os.utime(clock)  # the time now, by the same clock as the touches
    return clock.stat().st_mtime - touched > SILENT_SECONDS
