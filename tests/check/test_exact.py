"""On the machine of the reference, a check compares accuracies and losses bit for bit."""

import json
import math
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from gim_bench.check.exact import repeat
from gim_bench.check.formats import render
from gim_bench.check.judge import Outcome, judge
from tests.check.cells import cells, changed, moved, reference_of
from tests.tiny_suite import tiny_suite

MEMORY = "memory/host_over_baseline_bytes"
HERE = {"cpu_identity": "model 6, AVX512", "cores": 2, "versions": {"torch": "2", "mlflow": "3"}}
FEW_ULPS = math.ulp(60.0)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return tiny_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def records(suite):
    return changed(cells(suite), **HERE)


@pytest.fixture(scope="module")
def check(records, suite):
    reference = reference_of(records, suite=suite)
    return lambda records: judge(records, reference, suite=suite)


def changes(verdict):
    return {(r.method, r.metric): [c.seed for c in r.changes] for r in verdict.repeats if r.changes}


def test_the_same_numbers_pass_and_need_no_interval(check, records):
    verdict = check(records)
    assert (verdict.exit_code, verdict.findings, verdict.notes) == (0, [], [])
    assert {c.metric for c in verdict.compared} == {MEMORY, "train/step_per_calibration"}
    assert {(r.metric, tuple(r.seeds)) for r in verdict.repeats} == {
        (name, (0, 1, 2)) for name in ("accuracy", "accuracy/module_1", "loss", "loss/module_1")
    }


@pytest.mark.parametrize("by", [FEW_ULPS, -FEW_ULPS, 20.0])
@pytest.mark.parametrize("metric", ["accuracy", "loss/module_1"])
def test_a_change_of_the_last_bit_is_worse_in_either_direction(metric, by, check, records):
    verdict = check([*moved(records[:1], metric, by=by), *records[1:]])
    assert (verdict.outcome, verdict.exit_code) == (Outcome.WORSE, 1)
    assert changes(verdict) == {("gim", metric): [0]}


def test_a_change_within_the_interval_is_worse_bit_for_bit_alone(check, records):
    verdict = check(moved(records, "accuracy", by=0.1))
    assert changes(verdict) == {("gim", "accuracy"): [0, 1, 2]}
    (by_interval,) = (c for c in verdict.compared if c.metric == "accuracy")
    assert by_interval.outcome is Outcome.PASSES


def test_memory_and_speed_need_not_repeat(check, records):
    assert check(moved(records, MEMORY, factor=1.01)).exit_code == 0


def test_seeds_of_one_side_alone_do_not_count(check, suite):
    verdict = check(changed(cells(suite, seeds=(2, 3, 4)), **HERE))
    assert {tuple(r.seeds) for r in verdict.repeats} == {(2,)}
    assert (verdict.exit_code, len(verdict.compared)) == (0, 12)


def test_without_a_common_seed_intervals_decide(check, suite):
    verdict = check(changed(cells(suite, seeds=(5, 6, 7)), **HERE))
    assert (verdict.exit_code, len(verdict.repeats), len(verdict.compared)) == (0, 0, 12)


def test_a_single_common_seed_is_enough_where_two_seeds_make_no_interval(suite, records):
    pair = suite.model_copy(update={"seeds": 2})
    two = reference_of([r for r in records if r.seed < 2], suite=pair)
    verdict = judge([r for r in records if r.seed == 0], two, suite=suite)
    assert {f.what for f in verdict.findings} == {f"{MEMORY}, train/step_per_calibration"}
    assert verdict.exit_code == 3
    worse = judge(moved([r for r in records if r.seed == 0], "loss", by=1e-9), two, suite=suite)
    assert worse.exit_code == 1


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"cpu_identity": "model 7"}, "cpu_identity model 7, not model 6, AVX512"),
        ({"cores": 4}, "cores 4, not 2"),
        ({"threads": 99}, "threads 99, not "),
        ({"precision": "bf16"}, "precision bf16, not fp32"),
        ({"versions": {"torch": "3", "mlflow": "3"}}, "version of torch 3, not 2"),
        ({"versions": {"torch": "2", "scipy": "1"}}, "version of scipy 1, not None"),
        ({"cpu_identity": None}, "these cells do not name one kind of processor"),
    ],
)
def test_on_another_machine_intervals_decide_and_the_reason_is_noted(facts, why, check, records):
    verdict = check(changed(moved(records, "accuracy", by=0.1), **facts))
    assert (verdict.exit_code, verdict.repeats) == (0, [])
    assert any(f"by intervals, not bit for bit: {why}" in note for note in verdict.notes)


