"""The history of checks: a file of JSON lines, one for each check and method, only appended to.

A line holds the means of all metrics that a check compares, with the commit and the machine of the
cells. github-action-benchmark and Bencher keep such histories elsewhere: see `trackers`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import FiniteFloat, ValidationError

from gim_bench.check.judge import Verdict
from gim_bench.check.outcome import Outcome
from gim_bench.check.reference import commit_of, machine_of
from gim_bench.check.trackers import means_of, newest_by_method
from gim_bench.errors import ConfigError
from gim_bench.records import provenance
from gim_bench.records.record import Record
from gim_bench.settings.base import Settings
from gim_bench.texts import TextError, read_text


class Point(Settings):
    """The mean of a metric over seeds."""

    unit: str
    mean: FiniteFloat
    std: FiniteFloat | None  # None for a single seed
    seeds: int


class Entry(Settings):
    """A line of the history: one method of one check."""

    format: Literal[1] = 1
    at: str  # time of the check, ISO 8601, UTC
    suite: str
    method: str
    commit: str  # of the cells; ends in "-dirty" if there were uncommitted changes
    outcome: Literal["passes", "worse", "cannot judge"]  # of the whole check
    machine: str
    data_sha256: str
    results_version: int
    metrics: dict[str, Point]


def append(path: Path, records: Sequence[Record], *, verdict: Verdict) -> int:
    """Append a line for each method with finished cells; returns the number of lines.

    The lines are written at once, after all others that checks write at the same time. A last line
    that was cut off keeps its own line. Raises: ConfigError.
    """
    now = provenance.now()
    entries = [
        _entry(alike, at=now, outcome=verdict.outcome)
        for alike in newest_by_method(records).values()
    ]
    text = "".join(f"{entry.model_dump_json()}\n" for entry in entries)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            whole = file.read() in {b"", b"\n"}
            os.write(file.fileno(), (text if whole else f"\n{text}").encode())
    except OSError as error:
        raise ConfigError(
            f"cannot append to the history {path} ({error.strerror}): name another with --history"
        ) from None
    return len(entries)


def read_history(path: Path) -> list[Entry]:
    """The lines of a history, in order. Raises: ConfigError naming the first line at fault."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, TextError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot read the history {path} ({why}): name a file that check --history has written"
        ) from None
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(Entry.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ConfigError(
                f"{path}, line {number}: {place or 'the line'}: {first['msg']}: remove the line"
            ) from None
    return entries


def _entry(alike: Sequence[Record], *, at: str, outcome: Outcome) -> Entry:
    """Raises: ConfigError where the cells are of several commits."""
    first = alike[0]
    commits = {commit_of(record.provenance) for record in alike}
    if len(commits) > 1:
        raise ConfigError(
            f"--history: cells of {first.method} are of commits {', '.join(sorted(commits))}: run "
            f"with --rerun, or into a fresh --runs-dir"
        )
    return Entry(
        at=at,
        suite=first.suite,
        method=first.method,
        commit=commits.pop(),
        outcome=outcome.value,
        machine=machine_of(alike).described(),
        data_sha256=str(first.provenance.get("data_sha256")),
        results_version=int(first.provenance["results_version"]),
        metrics={
            mean.metric: Point(
                unit=mean.unit, mean=mean.found.mean, std=mean.found.std, seeds=mean.found.n
            )
            for mean in means_of(alike)
        },
    )
