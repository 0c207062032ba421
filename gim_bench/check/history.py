"""The history of checks: a file of JSON lines, one for each check and method, only appended to.

A line holds the means of all metrics that a check compares, with the commit and the machine of the
cells. github-action-benchmark and Bencher keep such histories elsewhere: see `trackers`.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

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


class Appended(NamedTuple):
    """The number of lines that a check has appended, and a note on each method without a line."""

    lines: int
    notes: Sequence[str]


def append(path: Path, records: Sequence[Record], *, verdict: Verdict) -> Appended:
    """Append a line for each method whose finished cells are of one commit and one machine.

    The lines are written at once, after all others that checks write at the same time. A last line
    that was cut off keeps its own line. Raises: ConfigError, and then nothing is appended.
    """
    now, entries, notes = provenance.now(), [], []
    for method, alike in newest_by_method(records).items():
        if torn := _torn(alike):
            notes.append(
                f"--history: no line for {method}, whose cells are of {torn}: run with --rerun, or "
                f"into a fresh --runs-dir"
            )
        else:
            entries.append(_entry(alike, at=now, outcome=verdict.outcome))
    if entries:
        _write(path, "".join(f"{entry.model_dump_json()}\n" for entry in entries))
    return Appended(len(entries), notes)


def _torn(alike: Sequence[Record]) -> str:
    """The commits or machines of the cells; empty if all cells share both."""
    for noun, found in (
        ("commits", {commit_of(record.provenance) for record in alike}),
        ("machines", {machine_of([record]).described() for record in alike}),
    ):
        if len(found) > 1:
            return f"{noun} {'; '.join(sorted(found))}"
    return ""


def _write(path: Path, text: str) -> None:
    """Append the text to a file wholly or not at all. Raises: ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            whole = file.read() in {b"", b"\n"}
            content = (text if whole else f"\n{text}").encode()
            _write_whole(file.fileno(), content)
    except OSError as error:
        raise ConfigError(
            f"cannot append to the history {path} ({error.strerror}): name another with --history"
        ) from None


def _write_whole(descriptor: int, content: bytes) -> None:
    """Raises: OSError if there is no room for all of it, and then nothing stays."""
    written = os.write(descriptor, content)
    if written < len(content):
        os.ftruncate(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR) - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
    first = alike[0]
    return Entry(
        at=at,
        suite=first.suite,
        method=first.method,
        commit=commit_of(first.provenance),
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
