"""When two sets of seeds differ: by hand, by simulation, and by the floors."""

import math

import numpy as np
import pytest

from gim_bench.check.tolerance import (
    ACCURACY,
    FALSE_ALARMS,
    KINDS,
    LOSS,
    MEMORY,
    SPEED,
    Worse,
    compare,
    compared,
    enough,
    kind_of,
)
from gim_bench.records.metrics import METRICS, Better


def test_three_seeds_against_three_worked_by_hand():
    """t(0.991; 4) = 3.8696 of standard errors of √(2/3), as the docstring works out."""
    found = compare([60, 61, 62], [50, 51, 52], kind=ACCURACY, level=0.01)
    assert found.tolerance == pytest.approx(3.869574 * math.sqrt(2 / 3))
    assert (found.difference, found.worse) == (-10.0, True)


def test_a_single_new_seed_has_the_degrees_of_freedom_of_the_reference():
    """t(0.991; 2) = 7.3526 of standard errors of √(1/3 + 1)."""
    found = compare([60, 61, 62], [56], kind=ACCURACY, level=0.01)
    assert found.tolerance == pytest.approx(7.352557 * math.sqrt(4 / 3))
    assert found.now.std is None
    assert not found.worse


def test_the_variances_are_pooled():
    """Squares 2 and 8 on 4 degrees of freedom: variance 2.5."""
    found = compare([60, 61, 62], [60, 62, 64], kind=ACCURACY, level=0.01)
    assert found.tolerance == pytest.approx(3.869574 * math.sqrt(2.5 * 2 / 3))


@pytest.mark.parametrize(
    ("kind", "before", "now"),
    [
        (LOSS, 1.8, [1.8, 1.8, 12.0]),
        (LOSS, 1.8, [5.0, 40.0, 400.0]),
        (ACCURACY, 39.0, [39.0, 39.0, 10.0]),
        (MEMORY, 1e9, [1e9, 1e9, 1e10]),
    ],
)
def test_a_seed_that_is_far_off_does_not_hide_itself(kind, before, now):
    """Pooled, its own square would widen the tolerance as far as it moves the mean."""
    reference = [before * (1 + 0.04 * (-1) ** seed) for seed in range(12)]
    assert not compare(reference, [before] * 3, kind=kind, level=FALSE_ALARMS / 9).worse
    assert compare(reference, now, kind=kind, level=FALSE_ALARMS / 9).worse


def test_a_loss_has_half_of_the_level_on_either_side():
    """t(0.9955; 4) = 4.7456."""
    for now in ([1.0, 1.1, 1.2], [3.0, 3.1, 3.2]):
        found = compare([2.0, 2.1, 2.2], now, kind=LOSS, level=0.01)
        assert found.tolerance == pytest.approx(4.745600 * 0.1 * math.sqrt(2 / 3))
        assert found.worse


def test_an_accuracy_that_rises_and_a_cost_that_falls_are_no_worse():
    assert not compare([60, 61, 62], [90, 91, 92], kind=ACCURACY, level=0.01).worse
    assert not compare([2.0, 2.0], [0.1, 0.1], kind=SPEED, level=0.01).worse
    assert not compare([9e9, 9e9], [1e9, 1e9], kind=MEMORY, level=0.01).worse


@pytest.mark.parametrize(
    ("kind", "before", "within", "beyond"),
    [
        (ACCURACY, 60.0, 59.1, 58.9),
        (LOSS, 2.0, 2.019, 2.021),
        (LOSS, 2.0, 1.981, 1.979),
        (MEMORY, 1e9, 1.14e9, 1.16e9),
        (MEMORY, 0.0, 4 * 2**20, 5 * 2**20),
        (SPEED, 2.0, 2.9, 3.1),
    ],
)
def test_without_any_spread_the_floor_decides(kind, before, within, beyond):
    assert not compare([before] * 3, [within] * 3, kind=kind, level=0.01).worse
    assert compare([before] * 3, [beyond] * 3, kind=kind, level=0.01).worse


def test_two_and_two_or_three_and_one_seeds_are_enough():
    assert [pair for n in range(4) for m in range(3) if enough(*(pair := (n, m)))] == [
        (2, 2), (3, 1), (3, 2),
    ]  # fmt: skip


