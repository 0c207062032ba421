"""The columns of the report's tables, and how numbers are printed in them."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from gim_bench.records.intervals import Estimate, Marks, Sample, mean_of, sample
from gim_bench.records.metrics import OF_OBJECTIVE, describe, target_of, unit_of
from gim_bench.records.record import Record
from gim_bench.records.statistics import Summary, spans, values_by_seed
from gim_bench.report.document import Column, Table
from gim_bench.report.published import Numbers, Published

NONE = "–"
TOO_LARGE = "does not fit"
PERCENT = "%"
BYTES = "bytes"
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
    "train/operations": "TFLOP",
    "train/step_per_calibration": "step / calibration",
    "selection/seconds": "selection s",
    "probe/seconds": "probe s",
    "energy/gpu_joules": "GPU kJ",
    "energy/cpu_joules": "CPU kJ",
    "memory/host_peak_bytes": "host",
    "memory/host_over_baseline_bytes": "host, over its baseline",
    "memory/gpu_allocated_peak_bytes": "GPU allocated",
    "memory/gpu_allocated_over_baseline_bytes": "GPU allocated, over its baseline",
    "memory/gpu_reserved_peak_bytes": "GPU reserved",
    "memory/gpu_process_peak_bytes": "GPU process",
    "memory/gpu_process_over_baseline_bytes": "GPU process, over its baseline",
    "memory/largest_batch": "largest batch",
}
# Memory that is the method's own is also shown as a share of CPC's.
YARDSTICK = "cpc"
RATIOS = {
    "memory/host_over_baseline_bytes",
    "memory/gpu_allocated_over_baseline_bytes",
    "memory/gpu_process_over_baseline_bytes",
}
# What an interval covers, as tables say it.
COVERS = {"seeds and items": "", "seeds": "seeds", "items": "examples"}
SAW_VALIDATION = "its encoder was trained on the labels of the validation examples, which favour"
UNTRAINED = "none"  # the split that an untrained encoder is trained on
TRAINED_ON = {"unlabelled": "unlabelled", "train": "labelled only", UNTRAINED: "nothing"}


def scaled(value: float | None, factor: float, spec: str) -> str:
    """A value in another unit, printed as `spec` says; a dash where there is none."""
    return NONE if value is None else format(factor * value, spec)


class Style(NamedTuple):
    """The format of numbers of one unit."""

    unit: str
    factor: float
    decimals: int
    spread: bool = True  # whether a standard deviation is of interest


STYLES = {
    PERCENT: Style(PERCENT, 1, 1),
    OF_OBJECTIVE: Style("", 1, 3),  # the unit is the row's: see `unit_shared` and `unit_column`
    "s": Style("s", 1, 1),
    "1/s": Style("1/s", 1, 1),
    BYTES: Style("GB", 1e-9, 2, spread=False),
    "steps": Style("steps", 1, 0, spread=False),
    "examples": Style("examples", 1, 0, spread=False),
    "labels": Style("labels", 1, 0, spread=False),
    "parameters": Style("parameters", 1, 0, spread=False),
    "images or windows per batch": Style("images or windows per batch", 1, 0, spread=False),
    "FLOP": Style("TFLOP", 1e-12, 2, spread=False),
    "J": Style("kJ", 1e-3, 2),
}


class Row(NamedTuple):
    """A method's finished cells, one for each seed, and a summary of each of their metrics."""

    method: str
    records: Sequence[Record]
    summaries: Mapping[str, Summary]
    fits: bool = True  # False: no cell finished, because memory did not suffice
    marks: Mapping[int, Marks] = MappingProxyType({})  # of the seeds with predictions
    failed: Sequence[int] = ()  # seeds without a finished cell whose latest attempt failed


def trait_of(row: Row, name: str) -> Any:
    """A trait that the method of a row declares, such as its gradient flow; None if unknown."""
    return row.records[0].config.get("method", {}).get(name) if row.records else None


def is_untrained(row: Row) -> bool:
    """Whether the row is the encoder with its first weights; fixed features have no encoder."""
    return trait_of(row, "trains_on") == UNTRAINED and trait_of(row, "ablation") is None


def saw_validation(row: Row) -> bool:
    """Whether hyperparameters are chosen on labels that the row's encoder was trained on."""
    if not row.records:
        return False
    probe = row.records[0].config.get("probe")
    unseen = isinstance(probe, Mapping) and probe.get("unseen_validation")
    return row.records[0].knows_labels and not unseen


def failed_seeds(row: Row) -> str:
    """The seeds that failed and are in no mean of the row, in words; empty without any."""
    seeds = ", ".join(spans(row.failed))
    if len(row.failed) > 1:
        return f"seeds {seeds} failed and are in no mean"
    return f"seed {seeds} failed and is in no mean" if seeds else ""


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
    """The split that each method was trained on: supervised methods see no unlabelled images."""
    declared = [trait_of(row, "trains_on") for row in rows]
    cells = [TRAINED_ON.get(str(split), str(split or NONE)) for split in declared]
    return Filled(Column(heading="trained on", numeric=False), cells)


def seeds_column(rows: Sequence[Row]) -> Filled:
    return Filled(Column(heading="seeds"), [str(len(row.records)) for row in rows])


