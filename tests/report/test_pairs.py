"""Differences on the same test examples, read as Markdown."""

import pytest

from gim_bench.records.record import Status
from tests.report.cells import answered, cell, report_on
from tests.report.test_tables import SPOKEN, markdown, table

TITLE = "Differences on the same test examples"
HEADING = ["method", "metric", "difference", "95% CI", "p", "detects", "seeds"]


def cells(method, *accuracies):
    """One for each seed, from 0 on."""
    return [cell(method, seed=s, metrics={"accuracy": x}) for s, x in enumerate(accuracies)]


def test_every_method_stands_against_gim_by_the_means_over_seeds():
    """cpc: 68 less 70, variances 73/3 and 100/3, so √57.67 = 7.594 with 3.91 degrees of freedom.

    t of -0.2634: p = 0.806, the larger of two, so uncorrected; t(0.975, 3.91) = 2.8022.
    """
    records = [*cells("cpc", 59.0, 69.0, 76.0), *cells("gim", 60.0, 70.0, 80.0)]
    page = markdown([*records, *cells("random_init", 10.0, 20.0, 30.0)])
    assert f"## {TITLE}: each method less gim, in points of %\n" in page
    heading, cpc, untrained = table(page, TITLE)
    assert heading == HEADING
    assert cpc[:5] == ["cpc", "linear probe", "-2.0", "± 21.3", "0.806"]
    assert untrained[:3] == ["random_init", "linear probe", "-50.0"]
    assert "corrected by Holm for the 2 comparisons of the table" in page


def test_interval_and_detectable_difference_are_corrected_for_the_other_comparisons():
    """The first of two steps has a level of 0.025: t(0.9875, 4) = 3.4954 times √(200/3) = 8.165.

    A noncentral t of 4 degrees exceeds 3.4954 in 80 % of cases where it is centred at 4.584.
    """
    records = [*cells("cpc", 59.0, 69.0, 76.0), *cells("gim", 60.0, 70.0, 80.0)]
    page = markdown([*records, *cells("random_init", 10.0, 20.0, 30.0)])
    untrained = table(page, TITLE)[2]
    assert untrained[3] == "± 28.5"
    assert float(untrained[5]) == pytest.approx(37.43, abs=0.05)


def test_without_gim_the_first_method_is_the_reference():
    page = markdown([*cells("random_init", 50.0, 51.0), *cells("cpc", 59.0, 61.0)])
    assert "each method less cpc, in points" in page
    assert table(page, TITLE)[1][:3] == ["random_init", "linear probe", "-9.5"]


@pytest.mark.parametrize("accuracies", [(61.0,), (61.0, 62.0)])
def test_rows_with_seeds_that_failed_are_named_below_the_table(accuracies):
    lost = [cell("cpc", seed=s, metrics={}, status=Status.FAILED, error="x") for s in (3, 5)]
    page = markdown([*cells("gim", 60.0, 61.0), *cells("cpc", *accuracies), *lost])
    below = page.partition(f"## {TITLE}")[2].partition("\n## ")[0]
    assert "\n- cpc: seeds 3, 5 failed and are in no mean.\n" in below


@pytest.mark.parametrize(
    ("ours", "theirs", "seeds"), [([61.0], [60.0], "1"), ([61.0], [59.0, 61.0], "1; 2")]
)
def test_one_seed_says_so_in_place_of_an_interval(ours, theirs, seeds):
    page = markdown([*cells("gim", *theirs), *cells("cpc", *ours)])
    expected = ["cpc", "linear probe", "+1.0", "one seed", "–", "–", seeds]
    assert table(page, TITLE)[1:] == [expected]
    assert "corrected by Holm for the" not in page


def test_methods_need_not_have_the_same_seeds():
    records = [cell("cpc", seed=s, metrics={"accuracy": 61.0 + s % 2}) for s in (7, 8, 9)]
    page = markdown([*records, *cells("gim", 60.0, 62.0)])
    row = table(page, TITLE)[1]
    assert (row[2], row[6]) == ("+0.7", "3; 2")
    assert row[4] != "–"


