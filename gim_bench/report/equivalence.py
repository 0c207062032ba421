"""Is our number the paper's? Two one-sided tests of equivalence, and a test of difference.

The interval of the difference covers three things: the deviation over our seeds, the deviation of
the paper's own number, and the rounding of its print.
"""

import math
from dataclasses import dataclass

from gim_bench.records.intervals import Part, half_width
from gim_bench.records.statistics import Summary
from gim_bench.report.published import Published

EQUIVALENCE, DIFFERENCE = 0.10, 0.05  # levels: two one-sided tests at 5 %, one two-sided at 5 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Ours less the paper's, and half widths of its intervals, in the metric's unit.

    The half widths contain the rounding of the paper's print. They are infinite where a single seed
    has no deviation.
    """

    difference: float
    half90: float
    half95: float

    def is_within(self, margin: float) -> bool:
        """Whether the 90 % interval lies within ± margin: equivalence at 5 %."""
        return abs(self.difference) + self.half90 <= margin

    @property
    def is_significant(self) -> bool:
        """Whether the 95 % interval excludes 0."""
        return abs(self.difference) > self.half95


def gap_between(ours: Summary, paper: Published, *, deterministic: bool = False) -> Gap:
    """The gap; a `deterministic` number has no deviation, and needs no second seed.

    A paper that prints ± over some runs gives the variance of its mean. A paper without ± is taken
    as one run with the deviation of our seeds.
    """
    std = ours.std if ours.std is not None else 0.0 if deterministic else math.inf
    if paper.std is None or paper.runs is None or paper.runs < 2:
        parts = [Part(std**2 * (1 + 1 / ours.n), ours.n - 1)]
    else:
        of_paper = Part(paper.std**2 / paper.runs, paper.runs - 1)
        parts = [Part(std**2 / ours.n, ours.n - 1), of_paper]
    return Gap(
        difference=ours.mean - paper.value,
        half90=half_width(parts, level=EQUIVALENCE) + paper.rounding,
        half95=half_width(parts, level=DIFFERENCE) + paper.rounding,
    )
