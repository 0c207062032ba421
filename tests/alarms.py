"""A limit of time that is over at a moment which the test chooses, on a machine of any speed."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LIMIT_SECONDS = 36_000.0  # the limit that the program is given, and that no test reaches


@contextmanager
def over_once(happened: Callable[[], object]) -> Iterator[None]:
    """Ring the alarm of the program's time limit as soon as `happened()` is true."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            if happened() and callable(signal.getsignal(signal.SIGALRM)):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
                return

    watcher = threading.Thread(target=watch, name="alarm", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
