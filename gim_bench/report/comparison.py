"""Were the methods compared under identical settings? Shown from the records, not claimed."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gim_bench.records.record import Record
from gim_bench.records.statistics import flatten
from gim_bench.settings.schema import Schedule

DECLARED = "method."  # settings that a method's own declaration and options account for
ABSENT = "absent"
# What must not change within a table; the machine's name may.
CONSTANTS = ("data_sha256", "git_commit", "git_dirty", "device", "gpu", "driver", "cpu", "threads",
             "precision", "versions")  # fmt: skip

# What a method declares that decides its modules and heads; only where modules are trained in turn
# does it also decide how many steps are taken.
PARTS = ("objective", "gradient_flow", "ablation", "only", "base", "options")
TURNS = ("gradient_flow", "ablation", "only", "base")
# What was counted, and the declarations that each count follows from.
COUNTS: Mapping[str, Sequence[str]] = {
    "train/labels": ("trains_on",),
    "train/samples": ("trains_on",),
    "train/steps": ("trains_on",),
    "train/parameters": ("trains_on", *PARTS),
    "train/flops": ("trains_on", *PARTS, "schedule", "recompute"),
}


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


def count_differences(records: Sequence[Record]) -> list[Difference]:
    """The counted costs in which `records` differ.

    One is declared if records that agree in all declarations which decide it also agree in it.
    """
    return [
        _difference(name, cells, declared=_follows(name, cells))
        for name in COUNTS
        if len(cells := _by_count(name, records)) > 1
    ]


def undeclared(records: Sequence[Record]) -> list[str]:
    """A line for each setting, count and fingerprint of data that differs unaccounted for."""
    data = [mixture for mixture in mixtures(records) if mixture.name == "data_sha256"]
    found = [*differences(records), *count_differences(records), *data]
    return [f"{d.name}: {d.described()}" for d in found if not d.declared]


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
            found.append(_difference(name, cells, declared=name.startswith(DECLARED)))
    return found


def _by_count(name: str, records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records that have each value of a metric; where it was not counted, they have none."""
    cells: dict[str, list[Record]] = {}
    for record in records:
        if name in record.metrics:
            cells.setdefault(f"{record.metrics[name]:,.0f}", []).append(record)
    return cells


def _follows(name: str, cells: Mapping[str, Sequence[Record]]) -> bool:
    """Whether no two records with different values agree in all that decides the count."""
    declarations = [{_declaration(name, record) for record in having} for having in cells.values()]
    return sum(map(len, declarations)) == len(set().union(*declarations))


def _declaration(name: str, record: Record) -> str:
    method = record.config.get("method", {})
    deciding = [*COUNTS[name], *(TURNS if method.get("schedule") == Schedule.SEQUENTIAL else ())]
    return _text({each: method.get(each) for each in deciding})


def _difference(name: str, cells: Mapping[str, Sequence[Record]], *, declared: bool) -> Difference:
    """Declared if the method accounts for it; a method whose own seeds differ never does."""
    methods = [record.method for having in cells.values() for record in _one_a_method(having)]
    torn = {method for method in methods if methods.count(method) > 1}
    declared = declared and not torn
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
