"""Differences on the same test examples: every method against a reference method."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from gim_bench.contract import GradientFlow
from gim_bench.records.intervals import LEVEL, Corrected, Estimate, corrected, difference_of
from gim_bench.report.best import at_best_module
from gim_bench.report.columns import (
    NONE,
    Row,
    failed_seeds,
    heading_of,
    is_untrained,
    sample_of,
    show,
    show_p,
    signed,
    style_of,
    trait_of,
)
from gim_bench.report.document import Bullets, Column, Section, Table

REFERENCE = "gim"
HEADINGS = ("method", "metric", "difference", "95% CI", "p", "detects", "seeds")
WORDS = {"method", "metric"}
UNTESTED = ("one seed", NONE, NONE)  # in place of interval, p value and detectable difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A method less the reference in one metric."""

    method: str
    metric: str
    difference: Estimate
    seeds: tuple[int, int]  # of the method and of the reference
    at_best: bool = False  # at the best module of the method, not at the top module
    corrected: Corrected | None = None  # for all comparisons of the table

    @property
    def is_tested(self) -> bool:
        """Whether both methods have seeds enough for an interval."""
        return self.difference.seeds is not None


def differences_on_the_same_examples(rows: Sequence[Row], names: Sequence[str]) -> Section:
    """Difference, interval and p value of each metric: every method less the reference."""
    title = "Differences on the same test examples"
    found = compared(rows, names)
    if not found:
        return Section(title=title, blocks=[])
    tested = [pair for pair in found if pair.is_tested]
    strictest = LEVEL / max(1, len(tested))
    cells = [[*_named(pair), *_tested(pair, strictest), _seeds(pair)] for pair in found]
    columns = [Column(heading=heading, numeric=heading not in WORDS) for heading in HEADINGS]
    failed = [f"{row.method}: {said}." for row in rows if (said := failed_seeds(row))]
    notes = [*failed, *_notes(tested, strictest)]
    return Section(
        title=f"{title}: each method less {reference_of(rows).method}, in points of %",
        blocks=[Table(columns=columns, rows=cells), *([Bullets(notes)] if notes else [])],
    )


def reference_of(rows: Sequence[Row]) -> Row:
    """The row that all are compared with: `gim`, or the first of isolated modules, or the first."""
    isolated = (row for row in rows if trait_of(row, "gradient_flow") == GradientFlow.ISOLATED)
    gim = (row for row in rows if row.method == REFERENCE)
    return next(chain(gim, isolated), rows[0])


def compared(rows: Sequence[Row], names: Sequence[str]) -> list[Pair]:
    """Every method less the reference in the metrics `names`, corrected by Holm for all of them."""
    if not rows:
        return []
    found = [pair for name in names for pair in pairs(rows, name, reference=reference_of(rows))]
    tests = corrected([pair.difference for pair in found])
    return [replace(pair, corrected=test) for pair, test in zip(found, tests, strict=True)]


def pairs(rows: Sequence[Row], name: str, *, reference: Row) -> Iterator[Pair]:
    """Every other row less the reference; untrained encoders at their best module, too."""
    theirs = sample_of(reference, name)
    for row in (row for row in rows if row is not reference):
        at_best = at_best_module(row, name) if is_untrained(row) else None
        for shown in (row, at_best):
            ours = sample_of(shown, name) if shown else None
            if ours and theirs:
                yield Pair(
                    method=row.method,
                    metric=name,
                    difference=difference_of(ours, theirs),
                    seeds=(len(ours.values), len(theirs.values)),
                    at_best=shown is at_best,
                )


def _named(pair: Pair) -> list[str]:
    difference = signed(pair.difference.value, style_of(pair.metric))
    called = f"{pair.method}, best module" if pair.at_best else pair.method
    return [called, heading_of(pair.metric), difference]


def _tested(pair: Pair, strictest: float) -> Sequence[str]:
    """Interval, p value and the smallest difference that the comparison detects."""
    if pair.corrected is None:
        return UNTESTED
    style, found = style_of(pair.metric), pair.difference
    half, detectable = found.half_width(pair.corrected.level), found.smallest_shown(strictest)
    assert half is not None
    assert detectable is not None
    p = show_p(pair.corrected.p_value)
    return [f"± {show(half, None, style)}", p, show(detectable, None, style)]


def _seeds(pair: Pair) -> str:
    ours, theirs = pair.seeds
    return str(ours) if ours == theirs else f"{ours}; {theirs}"


def _notes(tested: Sequence[Pair], level: float) -> list[str]:
    """How to read the intervals, what they cover, and what the table could have shown."""
    if not tested:
        return []
    detectable = [pair.difference.smallest_shown(level) or 0.0 for pair in tested]
    alone = dict.fromkeys(_named(pair)[0] for pair in tested if pair.difference.items is None)
    reading = [
        "difference: of the means over seeds. Seeds are not paired.",
        (
            "95% CI: the half width. The interval covers the choice of seeds and of test examples. "
            "p: two-sided."
        ),
        (
            f"95% CI and p are corrected by Holm for the {len(tested)} comparisons of the table: "
            f"where all true differences are 0, at most one table in twenty has an interval "
            f"without 0."
        ),
        (
            f"detects: the smallest true difference that the comparison finds with a power of "
            f"80 %; {min(detectable):.1f} to {max(detectable):.1f} points in this table."
        ),
    ]
    if alone:
        reading.append(
            f"The interval covers seeds alone, as there are no predictions of all seeds on the "
            f"same test labels: {', '.join(alone)}."
        )
    return reading
