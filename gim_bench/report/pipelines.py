"""Pipelines: what each worker hands on, holds and waits for, and how fast all are together."""

from collections.abc import Mapping, Sequence
from typing import Any

from gim_bench.cells.defaults import settings_by_name
from gim_bench.records.record import Record
from gim_bench.records.statistics import mean_over_seeds, newest_done
from gim_bench.report.columns import scaled
from gim_bench.report.comparison import facts_of_costs
from gim_bench.report.document import Block, Bullets, Column, Section, Table
from gim_bench.report.identical import listed

HEADINGS = ("waits, %", "for a batch, s", "for room, s", "hands on, MB", "peak over idle, GB")
NOTE = (
    "A worker trains the module in its row and those below it, down to the next worker's. It waits "
    "for a batch of the worker below, or for room to hand its own on. What it hands on is counted "
    "for each example. Peak over idle: peak memory of its process, less its memory before training."
)
# Headings, with the metric, its factor and its format.
BUFFER_COLUMNS = {
    "of a finished module, %": ("after_below_share", 100, ".0f"),
    "staleness, median": ("staleness_median", 1, ".0f"),
    "p90": ("staleness_p90", 1, ".0f"),
    "max": ("staleness_max", 1, ".0f"),
    "uses of a batch": ("uses_per_batch", 1, ".2f"),
    "dropped, %": ("dropped_share", 100, ".0f"),
}
BUFFER_NOTE = (
    "Buffers between workers that do not wait: the worker of the module takes a step with a batch "
    "that may be stale, or that it has used before. All workers take the same number of steps: a "
    "faster one below finishes first, and then hands on outputs of a finished module, whose share "
    "of the uses is given. Staleness is that of the other uses: the updates of the worker below "
    "between its making of the batch and of its newest one. Dropped batches were not used by the "
    "last step, those still in the buffer included. Accuracy is that of the module under the probe."
)
IN_ONE_PROCESS = ("interleaved", "joint")  # schedules with the same steps and gradients
# Settings in which rows may differ whose speed is compared.
OF_PIPELINES = (
    "method.name", "method.schedule", "training.schedule", "training.workers", "training.buffer"
)  # fmt: skip
SPEED = "train/samples_per_second"
PEAKS = ("gpu_allocated_over_baseline_bytes", "host_over_baseline_bytes")


def pipelines_section(records: Sequence[Record]) -> Section:
    """A row for every worker of the pipelined rows; empty without such rows.

    Seeds whose training was resumed are left out: their speed is not that of a whole training.
    """
    done = [each for each in newest_done(records) if "resumed_at_step" not in each.provenance]
    measured: dict[str, list[Record]] = {}
    for record in done:
        if "pipeline/workers" in record.metrics:
            measured.setdefault(record.method, []).append(record)
    blocks: list[Block] = []
    if measured:
        rows = [row for method, own in measured.items() for row in _workers(own, method)]
        columns = [
            *(Column(heading=heading, numeric=False) for heading in ("rows", "module")),
            *(Column(heading=heading) for heading in HEADINGS),
        ]
        lines = [line for own in measured.values() for line in _compared(own, done)]
        blocks = [Table(columns=columns, rows=rows), NOTE, *_buffers(measured)]
        blocks += [Bullets(lines)] if lines else []
    return Section(title="Pipelines", blocks=blocks)


def _workers(records: Sequence[Record], method: str) -> list[list[str]]:
    """The cells of the table, means over seeds, for each worker of a row."""
    modules = [
        name.rpartition("/")[2]
        for name in records[0].metrics
        if name.startswith("pipeline/idle_share/")
    ]
    return [
        [
            method,
            module,
            scaled(mean_over_seeds(records, f"pipeline/idle_share/{module}"), 100, ".0f"),
            scaled(mean_over_seeds(records, f"pipeline/seconds_without_batch/{module}"), 1, ".1f"),
            scaled(mean_over_seeds(records, f"pipeline/seconds_without_room/{module}"), 1, ".1f"),
            scaled(mean_over_seeds(records, f"pipeline/bytes_per_sample/{module}"), 1e-6, ".3f"),
            scaled(_peak(records, module), 1e-9, ".3f"),
        ]
        for module in modules
    ]


def _buffers(measured: Mapping[str, Sequence[Record]]) -> list[Block]:
    """Accuracy against staleness: a row for every worker that has a buffer below it."""
    rows = [row for method, own in measured.items() for row in _uses(own, method)]
    columns = [
        *(Column(heading=heading, numeric=False) for heading in ("rows", "module")),
        *(Column(heading=heading) for heading in (*BUFFER_COLUMNS, "accuracy, %")),
    ]
    return [Table(columns=columns, rows=rows), BUFFER_NOTE] if rows else []


def _uses(records: Sequence[Record], method: str) -> list[list[str]]:
    """Means over seeds of what each worker of a row has used."""
    first = "pipeline/uses_per_batch/"
    modules = [name.removeprefix(first) for name in records[0].metrics if name.startswith(first)]
    found = []
    for module in modules:
        used = [
            scaled(mean_over_seeds(records, f"pipeline/{name}/{module}"), factor, spec)
            for name, factor, spec in BUFFER_COLUMNS.values()
        ]
        accuracy = scaled(mean_over_seeds(records, f"accuracy/{module}"), 1, ".1f")
        found.append([method, module, *used, accuracy])
    return found


def _peak(records: Sequence[Record], module: str) -> float | None:
    """The GPU's peak where the worker ran on one, else the host's."""
    found = (mean_over_seeds(records, f"pipeline/{name}/{module}") for name in PEAKS)
    return next((peak for peak in found if peak is not None), None)


def _compared(own: Sequence[Record], done: Sequence[Record]) -> list[str]:
    """How fast the row is beside the rows that differ from it in the schedule alone.

    Each line says whether the losses of all shared seeds are equal to the bit. A row that is slowed
    down on purpose is not compared.
    """
    if (own[0].config["training"].get("buffer") or {}).get("slowdown"):
        return []
    lines = []
    for other in dict.fromkeys(record.method for record in done):
        theirs = [record for record in done if record.method == other]
        if theirs[0].config["method"]["schedule"] not in IN_ONE_PROCESS:
            continue
        if not _alike(own[0].config, theirs[0].config):
            continue
        ours, its = (mean_over_seeds(records, SPEED) for records in (own, theirs))
        if ours is None or its is None:
            continue
        if differing := facts_of_costs([*own, *theirs]):
            lines.append(
                f"{own[0].method} and {other} are not compared in speed: they differ in "
                f"{listed(differing)}."
            )
            continue
        seeds = {record.seed: record.losses for record in theirs}
        shared = [record for record in own if record.seed in seeds]
        equal = all(record.losses == seeds[record.seed] for record in shared)
        losses = f", with {'the same losses to the bit' if equal else 'other losses'}"
        threads = theirs[0].provenance.get("threads")
        by = "" if threads is None else f" of {threads} thread{'' if threads == 1 else 's'}"
        lines.append(
            f"{own[0].method}, by {own[0].metrics['pipeline/workers']:.0f} workers, trains "
            f"{ours / its:.2f} times as fast as {other}, by one process{by} ({ours:.1f} and "
            f"{its:.1f} examples per second){losses if shared else ''}."
        )
    return lines


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows differ in name, schedule, number of workers and buffer alone."""

    def rest(config: Mapping[str, Any]) -> dict[str, Any]:
        found = settings_by_name(config)
        return {name: value for name, value in found.items() if not name.startswith(OF_PIPELINES)}

    return rest(one) == rest(other)
