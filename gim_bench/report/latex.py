"""A summary of the rows as a LaTeX table, to be pasted into a paper."""

from collections.abc import Sequence

from gim_bench.report.columns import (
    NONE,
    Filled,
    Row,
    heading_of,
    interval_of,
    method_column,
    metric_column,
    seeds_column,
    show,
    style_of,
)
from gim_bench.report.costs import TRAINING
from gim_bench.report.document import Column

# Printed with the table: comments do not come along into a paper.
SPREADS = (
    r"$\pm$: of accuracies, half of a 95\,\% interval; of costs, standard deviation over seeds"
)
MEMORY = ("memory/gpu_allocated_peak_bytes", "memory/host_peak_bytes")  # the first that rows have
SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "×": r"$\times$",
        "–": "--",
        "<": r"$<$",
        ">": r"$>$",
        **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    }
)


def as_latex(rows: Sequence[Row], names: Sequence[str], *, notes: Sequence[str]) -> str:
    """A `tabular` of the accuracies `names`, and of the costs of training that any row has.

    Accuracies stand with the half width of the 95 % interval over seeds and test examples, costs
    with the standard deviation over seeds. `notes` stand above the table as comments.
    """
    found = {name for row in rows for name in row.summaries}
    costs = [name for name in TRAINING if name in found]
    costs += [name for name in MEMORY if name in found][:1]
    filled = [
        method_column(rows),
        seeds_column(rows),
        *(_accuracies(rows, name) for name in names),
        *(metric_column(rows, name, title=_with_unit(name)) for name in costs),
    ]
    reading = (
        "Accuracy: mean and half width of the 95 % interval (needs two seeds). "
        "Costs: of training, mean and standard deviation over seeds. Needs the package booktabs."
    )
    body = [_line(cells) for cells in zip(*(each.cells for each in filled), strict=True)]
    width = rf"\multicolumn{{{len(filled)}}}{{l}}"
    lines = [
        *(f"% {' '.join(note.split())}" for note in (*notes, reading)),
        rf"\begin{{tabular}}{{{''.join('r' if f.column.numeric else 'l' for f in filled)}}}",
        r"\toprule",
        _line([each.column.heading for each in filled]),
        r"\midrule",
        *body,
        r"\bottomrule",
        *(
            [rf"{width}{{\footnotesize {SPREADS}}} \\"]
            if any(r"$\pm$" in row for row in body)
            else []
        ),
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """The text as LaTeX prints it, without commands."""
    return text.translate(SPECIAL)


def _line(cells: Sequence[str]) -> str:
    return rf"{' & '.join(map(escaped, cells))} \\"


def _accuracies(rows: Sequence[Row], name: str) -> Filled:
    """Each mean, with the half width of an interval that covers seeds."""
    style, cells = style_of(name), []
    for row in rows:
        estimate = interval_of(row, name)
        half = estimate.half_width() if estimate and estimate.seeds else None
        summary = row.summaries.get(name)
        cells.append(show(summary.mean, half, style) if summary else NONE)
    return Filled(Column(heading=_with_unit(name)), cells)


def _with_unit(name: str) -> str:
    """The short heading of a metric and its unit, once."""
    heading, unit = heading_of(name), style_of(name).unit
    return heading if heading.endswith(f" {unit}") or heading == unit else f"{heading}, {unit}"
