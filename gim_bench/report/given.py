"""The counts of each row: data, labels, steps, parameters and arithmetic."""

from collections.abc import Sequence

from gim_bench.report.columns import Row, data_column, method_column, metric_column, table_of
from gim_bench.report.comparison import COUNTS, Rows, count_differences
from gim_bench.report.document import Block, Bullets, Section


def what_each_was_given(rows: Sequence[Row], *, declared: Rows) -> Section:
    """The counts of each row, and the differences that no declaration accounts for.

    `declared` holds what the suite declares for its rows.
    """
    title = "What each method was given"
    names = [name for name in COUNTS if any(name in row.summaries for row in rows)]
    if not names:
        return Section(title=title, blocks=[])
    columns = [method_column(rows), data_column(rows)]
    columns += [metric_column(rows, name) for name in names]
    blocks: list[Block] = [table_of(columns)]
    records = [record for row in rows for record in row.records]
    found = count_differences(records, rows=declared)
    undeclared = [f"UNDECLARED {d.name}: {d.described()}" for d in found if not d.declared]
    if undeclared:
        blocks += ["No declaration of a method or row accounts for this:", Bullets(undeclared)]
    elif found:
        blocks.append("All differences here follow from what methods and rows declare.")
    return Section(title=title, blocks=blocks)
