"""Images larger than memory: memory, time and disk over the side of the region that is trained on.

Rows of one family differ in the side alone, and are named after it: gim_4096.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from gim_bench.records.record import Record, Status
from gim_bench.records.statistics import latest_attempts, mean_over_seeds
from gim_bench.report.columns import TOO_LARGE, scaled
from gim_bench.report.document import Block, Bullets, Column, Curve, Figure, Panel, Section, Table

KIND = "region"  # of the augmentation
# The first of these that all finished rows have is the memory shown.
MEMORY = ("memory/gpu_allocated_over_baseline_bytes", "memory/host_over_baseline_bytes")
HEADINGS = ("side", "megapixels", "peak over idle, GB", "s / megapixel", "disk, MB / megapixel")
NOTE = (
    "Peak over idle: peak memory of training, less the memory of the process before. Seconds are "
    "those of training, streaming included, and disk is the most at a time, for each megapixel of "
    "the region."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A row of one side, by its latest attempts."""

    family: str
    side: int  # pixels
    records: Sequence[Record]  # finished; empty if the row does not fit into memory
    limit: int | None  # bytes that its process might hold

    @property
    def megapixels(self) -> float:
        return self.side**2 / 1e6

    def mean(self, name: str) -> float | None:
        return mean_over_seeds(self.records, name)


def large_section(records: Sequence[Record], methods: Sequence[str]) -> Section:
    """Costs over the side of the region; empty without rows on regions of large images."""
    found = measured(records, methods)
    if not found:
        return Section(title="Larger than memory", blocks=[])
    done = [each for each in found if each.records]
    memory = next((name for name in MEMORY if all(each.mean(name) for each in done)), MEMORY[-1])
    blocks: list[Block] = [_table(found, memory), NOTE, Bullets(_largest(found))]
    if len(done) > 1:
        blocks.append(_figure(done, memory, methods=[each.family for each in found]))
    return Section(title="Larger than memory", blocks=blocks)


def measured(records: Sequence[Record], methods: Sequence[str]) -> list[Measured]:
    """The rows on regions of large images, family by family, each with its sides ascending."""
    order = {method: number for number, method in enumerate(methods)}
    rows: dict[str, list[Record]] = {}
    for record in latest_attempts(records):
        region = record.config.get("augmentation", {})
        if region.get("kind") == KIND and (record.status is Status.DONE or not record.fits):
            rows.setdefault(record.method, []).append(record)
    found = [_measured(method, attempts) for method, attempts in rows.items()]
    first = {
        each.family: min(order.get(f"{each.family}_{other.side}", len(order)) for other in found)
        for each in found
    }
    return sorted(found, key=lambda each: (first[each.family], each.family, each.side))


def _measured(method: str, attempts: Sequence[Record]) -> Measured:
    side = int(attempts[0].config["augmentation"]["side"])
    limits = [limit for r in attempts if (limit := r.provenance.get("memory_limit_bytes"))]
    return Measured(
        family=method.removesuffix(f"_{side}"),
        side=side,
        records=[record for record in attempts if record.status is Status.DONE],
        limit=max(limits, default=None),
    )


def _table(found: Sequence[Measured], memory: str) -> Table:
    return Table(
        columns=[Column(heading="rows", numeric=False), *(Column(heading=h) for h in HEADINGS)],
        rows=[
            [
                each.family,
                f"{each.side:,}",
                f"{each.megapixels:,.2f}",
                scaled(each.mean(memory), 1e-9, ".3f") if each.records else TOO_LARGE,
                scaled(each.mean("train/seconds"), 1 / each.megapixels, ".2f"),
                scaled(each.mean("train/kept_bytes"), 1e-6 / each.megapixels, ".2f"),
            ]
            for each in found
        ],
    )


def _largest(found: Sequence[Measured]) -> list[str]:
    """For each family, the largest side that was trained on, and the smallest that did not fit."""
    lines = []
    for family, group in groupby(found, key=lambda each: each.family):
        rows = list(group)
        fitting = max((each.side for each in rows if each.records), default=None)
        failing = min((each.side for each in rows if not each.records), default=None)
        limits = {each.limit for each in rows if each.limit}
        within = f" within {max(limits) / 1e9:g} GB" if len(limits) == 1 else ""
        largest = "no side fits" if fitting is None else f"the largest side is {fitting:,} pixels"
        beyond = "" if failing is None else f"; {failing:,} does not fit"
        lines.append(f"{family}: {largest}{within}{beyond}")
    return lines


def _figure(done: Sequence[Measured], memory: str, *, methods: Sequence[str]) -> Figure:
    points: dict[str, list[tuple[float, float]]] = {}
    for each in done:
        if peak := each.mean(memory):  # 0 has no logarithm
            points.setdefault(each.family, []).append((each.megapixels, peak / 1e9))
    curves = [Curve(method=family, seeds=[of_family]) for family, of_family in points.items()]
    return Figure(
        title="Peak memory over the size of the image",
        panels=[Panel(title="training", curves=curves)],
        methods=list(dict.fromkeys(methods)),
        x_label="megapixels",
        y_label="peak over idle, GB",
        log_x=True,
        log_y=True,
    )
