"""Were the methods compared under identical settings? Shown from the records, not claimed."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gim_bench.contract import Record
from gim_bench.statistics import flatten

DECLARED = "method."  # settings that a method's own declaration and options account for
ABSENT = "absent"
# What must not change within a table; the machine's name may.
CONSTANTS = ("data_sha256", "git_commit", "git_dirty", "device", "gpu", "driver", "cpu", "threads",
             "precision", "versions")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A setting or fact that is not the same everywhere: its values, and who has which."""

    name: str
    declared: bool
    holders: Mapping[str, Sequence[str]]  # value: methods

    def described(self) -> str:
        return "; ".join(f"{value}: {', '.join(who)}" for value, who in self.holders.items())


def differences(records: Sequence[Record]) -> list[Difference]:
    """The settings in which the methods of `records` differ, undeclared ones first."""
    found = _differences(records, [_settings(record) for record in records])
    return sorted(found, key=lambda difference: difference.declared)


def mixtures(records: Sequence[Record]) -> list[Difference]:
    """The facts about protocol, data, code and machine in which `records` differ."""
    return _differences(records, [_facts(record) for record in records])


def count_settings(records: Sequence[Record]) -> int:
    """How many settings the methods have to share: all but what they declare about themselves."""
    names = {name for record in records for name in _settings(record)}
    return sum(not name.startswith(DECLARED) for name in names)


def _settings(record: Record) -> dict[str, str]:
    """Every resolved setting as text, without the method's name, which always differs."""
    flat = flatten(record.config)
    return {name: _text(value) for name, value in flat.items() if name != "method.name"}


def _facts(record: Record) -> dict[str, str]:
    found = {name: record.provenance.get(name) for name in CONSTANTS}
    flat = flatten({name: value for name, value in found.items() if value is not None})
    return {"protocol": record.protocol, "dataset": record.dataset} | {
        name: _text(value) for name, value in flat.items()
    }


def _differences(
    records: Sequence[Record], tables: Sequence[Mapping[str, str]]
) -> list[Difference]:
    """One for every name that has more than one value in `tables`, one table for each record."""
    found = []
    for name in dict.fromkeys(name for table in tables for name in table):
        cells: dict[str, list[Record]] = {}
        for record, table in zip(records, tables, strict=True):
            cells.setdefault(table.get(name, ABSENT), []).append(record)
        if len(cells) > 1:
            found.append(_difference(name, cells))
    return found


def _difference(name: str, cells: Mapping[str, Sequence[Record]]) -> Difference:
    """Declared if the method accounts for it; a method whose own seeds differ never does."""
    methods = [record.method for having in cells.values() for record in _one_a_method(having)]
    torn = {method for method in methods if methods.count(method) > 1}
    declared = name.startswith(DECLARED) and not torn
    return Difference(
        name=name,
        declared=declared,
        holders={
            value: _names(having, torn)
            for value, having in cells.items()
            if not (declared and value == ABSENT)  # an option of another method
        },
    )


def _one_a_method(records: Sequence[Record]) -> list[Record]:
    return list({record.method: record for record in records}.values())


def _names(records: Sequence[Record], torn: Collection[str]) -> list[str]:
    """The methods of `records`, with the seed where a method's own seeds differ."""
    names = (f"{r.method} seed {r.seed}" if r.method in torn else r.method for r in records)
    return list(dict.fromkeys(names))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
