"""Verdicts on simulated papers: how often a reproduction is refused, and a miss accepted."""

import math
from functools import cache

import numpy as np
import pytest

from gim_bench.records.statistics import Summary, summarise
from gim_bench.report.equivalence import gap_between
from gim_bench.report.ledger import Verdict, verdict
from gim_bench.report.published import Published

RUNS = 4  # of a paper that prints ±
MARGIN = 2.0
TRIALS = 1000
SEEDS = (3, 4, 10, 100)
MEMORY = "memory/gpu_allocated_over_baseline_bytes"


@cache
def paper(value=71.4, *, std=None, runs=None, rounding=0.05, margin=MARGIN):
    return Published(
        value=value, std=std, runs=runs, rounding=rounding, margin=margin, margin_reason="",
        table="Table 1", page=1, source="A paper", note="",
    )  # fmt: skip


def judged(*values, of=None, metric="accuracy"):
    return verdict(summarise(values) if values else None, of or paper(), metric=metric)


# -- closed forms ----------------------------------------------------------------------------------


def test_the_interval_of_a_single_run_is_the_prediction_interval():
    """Of 60 and 62: mean 61, std √2, t(0.95, 1) = 6.3138 and t(0.975, 1) = 12.7062."""
    gap = gap_between(summarise([60.0, 62.0]), paper(62.5))
    error = math.sqrt(2) * math.sqrt(1.5)
    assert gap.difference == pytest.approx(-1.5)
    assert gap.half90 == pytest.approx(6.3138 * error + 0.05, abs=1e-3)
    assert gap.half95 == pytest.approx(12.7062 * error + 0.05, abs=1e-3)


def test_the_interval_of_several_runs_has_the_variance_of_both_means():
    """Equal shares of variance: the quantile is the mean of 12.7062 (1) and 3.1824 (3)."""
    ours = Summary(mean=61.0, std=math.sqrt(2), ci95=None, n=2)
    gap = gap_between(ours, paper(62.5, std=2.0, runs=4))
    assert gap.half95 == pytest.approx((12.7062 + 3.1824) / 2 * math.sqrt(2) + 0.05, abs=1e-3)


def test_without_any_deviation_the_rounding_remains():
    gap = gap_between(summarise([62.5, 62.5, 62.5]), paper(62.5))
    assert gap.half90 == gap.half95 == 0.05


def test_a_single_seed_has_no_interval():
    gap = gap_between(summarise([62.5]), paper(62.5))
    assert gap.half90 == gap.half95 == math.inf


# -- verdicts --------------------------------------------------------------------------------------


def test_a_number_within_the_rounding_of_the_print_is_not_different():
    """Memory is deterministic: one measurement, or three that agree, are judged alike."""
    seven = paper(7.0, margin=0.35)
    assert judged(6.96, 6.96, 6.96, of=seven, metric=MEMORY) is Verdict.EQUIVALENT
    assert judged(6.96, of=seven, metric=MEMORY) is Verdict.EQUIVALENT
    assert judged(6.96, 6.96, 6.96, of=paper(7.0, margin=0.01)) is Verdict.INCONCLUSIVE


def test_a_deterministic_number_beyond_rounding_and_margin_is_different():
    seven = paper(7.0, margin=0.35)
    assert judged(7.2, of=seven, metric=MEMORY) is Verdict.EQUIVALENT
    assert judged(7.4, of=seven, metric=MEMORY) is Verdict.DIFFERENT
    assert judged(6.6, of=seven, metric=MEMORY) is Verdict.DIFFERENT


def test_a_wide_interval_reproduces_nothing():
    assert judged(60.0, 100.0) is Verdict.INCONCLUSIVE
    assert judged(71.4) is Verdict.INCONCLUSIVE


def test_a_small_but_significant_difference_within_the_margin_is_equivalent():
    assert judged(70.4, 70.5, 70.6) is Verdict.EQUIVALENT
    assert judged(68.4, 68.5, 68.6) is Verdict.DIFFERENT


def test_the_deviation_of_the_paper_widens_the_interval():
    seeds = (68.4, 68.5, 68.6)
    assert judged(*seeds, of=paper(std=0.3, runs=4)) is Verdict.DIFFERENT
    assert judged(*seeds, of=paper(std=3.1, runs=4)) is Verdict.INCONCLUSIVE


