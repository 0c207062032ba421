"""Accuracy over cost: methods as points with intervals."""

from collections.abc import Sequence

from gim_bench.records.intervals import Estimate
from gim_bench.report.columns import Row, heading_of, interval_of, is_untrained, style_of
from gim_bench.report.comparison import facts_of_costs
from gim_bench.report.costs import ON_GPU, ON_HOST, PLACES
from gim_bench.report.document import Block, Dot, Figure, Panel

SECONDS = "train/seconds"
SHARED = (
    "Cells of this suite share processes. Memory of the host is not a method's alone there: memory "
    "that an earlier cell freed hides a part of it."
)


def accuracy_over_cost(
    rows: Sequence[Row], names: Sequence[str], *, fresh_process: bool
) -> list[Block]:
    """A figure of accuracy over peak memory, and one of accuracy over the time of training.

    A level is the accuracy of an untrained encoder, which nothing was spent on.
    Rows that were measured on several machines, or with other code, have no figure, and an
    untrained row of another machine or code no level.
    """
    trained = [row for row in rows if SECONDS in row.summaries]
    untrained = [row for row in rows if is_untrained(row) and not _differing([*trained, row])]
    if costly := _differing(trained):
        return [f"No figure of accuracy over cost: trained rows differ in {', '.join(costly)}."]
    blocks: list[Block] = []
    for cost, called in (
        *((name, f"peak memory {where}") for name, where in PLACES.items()),
        (SECONDS, "time of training"),
    ):
        found = [_panel(trained, name, cost, untrained=untrained) for name in names]
        panels = [panel for panel in found if panel.dots]
        if panels and not (cost == ON_HOST and any(ON_GPU in row.summaries for row in trained)):
            blocks.append(
                _figure(panels, cost, called=called, methods=[row.method for row in rows])
            )
            blocks += [SHARED] if cost == ON_HOST and not fresh_process else []
    return blocks


def _differing(rows: Sequence[Row]) -> list[str]:
    return facts_of_costs([record for row in rows for record in row.records])


def _figure(panels: Sequence[Panel], cost: str, *, called: str, methods: Sequence[str]) -> Figure:
    costs = [dot.x for panel in panels for dot in panel.dots]
    return Figure(
        title=f"Accuracy over {called}",
        panels=panels,
        methods=methods,
        x_label="time, s" if cost == SECONDS else "GB over the baseline",
        y_label="test accuracy, %",
        log_x=min(costs) > 0 and max(costs) > 5 * min(costs),
    )


def _panel(rows: Sequence[Row], name: str, cost: str, *, untrained: Sequence[Row]) -> Panel:
    """A point for each row that has the accuracy and the cost, a level for each untrained one."""
    factor = style_of(cost).factor
    dots = []
    for row in (row for row in rows if row.summaries.keys() >= {name, cost}):
        spent = row.summaries[cost]
        dots.append(
            Dot(
                method=row.method,
                x=spent.mean * factor,
                y=row.summaries[name].mean,
                x_half=None if spent.ci95 is None else spent.ci95 * factor,
                y_half=_half(interval_of(row, name)),
            )
        )
    levels = {r.method: r.summaries[name].mean for r in untrained if name in r.summaries}
    return Panel(title=heading_of(name), dots=dots, levels=levels)


def _half(estimate: Estimate | None) -> float | None:
    """The half width of an interval that covers seeds."""
    return estimate.half_width() if estimate and estimate.seeds else None
