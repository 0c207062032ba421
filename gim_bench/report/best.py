"""The best module of each method: chosen on validation, then read on the test examples."""

from collections.abc import Sequence
from dataclasses import replace

from gim_bench.records.metrics import target_of
from gim_bench.records.record import Record
from gim_bench.records.statistics import summarise_metrics
from gim_bench.report.columns import (
    NONE,
    SAW_VALIDATION,
    Filled,
    Row,
    interval_column,
    method_column,
    metric_column,
    saw_validation,
    seeds_column,
    table_of,
)
from gim_bench.report.document import Block, Bullets, Column, Section

PROBED = "accuracy"  # the metric that the curves on validation choose for


def best_module_table(rows: Sequence[Row], names: Sequence[str]) -> Section:
    """Test accuracy of the module with the highest validation accuracy, seed by seed."""
    title = "Best module, chosen on validation: % of all test examples"
    columns = [method_column(rows), seeds_column(rows)]
    chosen = []
    for name in names:
        at_best = [at_best_module(row, name) for row in rows]
        if not any(at_best):
            continue
        chosen.append(name)
        best = [found or row for found, row in zip(at_best, rows, strict=True)]
        columns += [
            _module_column(rows, name),
            metric_column(best, name),
            *interval_column(best, name),
        ]
    notes = [
        f"{row.method}: {SAW_VALIDATION} a module that knows them by heart."
        for row in rows
        if saw_validation(row)
    ]
    blocks: list[Block] = [table_of(columns), *([Bullets(notes)] if notes else [])]
    return Section(title=title, blocks=blocks if chosen else [])


def at_best_module(row: Row, name: str) -> Row | None:
    """The row with the accuracy of each seed's best module in place of the top module's.

    None if the row has fewer than two modules, or a seed without validation accuracies.
    """
    modules = {record.seed: best_module(record, name) for record in row.records}
    if None in modules.values() or not row.records:
        return None
    metrics = {seed: f"{name}/{module}" for seed, module in modules.items()}
    if any(metrics[record.seed] not in record.metrics for record in row.records):
        return None
    records = [
        replace(record, metrics={**record.metrics, name: record.metrics[metrics[record.seed]]})
        for record in row.records
    ]
    marks = {
        seed: replace(of_seed, right={**of_seed.right, name: of_seed.right[metrics[seed]]})
        for seed, of_seed in row.marks.items()
        if metrics[seed] in of_seed.right
    }
    return row._replace(records=records, summaries=summarise_metrics(records), marks=marks)


def best_module(record: Record, name: str) -> str | None:
    """The module whose probe validates best, the lowest of several; None if there is no choice."""
    target, metric = target_of(name)
    reached = {
        curve.rpartition("/")[2]: max(accuracy for _, accuracy in points)
        for curve, points in record.probe_curves.items()
        if curve.rpartition("/")[0] == target and points
    }
    if metric != PROBED or len(reached) < 2:
        return None
    return max(reached, key=reached.__getitem__)


def _module_column(rows: Sequence[Row], name: str) -> Filled:
    """The numbers of the modules that were chosen with any seed."""
    cells = []
    for row in rows:
        chosen = {best_module(record, name) for record in row.records} - {None}
        numbers = sorted(int(str(module).rpartition("_")[2]) for module in chosen)
        cells.append(", ".join(map(str, numbers)) or NONE)
    return Filled(Column(heading="module"), cells)
