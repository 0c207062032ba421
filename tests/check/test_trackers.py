"""The means of a check as github-action-benchmark and Bencher read them."""

import json
from dataclasses import replace

import pytest

from gim_bench.check.trackers import TRACKERS, for_tracker
from gim_bench.records.record import Status
from tests.check.cells import cells
from tests.tiny_suite import tiny_suite

SPEED = "train/step_per_calibration"


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return cells(tiny_suite(tmp_path_factory.mktemp("suite")))


def github(records, fmt):
    return {entry["name"]: entry for entry in json.loads(for_tracker(records, fmt))}


def test_accuracies_are_where_bigger_is_better_and_the_rest_where_smaller_is(records):
    bigger, smaller = (github(records, f"github-{way}") for way in ("bigger", "smaller"))
    assert [name for name in bigger if "tiny/gim" in name] == [
        "tiny/gim accuracy",
        "tiny/gim accuracy/module_1",
    ]
    assert [name for name in smaller if "tiny/gim" in name] == [
        "tiny/gim loss",
        "tiny/gim loss/module_1",
        "tiny/gim memory/host_over_baseline_bytes",
        "tiny/gim train/step_per_calibration",
    ]


def test_an_entry_has_unit_mean_deviation_and_number_of_seeds(records):
    entry = github(records, "github-bigger")["tiny/gim accuracy"]
    assert entry == {
        "name": "tiny/gim accuracy",
        "unit": "%",
        "value": pytest.approx(61.0),
        "range": "± 0.61",
        "extra": "seeds: 3",
    }


def test_what_resumed_cells_cost_does_not_count(records):
    first, *others = records
    resumed = replace(
        first,
        metrics={**first.metrics, SPEED: 1e9},
        provenance={**first.provenance, "resumed_at_step": [50]},
    )
    found = github([resumed, *others], "github-smaller")[f"tiny/gim {SPEED}"]
    assert found["value"] < 1e9 / 3
    assert found["extra"] == "seeds: 2"
    assert github([resumed, *others], "github-bigger")["tiny/gim accuracy"]["extra"] == "seeds: 3"
    assert f"tiny/gim {SPEED}" not in github([resumed], "github-smaller")


def test_what_cells_cost_that_ran_beside_each_other_does_not_count(records):
    beside = [replace(r, provenance={**r.provenance, "workers": 2}) for r in records]
    found = github(beside, "github-smaller")
    assert [name for name in found if "tiny/gim" in name] == [
        "tiny/gim loss",
        "tiny/gim loss/module_1",
    ]


def test_bencher_gets_rows_metrics_and_intervals(records):
    """The interval is 4.303 s / √3 on either side, by Student's t with two degrees of freedom."""
    table = json.loads(for_tracker(records, "bencher"))
    assert list(table) == ["tiny/gim", "tiny/random_init"]
    half = 4.302653 * 0.61 / 3**0.5
    assert table["tiny/gim"]["accuracy"] == pytest.approx(
        {"value": 61.0, "lower_value": 61.0 - half, "upper_value": 61.0 + half}
    )


def test_one_seed_has_neither_deviation_nor_interval(records):
    alone = records[:1]
    assert "range" not in github(alone, "github-bigger")["tiny/gim accuracy"]
    assert set(json.loads(for_tracker(alone, "bencher"))["tiny/gim"]["accuracy"]) == {"value"}


@pytest.mark.parametrize("fmt", TRACKERS)
def test_failed_cells_and_results_of_another_version_do_not_count(records, fmt):
    failed = replace(records[0], status=Status.FAILED)
    older = replace(records[1], provenance={**records[1].provenance, "results_version": 1})
    assert not json.loads(for_tracker([failed, older], fmt))
