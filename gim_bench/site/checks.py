"""The page of checks over time: accuracy, loss, memory and speed by commit."""

from collections.abc import Sequence
from typing import NamedTuple

from gim_bench.check.history import Entry
from gim_bench.check.tolerance import ACCURACY, MEMORY, SPEED, kind_of
from gim_bench.report.columns import NONE, show, style_of, with_unit
from gim_bench.report.document import (
    Block,
    Column,
    Curve,
    Document,
    Figure,
    Panel,
    Section,
    Table,
)
from gim_bench.site.records import DIGITS

SCALE = {"bytes": ("MB", 1e-6)}
HEADINGS = {ACCURACY: "Accuracy", MEMORY: "Peak memory", SPEED: "Time of a step"}


class Check(NamedTuple):
    """One check: the last one of a commit on a machine."""

    at: str
    commit: str
    entries: dict[str, Entry]  # by method


def checks_page(history: Sequence[Entry]) -> Document:
    """A section for each suite and machine: the commits, and curves with a table for each metric.

    Data and version of results decide numbers, too: others have sections of their own.
    """
    groups: dict[tuple[str, str, str, int], list[Entry]] = {}
    for entry in history:
        apart = (entry.suite, entry.machine, entry.data_sha256, entry.results_version)
        groups.setdefault(apart, []).append(entry)
    sections = [
        Section(
            title=f"{suite}: {machine}, data {data[:8]}, results version {version}",
            blocks=list(_blocks(_checks(entries))),
        )
        for (suite, machine, data, version), entries in groups.items()
    ]
    about = (
        "Means over seeds at each check that was added to the history, oldest first; ± is the "
        "standard deviation over seeds. Accuracy and loss are those of the top module. Only checks "
        "on the same machine stand beside each other, as memory and speed depend on it."
    )
    return Document(title="Checks over time", summary=[about], sections=sections)


def _checks(entries: Sequence[Entry]) -> list[Check]:
    """The checks in the order of their commits' first check."""
    found: dict[str, Check] = {}
    for entry in entries:
        before = found.get(entry.commit)
        methods = before.entries if before else {}
        methods = methods | {entry.method: entry}
        found[entry.commit] = Check(entry.at, entry.commit, methods)
    return list(found.values())


def _blocks(checks: Sequence[Check]) -> list[Block]:
    methods = list(dict.fromkeys(method for check in checks for method in check.entries))
    names = dict.fromkeys(n for c in checks for e in c.entries.values() for n in e.metrics)
    blocks: list[Block] = [_commits(checks)]
    shown = [name for name in names if "/module_" not in name]
    for name in shown:
        blocks += [
            _figure(checks, name, methods=methods),
            _table(checks, name, methods=methods),
        ]
    return blocks


def _commits(checks: Sequence[Check]) -> Table:
    """The number of each check in the figures, with its commit and its outcome."""
    rows = []
    for number, check in enumerate(checks, start=1):
        commit, dirty, _ = check.commit.partition("-dirty")
        outcomes = dict.fromkeys(entry.outcome for entry in check.entries.values())
        shown = commit[:DIGITS] + (" with changes" if dirty else "")
        rows.append([str(number), shown, check.at[:16].replace("T", " "), "; ".join(outcomes)])
    columns = [
        Column(heading=h, numeric=h == "check") for h in ("check", "commit", "at", "outcome")
    ]
    return Table(columns=columns, rows=rows)


def _figure(checks: Sequence[Check], name: str, *, methods: Sequence[str]) -> Figure:
    unit, factor = _unit(checks, name)
    curves = []
    for method in methods:
        points = [
            (float(number), factor * entry.metrics[name].mean)
            for number, check in enumerate(checks, start=1)
            if (entry := check.entries.get(method)) and name in entry.metrics
        ]
        if points:
            curves.append(Curve(method=method, seeds=[points]))
    return Figure(
        title=_title(name),
        panels=[Panel(title=name, curves=curves)],
        methods=methods,
        x_label="check",
        y_label=with_unit(_title(name).lower(), unit),
    )


def _table(checks: Sequence[Check], name: str, *, methods: Sequence[str]) -> Table:
    unit, factor = _unit(checks, name)
    style = style_of(name)._replace(unit=unit, factor=factor, decimals=3, spread=True)
    rows = []
    for number, check in enumerate(checks, start=1):
        points = [
            check.entries[m].metrics.get(name) if m in check.entries else None for m in methods
        ]
        cells = [show(p.mean, p.std, style) if p else NONE for p in points]
        rows.append([str(number), *cells])
    headings = ["check", *(with_unit(method, unit) for method in methods)]
    return Table(columns=[Column(heading=heading) for heading in headings], rows=rows)


def _unit(checks: Sequence[Check], name: str) -> tuple[str, float]:
    """The unit that a metric is shown in, and the factor from its own unit."""
    units = {e.metrics[name].unit for c in checks for e in c.entries.values() if name in e.metrics}
    unit = units.pop() if len(units) == 1 else ""
    return SCALE.get(unit, (unit, 1.0))


def _title(name: str) -> str:
    kind = kind_of(name)
    return HEADINGS.get(kind, "Loss") if kind is not None else name