def test_a_method_whose_seeds_diverge_is_inconclusive():
    assert judged(6.0, 70.0, 97.7, of=paper(97.4)) is Verdict.INCONCLUSIVE


# -- simulations -----------------------------------------------------------------------------------


def simulated(n, *, std, of_paper, off=0.0, has_spread, seed=0):
    """Shares of verdicts of trials: n seeds of ours, `off` the truth of a paper."""
    generator = np.random.default_rng(seed)
    ours = generator.normal(70 + off, std, (TRIALS, n))
    runs = generator.normal(70, of_paper, (TRIALS, RUNS if has_spread else 1))
    counts = dict.fromkeys(Verdict, 0)
    for mean, deviation, run in zip(ours.mean(1), ours.std(1, ddof=1), runs, strict=True):
        found = verdict(
            Summary(mean=float(mean), std=float(deviation), ci95=None, n=n),
            paper(
                round(float(run.mean()), 1),
                std=round(float(run.std(ddof=1)), 1) if has_spread else None,
                runs=RUNS if has_spread else None,
            ),
        )
        counts[found] += 1
    return {found: count / TRIALS for found, count in counts.items()}


DEVIATIONS = [(0.3, 0.3), (1.0, 1.0), (3.0, 0.3), (0.3, 3.0)]
NOISE = 2.6 * math.sqrt(0.05 * 0.95 / TRIALS)  # of a share of 5 %, exceeded once in 200


@pytest.mark.parametrize("n", SEEDS)
@pytest.mark.parametrize(("std", "of_paper"), DEVIATIONS)
def test_a_true_reproduction_of_several_runs_is_rarely_different(n, std, of_paper):
    found = simulated(n, std=std, of_paper=of_paper, has_spread=True)
    assert found[Verdict.DIFFERENT] <= 0.05 + NOISE


@pytest.mark.parametrize("n", SEEDS)
@pytest.mark.parametrize("std", [0.3, 3.0])
def test_a_true_reproduction_of_a_single_run_is_rarely_different(n, std):
    """A paper without ± is taken to have our deviation; then the level is 5 % less the rounding."""
    found = simulated(n, std=std, of_paper=std, has_spread=False)
    assert found[Verdict.DIFFERENT] <= 0.05 + NOISE


@pytest.mark.parametrize("n", [2, *SEEDS])
@pytest.mark.parametrize("has_spread", [True, False])
@pytest.mark.parametrize(("std", "of_paper"), [(1.0, 1.0), (3.0, 0.3)])
def test_a_miss_of_twice_the_margin_is_rarely_equivalent(n, has_spread, std, of_paper):
    """A paper without ± has our deviation: with another one, the assumption does not hold."""
    of_paper = of_paper if has_spread else std
    found = simulated(n, std=std, of_paper=of_paper, off=2 * MARGIN, has_spread=has_spread)
    assert found[Verdict.EQUIVALENT] <= 0.05


@pytest.mark.parametrize("n", SEEDS)
@pytest.mark.parametrize("has_spread", [True, False])
def test_a_reproduction_with_a_deviation_of_45_is_inconclusive(n, has_spread):
    found = simulated(n, std=45.0, of_paper=3.0 if has_spread else 45.0, has_spread=has_spread)
    assert found[Verdict.INCONCLUSIVE] >= 0.95 - NOISE
    assert found[Verdict.EQUIVALENT] == 0


@pytest.mark.parametrize("n", [10, 100])
def test_a_reproduction_with_small_deviations_is_mostly_equivalent(n):
    """A verdict that is never "equivalent" would pass all tests above."""
    for has_spread in (True, False):
        found = simulated(n, std=0.3, of_paper=0.3, has_spread=has_spread)
        assert found[Verdict.EQUIVALENT] > 0.99


@pytest.mark.parametrize("n", [10, 100])
def test_a_miss_of_many_deviations_is_mostly_different(n):
    for has_spread in (True, False):
        found = simulated(n, std=0.5, of_paper=0.5, off=2 * MARGIN, has_spread=has_spread)
        assert found[Verdict.DIFFERENT] > 0.99
