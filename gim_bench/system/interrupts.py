"""What ends work before its time: Ctrl-C, SIGTERM, and a limit on its seconds.

Of the signals the first one waits for a good moment, a second Ctrl-C does not.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from gim_bench.errors import ConfigError, TimeLimitError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
RING_AGAIN_SECONDS = 10.0


class Interrupted(KeyboardInterrupt):
    """A signal to end was heard, and what was under way is safe."""


@contextmanager
def noted() -> Iterator[Callable[[], bool]]:
    """Within the block a first signal is only noted, and said by calling what is yielded.

    A second Ctrl-C raises KeyboardInterrupt where it stands; a second SIGTERM, which a group of
    processes gets from more than one sender, does not. A signal that this process was told to
    ignore stays ignored. Outside of the main thread, which signals never reach, nothing changes.
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
    """From here on SIGTERM, which Slurm and spot machines send, does what Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """No more than so many seconds for the block; None: as many as it takes.

    Raises: TimeLimitError, from wherever the block stands when they are over.
    """
    if seconds is None:
        yield
        return
    _check_that_there_is_an_alarm()

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    # Again and again, for an exception that is raised within a destructor comes to nothing.
    signal.setitimer(signal.ITIMER_REAL, seconds, RING_AGAIN_SECONDS)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _TimeIsUp:  # as late as while it is called off
        raise TimeLimitError(f"took longer than --cell-timeout {seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _TimeIsUp(BaseException):
    """No Exception, for libraries that it may come up in catch those, and give other ones."""


def _check_that_there_is_an_alarm() -> None:
    if not hasattr(signal, "setitimer"):
        raise ConfigError("--cell-timeout needs an alarm clock, which this system does not have")
