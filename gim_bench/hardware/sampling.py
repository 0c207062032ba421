"""Work that is repeated in a thread of its own while a block is measured."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(work: Callable[[], object] | None, *, every_seconds: float) -> Iterator[None]:
    """Within the block, `work` is done again and again; None: nothing is."""
    if work is None:
        yield
        return
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(every_seconds):
            work()

    thread = threading.Thread(target=repeat, name="sampler", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
