import math
from dataclasses import replace

import numpy as np
import pytest

from gim_bench.records.record import Record, Status
from gim_bench.records.statistics import (
    Origin,
    Summary,
    by_settings,
    flatten,
    newest_done,
    newest_origin,
    summarise,
    summarise_metrics,
    values_by_seed,
)


def cell(method="gim", *, seed=0, key="a", status=Status.DONE, finished="", **metrics):
    return Record(
        suite="s",
        method=method,
        dataset="d",
        seed=seed,
        key=key,
        status=status,
        metrics=metrics,
        provenance={"finished_at": finished} if finished else {},
    )


def test_four_values_worked_by_hand():
    """Mean 5, squares 9 + 1 + 1 + 9 = 20, std = √(20/3); t(0.975, 3) = 3.182446."""
    summary = summarise([2.0, 4.0, 6.0, 8.0])
    assert (summary.mean, summary.n) == (5.0, 4)
    assert summary.std == pytest.approx(2.5819889)
    assert summary.ci95 == pytest.approx(3.1824463 * 2.5819889 / 2)


def test_two_values_have_the_wide_interval_of_one_degree_of_freedom():
    """t(0.975, 1) = 12.7062: two seeds say little."""
    assert summarise([1.0, 3.0]).ci95 == pytest.approx(12.7062047)


def test_one_value_has_no_spread_rather_than_none_at_all():
    assert summarise([7.5]) == Summary(mean=7.5, std=None, ci95=None, n=1)


def test_equal_values_have_a_spread_of_zero():
    assert summarise([3.0, 3.0, 3.0]) == Summary(mean=3.0, std=0.0, ci95=0.0, n=3)


def test_no_value_is_an_error_not_a_nan():
    with pytest.raises(ValueError, match="at least one value"):
        summarise([])


DRAWS = 2000


@pytest.mark.parametrize("n", [3, 4, 10])
def test_the_interval_holds_the_true_mean_95_times_in_100(n):
    """Normal values around 60; three standard errors of 2000 draws are 1.5 percentage points."""
    drawn = np.random.default_rng(n).normal(60.0, 2.0, size=(DRAWS, n))
    found = [summarise(values) for values in drawn.tolist()]
    assert covered(found, truth=60.0) == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / DRAWS))


def covered(found, *, truth):
    """The share of the intervals that hold the truth."""
    means, widths = np.array([(one.mean, one.ci95) for one in found]).T
    return np.mean(np.abs(means - truth) <= widths)


def test_values_by_seed_are_those_that_are_there_and_finite():
    records = [
        cell(seed=0, accuracy=60.0),
        cell(seed=1, accuracy=float("nan")),
        cell(seed=2, loss=1.0),
        cell(seed=3, accuracy=62.0),
    ]
    assert values_by_seed(records, "accuracy") == {0: 60.0, 3: 62.0}


def test_a_metric_is_summarised_over_the_records_that_have_it():
    summaries = summarise_metrics([cell(accuracy=60.0), cell(accuracy=62.0, ridge_accuracy=50.0)])
    assert (summaries["accuracy"].mean, summaries["accuracy"].n) == (61.0, 2)
    assert summaries["ridge_accuracy"] == Summary(mean=50.0, std=None, ci95=None, n=1)


def test_a_value_that_is_not_finite_is_left_out():
    assert summarise_metrics([cell(accuracy=60.0, loss=float("nan"))]).keys() == {"accuracy"}


def test_of_two_records_of_a_cell_the_one_that_finished_last_counts():
    old = cell(key="old", finished="2026-11-01T10:00:00+00:00")
    new = cell(key="new", finished="2026-11-02T10:00:00+00:00")
    other = cell(seed=1)
    assert newest_done([new, old, other]) == [new, other]


def test_failed_and_running_cells_do_not_count():
    assert newest_done([cell(status=Status.FAILED), cell(seed=1, status=Status.RUNNING)]) == []


def test_records_are_averaged_over_only_with_those_of_their_method_and_settings():
    """The newest of each seed, wherever it ran; a method without finished cells has no group."""
    wide, narrow = {"width": 8, "device": "cpu"}, {"width": 2, "device": "cpu"}
    old = replace(cell(finished="2026-11-01"), config=wide)
    new = replace(cell(finished="2026-11-02"), config=wide)
    moved = replace(cell(seed=1), config={"device": "cuda", "width": 8})
    other = replace(cell(seed=1, finished="2026-11-03"), config=narrow)
    cpc = replace(cell("cpc", seed=1), config=wide)
    failed = replace(cell("mfcc", status=Status.FAILED), config=wide)
    found = by_settings([new, other, old, moved, cpc, failed])
    assert found == [[new, moved], [other], [cpc]]


def test_records_from_before_a_setting_are_averaged_with_records_at_its_default():
    """Seeds that are added after an upgrade belong to the same experiment."""
    before = replace(cell(), config={"width": 8})
    after = replace(cell(seed=1), config={"width": 8, "blur": 0})
    other = replace(cell(seed=2), config={"width": 8, "blur": 1})
    found = by_settings([before, after, other], complete=lambda config: {"blur": 0, **config})
    assert found == [[before, after], [other]]


def test_nested_settings_get_dotted_names():
    nested = {"encoder": {"width": 8, "blocks": [1, 1]}, "method": {"options": {}}, "device": "cpu"}
    assert flatten(nested) == {"encoder.width": 8, "encoder.blocks": [1, 1], "device": "cpu"}


# case 4
@pytest.mark.parametrize("origin", [{"data_sha256": "b"}, {"results_version": 3}])
def test_records_of_other_data_or_another_version_of_results_are_never_averaged(origin):
    ours = {"data_sha256": "a", "results_version": 4}
    first, second = (
        replace(cell(seed=seed), provenance=facts)
        for seed, facts in enumerate((ours, ours | origin))
    )
    assert by_settings([first, second]) == [[first], [second]]


def test_the_newest_origin_is_of_the_cell_that_finished_last():
    def of(data, *, finished, status=Status.DONE):
        record = cell(status=status)
        return replace(record, provenance={"data_sha256": data, "finished_at": finished})

    failed = of("c", finished="2026-03", status=Status.FAILED)
    records = [of("b", finished="2026-02"), of("a", finished="2026-01"), failed]
    assert newest_origin(records) == Origin(data_sha256="b", results_version=None)
    assert newest_origin([failed]).data_sha256 == "c"
