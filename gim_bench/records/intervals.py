"""Intervals of accuracies that cover seeds and test items, and comparisons of two methods.

Seeds and items are crossed: every seed answers the same test items. Both are drawn by chance, so
that the variance of a mean has a part of the seeds and a part of the items. Items are images,
recordings or sources that several of them are made from; all labels of a recording are one item.

Letters: S = seeds, G = items, n = test labels. Accuracies are in percent.

Source: Searle, Casella and McCulloch 1992, Variance Components, section 4.3 (two-way crossed);
Welch 1947 (seeds of two methods); Cochran and Cox 1957, Experimental Designs, 2nd ed., section 4.14
(t of two parts with their own degrees of freedom); Owen 2007, The pigeonhole bootstrap, which is
too narrow with few seeds. The choice among them is measured in docs/decisions/0020-statistics.md.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gim_bench.records.predictions import Predictions, target_named

LEVEL = 0.05  # of intervals, and of all comparisons of a table together
POWER = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Right answers of one cell, item by item."""

    right: Mapping[str, np.ndarray]  # {metric: right answers [G]}
    labels: Mapping[str, np.ndarray]  # {target: labels [G]}
    test: Mapping[str, str]  # {target: sha256 of the labels and their items}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Accuracies of one method by seed, and where known each item's share in them."""

    values: np.ndarray  # [S], percent
    # [S G], right answers less those of a mean item of as many labels; a row's mean is the seed's
    # accuracy less the mean of all seeds, in percent. None without predictions.
    shares: np.ndarray | None = None
    test: str = ""  # sha256 of the test labels that the shares are about


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an estimate's variance, with the degrees of freedom that it is known by."""

    variance: float
    freedom: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean, or a difference of means, with the variance that seeds and items give it."""

    value: float
    seeds: Part | None  # None: unknown, as there is one seed
    items: Part | None  # None: unknown, as there are no predictions

    @property
    def covers(self) -> str:
        """The sources of chance that the interval covers; empty if there is no interval."""
        known = {"seeds": self.seeds, "items": self.items}
        return " and ".join(name for name, part in known.items() if part is not None)

    def half_width(self, level: float = LEVEL) -> float | None:
        """Half width of the interval of confidence 1 - level; None if there is no interval."""
        parts = [part for part in (self.seeds, self.items) if part is not None]
        return half_width(parts, level=level) if parts else None

    def p_value(self) -> float | None:
        """The level at which the interval ends at 0: two-sided, not corrected."""
        half = self.half_width()
        if half is None:
            return None
        if self.value == 0 or half == 0:
            return 1.0 if self.value == 0 else 0.0
        low, high = -700.0, 0.0  # logarithms of levels; wider intervals have lower levels
        for _ in range(60):
            middle = (low + high) / 2
            reached = self.half_width(math.exp(middle))
            assert reached is not None
            low, high = (middle, high) if reached > abs(self.value) else (low, middle)
        return math.exp((low + high) / 2)

    def smallest_shown(self, level: float) -> float | None:
        """The smallest true difference that a test of this level finds with a power of 80 %.

        Its power is that of the noncentral t, at Satterthwaite's degrees of freedom.
        """
        from scipy.special import nctdtrinc

        parts = [part for part in (self.seeds, self.items) if part is not None and part.variance]
        half = self.half_width(level)
        if half is None or not parts:
            return half
        variance = math.fsum(part.variance for part in parts)
        freedom = variance**2 / math.fsum(part.variance**2 / part.freedom for part in parts)
        error = math.sqrt(variance)
        return error * float(nctdtrinc(freedom, 1 - POWER, half / error))


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """A p value corrected for the number of comparisons, and the level of its comparison.

    The interval of this level excludes 0 exactly where the corrected p value is at most `LEVEL`.
    """

    p_value: float
    level: float


def marks_of(predictions: Predictions) -> Marks:
    """Right answers of each metric and labels of each target, by item."""
    grouped = {
        target: _grouped(
            items.astype("<i8").tobytes(), predictions.labels[target].astype("<i8").tobytes()
        )
        for target, items in predictions.items.items()
    }
    right: dict[str, np.ndarray] = {}
    for metric, predicted in predictions.predicted.items():
        target = target_named(metric)
        of_target = grouped[target]
        answered = of_target.places[predicted == predictions.labels[target]]
        right[metric] = np.bincount(answered, minlength=len(of_target.labels))
    return Marks(
        right=right,
        labels={target: found.labels for target, found in grouped.items()},
        test={target: found.sha256 for target, found in grouped.items()},
    )


class _Grouped(NamedTuple):
    """The test labels of one target, by item."""

    places: np.ndarray  # [n], the place of each label's item among the items
    labels: np.ndarray  # [G], labels of each item
    sha256: str  # of the items and labels


@lru_cache(maxsize=4)
def _grouped(items: bytes, labels: bytes) -> _Grouped:
    """Items and labels [n] as the bytes of `<i8`, grouped once for all cells, which share them."""
    _, places, counts = np.unique(
        np.frombuffer(items, "<i8"), return_inverse=True, return_counts=True
    )
    return _Grouped(places, counts, hashlib.sha256(items + labels).hexdigest())


def sample(values: Mapping[int, float], *, marks: Mapping[int, Marks], metric: str) -> Sample:
    """Values of a metric of one method, by seed.

    The shares of the items are known where all seeds have predictions on the same test labels.
    """
    seeds, target = sorted(values), target_named(metric)
    accuracies = np.array([values[seed] for seed in seeds])
    found = [marks[seed] for seed in seeds if seed in marks and metric in marks[seed].right]
    tests = {of_seed.test[target] for of_seed in found}
    if len(found) < len(seeds) or len(tests) != 1:
        return Sample(values=accuracies)
    labels = found[0].labels[target]
    right = np.stack([of_seed.right[metric] for of_seed in found])
    of_all = right.sum() / (len(seeds) * labels.sum())
    shares = 100 * (right - of_all * labels) * len(labels) / labels.sum()
    return Sample(values=accuracies, shares=shares, test=tests.pop())


def mean_of(ours: Sample) -> Estimate:
    """The mean accuracy over seeds, in percent, with its variance."""
    return Estimate(
        value=float(ours.values.mean()), seeds=_of_seeds([ours]), items=_of_items([ours])
    )


def difference_of(ours: Sample, theirs: Sample) -> Estimate:
    """The mean accuracy of ours less that of theirs, in points of percent.

    Items are paired: both methods answer the same test labels. Seeds are unpaired: the effects of
    a seed on two methods are taken for independent.
    """
    alike = ours.test == theirs.test
    both = [ours, theirs]
    return Estimate(
        value=float(ours.values.mean() - theirs.values.mean()),
        seeds=_of_seeds(both),
        items=_of_items(both) if alike else None,
    )


def half_width(parts: Sequence[Part], *, level: float) -> float:
    """Half width of the interval of confidence 1 - level of an estimate with these parts.

    The quantile is the mean of the parts' quantiles of Student's t, weighted by their variances,
    which holds its level with few runs and unequal variances. Satterthwaite's and Welch's degrees
    of freedom exceed 5 % by up to half of a point there.

    Source: Cochran and Cox 1957, section 4.14.
    """
    variance = math.fsum(part.variance for part in parts)
    if variance == 0 or math.isinf(variance):
        return variance
    weighted = math.fsum(p.variance * _quantile(p.freedom, level) for p in parts if p.variance)
    return weighted / math.sqrt(variance)


def corrected(estimates: Sequence[Estimate]) -> list[Corrected | None]:
    """The test of each estimate, corrected by Holm for the number of tests.

    None for an estimate without variance over seeds, which is not tested.
    """
    p_values = [estimate.p_value() if estimate.seeds else None for estimate in estimates]
    tests = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(tests) for p in p_values]


def holm(p_values: Sequence[float], *, level: float = LEVEL) -> list[Corrected]:
    """Each p value corrected for their number, in the same order.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected: dict[int, Corrected] = {}
    largest, steps = 0.0, len(p_values)
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[place]))
        corrected[place] = Corrected(p_value=largest, level=level / steps)
        steps -= largest <= level  # Holm's procedure ends at the first that is not rejected
    return [corrected[place] for place in range(len(order))]


