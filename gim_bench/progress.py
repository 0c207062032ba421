"""Where work reports to: bars on a terminal, plain lines elsewhere, nothing in tests."""

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable


@runtime_checkable
class Task(Protocol):
    """A piece of work under way, with a known number of steps."""

    def advance(self, steps: int = 1, **facts: float | str) -> None:
        """`steps` more are done; `facts` (loss_module_1=2.31) are shown beside the bar."""


@runtime_checkable
class Progress(Protocol):
    """Where work reports to: bars on a terminal, plain lines elsewhere, nothing in tests."""

    def task(self, title: str, *, total: int, unit: str) -> AbstractContextManager[Task]:
        """Shows `title` with speed and time left until the block is left."""

    def say(self, line: str) -> None:
        """One line that stays."""


class Silence:
    """The progress that shows nothing; its own task."""

    def task(self, title: str, *, total: int, unit: str) -> AbstractContextManager[Task]:
        return self

    def say(self, line: str) -> None: ...

    def advance(self, steps: int = 1, **facts: float | str) -> None: ...

    def __enter__(self) -> Task:
        return self

    def __exit__(self, *exception: object) -> None: ...
