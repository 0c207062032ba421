"""The verdict on records: passes, worse, or cannot judge, each reason in one line."""

from dataclasses import replace

import numpy as np
import pytest

from gim_bench.check.judge import Outcome, judge
from gim_bench.check.tolerance import FALSE_ALARMS
from gim_bench.records import provenance
from gim_bench.records.record import Status
from tests.check.cells import (
    COMMITTED,
    METRICS,
    audited,
    cell,
    cells,
    changed,
    moved,
    reference_of,
)
from tests.tiny_suite import tiny_suite

MEMORY = "memory/host_over_baseline_bytes"


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return tiny_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def records(suite):
    return cells(suite)


@pytest.fixture(scope="module")
def reference(records, suite):
    return reference_of(records, suite=suite)


@pytest.fixture
def check(reference, suite):
    return lambda records: judge(records, reference, suite=suite)


def worse(verdict):
    return {(c.method, c.metric) for c in verdict.compared if c.found.worse}


def other_notes(verdict):
    """The notes, without the note that records of no known processor are compared by intervals."""
    assert sum("by intervals, not bit for bit" in note for note in verdict.notes) == 1
    return [note for note in verdict.notes if "by intervals, not bit for bit" not in note]


def messages(verdict):
    return [finding.message for finding in verdict.findings]


def only_message(verdict):
    """The one reason, in one line, for which the verdict cannot be given."""
    assert (verdict.outcome, verdict.exit_code) == (Outcome.UNJUDGED, 3)
    (message,) = messages(verdict)
    assert "\n" not in message
    return message


# -- passes and worse ------------------------------------------------------------------------------


def test_the_same_records_pass(check, records):
    verdict = check(records)
    assert (verdict.outcome, verdict.exit_code, verdict.findings) == (Outcome.PASSES, 0, [])
    assert len(verdict.compared) == 12


def test_other_seeds_pass(check, suite):
    assert check(cells(suite, seeds=(5, 6, 7))).outcome is Outcome.PASSES


def test_comparisons_share_the_chance_of_a_false_alarm(check, records):
    verdict = check(records)
    assert verdict.level * len(verdict.compared) == pytest.approx(FALSE_ALARMS)


def test_whole_checks_of_unchanged_code_fail_in_less_than_one_of_twenty_cases(suite):
    """Twelve metrics of three new seeds, drawn from a spread that the floors do not hide."""
    suite = suite.model_copy(update={"methods": ("gim", "cpc")})  # nothing to be told from
    records = cells(suite, methods=suite.methods)
    draw = np.random.default_rng(0)
    checks = 100
    failed = 0
    for _ in range(checks):
        drawn = [replace(r, metrics=drawn_metrics(draw)) for r in (*records, *records)]
        before, now = drawn[: len(records)], drawn[len(records) :]
        failed += judge(now, reference_of(before, suite=suite), suite=suite).exit_code
    assert failed / checks < 0.05


def drawn_metrics(draw):
    """A spread of a third: accuracies of 20 points, losses of 0.7 nats."""
    return {name: x * (1 + draw.normal() / 3) for name, x in METRICS.items()}


@pytest.mark.parametrize(
    ("metric", "factor"),
    [
        ("accuracy", 0.8),
        ("accuracy/module_1", 0.8),
        ("loss", 0.8),
        ("loss", 1.2),
        ("loss/module_1", 1.2),
        (MEMORY, 1.3),
        ("train/step_per_calibration", 1.7),
    ],
)
def test_a_metric_that_moved_is_named_and_no_other(metric, factor, check, records):
    verdict = check(moved(records, metric, factor=factor))
    assert worse(verdict) == {("gim", metric)}
    assert (verdict.outcome, verdict.exit_code) == (Outcome.WORSE, 1)


@pytest.mark.parametrize(
    ("metric", "factor"),
    [("accuracy", 1.5), (MEMORY, 0.5), (MEMORY, 1.05), ("train/step_per_calibration", 1.4)],
)
def test_a_metric_that_improved_or_hardly_moved_passes(metric, factor, check, records):
    assert check(moved(records, metric, factor=factor)).outcome is Outcome.PASSES


def test_a_gradient_that_leaks_between_modules_is_worse(check, records):
    held = {
        "module_1": {"module_1": 0.3, "module_2": 0.0},
        "module_2": {"module_1": 0.0, "module_2": 0.2},
    }
    leaking = {**held, "module_2": {"module_1": 0.01, "module_2": 0.2}}
    first, *others = records
    assert check([audited(first, held), *others]).outcome is Outcome.PASSES
    verdict = check([audited(first, leaking), *others])
    (finding,) = verdict.findings
    assert (verdict.exit_code, finding.method, finding.what) == (1, "gim", "gradient isolation")
    assert "the loss of module_2 reaches module_1 (norm 0.01)" in finding.message


