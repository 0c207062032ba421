"""The ledger: every number that a suite's papers print, ours beside it, and a verdict."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gim_bench.records.statistics import Summary
from gim_bench.report.columns import (
    NONE,
    PublishedNumbers,
    Row,
    heading_of,
    show,
    signed,
    style_of,
    with_unit,
)
from gim_bench.report.document import Block, Bullets, Column, Section, Table
from gim_bench.report.published import Numbers, Published

Describes = Callable[[Mapping[str, Any]], bool]  # whether a configuration is the suite's
HEADINGS = ("method", "metric", "paper", "ours", "difference", "verdict")
WORDS = {"method", "metric", "verdict"}


class Verdict(StrEnum):
    """The verdict on a published number and ours."""

    REPRODUCED = "reproduced"
    DIFFERS = "differs"
    NOT_COMPARABLE = "not comparable"
    TOO_FEW_SEEDS = "too few seeds"
    NOT_RUN = "not run"


LEGEND = (
    (
        "reproduced: the paper's number lies within the 95% CI of our mean, or our mean within "
        "the paper's own ±, where it prints one. A wide interval excludes little: read it first."
    ),
    "differs: neither of the two.",
    (
        "not comparable: our settings are not the suite's, the data is not all there, or the seeds "
        "saw different data."
    ),
    "too few seeds: one seed has no interval.",
    "not run: no finished cell here has this number.",
    (
        "difference: ours less the paper's, ± the 95% CI of our mean. The paper's number is taken "
        "as it is printed, without an error of its own."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One published number and ours beside it."""

    method: str
    metric: str
    paper: Published
    ours: Summary | None
    verdict: Verdict


def ledger(
    rows: Sequence[Row],
    published: PublishedNumbers,
    *,
    describes: Describes,
    deviations: Sequence[str],
) -> Section:
    """A table for each paper, a legend, and the known deviations from the papers' protocol."""
    blocks: list[Block] = []
    for paper, numbers in published.items():
        found = entries(rows, numbers, describes=describes)
        table = Table(
            columns=[Column(heading=heading, numeric=heading not in WORDS) for heading in HEADINGS],
            rows=[_cells(entry) for entry in found],
        )
        blocks += [f"{paper}:", table] if len(published) > 1 else [table]
    if blocks:
        blocks.append(Bullets(LEGEND))
    if blocks and deviations:
        blocks += ["Known deviations from what the papers describe:", Bullets(deviations)]
    return Section(title="Ledger of published numbers", blocks=blocks)


def entries(rows: Sequence[Row], numbers: Numbers, *, describes: Describes) -> list[Entry]:
    """An entry for each number of a paper, in the paper's order."""
    by_method = {row.method: row for row in rows}
    found = []
    for (method, metric), paper in numbers.items():
        row = by_method.get(method)
        ours = row.summaries.get(metric) if row else None
        records = row.records if row else []
        comparable = len({record.provenance.get("data_sha256") for record in records}) == 1 and all(
            describes(record.config) and not record.provenance.get("data_incomplete")
            for record in records
        )
        judged = verdict(ours, paper, comparable=comparable)
        found.append(Entry(method=method, metric=metric, paper=paper, ours=ours, verdict=judged))
    return found


def verdict(ours: Summary | None, paper: Published, *, comparable: bool) -> Verdict:
    """The verdict by the rules of LEGEND; the limits of an interval belong to the interval."""
    if ours is None:
        return Verdict.NOT_RUN
    if not comparable:
        return Verdict.NOT_COMPARABLE
    if ours.ci95 is None:
        return Verdict.TOO_FEW_SEEDS
    allowed = max(ours.ci95, paper.std or 0.0)
    return Verdict.REPRODUCED if abs(ours.mean - paper.value) <= allowed else Verdict.DIFFERS


def _cells(entry: Entry) -> list[str]:
    style = style_of(entry.metric)
    ours, paper = entry.ours, entry.paper
    difference = NONE
    if ours is not None and entry.verdict is not Verdict.NOT_COMPARABLE:
        difference = signed(ours.mean - paper.value, style)
        if ours.ci95 is not None:
            difference += f" ± {show(ours.ci95, None, style)}"
    return [
        entry.method,
        with_unit(heading_of(entry.metric), style.unit),
        show(paper.value, paper.std, style),
        show(ours.mean, ours.std, style) if ours else NONE,
        difference,
        entry.verdict,
    ]
