"""Progress of child processes, which their parent shows: messages over a pipe for each child."""

import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import count
from multiprocessing.connection import Connection, wait
from typing import Any

from gim_bench.progress import Progress, Task

REPORT_SECONDS = 0.2  # between reports of a task


class Reports:
    """Progress that is sent to the parent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._numbers = count()

    def say(self, line: str) -> None:
        _send(self._connection, ("say", line))

    def ended(self, piece: object) -> None:
        """Report that a piece of work has ended, by what the parent must know of it."""
        _send(self._connection, ("ended", piece))

    @contextmanager
    def task(self, title: str, *, total: int, unit: str) -> Iterator[Task]:
        number = next(self._numbers)
        _send(self._connection, ("task", number, {"title": title, "total": total, "unit": unit}))
        task = _ReportedTask(number, self._connection)
        try:
            yield task
        except BaseException:
            task.report()
            _send(self._connection, ("broken", number))
            raise
        task.report()
        _send(self._connection, ("over", number))


class _ReportedTask:
    """A task that reports at most every REPORT_SECONDS; its steps never wait for the parent."""

    def __init__(self, number: int, connection: Connection) -> None:
        self._number = number
        self._connection = connection
        self._steps = 0
        self._facts: dict[str, float | str] = {}
        self._reported = time.monotonic()

    def advance(self, steps: int = 1, **facts: float | str) -> None:
        self._steps += steps
        self._facts = facts
        if time.monotonic() - self._reported >= REPORT_SECONDS and self._is_heard():
            self.report()

    def report(self) -> None:
        if self._steps:
            _send(self._connection, ("advance", self._number, self._steps, self._facts))
            self._steps = 0
            self._reported = time.monotonic()

    def _is_heard(self) -> bool:
        """Whether the pipe takes a message; the parent may wait for a slow server."""
        return bool(select.select([], [self._connection], [], 0)[1])


def _send(connection: Connection, message: tuple[Any, ...]) -> None:
    """Send a message. A parent that is gone is no error of the work: the child is ended anyway."""
    with suppress(BrokenPipeError):
        connection.send(message)


class Broken(Exception):  # noqa: N818 - no error of this process
    """A task of a child that has not come to its end."""


class Displays:
    """The reports of one child, on several displays."""

    def __init__(self, displays: Sequence[Progress]) -> None:
        self._displays = displays
        self._tasks: dict[int, tuple[ExitStack, list[Task]]] = {}

    def take(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("say", line):
                for display in self._displays:
                    display.say(line)
            case ("task", number, described):
                title = described.pop("title")
                contexts: list[AbstractContextManager[Task]] = [
                    display.task(title, **described) for display in self._displays
                ]
                stack = ExitStack()
                self._tasks[number] = stack, [stack.enter_context(each) for each in contexts]
            case ("advance", number, steps, facts):
                for task in self._tasks[number][1]:
                    task.advance(steps, **facts)
            case ("over", number):
                self._tasks.pop(number)[0].close()
            case ("broken", number):
                self._break(number)

    def close(self) -> None:
        """End the tasks of a child that is gone."""
        for number in list(self._tasks):
            self._break(number)

    def _break(self, number: int) -> None:
        """End a task as one in which an error is raised, without the line of a finished one."""
        with suppress(Broken), self._tasks.pop(number)[0]:
            raise Broken


def listen(
    heard: Mapping[Connection, Displays], *, gone: Callable[[Connection], None]
) -> Iterator[Any]:
    """Show what the children report until the last is gone; yield what they send as ended.

    `gone` is called with the pipe of each child that is gone.
    """
    open_ = dict(heard)
    try:
        while open_:
            for connection in wait(list(open_)):
                assert isinstance(connection, Connection)
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    open_.pop(connection).close()
                    gone(connection)
                    continue
                if message[0] == "ended":
                    yield message[1]
                else:
                    open_[connection].take(message)
    finally:
        for displays in open_.values():
            displays.close()