def test_a_difference_of_settings_that_no_method_declares_is_worse(suite, check, records):
    longer = suite.model_copy(update={"training": suite.training.model_copy(update={"epochs": 2})})
    verdict = check([*(r for r in records if r.method == "gim"), *cells(
        longer, methods=["random_init"]
    )])  # fmt: skip
    assert verdict.exit_code == 1
    lines = messages(verdict)
    assert any("undeclared difference: training.epochs: 1: gim; 2: random_init" in x for x in lines)
    assert any("other settings than the reference's: training.epochs 2, not 1" in x for x in lines)
    assert {c.method for c in verdict.compared} == {"gim"}


def test_a_row_with_a_rate_of_its_own_is_no_undeclared_difference(tmp_path):
    own = tiny_suite(tmp_path, "method.gim.training.learning_rate=1e-2")
    records = cells(own)
    assert judge(records, reference_of(records, suite=own), suite=own).exit_code == 0
    without = own.model_copy(update={"method": {}})
    verdict = judge(records, reference_of(records, suite=own), suite=without)
    assert messages(verdict) == [
        "undeclared difference: training.learning_rate: 0.01: gim; 0.001: random_init"
    ]


def before(config):
    """The configuration as it was before optimisers, schedules of rates and views were settings."""
    later = {"optimiser", "rate_schedule"}
    training = {name: value for name, value in config["training"].items() if name not in later}
    method = {n: v for n, v in config["method"].items() if n not in {"views", "loss_unit"}}
    return config | {"training": training, "method": method}


def test_references_and_records_from_before_a_setting_are_judged(suite, reference, records):
    """Since then, the cell of random_init says that its loss has no unit."""
    old = [replace(record, config=before(record.config)) for record in records]
    assert "optimiser" in records[0].config["training"]
    assert judge(old, reference, suite=suite).findings == []
    old_reference = reference_of(old, suite=suite)
    assert "optimiser" not in old_reference.methods["gim"].config["training"]
    assert judge(records, old_reference, suite=suite).findings == []
    assert judge([*old[:1], *records[1:]], old_reference, suite=suite).findings == []


def test_a_setting_that_the_reference_lacks_and_that_is_not_at_its_default_is_named(suite, records):
    old_reference = reference_of(
        [replace(record, config=before(record.config)) for record in records], suite=suite
    )
    training = records[0].config["training"]
    changed_training = training | {"optimiser": training["optimiser"] | {"eps": 1e-6}}
    now = [replace(r, config=r.config | {"training": changed_training}) for r in records]
    verdict = judge(now, old_reference, suite=suite)
    assert {f.what for f in verdict.findings} == {"settings"}
    assert "training.optimiser.eps 1e-06, not 1e-08" in messages(verdict)[0]


def in_unit(records, unit):
    """The records of a method whose objective has that unit."""
    return [
        replace(r, config=r.config | {"method": r.config["method"] | {"loss_unit": unit}})
        for r in records
    ]


@pytest.mark.parametrize(("unit", "expected"), [("nats", set()), ("bits", {("gim", "loss")})])
def test_a_loss_in_another_unit_than_nats_has_a_floor_relative_to_its_mean(
    unit, expected, suite, records
):
    """A loss of 0.01 that doubles is still below the floor of losses in nats."""
    small = [
        replace(r, metrics={**r.metrics, "loss": 0.01, "loss/module_2": 0.01})
        for r in in_unit(records, unit)
    ]
    verdict = judge(moved(small, "loss", factor=2), reference_of(small, suite=suite), suite=suite)
    assert worse(verdict) == expected
    assert {c.unit for c in verdict.compared if c.metric == "loss"} == {unit}


def test_cells_of_two_devices_cannot_be_judged_and_are_not_worse(check, records):
    elsewhere = [on_gpu(record) for record in records if record.method == "gim"]
    mixed = [*elsewhere, *(record for record in records if record.method != "gim")]
    assert only_message(check(mixed)).startswith("mixed device: cuda: gim; cpu: random_init")


def on_gpu(record):
    """The record as the same cell's on a GPU would be."""
    (moved,) = changed([record], device="cuda")
    config = {**record.config, "device": "cuda"}
    return replace(moved, config=config)


# -- cannot judge ----------------------------------------------------------------------------------


def test_no_records_at_all_cannot_be_judged(check):
    verdict = check([])
    assert verdict.exit_code == 3
    assert messages(verdict) == [
        f"no cell of {name} with results of this version: run the suite"
        for name in ("gim", "random_init")
    ]


def test_a_seed_that_a_method_lacks_is_a_missing_cell(check, records):
    assert only_message(check(records[:-1])).startswith("no cell of random_init with seed 2")