def _of_seeds(samples: Sequence[Sample]) -> Part | None:
    """Variance of the mean, or of a difference of means, from accuracies by seed.

    Source: Welch 1947 for the degrees of freedom.
    """
    if any(len(one.values) < 2 for one in samples):
        return None
    variances = [float(one.values.var(ddof=1)) / len(one.values) for one in samples]
    total = math.fsum(variances)
    freedoms = [len(one.values) - 1 for one in samples]
    if total == 0:
        return Part(0.0, min(freedoms))
    shares = [(v / total) ** 2 / freedom for v, freedom in zip(variances, freedoms, strict=True)]
    return Part(total, 1 / math.fsum(shares))


def _of_items(samples: Sequence[Sample]) -> Part | None:
    """Variance that the choice of the items adds to that of the seeds.

    The variance over items of the mean over seeds holds the interaction of seeds and items as well,
    which the variance over seeds holds already, and is freed from the interaction here.
    """
    shares = [one.shares for one in samples if one.shares is not None]
    if len(shares) < len(samples) or shares[0].shape[1] < 2:
        return None
    first, *others = (of_one.mean(axis=0) for of_one in shares)
    by_item = first - sum(others)
    items = len(by_item)
    interaction = math.fsum(_interaction(of_one) for of_one in shares)
    return Part(max(0.0, float(by_item.var(ddof=1)) / items - interaction), items - 1)


def _interaction(shares: np.ndarray) -> float:
    """Variance of the mean that neither seeds nor items explain; 0 where one seed cannot tell."""
    seeds, items = shares.shape
    if seeds < 2:
        return 0.0
    residuals = shares - shares.mean(axis=1, keepdims=True) - shares.mean(axis=0) + shares.mean()
    return float((residuals**2).sum()) / ((seeds - 1) * (items - 1)) / (seeds * items)


def _quantile(freedom: float, level: float) -> float:
    """Quantile of Student's t that the level's half lies above."""
    from scipy.special import stdtrit  # importing scipy.stats takes five times as long

    return float(-stdtrit(freedom, level / 2))