def test_methods_without_any_spread_are_told_apart_and_equal_ones_are_not():
    page = markdown(
        [*cells("gim", 60.0, 60.0), *cells("cpc", 61.0, 61.0), *cells("random_init", 60.0, 60.0)]
    )
    assert [row[3:6] for row in table(page, TITLE)[1:]] == [
        ["± 0.0", "≤0.001", "0.0"],
        ["± 0.0", "1.000", "0.0"],
    ]


def report_with(answers):
    """The report on methods whose right answers with each seed are given, {method: [marks]}."""
    records = [
        cell(method, seed=seed, metrics={"accuracy": 100 * marks.count("1") / len(marks)})
        for method, of_method in answers.items()
        for seed, marks in enumerate(of_method)
    ]
    return report_on(
        records,
        predictions=lambda record: answered({"accuracy": answers[record.method][record.seed]}),
    )


def test_with_predictions_the_interval_covers_the_choice_of_test_examples():
    """No spread over seeds; items' differences -1, -1, 0, 0: std √(1/3), t(0.975, 3) = 3.1824."""
    page = report_with({"gim": ["1111"] * 2, "cpc": ["0011"] * 2})
    assert table(page, TITLE)[1][:4] == ["cpc", "linear probe", "-50.0", "± 91.9"]
    assert "The interval covers seeds alone" not in page


def test_methods_without_predictions_are_named():
    page = markdown([*cells("gim", 60.0, 61.0), *cells("cpc", 61.0, 63.0)])
    assert "The interval covers seeds alone" in page
    assert "on the same test labels: cpc.\n" in page


def test_an_interval_that_covers_less_than_the_others_of_its_column_says_so():
    records = [*cells("gim", 75.0, 75.0), *cells("cpc", 61.0, 63.0)]
    page = report_on(
        records,
        predictions=lambda record: (
            answered({"accuracy": "1110"}) if record.method == "gim" else None
        ),
    )
    heading, gim, cpc = table(page, "Accuracy: %")
    assert heading[3] == "95% CI"
    assert (gim[3], cpc[3]) == ("± 79.6", "± 12.7 (seeds)")


MODULES = {"accuracy": 30.0, "accuracy/module_1": 45.0, "accuracy/module_2": 30.0}
CURVES = {"module_1": [[0.1, 50.0], [0.01, 20.0]], "module_2": [[0.1, 40.0], [0.01, 41.0]]}


def test_an_untrained_encoder_is_compared_at_its_best_module_too():
    untrained = [
        cell("random_init", seed=seed, metrics=MODULES, probe_curves=CURVES) for seed in (0, 1)
    ]
    trained = [cell("cpc", seed=seed, metrics=MODULES, probe_curves=CURVES) for seed in (0, 1)]
    rows = table(markdown([*cells("gim", 60.0, 60.0), *untrained, *trained]), TITLE)[1:]
    assert [(row[0], row[2]) for row in rows] == [
        ("cpc", "-30.0"),
        ("random_init", "-30.0"),
        ("random_init, best module", "-15.0"),
    ]


def test_every_target_has_its_own_differences():
    other = {name: value - 1.5 for name, value in SPOKEN.items()}
    page = markdown([cell("gim", metrics=SPOKEN), cell("cpc", metrics=other)])
    assert [row[:4] for row in table(page, TITLE)[1:]] == [
        ["cpc", "phone, linear probe", "-1.5", "one seed"],
        ["cpc", "speaker, linear probe", "-1.5", "one seed"],
    ]


def test_a_metric_that_only_one_of_the_two_has_is_not_compared():
    """cpc was not probed for speakers."""
    page = markdown([cell("gim", metrics=SPOKEN), cell("cpc", metrics={"phone_accuracy": 60.0})])
    assert [row[1] for row in table(page, TITLE)] == ["metric", "phone, linear probe"]


def test_one_method_alone_is_not_compared():
    assert TITLE not in markdown(cells("gim", 60.0, 61.0))
    assert TITLE not in markdown([])


def test_both_targets_of_long_names_fit_100_columns():
    records = [
        cell(method, seed=seed, metrics=SPOKEN)
        for method in ("gim", "greedy_supervised", "gim_in_pieces_module_1")
        for seed in (0, 1)
    ]
    lines = markdown(records).partition(f"## {TITLE}")[2].partition("##")[0].splitlines()
    assert max(len(line) for line in lines if line.startswith("|")) <= 100
