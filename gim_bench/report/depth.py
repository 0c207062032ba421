"""Depth of isolation: one encoder cut into K isolated units, from end to end to every module alone.

Differences are paired by seed: cells of one seed share first weights, batches and test examples.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gim_bench.cells.defaults import settings_by_name
from gim_bench.contract import GradientFlow
from gim_bench.records.intervals import (
    LEVEL,
    Corrected,
    Estimate,
    Sample,
    corrected,
    mean_of,
    sample,
)
from gim_bench.records.statistics import values_by_seed
from gim_bench.report.columns import NONE, Row, heading_of, show, show_p, signed, style_of
from gim_bench.report.costs import ON_GPU, ON_HOST
from gim_bench.report.document import Block, Column, Curve, Figure, Panel, Section, Table
from gim_bench.report.tables import modules_of

COSTS = ("train/seconds",)
# Settings in which the rows of one encoder cut to several depths differ.
OF_DEPTH = {"method.name", "method.units", "method.gradient_flow"}
HEADINGS = ("compared", "difference", "95% CI", "p", "seeds")
NOTE = (
    "Difference: mean over the seeds that both have; seeds are paired. 95% CI: half width. The "
    "interval and p value are corrected by Holm for the comparisons of the table."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An accuracy less the accuracy before it, seed by seed."""

    name: str
    difference: Estimate
    seeds: int


def depth_section(rows: Sequence[Row], names: Sequence[str], *, fresh_process: bool) -> Section:
    """Accuracy, time and memory over the number of units; empty without a row that sets `units`.

    Memory of the host is shown only if cells had a process of their own.
    """
    blocks: list[Block] = []
    for label, found in families(rows).items():
        costs = [*COSTS, *_memory(found.values(), fresh_process=fresh_process)]
        for name in names:
            blocks += _family(label, found, name, costs=costs)
        blocks += [_figure(label, found, name) for name in (*names, *costs)]
    return Section(title="Isolated units", blocks=blocks)


def families(rows: Sequence[Row]) -> dict[str, dict[int, Row]]:
    """{method: {units: row}} of rows that differ in the depth of isolation alone, fewest first."""
    alike: dict[str, dict[int, Row]] = {}
    asked = set()
    for row in rows:
        units = units_of(row)
        if units is None:
            continue
        settings = settings_by_name(row.records[0].config)
        key = json.dumps({n: v for n, v in settings.items() if n not in OF_DEPTH}, default=str)
        alike.setdefault(key, {}).setdefault(units, row)
        if settings.get("method.units") is not None:
            asked.add(key)
    found: dict[str, dict[int, Row]] = {}
    for key in sorted(asked):
        by_units = dict(sorted(alike[key].items()))
        like = str(next(iter(by_units.values())).records[0].config["method"].get("like"))
        label = like if like not in found else f"{like} ({len(found)})"
        found[label] = by_units
    return found


def units_of(row: Row) -> int | None:
    """The number of isolated units that a row trains; None for a row without gradients."""
    method = row.records[0].config.get("method", {})
    match method.get("gradient_flow"):
        case GradientFlow.END_TO_END:
            return 1
        case GradientFlow.ISOLATED:
            return method.get("units") or _modules(row)
    return None


def _modules(row: Row) -> int | None:
    """Modules of the encoder, of which isolated flow makes units by default."""
    named = [name.rpartition("/module_")[2] for name in row.summaries if "/module_" in name]
    return max((int(number) for number in named if number.isdecimal()), default=None)


def _family(
    label: str, found: Mapping[int, Row], name: str, *, costs: Sequence[str]
) -> list[Block]:
    """Tables of one accuracy: over the units, and over the modules of every row."""
    shown = [name, *costs]
    overview = Table(
        columns=[Column(heading="units"), Column(heading="method", numeric=False)]
        + [Column(heading=heading_of(each)) for each in shown],
        rows=[
            [str(units), row.method, *(_shown(row, each) for each in shown)]
            for units, row in found.items()
        ],
    )
    of_units = list(_between_units(found, name))
    of_modules = {row.method: list(_between_modules(row, name)) for row in found.values()}
    everything = [step for steps in of_modules.values() for step in steps]
    over_units, over_modules = _tests(of_units), _tests(everything)
    return [
        f"{label}: {heading_of(name)} over the number of isolated units",
        overview,
        *_tested(of_units, over_units, name),
        first_fall(of_units, over_units),
        *_tested(everything, over_modules, name),
        *(first_without_gain(row, steps, over_modules) for row, steps in of_modules.items()),
        NOTE,
    ]


def _shown(row: Row, name: str) -> str:
    summary = row.summaries.get(name)
    return show(summary.mean, summary.std, style_of(name)) if summary else NONE