def test_a_failed_cell_is_named_with_its_reason(check, records):
    failed = replace(records[0], status=Status.FAILED, error="the loss is nan")
    assert only_message(check([failed, *records[1:]])) == "gim seed 0 failed: the loss is nan"


def test_an_interrupted_cell_is_named(check, records):
    running = replace(records[0], status=Status.RUNNING)
    assert "gim seed 0 did not finish" in only_message(check([running, *records[1:]]))


def test_of_two_attempts_the_later_one_counts(check, records):
    first = records[0]
    later = {**first.provenance, "finished_at": "2026-11-22"}
    earlier = replace(first, status=Status.FAILED, error="out of luck")
    assert check([replace(first, provenance=later), earlier, *records[1:]]).exit_code == 0


def test_too_few_seeds_cannot_be_judged_and_a_single_one_against_three_can(suite, records):
    one = [record for record in records if record.seed == 0]
    two = [record for record in records if record.seed < 2]
    assert judge(one, reference_of(records, suite=suite), suite=suite).exit_code == 0
    pair = suite.model_copy(update={"seeds": 2})
    verdict = judge(one, reference_of(two, suite=pair), suite=suite)
    assert verdict.exit_code == 3
    assert messages(verdict)[0].startswith(
        "too few seeds that were not resumed: 1 here and 2 in the"
    )


def test_other_data_cannot_be_judged(check, records):
    other = changed(records, data_sha256="f" * 64)
    assert only_message(check(other)).startswith("the data is another, sha256 ffffffffffff…")


def test_other_settings_cannot_be_judged(check, tmp_path):
    longer = tiny_suite(tmp_path, "training.epochs=2")
    verdict = check(cells(longer))
    assert (verdict.exit_code, verdict.compared) == (3, [])
    assert "training.epochs 2, not 1" in messages(verdict)[0]


def test_a_reference_of_another_results_version_cannot_be_judged_by(reference, records, suite):
    old = reference.model_copy(update={"results_version": 1})
    assert "of results version 1" in only_message(judge(records, old, suite=suite))


def test_records_of_another_results_version_do_not_count(check, records):
    verdict = check(changed(records, results_version=1))
    assert (verdict.exit_code, verdict.compared) == (3, [])
    assert messages(verdict)[0] == "no cell of gim with results of this version: run the suite"


@pytest.mark.parametrize(("fact", "value"), [("git_commit", "another"), ("threads", 64)])
def test_seeds_of_different_code_or_machines_are_not_averaged(fact, value, check, records):
    mixed = [*changed(records[:1], **{fact: value}), *records[1:]]
    assert f"mixed {fact}" in only_message(check(mixed))


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ({"git_commit": "b" * 40, "git_dirty": False}, "b" * 40),
        ({**COMMITTED, "git_dirty": True}, f"{COMMITTED['git_commit']}-dirty"),
    ],
)
def test_cells_of_another_commit_or_an_edit_ago_cannot_be_judged(
    code, named, check, records, monkeypatch
):
    monkeypatch.setattr(provenance, "git_state", lambda: code)
    message = only_message(check(records))
    assert message.startswith(f"cells are of commit {COMMITTED['git_commit']}, the code is {named}")


def test_outside_of_a_checkout_no_commit_is_asked_for(check, records, monkeypatch):
    monkeypatch.setattr(provenance, "git_state", lambda: {"git_commit": None, "git_dirty": None})
    assert check(records).exit_code == 0


def test_uncommitted_changes_on_both_sides_are_noted(check, records, monkeypatch):
    dirty = {**COMMITTED, "git_dirty": True}
    monkeypatch.setattr(provenance, "git_state", lambda: dirty)
    verdict = check(changed(records, **dirty))
    assert verdict.exit_code == 0
    (note,) = other_notes(verdict)
    assert note.startswith("the cells and the code have uncommitted changes")


def test_a_metric_that_went_missing_is_named(check, records):
    less = {name: x for name, x in records[0].metrics.items() if name != "loss/module_1"}
    verdict = check([replace(records[0], metrics=less), *records[1:]])
    assert only_message(verdict).startswith("1 of 3 cells do not have the metric")
    assert verdict.findings[0].what == "loss/module_1"


def test_a_metric_that_the_reference_lacks_is_noted(check, records):
    more = [replace(r, metrics={**r.metrics, "loss/module_0": 2.5}) for r in records]
    assert check(more).exit_code == 0
    assert other_notes(check(more)) == [
        f"{method} loss/module_0: not in the reference, not compared"
        for method in ("gim", "random_init")
    ]


