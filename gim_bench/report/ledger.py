"""The ledger: every number that a suite's papers print, ours beside it, and a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from gim_bench import registry
from gim_bench.records.metrics import hyperparameter_of, target_of
from gim_bench.records.protocols import READ_UNDER
from gim_bench.records.record import Record
from gim_bench.records.statistics import Summary, summarise
from gim_bench.report.columns import (
    NONE,
    PublishedNumbers,
    Row,
    Style,
    heading_of,
    show,
    show_published,
    signed,
    style_of,
    with_unit,
)
from gim_bench.report.comparable import DETERMINISTIC, Describes, misfit
from gim_bench.report.document import Block, Bullets, Column, Section, Table
from gim_bench.report.equivalence import Gap, gap_between
from gim_bench.report.published import Numbers, Published
from gim_bench.settings.schema import Deviation

HEADINGS = ("method", "metric", "paper", "ours", "difference", "verdict")
AT_RATE = "at paper's rate"  # of the probe
ELSEWHERE = "elsewhere"  # a rival's number of the same method
WORDS = {"method", "metric", "verdict"}


class Verdict(StrEnum):
    """The verdict on a published number and ours."""

    EQUIVALENT = "equivalent"
    DIFFERENT = "different"
    INCONCLUSIVE = "inconclusive"
    NOT_COMPARABLE = "not comparable"
    NOT_RUN = "not run"
    NOT_IMPLEMENTED = "not implemented"


LEGEND = (
    "equivalent: the 90% interval of the difference lies within the margin of the table.",
    "different: not equivalent, and the 95% interval of the difference excludes 0.",
    "inconclusive: neither. The intervals are too wide, or there is only one seed.",
    "not comparable: the list below the table gives the reason.",
    "not run: no finished cell here has this number.",
    "not implemented: no installed package and no row of the suite has this method.",
    (
        "difference: ours less the paper's, ± the half width of the 90% interval. The interval "
        "covers the deviation of our seeds, the deviation of the paper's number and the rounding "
        "of its print. A number that the paper prints without ± is taken as one run with the "
        "deviation of our seeds. Allocated memory, and a number that all seeds share, have no "
        "deviation: only the rounding remains."
    ),
)
ABOUT_RATE = (
    f"{AT_RATE}: the accuracy of the probe at the fixed learning rate of the paper's probe. It is "
    f"known where validation chose this rate, and after `python -m gim_bench sweep`."
)

ABOUT_ELSEWHERE = (
    f"{ELSEWHERE}: numbers that others print for the same method. They take no part in the verdict."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One published number and ours beside it."""

    method: str
    metric: str
    paper: Published
    ours: Summary | None
    at_rate: Summary | None  # ours at the learning rate of the paper's probe
    why_not: str  # reason why the two are not comparable; empty where they are
    verdict: Verdict

    @property
    def gap(self) -> Gap | None:
        """The difference; None without a number of ours that is comparable."""
        if self.ours is None or self.why_not:
            return None
        return gap_of(self.ours, self.paper, metric=self.metric)


def ledger(
    rows: Sequence[Row],
    published: PublishedNumbers,
    *,
    describes: Describes,
    known: Sequence[str],
    under: Sequence[Row] = (),
) -> Section:
    """A table for each paper, and a legend. `known` are the names of all rows and methods.

    `under` are the rows as further protocols have them, which the tags of a number may ask for.
    """
    blocks: list[Block] = []
    legend = list(LEGEND)
    for paper, numbers in published.items():
        found = entries(rows, numbers, describes=describes, known=known, under=under)
        blocks += [f"{paper}:"] if len(published) > 1 else []
        notes = [*_margins(found), *_reasons(found), *_protocols(found), *_rivals(found)]
        blocks += [_table(found), Bullets(notes)]
        legend += [ABOUT_RATE] if any(entry.at_rate for entry in found) else []
        legend += [ABOUT_ELSEWHERE] if any(entry.paper.rivals for entry in found) else []
    if blocks:
        blocks.append(Bullets(list(dict.fromkeys(legend))))
    return Section(title="Ledger of published numbers", blocks=blocks)


