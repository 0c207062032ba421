"""Progress for people, on standard error: bars on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from gim_bench.progress import Progress, Silence, Task
from gim_bench.system.streams import Stream

PLAIN_EVERY_SECONDS = 15.0


def progress_for(*, terminal: bool | None = None, quiet: bool = False) -> Progress:
    """Bars if standard error is a terminal, else lines; `terminal` overrules. Quiet: no tasks."""
    if quiet:
        return LinesWithoutTasks()
    console = Console(stderr=True, highlight=False)
    return Bars(console) if (console.is_terminal if terminal is None else terminal) else Lines()


class Bars:
    """A live bar for each current task, with speed, time left and the latest facts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[facts]}", markup=False),
            console=console,
            transient=True,
        )

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    @contextmanager
    def task(self, title: str, *, total: int, unit: str) -> Iterator[Task]:
        self._live.start()
        shown = self._live.add_task(title, total=total, rate="", facts="")
        clock = _Clock(title, total=total, unit=unit)

        def show(facts: str) -> None:
            self._live.update(shown, completed=clock.done, rate=clock.rate(), facts=facts)

        try:
            yield _Shown(clock, show)
        finally:
            self._live.refresh()
            self._live.remove_task(shown)
            if not self._live.tasks:
                self._live.stop()
        self.say(clock.ending())


class Lines:
    """A line every few seconds and a line at the end of each task.

    Lines go to `stream`, by default to standard error.
    """

    def __init__(self, stream: Stream | None = None) -> None:
        self._stream = stream

    def say(self, line: str) -> None:
        stream = self._stream or sys.stderr
        stream.write(f"{line}\n")
        stream.flush()

    @contextmanager
    def task(self, title: str, *, total: int, unit: str) -> Iterator[Task]:
        clock = _Clock(title, total=total, unit=unit)
        said_at = clock.started

        def show(facts: str) -> None:
            nonlocal said_at
            if time.monotonic() - said_at > PLAIN_EVERY_SECONDS:
                said_at = time.monotonic()
                self.say(f"{clock.state()}{', ' if facts else ''}{facts}")

        yield _Shown(clock, show)
        self.say(clock.ending())


class LinesWithoutTasks(Lines):
    """Lines that stay, such as failures, and nothing of the work under way."""

    @contextmanager
    def task(self, title: str, *, total: int, unit: str) -> Iterator[Task]:
        yield Silence()


class _Clock:
    """Counts the units of a task that are done, and the seconds since its start."""

    def __init__(self, title: str, *, total: int, unit: str) -> None:
        self.title = title
        self.total = total
        self.unit = unit
        self.units = unit if unit.isupper() else f"{unit}s"  # MB has no plural
        self.done = 0
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    def rate(self) -> str:
        return f"{self.done / self.seconds:,.1f} {self.unit}/s"

    def state(self) -> str:
        left = self.seconds / max(self.done, 1) * (self.total - self.done)
        return (
            f"{self.title}: {self.done:,}/{self.total:,} {self.units}, {self.rate()}, "
            f"{duration(left)} left"
        )

    def ending(self) -> str:
        return f"{self.title}: {self.done:,} {self.units} in {duration(self.seconds)}"


class _Shown:
    """A task that counts on `clock` and passes its facts to `show` as text."""

    def __init__(self, clock: _Clock, show: Callable[[str], None]) -> None:
        self._clock = clock
        self._show = show

    def advance(self, steps: int = 1, **facts: float | str) -> None:
        self._clock.done += steps
        self._show("  ".join(f"{name} {_short(value)}" for name, value in facts.items()))


def duration(seconds: float) -> str:
    """A duration as people write it: 0.8 s, 42 s, 7 min 5 s, 3 h 20 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _short(value: float | str) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
