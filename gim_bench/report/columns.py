"""The columns of the report's tables, and how numbers are printed in them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gim_bench.records.metrics import describe, target_of
from gim_bench.records.record import Record
from gim_bench.records.statistics import Summary
from gim_bench.report.document import Column, Table
from gim_bench.report.published import Numbers

NONE = "–"
TOO_LARGE = "does not fit"
PERCENT = "%"
BYTES = "bytes"
NATS = "nats"
# Short headings; any other metric is headed by its own name and unit.
HEADINGS = {
    "accuracy": "linear probe",
    "accuracy/own_head": "own head",
    "ridge_accuracy": "ridge",
    "knn_accuracy": "kNN",
    "train/seconds": "train s",
    "train/samples_per_second": "examples/s",
    "train/steps": "steps",
    "train/samples": "examples seen",
    "train/labels": "labels",
    "train/parameters": "parameters",
    "train/flops": "TFLOP",
    "probe/seconds": "probe s",
    "memory/host_peak_bytes": "host",
    "memory/host_over_baseline_bytes": "host, over its baseline",
    "memory/gpu_allocated_peak_bytes": "GPU allocated",
    "memory/gpu_reserved_peak_bytes": "GPU reserved",
    "memory/gpu_process_peak_bytes": "GPU process",
    "memory/gpu_process_over_baseline_bytes": "GPU process, over its baseline",
    "memory/largest_batch": "largest batch",
}
# What is set against CPC's figure.
YARDSTICK = "cpc"
RATIOS = {
    "memory/host_over_baseline_bytes",
    "memory/gpu_allocated_peak_bytes",
    "memory/gpu_process_over_baseline_bytes",
}
TRAINED_ON = {"unlabelled": "unlabelled", "train": "labelled only", "none": "nothing"}


class Style(NamedTuple):
    """How numbers of a unit are printed."""

    unit: str
    factor: float
    decimals: int
    spread: bool = True  # whether a standard deviation is of interest


STYLES = {
    PERCENT: Style(PERCENT, 1, 1),
    NATS: Style("nats", 1, 3),
    "s": Style("s", 1, 1),
    "1/s": Style("1/s", 1, 1),
    BYTES: Style("GB", 1e-9, 2, spread=False),
    "steps": Style("steps", 1, 0, spread=False),
    "examples": Style("examples", 1, 0, spread=False),
    "labels": Style("labels", 1, 0, spread=False),
    "parameters": Style("parameters", 1, 0, spread=False),
    "images or windows per batch": Style("images or windows per batch", 1, 0, spread=False),
    "FLOP": Style("TFLOP", 1e-12, 2, spread=False),
}


class Row(NamedTuple):
    """A method's finished cells, one for each seed, and what they say together."""

    method: str
    records: Sequence[Record]
    summaries: Mapping[str, Summary]
    fits: bool = True  # False: no cell finished, because memory did not suffice


PublishedNumbers = Mapping[str, Numbers]  # by paper


class Filled(NamedTuple):
    column: Column
    cells: Sequence[str]


def table_of(filled: Sequence[Filled]) -> Table:
    rows = list(zip(*(f.cells for f in filled), strict=True))
    return Table(columns=[f.column for f in filled], rows=rows)


def method_column(rows: Sequence[Row]) -> Filled:
    return Filled(Column(heading="method", numeric=False), [row.method for row in rows])


def data_column(rows: Sequence[Row]) -> Filled:
    """What the method was trained on: supervised ones see no unlabelled images."""
    declared = [row.records[0].config.get("method", {}).get("trains_on") for row in rows]
    cells = [TRAINED_ON.get(str(split), str(split or NONE)) for split in declared]
    return Filled(Column(heading="trained on", numeric=False), cells)


def seeds_column(rows: Sequence[Row]) -> Filled:
    return Filled(Column(heading="seeds"), [str(len(row.records)) for row in rows])


def metric_column(rows: Sequence[Row], name: str, *, title: str | None = None) -> Filled:
    """Mean, and standard deviation over seeds; says so where only some of the seeds have it."""
    style = style_of(name)
    cells = []
    for row in rows:
        summary = row.summaries.get(name)
        absent = NONE if row.fits else TOO_LARGE
        cell = show(summary.mean, summary.std, style) if summary else absent
        partial = summary is not None and summary.n != len(row.records)
        cells.append(f"{cell} (n={summary.n})" if summary and partial else cell)
    return Filled(Column(heading=title or heading_of(name)), cells)


def interval_column(rows: Sequence[Row], name: str) -> list[Filled]:
    """Half width of the 95 % interval, as a column of its own where any method has one."""
    summaries = [row.summaries.get(name) for row in rows]
    widths = [summary.ci95 if summary else None for summary in summaries]
    if all(width is None for width in widths):
        return []
    style = style_of(name)
    cells = [NONE if width is None else f"± {show(width, None, style)}" for width in widths]
    return [Filled(Column(heading="95% CI"), cells)]


def paper_columns(rows: Sequence[Row], name: str, published: PublishedNumbers) -> list[Filled]:
    """A column for each paper that has any of these numbers."""
    style = style_of(name)
    columns = []
    for paper, numbers in published.items():
        found = [numbers.get((row.method, name)) for row in rows]
        if any(found):
            cells = [show(p.value, p.std, style) if p else NONE for p in found]
            columns.append(Filled(Column(heading="paper" if len(published) == 1 else paper), cells))
    return columns


def ratio_column(rows: Sequence[Row], name: str) -> list[Filled]:
    """How much of CPC's a method needs, for what is the method's own: not the process's."""
    means = {row.method: row.summaries[name].mean for row in rows if name in row.summaries}
    yardstick = means.get(YARDSTICK)
    if name not in RATIOS or not yardstick or len(means) < 2:
        return []
    cells = [
        f"{means[row.method] / yardstick:.2f}" if row.method in means else NONE for row in rows
    ]
    return [Filled(Column(heading=f"of {YARDSTICK}"), cells)]


# -- numbers ---------------------------------------------------------------------------------------


def heading_of(name: str) -> str:
    target, metric = target_of(name)
    short = HEADINGS.get(metric)
    if short is None:
        return f"{name}, {style_of(name).unit}"
    return f"{target}, {short}" if target else short


def style_of(name: str) -> Style:
    unit = describe(name).unit
    return STYLES.get(unit, Style(unit, 1, 2))


def show(value: float, std: float | None, style: Style) -> str:
    text = f"{value * style.factor:,.{style.decimals}f}"
    if std is None or not style.spread:
        return text
    return f"{text} ± {std * style.factor:,.{style.decimals}f}"


def signed(difference: float, style: Style) -> str:
    return f"{difference * style.factor:+,.{style.decimals}f}"
