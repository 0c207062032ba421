"""Larger than memory: memory, time and disk over the size of the images or recordings.

Rows of one family differ in the region or stretch that is trained on, and are named after its size:
gim_4096, or gim_15min.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from gim_bench.contract import SAMPLE_RATE_HZ
from gim_bench.records.record import Record, Status
from gim_bench.records.statistics import latest_attempts, mean_over_seeds
from gim_bench.report.columns import TOO_LARGE, scaled
from gim_bench.report.document import Block, Bullets, Column, Curve, Figure, Panel, Section, Table


class Size(NamedTuple):
    """How the size of what is trained on is set, named and counted."""

    setting: str  # of the augmentation: pixels of a side, or samples
    heading: str
    units: str  # that costs are given for
    unit: str
    whole: str  # what is trained on
    amount: Callable[[int], float]  # units of what is trained on
    suffix: Callable[[int], str]  # of the names of rows
    largest: str  # the sentence on the largest size
    said: Callable[[int], str]  # the size in that sentence


def _minutes(samples: int) -> float:
    return samples / SAMPLE_RATE_HZ / 60


SIZES = {  # by the kind of the augmentation
    "region": Size(
        setting="side",
        heading="side",
        units="megapixels",
        unit="megapixel",
        whole="the region",
        amount=lambda side: side**2 / 1e6,
        suffix=lambda side: f"_{side}",
        largest="the largest side is {} pixels",
        said=lambda side: f"{side:,}",
    ),
    "stretch": Size(
        setting="length",
        heading="samples",
        units="minutes",
        unit="minute",
        whole="the stretch",
        amount=_minutes,
        suffix=lambda samples: f"_{_minutes(samples):g}min",
        largest="the longest stretch is {}",
        said=lambda samples: f"{_minutes(samples):g} min",
    ),
}
# The first of these that all measured rows have is the memory shown; with its name in the note.
MEMORY = {
    "memory/gpu_allocated_over_baseline_bytes": "that PyTorch allocated on the GPU",
    "memory/host_over_baseline_bytes": "of the process on the host",
}
NOTE = (
    "Peak over idle: peak memory {} in training, less the memory before. Seconds are those of "
    "training, streaming included, and disk is the most at a time, for each {} of {}."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A row of one size, by its latest attempts."""

    family: str
    size: Size
    side: int  # pixels or samples
    records: Sequence[Record]  # of the seeds that are finished; the others did not fit into memory
    seeds: int
    limits: set[int | None]  # bytes that a process might hold; None without a limit

    @property
    def amount(self) -> float:
        return self.size.amount(self.side)

    @property
    def misfit(self) -> str:
        """For which seeds the row does not fit into memory; empty if for none."""
        failed = self.seeds - len(self.records)
        if not failed:
            return ""
        return f"{TOO_LARGE} for {failed} of {self.seeds} seeds" if self.records else TOO_LARGE

    def mean(self, name: str) -> float | None:
        return mean_over_seeds(self.records, name)


def large_section(records: Sequence[Record], methods: Sequence[str]) -> Section:
    """Costs over the size of regions or stretches; empty without rows on large examples."""
    found = measured(records, methods)
    if not found:
        return Section(title="Larger than memory", blocks=[])
    done = [each for each in found if each.records]
    memory = _memory_of(done)
    note = NOTE.format(MEMORY[memory], found[0].size.unit, found[0].size.whole)
    blocks: list[Block] = [_table(found, memory), note, Bullets(_largest(found))]
    if len(done) > 1:
        blocks.append(_figure(done, memory, methods=[each.family for each in found]))
    return Section(title="Larger than memory", blocks=blocks)


def _memory_of(done: Sequence[Measured]) -> str:
    """The memory that all rows have; rows without any, such as resumed ones, do not count."""
    known = [names for row in done if (names := [n for n in MEMORY if row.mean(n) is not None])]
    *_, last = MEMORY
    return next((name for name in MEMORY if known and all(name in names for names in known)), last)