@pytest.mark.parametrize("costs_alone", [True, False])
def test_a_check_that_compared_nothing_is_no_pass(costs_alone, reference, suite, records):
    """For one, a reference that holds memory and speed alone, on another machine."""
    kept = {
        method: of_method.model_copy(
            update={"metrics": {MEMORY: of_method.metrics[MEMORY]} if costs_alone else {}}
        )
        for method, of_method in reference.methods.items()
    }
    bare = reference.model_copy(update={"methods": kept})
    elsewhere = changed(records, threads=99)
    assert only_message(judge(elsewhere, bare, suite=suite)).startswith("nothing was compared")


def test_a_training_whose_gradients_were_not_measured_cannot_be_judged(check, records):
    """A method that trains nothing has no gradients to measure."""
    trained = [replace(r, metrics={**r.metrics, "train/steps": 2.0}) for r in records]
    first, *others = [audited(r, {"module_1": {"module_1": 0.3}}) for r in trained[:3]]
    assert check([first, *others, *trained[3:]]).exit_code == 0
    verdict = check([audited(first, {}), *others, *trained[3:]])
    assert only_message(verdict) == "not measured in seed 0: run again with --rerun"
    assert (verdict.findings[0].method, len(verdict.compared)) == ("gim", 12)


def test_a_method_that_the_reference_does_not_know_is_named(suite, reference, records):
    larger = suite.model_copy(update={"methods": ("gim", "random_init", "cpc")})
    verdict = judge([*records, *cells(suite, methods=["cpc"])], reference, suite=larger)
    assert (verdict.exit_code, verdict.findings[0].method) == (3, "cpc")
    assert {c.method for c in verdict.compared} == {"gim", "random_init"}


def test_records_of_methods_that_nobody_asked_for_are_left_alone(suite, check, records):
    assert check([*records, cell(suite, "cpc", seed=9)]).exit_code == 0


def test_a_worse_metric_wins_over_a_method_that_cannot_be_judged(check, records, suite):
    larger = suite.model_copy(update={"methods": ("gim", "random_init", "cpc")})
    slower = moved(records, "accuracy", factor=0.8)
    reference = reference_of(records, suite=suite)
    verdict = judge([*slower, *cells(suite, methods=["cpc"])], reference, suite=larger)
    assert {f.outcome for f in verdict.findings} == {Outcome.UNJUDGED}
    assert verdict.exit_code == 1


# -- other machines --------------------------------------------------------------------------------


def test_with_other_threads_memory_and_speed_are_not_compared(check, records):
    verdict = check(changed(moved(records, MEMORY, factor=3), threads=64))
    assert verdict.exit_code == 0
    assert {c.metric for c in verdict.compared} == {
        "accuracy", "accuracy/module_1", "loss", "loss/module_1",
    }  # fmt: skip
    assert verdict.notes[0].startswith("memory and speed are not compared")


def test_beside_other_workers_memory_and_speed_are_not_compared(check, records):
    verdict = check(changed(moved(records, MEMORY, factor=3), workers=2))
    assert verdict.exit_code == 0
    assert MEMORY not in {c.metric for c in verdict.compared}
    assert verdict.notes[0].startswith("memory and speed are not compared")
    assert "2 workers" in verdict.notes[0]


def test_memory_and_speed_of_another_processor_are_not_compared(check, records):
    verdict = check(changed(moved(records, MEMORY, factor=3), cpu="another"))
    assert (verdict.exit_code, len(verdict.compared)) == (0, 8)
    assert "these cells of another" in verdict.notes[0]


def test_the_processor_beside_a_gpu_may_be_another(suite, records):
    on_gpus = [on_gpu(record) for record in records]
    verdict = judge(
        changed(on_gpus, cpu="another"), reference_of(on_gpus, suite=suite), suite=suite
    )
    assert (len(verdict.compared), other_notes(verdict)) == (12, [])


def test_memory_and_speed_of_a_resumed_cell_do_not_count(check, records):
    first, *others = moved(records, MEMORY, factor=1.3)
    resumed = changed([first], resumed_at_step=[50])
    slow = replace(resumed[0], metrics={**first.metrics, MEMORY: 1e12})
    verdict = check([slow, *others])
    assert other_notes(verdict) == [
        "memory and speed are compared without resumed cells: gim seed 0"
    ]
    assert worse(verdict) == {("gim", MEMORY)}
    now = {(c.method, c.metric): c.found.now.n for c in verdict.compared}
    assert (now["gim", MEMORY], now["gim", "loss"], now["random_init", MEMORY]) == (2, 3, 3)


def test_where_all_cells_were_resumed_memory_and_speed_cannot_be_judged(check, records):
    verdict = check(changed(records, resumed_at_step=[50]))
    assert verdict.exit_code == 3
    assert {f.method for f in verdict.findings} == {"gim", "random_init"}
    assert messages(verdict)[0].startswith("too few seeds that were not resumed: 0 here and 3 in")
    assert verdict.findings[0].what == f"{MEMORY}, train/step_per_calibration"
    assert len(verdict.compared) == 8
