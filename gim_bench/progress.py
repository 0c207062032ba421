"""Reports of work under way: bars on a terminal, plain lines elsewhere, nothing in tests."""

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable


@runtime_checkable
class Task(Protocol):
    """A piece of work under way, with a known number of steps."""

    def advance(self, steps: int = 1, **facts: float | str) -> None:
        """Count `steps` more as done, and show `facts` (loss_module_1=2.31) beside the bar."""


@runtime_checkable
class Progress(Protocol):
    """Receiver of reports: bars on a terminal, plain lines elsewhere, nothing in tests."""

    def task(self, title: str, *, total: int, unit: str) -> AbstractContextManager[Task]:
        """A context that shows `title` with speed and remaining time until its end."""

    def say(self, line: str) -> None:
        """Print a line that stays."""


class Silence:
    """Progress that shows nothing, and also the task of this progress."""

    def task(self, title: str, *, total: int, unit: str) -> AbstractContextManager[Task]:
        return self

    def say(self, line: str) -> None: ...

    def advance(self, steps: int = 1, **facts: float | str) -> None: ...

    def __enter__(self) -> Task:
        return self

    def __exit__(self, *exception: object) -> None: ...