# -- by simulation ---------------------------------------------------------------------------------


def simulated(n, m, *, shift, kind, level, times, spread=1.0, draw):
    """How often `m` seeds whose mean is off by `shift` are called worse than `n` that are not."""
    before = draw.normal(100, spread, (times, n))
    now = draw.normal(100 + shift, spread, (times, m))
    pairs = zip(before.tolist(), now.tolist(), strict=True)
    return sum(compare(x, y, kind=kind, level=level).worse for x, y in pairs) / times


def test_a_check_of_unchanged_code_fails_in_one_of_a_hundred_cases():
    """Twelve metrics, three seeds against three, a spread that the floors do not hide."""
    draw = np.random.default_rng(0)
    checks, kinds = 1500, [ACCURACY] * 6 + [LOSS] * 6
    alarms = 0
    for _ in range(checks):
        values = [(draw.normal(50, 20, 3).tolist(), draw.normal(50, 20, 3).tolist()) for _ in kinds]
        level = FALSE_ALARMS / len(kinds)
        alarms += any(
            compare(x, y, kind=kind, level=level).worse
            for kind, (x, y) in zip(kinds, values, strict=True)
        )
    assert 0.001 < alarms / checks < 0.02


@pytest.mark.parametrize(("n", "m"), [(3, 3), (8, 3), (3, 1)])
@pytest.mark.parametrize(("kind", "sign"), [(ACCURACY, -1), (LOSS, 1), (LOSS, -1)])
def test_a_change_of_the_stated_size_is_noticed_in_four_of_five_cases(n, m, kind, sign):
    draw = np.random.default_rng(1)
    # A spread of just 1 on both sides, so that what is stated is stated of the true spread.
    exact = [100 + x for x in (-1.0, 1.0, *[0.0] * (n - 2))]
    scale = 1 / math.sqrt(2 / (n - 1))
    exact = [100 + (x - 100) * scale for x in exact]
    new = [100.0] if m == 1 else [100 - math.sqrt((m - 1) / 2), 100 + math.sqrt((m - 1) / 2)]
    stated = compare(exact, [*new, *[100.0] * (m - len(new))], kind=kind, level=0.001).detectable
    found = simulated(n, m, shift=sign * stated, kind=kind, level=0.001, times=1500, draw=draw)
    assert found == pytest.approx(0.8, abs=0.04)


def test_where_the_floor_decides_the_stated_size_clears_it_in_four_of_five_cases():
    draw = np.random.default_rng(2)
    stated = compare([99.9, 100, 100.1], [99.9, 100, 100.1], kind=ACCURACY, level=0.05).detectable
    assert stated > ACCURACY.floor
    found = simulated(
        3, 3, shift=-stated, kind=ACCURACY, level=0.05, times=1500, spread=0.1, draw=draw
    )
    assert found == pytest.approx(0.8, abs=0.04)


# -- which metrics ---------------------------------------------------------------------------------


def test_the_top_module_is_judged_once():
    names = ["loss", "loss/module_1", "loss/module_2", "loss/module_10"]
    assert compared(names) == ["loss", "loss/module_1", "loss/module_2"]


def test_a_module_trained_alone_is_judged_by_its_number():
    assert compared(["loss/module_1"]) == ["loss/module_1"]


def test_targets_are_judged_each():
    names = ["speaker_loss", "phone_accuracy", "phone_knn_accuracy", "train/seconds"]
    assert compared(names) == ["speaker_loss", "phone_accuracy"]


def test_memory_of_a_gpu_stands_for_the_hosts():
    host, gpu = "memory/host_over_baseline_bytes", "memory/gpu_reserved_peak_bytes"
    assert compared([host]) == [host]
    assert compared([host, gpu]) == [gpu]


@pytest.mark.parametrize("name", ["los", "train/seconds", "knn_accuracy", "accuracy/own_head"])
def test_other_metrics_are_not_judged(name):
    assert kind_of(name) is None


@pytest.mark.parametrize("name", sorted(KINDS))
def test_worse_is_where_the_metric_says_that_better_is_not(name):
    worse = KINDS[name].worse
    if worse is not Worse.EITHER:
        assert (worse is Worse.LOWER) == (METRICS[name].better is Better.HIGHER)