def test_a_tracker_of_another_version_moves_no_number(check, records):
    verdict = check(changed(records, versions={"torch": "2", "mlflow": "4"}))
    assert len(verdict.repeats) == 8
    torn = [*records[:1], *changed(records[1:], versions={"torch": "2", "mlflow": "4"})]
    assert (check(torn).exit_code, len(check(torn).repeats)) == (0, 8)


def test_cells_of_two_versions_of_the_package_are_not_judged(check, records):
    """Without a checkout, the version alone tells that the code changed between the cells."""
    old, new = ({"torch": "2", "gim-bench": version} for version in "12")
    torn = [*changed(records[:1], versions=old), *changed(records[1:], versions=new)]
    assert check(torn).exit_code == 3


def test_cells_of_two_kinds_of_processors_are_not_compared_bit_for_bit(check, records):
    torn = [*changed(records[:1], cpu_identity="model 7"), *records[1:]]
    assert check(torn).repeats == []


def test_cells_of_two_numbers_of_threads_are_not_compared_bit_for_bit(check, records):
    torn = [*records[:-1], *changed(records[-1:], threads=99)]
    verdict = check(torn)
    assert verdict.repeats == []
    assert any("these cells do not name one kind" in note for note in verdict.notes)


def test_a_reference_from_before_the_kind_of_processor_is_compared_by_intervals(suite, records):
    old = reference_of(cells(suite), suite=suite)
    assert old.machine.exact is None
    verdict = judge(moved(records, "accuracy", by=0.1), old, suite=suite)
    assert (verdict.exit_code, verdict.repeats) == (0, [])
    assert any("the reference does not name one kind of processor" in n for n in verdict.notes)


def test_a_gpu_is_not_asked_to_repeat(suite, records):
    on_gpu = [
        replace(r, config={**r.config, "device": "cuda"}) for r in changed(records, device="cuda")
    ]
    verdict = judge(on_gpu, reference_of(on_gpu, suite=suite), suite=suite)
    assert verdict.repeats == []
    assert any("a GPU does not repeat" in note for note in verdict.notes)


def test_a_value_that_is_no_number_is_a_change():
    found = repeat({0: 1.0}, {0: math.nan}, method="gim", metric="loss", unit="nats")
    assert found.outcome is Outcome.WORSE


# -- formats ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def verdict(check, records):
    return check([*moved(records[:1], "loss", by=1e-9), *records[1:]])


@pytest.mark.parametrize("fmt", ["text", "md"])
def test_pages_name_the_seed_with_both_values_and_say_what_to_do(fmt, verdict):
    page = render(verdict, fmt)
    assert "gim loss: seed 0 was 1.98, is 1.980000001" in page
    assert page.count("raise RESULTS_VERSION and write a new reference") == 1
    assert "Bit for bit" in page


def test_json_lists_changes_by_seed(verdict):
    by_metric = {
        (r["method"], r["metric"]): r for r in json.loads(render(verdict, "json"))["repeats"]
    }
    assert by_metric["gim", "loss"]["outcome"] == "worse"
    assert by_metric["gim", "loss"]["seeds"] == [0, 1, 2]
    assert by_metric["gim", "loss"]["changes"] == [
        {"seed": 0, "reference": 1.98, "now": 1.98 + 1e-9}
    ]
    assert by_metric["gim", "accuracy"]["changes"] == []


def test_junit_has_a_case_for_each_metric_that_has_to_repeat(verdict):
    suite = ET.fromstring(render(verdict, "junit"))  # noqa: S314 - our own
    cases = {(case.get("classname"), case.get("name")): case for case in suite}
    assert suite.get("failures") == "1"
    message = cases["tiny.gim", "loss, bit for bit"].find("failure").get("message")
    assert "seed 0 was 1.98, is 1.980000001" in message
    assert "raise RESULTS_VERSION" in message
    assert len(cases["tiny.gim", "accuracy, bit for bit"]) == 0
