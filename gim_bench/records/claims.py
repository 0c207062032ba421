"""Who is at a cell: one process at a time, though many share the folder of runs.

A claim is a file in the cell's folder that names its owner, who touches it every few seconds. The
claim of an owner who has died is free at once where that can be seen, and after a time without a
touch where it cannot. Files are looked at and changed under a lock of the suite.
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
# By the clock of the file system: of twelve touches none came.
SILENT_SECONDS = 120.0


class Claim:
    """What one process holds on a cell."""

    def __init__(self, path: Path, *, lock: Path, owner: Owner) -> None:
        self.owner = owner
        self._path = path
        self._lock = lock
        self._lost = threading.Event()
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="claim", daemon=True)

    @property
    def is_lost(self) -> bool:
        """Another process has taken the cell over, as this one seemed to be dead."""
        return self._lost.is_set()

    def take(self) -> None:
        """Under the lock. Raises: OSError."""
        write_atomically(self._path, json.dumps(self.owner.as_dict()).encode())
        self._beating.start()

    def let_go(self) -> None:
        """Unless it is another's by now. A folder that held nothing else goes, too."""
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
                _end_what_is_under_way()
                return
            try:
                os.utime(self._path)
            except OSError:
                continue  # a disk that does not answer: the next one may


@contextmanager
def claimed(folder: Path, *, lock: Path) -> Iterator[Claim | None]:
    """This process's claim on the cell of that folder within the block; None: another has it.

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


def _end_what_is_under_way() -> None:
    """As Ctrl-C would; as SIGTERM where the former is ignored: in a script's background."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    main = threading.main_thread().ident
    assert main is not None
    # Not `_thread.interrupt_main`, which does not wake up who waits for another process.
    signal.pthread_kill(main, signal.SIGTERM if ignored else signal.SIGINT)


def owner_of(folder: Path) -> Owner | None:
    """Who has claimed the cell of that folder, if anybody."""
    try:
        return Owner.read(json.loads((folder / CLAIM).read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None


def seems_held(folder: Path) -> bool:
    """Whether somebody seems to be at the cell; by this machine's clock, and without the lock."""
    owner = owner_of(folder)
    gone = True if owner is None else owner.is_gone()
    if gone is not None:
        return not gone
    try:
        return time.time() - (folder / CLAIM).stat().st_mtime <= SILENT_SECONDS
    except OSError:
        return False


def _is_free(path: Path, *, clock: Path) -> bool:
    """Whether there is no claim, or one whose owner is dead; asked under the lock."""
    try:
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return True
    owner = owner_of(path.parent)
    gone = None if owner is None else owner.is_gone()
    if gone is not None:
        return gone
    os.utime(clock)  # now, by the clock that the touches are stamped with
    return clock.stat().st_mtime - touched > SILENT_SECONDS