def _between_units(found: Mapping[int, Row], name: str) -> Iterator[Step]:
    for (fewer, below), (more, above) in pairwise(found.items()):
        step = paired(above, name, below, name, called=f"{more} units less {fewer}")
        if step is not None:
            yield step


def _between_modules(row: Row, name: str) -> Iterator[Step]:
    for below, above in pairwise(modules_of([row], name)):
        called = f"{row.method}: {_word(above)} less {_word(below)}"
        step = paired(row, above, row, below, called=called)
        if step is not None:
            yield step


def _word(metric: str) -> str:
    return metric.rpartition("/")[2].replace("_", " ")


def paired(ours: Row, name: str, theirs: Row, other: str, *, called: str) -> Step | None:
    """One accuracy less another, seed by seed, and on the same examples where these are known."""
    values = values_by_seed(ours.records, name), values_by_seed(theirs.records, other)
    seeds = sorted(values[0].keys() & values[1].keys())
    if not seeds:
        return None
    one, two = (
        sample({seed: of_row[seed] for seed in seeds}, marks=row.marks, metric=metric)
        for of_row, row, metric in zip(values, (ours, theirs), (name, other), strict=True)
    )
    shares = None
    if one.shares is not None and two.shares is not None and one.test == two.test:
        shares = one.shares - two.shares
    difference = mean_of(Sample(values=one.values - two.values, shares=shares, test=one.test))
    return Step(name=called, difference=difference, seeds=len(seeds))


def _tested(steps: Sequence[Step], found: Mapping[str, Corrected], name: str) -> list[Block]:
    """The table of differences; p values and intervals where there are seeds enough."""
    style, rows = style_of(name), []
    for step in steps:
        interval, p = NONE, NONE
        if step.name in found:
            test = found[step.name]
            half = step.difference.half_width(test.level)
            assert half is not None
            interval = f"± {show(half, None, style)}"
            p = show_p(test.p_value)
        difference = signed(step.difference.value, style)
        rows.append([step.name, difference, interval, p, str(step.seeds)])
    columns = [Column(heading=heading, numeric=heading != "compared") for heading in HEADINGS]
    return [Table(columns=columns, rows=rows)] if rows else []


def _tests(steps: Sequence[Step]) -> dict[str, Corrected]:
    """The tests of the steps with several seeds, by name, corrected for their number."""
    tests = corrected([step.difference for step in steps])
    return {step.name: test for step, test in zip(steps, tests, strict=True) if test}


def first_fall(steps: Sequence[Step], found: Mapping[str, Corrected]) -> str:
    """The first number of units with a proven loss against fewer units."""
    if not found:
        return "One seed cannot tell at which number of units accuracy falls: use --seeds."
    for step in steps:
        if _is_proven(step, found) and step.difference.value < 0:
            return f"The first step at which more units cost accuracy: {step.name}."
    return "No step to more units costs accuracy that these seeds prove."


def first_without_gain(method: str, steps: Sequence[Step], found: Mapping[str, Corrected]) -> str:
    """The first module without a proven gain over the module below."""
    tested = [step for step in steps if step.name in found]
    if not tested:
        return f"{method}: one seed cannot tell which module gains."
    for step in tested:
        if not _is_proven(step, found) or step.difference.value <= 0:
            called = step.name.partition(": ")[2].partition(" less")[0]
            return f"{method}: {called} is the first without a proven gain over the one below."
    return f"{method}: every module gains over the one below."


def _is_proven(step: Step, found: Mapping[str, Corrected]) -> bool:
    return step.name in found and found[step.name].p_value <= LEVEL


def _memory(rows: Collection[Row], *, fresh_process: bool) -> list[str]:
    """The first measure of memory that all rows have to themselves, if any."""
    own = (ON_GPU, ON_HOST) if fresh_process else (ON_GPU,)
    return [name for name in own if all(name in row.summaries for row in rows)][:1]


def _figure(label: str, found: Mapping[int, Row], name: str) -> Figure:
    """A metric over the number of units, a curve through the rows of every seed."""
    by_seed: dict[int, list[tuple[float, float]]] = {}
    factor = style_of(name).factor
    for units, row in found.items():
        for seed, value in values_by_seed(row.records, name).items():
            by_seed.setdefault(seed, []).append((float(units), value * factor))
    curve = Curve(method=label, seeds=[by_seed[seed] for seed in sorted(by_seed)])
    return Figure(
        title=f"{label}: {heading_of(name)} over isolated units",
        panels=[Panel(title=heading_of(name), curves=[curve])],
        methods=[label],
        x_label="isolated units",
        y_label=heading_of(name),
    )
