"""The records that `report` and `check` read, and where their text goes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gim_bench.errors import ConfigError
from gim_bench.records.record import Record
from gim_bench.system.streams import show

if TYPE_CHECKING:
    from gim_bench.settings.schema import Suite


def records_of(suite: "Suite", runs_dir: Path) -> list[Record]:
    """The records with the settings of the suite. Standard error says how many are left out."""
    records, _ = records_and_others(suite, runs_dir)
    return records


def records_and_others(suite: "Suite", runs_dir: Path) -> tuple[list[Record], list[Record]]:
    """The records with the settings of the suite, and those with other settings.

    Standard error says how many are left out.
    """
    from gim_bench.cells.resolve import describes
    from gim_bench.records.folder import RunsFolder

    runs = RunsFolder(runs_dir)
    every = runs.records(suite.name)
    if damaged := runs.unreadable(suite.name):
        print(
            f"left out: {len(damaged)} record(s) that were altered, cut off or written by another "
            f"version, such as {damaged[0]}; run --suite {suite.name} replaces the records of its "
            f"settings",
            file=sys.stderr,
        )
    records: list[Record] = []
    others: list[Record] = []
    for record in every:
        (records if describes(suite, record.config) else others).append(record)
    if others:
        print(
            f"left out: {len(others)} record(s) with other settings; name the "
            f"settings with --set to see them",
            file=sys.stderr,
        )
    return records, others


def deliver(text: str, *, output: Path | None) -> None:
    """Print the text, or write it to a file. Raises: ConfigError if it cannot be written."""
    if output is None:
        show(text)
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {output} ({error.strerror}): choose another") from None
    print(f"wrote {output}", file=sys.stderr)
