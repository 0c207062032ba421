"""Is our number the paper's? Two one-sided tests of equivalence, and a test of difference.

The interval of the difference covers three things: the deviation over our seeds, the deviation of
the paper's own number, and the rounding of its print.
"""

import math
from dataclasses import dataclass

from gim_bench.records.statistics import Summary
from gim_bench.report.published import Published

EQUIVALENCE, DIFFERENCE = 0.95, 0.975  # quantiles: two one-sided tests at 5 %, one two-sided at 5 %


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
        parts = [(std**2 * (1 + 1 / ours.n), ours.n - 1)]
    else:
        parts = [(std**2 / ours.n, ours.n - 1), (paper.std**2 / paper.runs, paper.runs - 1)]
    return Gap(
        difference=ours.mean - paper.value,
        half90=_half_width(parts, quantile=EQUIVALENCE) + paper.rounding,
        half95=_half_width(parts, quantile=DIFFERENCE) + paper.rounding,
    )


def _half_width(parts: list[tuple[float, int]], *, quantile: float) -> float:
    """Half width of an interval; `parts` are (variance, degrees of freedom) that add up.

    The quantile is the mean of the parts' Student quantiles, weighted by variance, which holds its
    level with few runs and unequal variances. Welch's degrees of freedom exceed 5 % by up to half
    of a point there.

    Source: Cochran and Cox 1950, Experimental Designs.
    """
    from scipy.special import stdtrit  # importing scipy.stats takes five times as long

    variance = sum(part for part, _ in parts)
    if variance == 0 or math.isinf(variance):
        return variance
    weighted = sum(part * stdtrit(freedom, quantile) for part, freedom in parts if part)
    return float(weighted / math.sqrt(variance))
