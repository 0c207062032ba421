"""A process of its own that mirrors cells to MLflow as they train.

MLflow takes seconds to import and servers may be slow: so the processes that train have no part in
it. The command that runs cells starts the follower once a cell has trained for a while, and the
follower reads the files that the cells write. It ends with the command, however the command ends.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from gim_bench.errors import TrackingError
from gim_bench.progress import Progress
from gim_bench.records.claims import CLAIM, owner_of, seems_held
from gim_bench.records.folder import RunsFolder
from gim_bench.records.live import LIVE
from gim_bench.tracking.live import LiveRuns

LEAST_SECONDS = 0.1  # between looks
LONGEST_PAUSE_SECONDS = 300.0  # between tries at a store that fails
PATIENCE_SECONDS = 60.0  # for one call
LAST_LOOK_SECONDS = 60.0  # for workers of a command that was killed to end
FAREWELL_SECONDS = 5.0  # for the follower to end
NICENESS = 10


class Follower:
    """The follower's process, as the command sees it."""

    def __init__(self, order: dict[str, Any], *, progress: Progress) -> None:
        self._order = order
        self._progress = progress
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def talk(self) -> None:
        """Start the process, and say its lines until it ends."""
        with self._lock:
            if self._ended:
                return
            # The address may hold a password: a pipe shows it to nobody, an argument to everybody.
            self._process = subprocess.Popen(  # noqa: S603 - this package itself
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the command
            )
            assert self._process.stdin is not None
            with suppress(OSError):
                self._process.stdin.write(json.dumps(self._order).encode() + b"\n")
                self._process.stdin.flush()
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._progress.say(line.decode(errors="replace").rstrip("\n"))

    def end(self) -> None:
        """Let the process have a last look, for a few seconds."""
        with self._lock:
            self._ended, process = True, self._process
        if process is None:
            return
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(FAREWELL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def followed(
    suite: str, *, uri: str, runs: RunsFolder, every_seconds: float, progress: Progress
) -> Iterator[None]:
    """Within the block, cells of this process and of its children are mirrored as they train.

    A store that is slow or away costs the cells nothing, and the end of the block a few seconds.
    """
    order = {
        "suite": suite,
        "uri": uri,
        "runs": str(runs.root),
        "every_seconds": max(every_seconds, LEAST_SECONDS),
        "parent": os.getpid(),
    }
    over, follower = threading.Event(), Follower(order, progress=progress)
    watch = threading.Thread(target=_watch, args=(over, follower, order), daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        follower.end()
        watch.join(FAREWELL_SECONDS)


def _watch(over: threading.Event, follower: Follower, order: dict[str, Any]) -> None:
    """Start the follower as soon as there is something to mirror, and show what it says."""
    while not over.wait(order["every_seconds"]):
        if _under_way(Path(order["runs"]) / order["suite"], parent=order["parent"]):
            follower.talk()
            return


def _under_way(suite: Path, *, parent: int) -> list[Path]:
    """The folders of cells with points that a process or its children work at."""
    found = []
    for claim in suite.glob(f"*/seed-*/{CLAIM}"):
        folder = claim.parent
        owner = owner_of(folder)
        if owner is None or owner.is_gone() is not False or not (folder / LIVE).exists():
            continue
        with suppress(psutil.Error):
            if owner.pid == parent or psutil.Process(owner.pid).ppid() == parent:
                found.append(folder)
    return found


# -- in the follower's process ---------------------------------------------------------------------


def main() -> None:
    """Follow the cells that standard input asks for, until standard input ends."""
    os.nice(NICENESS)
    order = json.loads(sys.stdin.buffer.readline())
    suite, every_seconds = Path(order["runs"]) / order["suite"], order["every_seconds"]
    store = LiveRuns(order["uri"], patience_seconds=PATIENCE_SECONDS)
    followed = {path.parent for path in suite.glob(f"*/seed-*/{LIVE}")}
    pause = every_seconds
    while True:
        here = _under_way(suite, parent=order["parent"])
        try:
            for folder in sorted(followed.difference(here)):
                store.mark_killed(folder)
            followed = set(here)
            for folder in sorted(here):
                store.send(folder)
            pause = every_seconds
        except TrackingError as error:
            if pause == every_seconds:
                sys.stdout.write(f"not live in MLflow, which is tried again later: {error}\n")
                sys.stdout.flush()
            pause = min(2 * pause, max(LONGEST_PAUSE_SECONDS, every_seconds))
        if _command_is_over(within_seconds=pause):
            break
    _take_leave(store, followed)


def _command_is_over(*, within_seconds: float) -> bool:
    return bool(select.select([sys.stdin], [], [], within_seconds)[0])


def _take_leave(store: LiveRuns, followed: set[Path]) -> None:
    """Mark what is left of the command's cells as killed, once their processes have ended."""
    deadline = time.monotonic() + LAST_LOOK_SECONDS
    while any(map(seems_held, followed)) and time.monotonic() < deadline:
        time.sleep(LEAST_SECONDS)
    with suppress(TrackingError):
        for folder in sorted(followed):
            store.mark_killed(folder)


if __name__ == "__main__":
    main()