def measured(records: Sequence[Record], methods: Sequence[str]) -> list[Measured]:
    """The rows on regions or stretches, family by family, each with its sizes ascending."""
    order = {method: number for number, method in enumerate(methods)}
    rows: dict[str, list[Record]] = {}
    for record in latest_attempts(records):
        kind = record.config.get("augmentation", {}).get("kind")
        if kind in SIZES and (record.status is Status.DONE or not record.fits):
            rows.setdefault(record.method, []).append(record)
    found = [_measured(method, attempts) for method, attempts in rows.items()]
    first = {
        each.family: min(
            order.get(each.family + other.size.suffix(other.side), len(order)) for other in found
        )
        for each in found
    }
    return sorted(found, key=lambda each: (first[each.family], each.family, each.side))


def _measured(method: str, attempts: Sequence[Record]) -> Measured:
    augmentation = attempts[0].config["augmentation"]
    size = SIZES[augmentation["kind"]]
    side = int(augmentation[size.setting])
    return Measured(
        family=method.removesuffix(size.suffix(side)),
        size=size,
        side=side,
        records=[record for record in attempts if record.status is Status.DONE],
        seeds=len(attempts),
        limits={record.provenance.get("memory_limit_bytes") for record in attempts},
    )


def _table(found: Sequence[Measured], memory: str) -> Table:
    size = found[0].size
    headings = (
        size.heading,
        size.units,
        "peak over idle, GB",
        f"s / {size.unit}",
        f"disk, MB / {size.unit}",
    )
    return Table(
        columns=[Column(heading="rows", numeric=False), *(Column(heading=h) for h in headings)],
        rows=[
            [
                each.family,
                f"{each.side:,}",
                f"{each.amount:,.2f}",
                _peak(each, memory),
                scaled(each.mean("train/seconds"), 1 / each.amount, ".2f"),
                scaled(each.mean("train/kept_bytes"), 1e-6 / each.amount, ".2f"),
            ]
            for each in found
        ],
    )


def _peak(row: Measured, memory: str) -> str:
    """The mean peak of the seeds that fit, and how many do not."""
    peak = scaled(row.mean(memory), 1e-9, ".3f") if row.records else ""
    return "; ".join(said for said in (peak, row.misfit) if said)


def _largest(found: Sequence[Measured]) -> list[str]:
    """For each family, the largest size that fits, and the smallest that does not for some seed.

    Each with the limit under which it ran.
    """
    lines = []
    for family, group in groupby(found, key=lambda each: each.family):
        rows = list(group)
        size = rows[0].size
        fitting = [each for each in rows if not each.misfit][-1:]
        failing = [each for each in rows if each.misfit][:1]
        said = ["none fits"]
        for each in fitting:
            within = "" if each.limits == {None} else _within(each.limits)
            said = [f"{size.largest.format(size.said(each.side))}{within}"]
        for each in failing:
            alike = fitting and fitting[0].limits == each.limits
            within = "" if alike else _within(each.limits)
            said.append(f"{size.said(each.side)} {each.misfit}{within}")
        lines.append(f"{family}: {'; '.join(said)}")
    return lines


def _within(limits: set[int | None]) -> str:
    if len(limits) > 1:
        return " under several limits"
    (limit,) = limits
    return " without a limit" if limit is None else f" within {limit / 1e9:g} GB"


def _figure(done: Sequence[Measured], memory: str, *, methods: Sequence[str]) -> Figure:
    points: dict[str, list[tuple[float, float]]] = {}
    for each in done:
        if peak := each.mean(memory):  # 0 has no logarithm
            points.setdefault(each.family, []).append((each.amount, peak / 1e9))
    curves = [Curve(method=family, seeds=[of_family]) for family, of_family in points.items()]
    return Figure(
        title="Peak memory over the size of the example",
        panels=[Panel(title="training", curves=curves)],
        methods=list(dict.fromkeys(methods)),
        x_label=done[0].size.units,
        y_label="peak over idle, GB",
        log_x=True,
        log_y=True,
    )
