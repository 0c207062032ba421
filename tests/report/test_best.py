"""The best module of each method: chosen on validation, and never on the test examples."""

from dataclasses import replace

import pytest

from gim_bench.report.columns import SAW_VALIDATION
from tests.report.cells import answered, cell, report_on
from tests.report.test_tables import SPOKEN, markdown, table

TITLE = "Best module, chosen on validation"
METRICS = {"accuracy": 75.0, "accuracy/module_1": 50.0, "accuracy/module_2": 75.0}


def curves(first, second):
    return {"module_1": [[0.1, first], [0.01, 10.0]], "module_2": [[0.1, 5.0], [0.01, second]]}


def test_validation_chooses_the_module_even_where_the_test_examples_prefer_another():
    page = markdown([cell(metrics=METRICS, probe_curves=curves(60.0, 59.0))])
    assert table(page, TITLE) == [
        ["method", "seeds", "module", "linear probe"],
        ["gim", "1", "1", "50.0"],
    ]
    assert table(page, "Accuracy: %")[1][2] == "75.0"


def test_each_seed_has_a_choice_of_its_own():
    records = [
        cell(seed=seed, metrics=METRICS, probe_curves=curves(60.0, best))
        for seed, best in enumerate((59.0, 61.0))
    ]
    assert table(markdown(records), TITLE)[1][:4] == ["gim", "2", "1, 2", "62.5 ± 17.7"]


def test_of_equal_modules_the_lowest_is_chosen():
    page = markdown([cell(metrics=METRICS, probe_curves=curves(60.0, 60.0))])
    assert table(page, TITLE)[1][2] == "1"


def test_a_method_of_a_single_module_stands_with_that_one():
    records = [
        cell("gim", metrics=METRICS, probe_curves=curves(60.0, 59.0)),
        cell("cpc", metrics={"accuracy": 40.0}, probe_curves={"module_1": [[0.1, 39.0]]}),
    ]
    assert table(markdown(records), TITLE)[2] == ["cpc", "1", "–", "40.0"]


def test_without_a_choice_there_is_no_table():
    single = cell(metrics={"accuracy": 40.0}, probe_curves={"module_1": [[0.1, 39.0]]})
    assert TITLE not in markdown([single])
    assert TITLE not in markdown([cell(metrics=METRICS)])


def test_every_target_has_its_own_best_module():
    found = {
        f"{target}/module_{k}": [[0.1, accuracy]]
        for target, both in {"phone": (50.0, 40.0), "speaker": (50.0, 60.0)}.items()
        for k, accuracy in enumerate(both, start=1)
    }
    heading, row = table(markdown([cell(metrics=SPOKEN, probe_curves=found)]), TITLE)
    assert heading == [
        "method", "seeds", "module", "phone, linear probe", "module", "speaker, linear probe",
    ]  # fmt: skip
    assert row[2:] == ["1", "40.0", "2", "98.1"]


@pytest.mark.parametrize("probe", [None, {"unseen_validation": False}])
def test_labels_that_an_encoder_was_trained_on_are_named_where_they_choose(probe):
    """Records from before selection on unseen examples have no such setting."""
    seen = cell("supervised", metrics=METRICS, probe_curves=curves(60.0, 59.0))
    other = cell("gim", metrics=METRICS, probe_curves=curves(60.0, 59.0))
    unseen = replace(seen, config=seen.config | {"probe": {"unseen_validation": True}})
    line = f"- supervised: {SAW_VALIDATION}"
    page = markdown([other, replace(seen, config=seen.config | {"probe": probe})])
    assert page.count(line) == 2
    assert f"{line} a module that knows them by heart.\n" in page
    assert f"{line} a learning rate of the probe that suits those examples.\n" in page
    assert "trained on the labels" not in markdown([other, unseen])


def test_labels_that_the_encoder_below_was_trained_on_are_named_where_they_choose():
    on_top = cell("gim", metrics=METRICS, probe_curves=curves(60.0, 59.0))
    method = on_top.config["method"] | {"base_uses_labels": True}
    page = markdown([replace(on_top, config=on_top.config | {"method": method})])
    assert page.count(f"- gim: {SAW_VALIDATION}") == 2


def test_the_interval_is_that_of_the_chosen_modules_answers():
    """3 of 4 right by module 1: √(0.1875 / 3) · t(0.975, 3) = 79.6 %; module 2 is always right."""
    metrics = {"accuracy": 100.0, "accuracy/module_1": 75.0, "accuracy/module_2": 100.0}
    right = {"accuracy": "1111", "accuracy/module_1": "0111", "accuracy/module_2": "1111"}
    page = report_on(
        [cell(metrics=metrics, probe_curves=curves(60.0, 59.0))],
        predictions=lambda _: answered(right),
    )
    assert table(page, TITLE) == [
        ["method", "seeds", "module", "linear probe", "95% CI, examples"],
        ["gim", "1", "1", "75.0", "± 79.6"],
    ]
