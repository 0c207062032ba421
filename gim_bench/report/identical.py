"""Were the settings identical? A verdict in one line, and every difference behind the verdict."""

from collections.abc import Sequence
from statistics import fmean

from gim_bench.records.record import Record
from gim_bench.report.comparison import Difference, Kind, Rows, between_rows, count_settings
from gim_bench.report.document import Column, Section, Table

HEADINGS = ("kind", "setting", "values", "declared by")
# The budget of a row: verbs for one row and for several, and a noun.
BUDGETS = {
    "train/steps": ("takes", "take", "optimiser steps"),
    "train/samples": ("sees", "see", "examples"),
    "train/operations": ("computes", "compute", "operations"),
}


def identical_section(done: Sequence[Record], *, rows: Rows) -> Section:
    """The verdict on the rows, and their differences by kind, undeclared ones first.

    "Yes" only where nothing but the methods themselves differs, and no row has more than 1.1 times
    the budget of another. Empty for a single row whose seeds agree.
    """
    title = "Were the settings identical?"
    kinds = list(Kind)
    found = sorted(between_rows(done, rows=rows), key=lambda d: (d.declared, kinds.index(d.kind)))
    undeclared = [difference.name for difference in found if not difference.declared]
    methods = list(dict.fromkeys(record.method for record in done))
    if len(methods) < 2 and not undeclared:
        return Section(title=title, blocks=[])
    differing = {d.kind for d in found if d.kind is not Kind.METHOD or not d.declared}
    named = [kind for kind in kinds if kind in differing]
    said = [f"the rows differ in {listed(named)}"] if named else []
    said += unequal_budgets(done)
    if said:
        verdict = f"Not in everything: {'. '.join(said)}."
    else:
        verdict = (
            f"Yes: all {count_settings(done)} settings of data, encoder, training and probe are "
            f"the same. The rows differ only in their methods."
        )
    if idle := _without_steps(done):
        verdict += f" Without optimiser steps, and so without a budget: {', '.join(idle)}."
    if undeclared:
        verdict += f" UNDECLARED by method and row: {', '.join(undeclared)}."
    table = Table(
        columns=[Column(heading=heading, numeric=False) for heading in HEADINGS],
        rows=[[d.kind, d.name, _values(d, methods), d.by] for d in found],
    )
    return Section(title=title, blocks=[verdict, *([table] if found else [])])


def _values(difference: Difference, methods: Sequence[str]) -> str:
    """Each value and its rows. The value of three rows or more is said of "the others" and last."""
    holders = dict(difference.holders)
    common = max(holders, key=lambda value: len(holders[value]))
    held = [method for who in holders.values() for method in who]
    if len(holders) == 1 or len(holders[common]) < 3 or sorted(held) != sorted(methods):
        return difference.described()
    holders.pop(common)
    shown = [f"{value}: {', '.join(who)}" for value, who in holders.items()]
    return "; ".join([*shown, f"{common}: the others"])


def unequal_budgets(done: Sequence[Record]) -> list[str]:
    """A sentence for each budget of which a row has more than 1.1 times as much as another.

    Declared differences count too. Rows without optimiser steps have no budget.
    """
    sentences = []
    for name, (takes, take, noun) in BUDGETS.items():
        budgets = _budgets(done, name)
        least = min(budgets.values(), default=0.0)
        base = [method for method, budget in budgets.items() if 10 * budget <= 11 * least]
        by_factor: dict[str, list[str]] = {}
        for method, budget in sorted(budgets.items(), key=lambda item: -item[1]):
            if method not in base:
                by_factor.setdefault(f"{budget / least:.3g}", []).append(method)
        more = [
            f"{', '.join(methods)} {takes if len(methods) == 1 else take} {factor} times"
            for factor, methods in by_factor.items()
        ]
        if more:
            sentences.append(f"{listed(more)} as many {noun} as {', '.join(base)}")
    return sentences


def _budgets(done: Sequence[Record], name: str) -> dict[str, float]:
    """Mean over the seeds of every row that has some of a budget."""
    found: dict[str, list[float]] = {}
    for record in done:
        if budget := record.metrics.get(name):
            found.setdefault(record.method, []).append(budget)
    return {method: fmean(values) for method, values in found.items()}


def _without_steps(done: Sequence[Record]) -> list[str]:
    """Rows without optimiser steps, if another row takes some."""
    steps = _budgets(done, "train/steps")
    methods = dict.fromkeys(record.method for record in done)
    return [method for method in methods if method not in steps] if steps else []


def listed(parts: Sequence[str]) -> str:
    """The parts as one phrase: "a, b and c"."""
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last
