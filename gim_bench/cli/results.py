"""The records that `report` and `check` read, and where their text goes."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gim_bench.errors import ConfigError
from gim_bench.records.record import Record
from gim_bench.records.statistics import Origin, newest_origin, origin_of
from gim_bench.system.streams import show

if TYPE_CHECKING:
    from gim_bench.records.folder import RunsFolder
    from gim_bench.settings.schema import Suite

DIGITS = 12  # of a sha256 that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The records of a suite: those that count, and those that are left out."""

    records: Sequence[Record]
    other_settings: Sequence[Record]
    other_origins: Sequence[Record]  # with the settings of the suite

    def notes(self) -> list[str]:
        """A line for each data set and version of results that is left out."""
        groups: dict[Origin, list[Record]] = {}
        for record in self.other_origins:
            groups.setdefault(origin_of(record), []).append(record)
        ours = origin_of(self.records[0]) if self.records else None
        return [_left_out(records, origin, ours=ours) for origin, records in groups.items()]


def records_of(
    suite: "Suite", runs_dir: Path, *, data: str | None, usual: str | None = None
) -> list[Record]:
    """The records with the settings of the suite, of one data set and any version of results.

    The data is the one whose sha256 begins with `data`, or else `usual` if it has records, or else
    the one that was finished last. Standard error says how many records are left out.

    Raises: ConfigError if `data` names no data of these records, or several.
    """
    every, other_settings = _with_settings(suite, runs_dir)
    if data is None and any(origin_of(record).data_sha256 == usual for record in every):
        data = usual
    chosen = _data_of(every, data)
    records = [record for record in every if origin_of(record).data_sha256 == chosen]
    others = [record for record in every if origin_of(record).data_sha256 != chosen]
    _say(Found(records=records, other_settings=other_settings, other_origins=others))
    return records


def found_records(suite: "Suite", runs_dir: Path, *, data: str | None) -> Found:
    """The records with the settings of the suite, of one data set and one version of results.

    They are of the data whose sha256 begins with `data`, or else of the record that finished last.
    Standard error says how many records are left out.

    Raises: ConfigError if `data` names no data of these records, or several.
    """
    every, other_settings = _with_settings(suite, runs_dir)
    chosen = _data_of(every, data)
    of_data = [record for record in every if origin_of(record).data_sha256 == chosen]
    origin = newest_origin(of_data) if of_data else None
    found = Found(
        records=[record for record in every if origin_of(record) == origin],
        other_settings=other_settings,
        other_origins=[record for record in every if origin_of(record) != origin],
    )
    _say(found)
    return found


def report_sources(
    suite: "Suite", found: Found, *, runs: "RunsFolder", notes: Sequence[str] = ()
) -> dict[str, Any]:
    """The arguments of a report on these records beside the records themselves."""
    from gim_bench.cells.resolve import describer
    from gim_bench.records.patches import pictures_of
    from gim_bench.records.protocols import KeptResults
    from gim_bench.report.changes import left_out
    from gim_bench.report.rates import settings_of_rows

    return {
        "suite": suite,
        "describes": describer(suite),
        "notes": [
            *notes,
            *(note[:1].upper() + note[1:] for note in found.notes()),
            left_out(found.other_settings, kept=found.records),
        ],
        "settings": settings_of_rows(suite),
        "predictions": runs.predictions,
        "results": KeptResults(runs.folder_of),
        "pictures": lambda record: pictures_of(record, folder=runs.folder_of(record)),
    }


def _with_settings(suite: "Suite", runs_dir: Path) -> tuple[list[Record], list[Record]]:
    """The records with the settings of the suite, and those with other settings."""
    from gim_bench.cells.resolve import describer
    from gim_bench.records.folder import RunsFolder

    runs = RunsFolder(runs_dir)
    every, damaged = runs.read(suite.name)
    if damaged:
        print(
            f"left out: {len(damaged)} record(s) that were altered, cut off or written by another "
            f"version, such as {damaged[0]}; run --suite {suite.name} replaces the records of its "
            f"settings",
            file=sys.stderr,
        )
    records: list[Record] = []
    others: list[Record] = []
    described = describer(suite)
    for record in every:
        (records if described(record.config) else others).append(record)
    return records, others


def _data_of(records: Sequence[Record], named: str | None) -> str | None:
    """The sha256 of the data that is named by its first digits, or that was finished last."""
    if not records or named is None:
        return newest_origin(records).data_sha256 if records else None
    known = dict.fromkeys(str(origin_of(record).data_sha256) for record in records)
    fitting = [sha256 for sha256 in known if sha256.startswith(named.lower())]
    if len(fitting) != 1:
        count = "several" if fitting else "no"
        raise ConfigError(
            f"{count} data of these records begin with {named!r} (--data): name one of "
            f"{', '.join(sha256[:DIGITS] for sha256 in known)}"
        )
    return fitting[0]


def _left_out(records: Sequence[Record], origin: Origin, *, ours: Origin | None) -> str:
    """A line on records of another origin than ours."""
    count = f"left out: {len(records)} record(s)"
    if ours is not None and origin.data_sha256 == ours.data_sha256:
        return (
            f"{count} of results version {origin.results_version}, where these are of "
            f"{ours.results_version}: their numbers do not compare"
        )
    digits = str(origin.data_sha256)[:DIGITS]
    folder = records[-1].provenance.get("data_dir")
    where = f" in {folder}" if folder else ""
    return f"{count} of other data{where}, sha256 {digits}…: --data {digits} shows them"


def _say(found: Found) -> None:
    lines = found.notes()
    if found.other_settings:
        lines.append(
            f"left out: {len(found.other_settings)} record(s) with other settings; name the "
            f"settings with --set to see them"
        )
    for line in lines:
        print(line, file=sys.stderr)


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
