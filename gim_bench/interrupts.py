"""Ctrl-C and SIGTERM: the first one waits for a good moment, a second one does not."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal to end was heard, and what was under way is safe."""


@contextmanager
def noted() -> Iterator[Callable[[], bool]]:
    """Within the block a first signal is only noted, and said by calling what is yielded.

    The second raises KeyboardInterrupt where it stands. A signal that this process was told to
    ignore stays ignored. Outside of the main thread, which signals never reach, nothing changes.
    """
    heard = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        if heard.is_set():
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
