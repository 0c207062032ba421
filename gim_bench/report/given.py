"""What each method was given: data, labels, steps, parameters and arithmetic, counted."""

from collections.abc import Sequence

from gim_bench.report.columns import Row, data_column, method_column, metric_column, table_of
from gim_bench.report.comparison import COUNTS, count_differences
from gim_bench.report.document import Block, Bullets, Section


def what_each_was_given(rows: Sequence[Row]) -> Section:
    """One row a method, and whether what it declares accounts for every difference."""
    title = "What each method was given"
    names = [name for name in COUNTS if any(name in row.summaries for row in rows)]
    if not names:
        return Section(title=title, blocks=[])
    columns = [method_column(rows), data_column(rows)]
    columns += [metric_column(rows, name) for name in names]
    return Section(title=title, blocks=[table_of(columns), *_about_differences(rows)])


def _about_differences(rows: Sequence[Row]) -> list[Block]:
    found = count_differences([record for row in rows for record in row.records])
    undeclared = [f"UNDECLARED {d.name}: {d.described()}" for d in found if not d.declared]
    if undeclared:
        return ["Not all of this follows from what the methods declare:", Bullets(undeclared)]
    return ["All differences here follow from what the methods declare."] if found else []