def known_deviations(deviations: Sequence[Deviation]) -> Section:
    """A table of what the paper, its released code and the suite do."""
    table = Table(
        columns=[
            Column(heading=heading, numeric=False)
            for heading in ("about", "paper", "released code", "here")
        ],
        rows=[[d.about, d.paper, d.released, d.ours] for d in deviations],
    )
    return Section(
        title="Known deviations from what is published", blocks=[table] if deviations else []
    )


def implemented(methods: Sequence[str]) -> list[str]:
    """Names of the suite's rows, and of every installed method."""
    return [*dict.fromkeys([*methods, *registry.methods()])]


def entries(
    rows: Sequence[Row],
    numbers: Numbers,
    *,
    describes: Describes,
    known: Sequence[str],
    under: Sequence[Row] = (),
) -> list[Entry]:
    """An entry for each number of a paper, in the paper's order.

    A row under another protocol stands for its method where a tag asks for a protocol, and the row
    alone is comparable.
    """
    by_method = {row.method: row for row in rows}
    found = []
    for (method, metric), paper in numbers.items():
        asked = any(READ_UNDER in (tag.requires or {}) for tag in paper.tags)
        candidates = [*rows, *(under if asked else ())]
        of_method = [each for each in candidates if each.method == method]
        comparable = (
            each
            for each in of_method
            if metric in each.summaries
            and not misfit(each, paper, metric=metric, describes=describes)
        )
        row = next(comparable, by_method.get(method))
        records = row.records if row else []
        ours = row.summaries.get(metric) if row else None
        why_not = misfit(row, paper, metric=metric, describes=describes) if row and ours else ""
        judged = verdict(ours, paper, metric=metric, comparable=not why_not)
        if ours is None and method not in known:
            judged = Verdict.NOT_IMPLEMENTED
        found.append(
            Entry(
                method=method,
                metric=metric,
                paper=paper,
                ours=ours,
                at_rate=_at_rate(records, metric, rate=paper.probe_rate),
                why_not=why_not,
                verdict=judged,
            )
        )
    return found


def verdict(
    ours: Summary | None, paper: Published, *, metric: str = "accuracy", comparable: bool = True
) -> Verdict:
    """The verdict by the rules of LEGEND; the limits of an interval belong to the interval."""
    if ours is None:
        return Verdict.NOT_RUN
    if not comparable:
        return Verdict.NOT_COMPARABLE
    gap = gap_of(ours, paper, metric=metric)
    if gap.is_within(paper.margin):
        return Verdict.EQUIVALENT
    return Verdict.DIFFERENT if gap.is_significant else Verdict.INCONCLUSIVE


def gap_of(ours: Summary, paper: Published, *, metric: str) -> Gap:
    return gap_between(ours, paper, deterministic=metric.startswith(DETERMINISTIC))


def _at_rate(records: Sequence[Record], metric: str, *, rate: float | None) -> Summary | None:
    """Accuracy of the top module's probe at a learning rate, over the seeds that know it.

    Under another protocol none knows it: curves and sweeps are of the cell's own probe.
    """
    if rate is None or target_of(metric)[1] != "accuracy":
        return None
    if any(READ_UNDER in record.config for record in records):
        return None
    tested = [_tested_at(record, metric, rate=rate) for record in records]
    known = [accuracy for accuracy in tested if accuracy is not None]
    return summarise(known) if known else None


def _tested_at(record: Record, metric: str, *, rate: float) -> float | None:
    """The test accuracy at the rate, if validation chose the rate, or else of a sweep."""
    target, _ = target_of(metric)
    modules = [name for name in record.probe_curves if name.rpartition("/")[0] == target]
    if not modules or hyperparameter_of(record.config) != "learning rate":
        return None
    top = modules[-1]
    best, *others = sorted(record.probe_curves[top], key=lambda point: -point[1])
    is_alone = not others or best[1] > others[0][1]
    if best[0] == rate and is_alone:
        return record.metrics.get(metric)
    swept = record.sweeps.get(top, {}).get("paper")
    if swept and swept["learning_rate"] == rate and not swept["weight_decay"]:
        return float(swept["test_accuracy"])
    return None


