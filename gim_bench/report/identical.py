"""Were the settings identical? A verdict in one line, and every difference behind the verdict."""

from collections.abc import Sequence

from gim_bench.records.record import Record
from gim_bench.report.comparison import Kind, Rows, between_rows, count_settings
from gim_bench.report.document import Column, Section, Table

HEADINGS = ("kind", "setting", "values", "declared by")


def identical_section(done: Sequence[Record], *, rows: Rows) -> Section:
    """The verdict on the rows, and their differences by kind, undeclared ones first.

    "Yes" only where nothing but the methods themselves differs. Empty for a single row whose
    seeds agree.
    """
    title = "Were the settings identical?"
    kinds = list(Kind)
    found = sorted(between_rows(done, rows=rows), key=lambda d: (d.declared, kinds.index(d.kind)))
    undeclared = [difference.name for difference in found if not difference.declared]
    if len({record.method for record in done}) < 2 and not undeclared:
        return Section(title=title, blocks=[])
    differing = [d.kind for d in found if d.kind is not Kind.METHOD or not d.declared]
    if differing:
        *others, last = sorted(set(differing), key=kinds.index)
        named = f"{', '.join(others)} and {last}" if others else last
        verdict = f"Not in everything: the rows differ in {named}."
    else:
        verdict = (
            f"Yes: all {count_settings(done)} settings of data, encoder, training and probe are "
            f"the same. The rows differ only in their methods."
        )
    if undeclared:
        verdict += f" UNDECLARED by method and row: {', '.join(undeclared)}."
    table = Table(
        columns=[Column(heading=heading, numeric=False) for heading in HEADINGS],
        rows=[[d.kind, d.name, d.described(), d.by] for d in found],
    )
    return Section(title=title, blocks=[verdict, *([table] if found else [])])
