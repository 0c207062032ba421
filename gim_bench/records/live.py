"""Measurements of a cell while it trains, in `live.jsonl` beside its record.

The training appends points and waits for nobody. Other processes read the file as it grows. The
first line names the attempt at the cell, which goes on after an interruption; each further line is
a point.
"""

import json
import math
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

LIVE = "live.jsonl"


class LivePoint(NamedTuple):
    """A metric's value at a step, and when it was measured."""

    name: str
    value: float
    step: int
    milliseconds: int  # since 1970


@dataclass(frozen=True, slots=True)
class Attempt:
    """The measurements of one attempt at a cell."""

    name: str
    made_by: str  # the cell and the code
    points: list[LivePoint]


class LiveLog:
    """Appends points to the file of a cell. A disk that refuses costs points and nothing else."""

    def __init__(self, folder: Path, *, made_by: str) -> None:
        """Go on with the attempt in `folder`, unless the attempt is of other code.

        A training that resumes, or begins again, repeats steps: a point is kept once.
        """
        self._path = folder / LIVE
        self._last: dict[str, int] = {}  # the last step of each metric
        before = read_live(folder)
        self.begun = before is not None and before.made_by == made_by
        if before is None or not self.begun:
            self._path.unlink(missing_ok=True)
            self._lines = [json.dumps({"attempt": secrets.token_hex(8), "made_by": made_by})]
        else:
            self._lines = []
            self._last = {point.name: point.step for point in before.points}
            _cut_half_line(self._path)

    def add(self, name: str, value: float, *, step: int) -> None:
        """Keep a finite value at a step beyond the metric's last one, until `write`."""
        if math.isfinite(value) and step > self._last.get(name, -1):
            self._last[name] = step
            self._lines.append(json.dumps([name, value, step, time.time_ns() // 10**6]))

    def write(self) -> None:
        """Append what was added, and forget it."""
        with suppress(OSError), self._path.open("ab") as file:
            file.write("\n".join([*self._lines, ""]).encode())
            self.begun = True
        self._lines = [] if self.begun else self._lines[:1]


def read_live(folder: Path) -> Attempt | None:
    """The attempt at the cell in `folder`; None if nothing was measured while it trained."""
    try:
        head, *lines = (folder / LIVE).read_bytes().split(b"\n")[:-1]
        table = json.loads(head)
        return Attempt(str(table["attempt"]), str(table["made_by"]), list(_points(lines)))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _cut_half_line(path: Path) -> None:
    """Remove what a process that was killed left of its last line."""
    with suppress(OSError), path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def _points(lines: Iterable[bytes]) -> Iterable[LivePoint]:
    """The points of whole lines, in order."""
    for line in lines:
        try:
            name, value, step, milliseconds = json.loads(line)
            point = LivePoint(str(name), float(value), int(step), int(milliseconds))
        except (ValueError, TypeError, OverflowError, RecursionError):
            continue
        if math.isfinite(point.value):
            yield point