def metric_column(rows: Sequence[Row], name: str, *, title: str | None = None) -> Filled:
    """Mean and standard deviation over seeds; "(n=…)" where only some seeds have the metric."""
    style = style_of(name)
    cells = [
        mean_over(
            row.summaries.get(name),
            style,
            seeds=len(row.records),
            absent=NONE if row.fits else TOO_LARGE,
        )
        for row in rows
    ]
    return Filled(Column(heading=title or heading_of(name)), cells)


def mean_over(summary: Summary | None, style: Style, *, seeds: int, absent: str) -> str:
    """Mean and standard deviation; "(n=…)" where they are not over this number of seeds."""
    if summary is None:
        return absent
    cell = show(summary.mean, summary.std, style)
    return cell if summary.n == seeds else f"{cell} (n={summary.n})"


def interval_column(rows: Sequence[Row], name: str) -> list[Filled]:
    """A column with the half width of the 95 % interval, if any method has an interval.

    The heading says what all intervals of the column cover, and a cell what it covers otherwise;
    seeds and test examples go without saying.
    """
    found = [interval_of(row, name) for row in rows]
    covered = {COVERS[estimate.covers] for estimate in found if estimate}
    if not covered:
        return []
    shared = covered.pop() if len(covered) == 1 else ""
    style, cells = style_of(name), []
    for estimate in found:
        half = estimate.half_width() if estimate else None
        covers = f" ({COVERS[estimate.covers]})" if estimate and COVERS[estimate.covers] else ""
        shown = NONE if half is None else f"± {show(half, None, style)}"
        cells.append(shown if shared else f"{shown}{covers}")
    return [Filled(Column(heading=with_unit("95% CI", shared)), cells)]


def interval_of(row: Row, name: str) -> Estimate | None:
    """The mean of a metric with its interval; None if there is no interval."""
    of_row = sample_of(row, name)
    estimate = mean_of(of_row) if of_row else None
    return estimate if estimate and estimate.covers else None


def sample_of(row: Row, name: str) -> Sample | None:
    """A metric of a method by seed, and by test example where known; None without any value."""
    values = values_by_seed(row.records, name)
    return sample(values, marks=row.marks, metric=name) if values else None


def ratio_column(rows: Sequence[Row], name: str) -> list[Filled]:
    """A column with each method's share of CPC's memory, for memory that is the method's own."""
    means = {row.method: row.summaries[name].mean for row in rows if name in row.summaries}
    yardstick = means.get(YARDSTICK)
    if name not in RATIOS or not yardstick or len(means) < 2:
        return []
    cells = [
        f"{means[row.method] / yardstick:.2f}" if row.method in means else NONE for row in rows
    ]
    return [Filled(Column(heading=f"of {YARDSTICK}"), cells)]


# -- units and numbers -----------------------------------------------------------------------------


def unit_shared(rows: Sequence[Row], losses: Sequence[str]) -> str:
    """The unit of all rows' losses; empty if the rows have several units, or none."""
    units = {unit for unit in _units(rows, losses) if unit is not None}
    return units.pop() if len(units) == 1 else ""


def unit_column(rows: Sequence[Row], losses: Sequence[str]) -> list[Filled]:
    """A column with the unit of each row's losses, if the rows have several units."""
    units = _units(rows, losses)
    if len({unit for unit in units if unit is not None}) < 2:
        return []
    return [Filled(Column(heading="unit", numeric=False), [unit or NONE for unit in units])]


def _units(rows: Sequence[Row], losses: Sequence[str]) -> list[str | None]:
    """The unit of each row's losses, "" for a loss without a unit; None for a row without loss."""
    return [
        unit_of(losses[0], row.records[0].config) if row.summaries.keys() & losses else None
        for row in rows
    ]


def with_unit(heading: str, unit: str) -> str:
    """The heading and the unit, as in "loss, nats"; without a unit, the heading alone."""
    return f"{heading}, {unit}" if unit else heading


def heading_of(name: str) -> str:
    """The short heading of a metric; of a metric without one, its name and unit."""
    target, metric = target_of(name)
    short = HEADINGS.get(metric)
    if short is None:
        return with_unit(name, style_of(name).unit)
    return f"{target}, {short}" if target else short


def style_of(name: str) -> Style:
    """The format of a metric's values; for losses, without their unit."""
    unit = describe(name).unit
    return STYLES.get(unit, Style(unit, 1, 2))


def show(value: float, std: float | None, style: Style) -> str:
    text = f"{value * style.factor:,.{style.decimals}f}"
    if std is None or not style.spread:
        return text
    return f"{text} ± {std * style.factor:,.{style.decimals}f}"


def show_published(paper: Published, style: Style) -> str:
    """A published number with all of its printed digits."""
    printed = -round(math.log10(2 * paper.rounding * style.factor))
    return show(paper.value, paper.std, style._replace(decimals=max(style.decimals, printed)))


def show_p(p: float) -> str:
    return "≤0.001" if p < 0.001 else f"{p:.3f}"


def signed(difference: float, style: Style) -> str:
    return f"{difference * style.factor:+,.{style.decimals}f}"
