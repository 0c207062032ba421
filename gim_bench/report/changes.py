"""Settings that a report was asked for beside the suite's file, and records that it leaves out."""

from collections.abc import Sequence
from typing import Any

from gim_bench.cells.defaults import settings_by_name
from gim_bench.records.record import Record
from gim_bench.records.statistics import flatten
from gim_bench.settings.schema import Suite

DROPPED = {"published", "tuned"}  # a changed suite has neither: `load_suite`
SHOWN = 4  # settings of records that are left out
ABSENT = "absent"


def changed_settings(suite: Suite, *, file: Suite) -> str:
    """A line with each setting that is not the one of the suite's file; empty if there is none."""
    ours, theirs = (flatten(each.model_dump(mode="json")) for each in (suite, file))
    lines = [
        f"{name} = {_shown(ours, name)} (in the file {_shown(theirs, name)})"
        for name in sorted(ours.keys() | theirs.keys())
        if name not in DROPPED and _shown(ours, name) != _shown(theirs, name)
    ]
    return f"Not the suite's file: --set {', '.join(lines)}" if lines else ""


def left_out(others: Sequence[Record], *, kept: Sequence[Record]) -> str:
    """A line on records of the suite with other settings; empty if there are none.

    Settings are those in which such a record differs from a kept record of the same method.
    """
    if not others:
        return ""
    ours = {record.method: settings_by_name(record.config) for record in kept}
    found: dict[str, None] = {}
    for record in others:
        if record.method in ours:
            table, own = settings_by_name(record.config), ours[record.method]
            for name in sorted(table.keys() | own.keys()):
                if name not in {"device", "training.precision"}:
                    shown = f"{name} = {_shown(table, name)}"
                    found |= {} if table.get(name) == own.get(name) else {shown: None}
    more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    named = f", such as {', '.join([*found][:SHOWN])}{more}" if found else ""
    return (
        f"Left out: {len(others)} record(s) of this suite with other settings{named}; --set shows "
        f"them"
    )


def _shown(table: dict[str, Any], name: str) -> str:
    """The value of a setting; a table that may be left out is None where it is."""
    value = table.get(name)
    return ABSENT if value is None else str(value)
