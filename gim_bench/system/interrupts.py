"""Interruptions of work: Ctrl-C, SIGTERM, SIGUSR1, a terminal that hangs up, and a time limit.

The first signal waits until the work can stop safely. A second Ctrl-C stops the work at once.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from gim_bench.errors import ConfigError, TimeLimitError

# Slurm and spot machines send SIGTERM, and SIGUSR1 before a time limit; a terminal that hangs up
# sends SIGHUP. Some systems lack some of them.
ENDINGS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)
SIGNALS = (signal.SIGINT, *ENDINGS)
RING_AGAIN_SECONDS = 10.0
INTERRUPTED = 130  # exit code: 128 and the number of SIGINT, as shells have it


class Interrupted(KeyboardInterrupt):
    """Work stopped after a signal, with its state saved."""


@contextmanager
def noted() -> Iterator[Callable[[], bool]]:
    """A context that only records the first signal; the yielded function returns whether one came.

    A second Ctrl-C raises KeyboardInterrupt at once. A second SIGTERM has no effect, because a
    group of processes gets SIGTERM from more than one sender. A signal that this process ignores
    stays ignored. Outside the main thread, which signals never reach, the context does nothing.
    """
    heard = threading.Event()

    def note(number: int, _frame: FrameType | None) -> None:
        if heard.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        heard.set()

    if threading.current_thread() is not threading.main_thread():
        yield heard.is_set
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield heard.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def terminate_as_interrupt() -> None:
    """Treat SIGTERM, SIGUSR1 and SIGHUP like Ctrl-C from now on; `nohup` keeps SIGHUP ignored."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in ENDINGS:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """A context that may take `seconds`; None: no limit.

    Raises: TimeLimitError from within the block when the time is over; ConfigError if the system
    has no timer.
    """
    if seconds is None:
        yield
        return
    if not hasattr(signal, "setitimer"):
        raise ConfigError("--cell-timeout needs a timer, which this system lacks: leave it out")

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    # Rings repeatedly, because Python discards an exception that is raised within a destructor.
    signal.setitimer(signal.ITIMER_REAL, seconds, RING_AGAIN_SECONDS)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _TimeIsUp:  # may still come while the timer is being stopped
        raise TimeLimitError(f"took longer than --cell-timeout {seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _TimeIsUp(BaseException):
    """The time limit is over; no Exception, because libraries catch and replace an Exception."""
