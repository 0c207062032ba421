"""Child processes that end with their parent, and that their parent ends."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, Protocol, runtime_checkable

FAREWELL_SECONDS = 60.0  # for a child's checkpoint


@runtime_checkable
class Process(Protocol):
    """A child process, or one that takes its place."""

    @property
    def exitcode(self) -> int | None: ...

    @property
    def sentinel(self) -> Any:
        """Ready, in a `wait` of multiprocessing, where the process has ended."""

    def join(self, timeout: float | None = None) -> None: ...

    def kill(self) -> None: ...

    def terminate(self) -> None: ...


class NeighbourGoneError(Exception):
    """The process at the other end of a connection has ended."""


@contextmanager
def of_neighbours() -> Iterator[None]:
    """A context in which a broken connection, or a buffer that cannot be fetched, has a name."""
    try:
        yield
    except (EOFError, OSError) as error:
        raise NeighbourGoneError from error


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Within the block, started processes are deaf to Ctrl-C: this process ends them.

    They inherit that the signal is blocked. This process hears of it at the end of the block.
    Outside the main thread, which cannot set signals, the context does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # as it starts, it unblocks the signal
    heard: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
        if heard:
            signal.raise_signal(signal.SIGINT)


def end(*processes: Process, at_once: bool = False) -> None:
    """End the processes. They have time to write checkpoints; then, or `at_once`, are killed."""
    try:
        for process in processes:
            process.kill() if at_once else process.terminate()
        for process in processes:
            process.join(FAREWELL_SECONDS)
    finally:
        for process in processes:
            process.kill()
            process.join()


def how_it_ended(process: Process) -> str:
    """How a process whose pipe has closed came to its end; empty if without an error.

    >>> from types import SimpleNamespace
    >>> how_it_ended(SimpleNamespace(join=lambda seconds: None, exitcode=-9))
    'was killed by SIGKILL (exit code -9)'
    """
    process.join(FAREWELL_SECONDS)  # the pipe closes a moment before the end
    code = process.exitcode
    if code is None or code >= 0:
        return f"ended with exit code {code}" if code else ""
    return f"was killed by {signal.Signals(-code).name} (exit code {code})"


def end_with_parent(*, at_once: bool = False) -> None:
    """From now on this process gets SIGTERM when its parent ends, however the parent ends.

    With `at_once` it is killed: a process that ignores signals, and has nothing to save.
    """
    number = signal.SIGKILL if at_once else signal.SIGTERM
    threading.Thread(target=_outlive, args=(number,), name="parent", daemon=True).start()


def _outlive(number: int) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), number)
