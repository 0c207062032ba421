"""Ratios of costs: a method's time, operations, energy or memory as a share of another's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gim_bench.records.intervals import LEVEL, Sample, corrected, difference_of
from gim_bench.records.statistics import values_by_seed
from gim_bench.report.columns import Row, style_of
from gim_bench.report.comparable import DETERMINISTIC

# Costs that repeat exactly, so that one seed suffices.
EXACT = (DETERMINISTIC, "train/operations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The geometric mean of one row's cost over that of another, with its interval."""

    name: str
    value: float
    low: float
    high: float
    exact: bool  # the cost repeats, and the interval is the value

    @property
    def is_less(self) -> bool:
        return self.high < 1

    @property
    def is_more(self) -> bool:
        return self.low > 1

    def shown(self) -> str:
        """The ratio with its interval, as in "0.93 times (0.61 to 1.42)"."""
        if self.exact:
            return f"{self.value:.2f} times"
        return f"{self.value:.2f} times ({self.low:.2f} to {self.high:.2f})"


def ratios(ours: Row, theirs: Row, names: Sequence[str]) -> dict[str, Ratio]:
    """The ratio of each cost that both rows have, with seeds enough for an interval.

    A cost that a seed did not measure, or measured as 0 or less, as memory over a baseline may be,
    has no ratio.
    The intervals are of 95 %, corrected by Holm for all inexact ones together. Logarithms of costs
    are compared, with seeds unpaired (Welch 1947).
    """
    found = {name: (_logs(ours, name), _logs(theirs, name)) for name in names}
    known = {name: both for name, both in found.items() if all(len(logs) for logs in both)}
    gaps = {n: difference_of(*(Sample(values=logs) for logs in both)) for n, both in known.items()}
    exact = [name for name in gaps if name.startswith(EXACT) and _repeats(*known[name])]
    inexact = [name for name in gaps if name not in exact]
    tests = corrected([gaps[name] for name in inexact])
    levels = dict.fromkeys(exact, LEVEL)
    levels |= {name: test.level for name, test in zip(inexact, tests, strict=True) if test}
    return {
        name: _ratio(name, gaps[name].value, half=half)
        for name in names
        if name in levels
        for half in [0.0 if name in exact else gaps[name].half_width(levels[name]) or 0.0]
    }


def own_cost(row: Row, name: str) -> str:
    """The mean cost of a row with its unit, and the half width of its interval over seeds.

    The number of seeds follows where some seeds did not measure the cost.
    """
    summary, style = row.summaries[name], style_of(name)
    mean, half = summary.mean * style.factor, summary.ci95
    decimals = max(0, 2 - math.floor(math.log10(abs(mean)))) if mean else 0
    spread = (
        f" ± {half * style.factor:,.{decimals}f}" if half and not name.startswith(EXACT) else ""
    )
    every = len(row.records)
    partly = f" ({summary.n} of {every} seeds)" if summary.n < every else ""
    return f"{mean:,.{decimals}f}{spread} {style.unit}{partly}"


def _logs(row: Row, name: str) -> np.ndarray:
    """Logarithms of a cost by seed; none at all where a seed has no logarithm."""
    values = np.array(list(values_by_seed(row.records, name).values()))
    every = len(values) == len(row.records) and (values > 0).all()
    return np.log(values) if every else np.array([])


def _repeats(*logs: np.ndarray) -> bool:
    return all(np.ptp(each) < 1e-9 for each in logs)


def _ratio(name: str, log: float, *, half: float) -> Ratio:
    return Ratio(
        name=name,
        value=math.exp(log),
        low=math.exp(log - half),
        high=math.exp(log + half),
        exact=half == 0,
    )
