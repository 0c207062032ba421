"""The records of a suite in a folder of runs: those that a report is about, and the others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gim_bench.cells.resolve import describer
from gim_bench.errors import ConfigError
from gim_bench.records.folder import RunsFolder, left_out
from gim_bench.records.record import Record
from gim_bench.records.statistics import Origin, newest_origin, origin_of
from gim_bench.settings.schema import Suite

DIGITS = 12  # of a sha256 that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The records of a suite: those that count, and those that are left out."""

    records: Sequence[Record]
    other_settings: Sequence[Record]
    other_origins: Sequence[Record]  # with the settings of the suite
    damaged: Sequence[Path]
    options: str  # of a command that asks for the suite

    def notes(self) -> list[str]:
        """A line for each data set and version of results that is left out."""
        groups: dict[Origin, list[Record]] = {}
        for record in self.other_origins:
            groups.setdefault(origin_of(record), []).append(record)
        ours = origin_of(self.records[0]) if self.records else None
        return [_left_out(records, origin, ours=ours) for origin, records in groups.items()]

    def left_out(self) -> list[str]:
        """A line for each reason to leave records out."""
        lines = []
        if self.damaged:
            lines.append(left_out(self.damaged, run=f"run {self.options}"))
        lines += self.notes()
        if self.other_settings:
            lines.append(
                f"left out: {len(self.other_settings)} record(s) with other settings; name the "
                f"settings with --set to see them"
            )
        return lines


def of_one_data(
    suite: Suite, runs: RunsFolder, *, data: str | None, usual: str | None = None
) -> Found:
    """The records with the settings of the suite, of one data set and any version of results.

    The data is the one whose sha256 begins with `data`, or else `usual` if it has records, or else
    the one that was finished last.

    Raises: ConfigError if `data` names no data of these records, or several.
    """
    found = _with_settings(suite, runs)
    if data is None and any(origin_of(record).data_sha256 == usual for record in found.records):
        data = usual
    chosen = _data_of(found.records, data)
    return replace(
        found,
        records=[r for r in found.records if origin_of(r).data_sha256 == chosen],
        other_origins=[r for r in found.records if origin_of(r).data_sha256 != chosen],
    )


def of_one_origin(suite: Suite, runs: RunsFolder, *, data: str | None) -> Found:
    """The records with the settings of the suite, of one data set and one version of results.

    They are of the data whose sha256 begins with `data`, or else of the record that finished last.

    Raises: ConfigError if `data` names no data of these records, or several.
    """
    found = _with_settings(suite, runs)
    chosen = _data_of(found.records, data)
    of_data = [record for record in found.records if origin_of(record).data_sha256 == chosen]
    origin = newest_origin(of_data) if of_data else None
    return replace(
        found,
        records=[record for record in found.records if origin_of(record) == origin],
        other_origins=[record for record in found.records if origin_of(record) != origin],
    )


def _with_settings(suite: Suite, runs: RunsFolder) -> Found:
    """The records with the settings of the suite, of any origin."""
    every, damaged = runs.read(suite.name)
    records: list[Record] = []
    others: list[Record] = []
    described = describer(suite)
    for record in every:
        (records if described(record.config) else others).append(record)
    return Found(
        records=records,
        other_settings=others,
        other_origins=[],
        damaged=damaged,
        options=suite.options,
    )


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