# -- as a table ------------------------------------------------------------------------------------


def _table(found: Sequence[Entry]) -> Table:
    headings = list(HEADINGS)
    if any(entry.at_rate for entry in found):
        headings.insert(headings.index("difference"), AT_RATE)
    if any(entry.paper.rivals for entry in found):
        headings.insert(headings.index("ours"), ELSEWHERE)
    cells = [_cells(entry) for entry in found]
    return Table(
        columns=[Column(heading=heading, numeric=heading not in WORDS) for heading in headings],
        rows=[[row[heading] for heading in headings] for row in cells],
    )


def _cells(entry: Entry) -> dict[str, str]:
    style = style_of(entry.metric)
    return {
        "method": entry.method,
        "metric": with_unit(heading_of(entry.metric), style.unit),
        "paper": show_published(entry.paper, style),
        ELSEWHERE: ", ".join(show_published(r, style) for r in entry.paper.rivals) or NONE,
        "ours": _shown(entry.ours, style),
        AT_RATE: _shown(entry.at_rate, style) + _of_fewer(entry),
        "difference": _difference(entry.gap, style),
        "verdict": entry.verdict,
    }


def _shown(summary: Summary | None, style: Style) -> str:
    return show(summary.mean, summary.std, style) if summary else NONE


def _of_fewer(entry: Entry) -> str:
    """The number of seeds that the rate is known of, where it is not known of all."""
    if entry.at_rate is None or entry.ours is None or entry.at_rate.n == entry.ours.n:
        return ""
    return f" ({entry.at_rate.n} of {entry.ours.n} seeds)"


def _difference(gap: Gap | None, style: Style) -> str:
    if gap is None:
        return NONE
    difference = signed(gap.difference, style)
    has_interval = gap.half90 != float("inf")
    return f"{difference} ± {show(gap.half90, None, style)}" if has_interval else difference


def _margins(found: Sequence[Entry]) -> list[str]:
    """The margin of each table and metric, with its reason."""
    lines: dict[str, None] = {}
    for entry in found:
        style = style_of(entry.metric)
        margin = f"{entry.paper.margin * style.factor:g} {style.unit}"
        named = f"{heading_of(entry.metric)}, margin {margin}"
        lines[f"{named}: {entry.paper.margin_reason}"] = None
    return list(lines)


def _reasons(found: Sequence[Entry]) -> list[str]:
    """Why numbers are not comparable, a line for each method and reason."""
    return [
        *dict.fromkeys(
            f"not comparable, {entry.method}: {entry.why_not}" for entry in found if entry.why_not
        )
    ]


def _protocols(found: Sequence[Entry]) -> list[str]:
    """The protocol of each number that stands beside ours, and the text in which it was read."""
    methods: dict[str, list[str]] = {}
    for entry in found:
        if entry.ours and entry.paper.tags:
            tags = "; ".join(f"{tag.dimension}: {tag.means}" for tag in entry.paper.tags)
            read_in = f". Read in: {entry.paper.read_in}" if entry.paper.read_in else ""
            methods.setdefault(f"{tags}{read_in}", []).append(entry.method)
    return [
        f"protocol of {', '.join(dict.fromkeys(names))}: {protocol}"
        for protocol, names in methods.items()
    ]


def _rivals(found: Sequence[Entry]) -> list[str]:
    """The source of every rival's number, and the tags in which its protocol is another."""
    lines = []
    for entry in found:
        for rival in entry.paper.rivals:
            pairs = zip(entry.paper.tags, rival.tags, strict=False)
            differing = [theirs for own, theirs in pairs if own != theirs]
            under = "; ".join(f"{tag.dimension}: {tag.means}" for tag in differing)
            lines.append(
                f"{ELSEWHERE}, {entry.method}: {show_published(rival, style_of(entry.metric))} in "
                f"{rival.where}" + (f", with {under}" if under else "")
            )
    return lines
