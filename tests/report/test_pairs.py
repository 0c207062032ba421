"""Differences on the same seeds, read as Markdown."""

from tests.report.cells import cell
from tests.report.test_tables import SPOKEN, markdown, table

TITLE = "Differences on the same seeds"


def cells(method, *accuracies):
    """One for each seed, from 0 on."""
    return [cell(method, seed=s, metrics={"accuracy": x}) for s, x in enumerate(accuracies)]


def test_every_method_stands_against_gim_seed_by_seed():
    """cpc: -1, -1, -4, so mean -2 and std √3; t(0.975, 2) = 4.3027, √3·4.3027/√3 = 4.3."""
    records = [*cells("cpc", 59.0, 69.0, 76.0), *cells("gim", 60.0, 70.0, 80.0)]
    page = markdown([*records, *cells("random_init", 50.0, 60.0, 70.0)])
    assert f"## {TITLE}: each method less gim, in points of %\n" in page
    assert table(page, TITLE) == [
        ["method", "metric", "difference", "95% CI", "seeds"],
        ["cpc", "linear probe", "-2.0", "± 4.3", "3"],
        ["random_init", "linear probe", "-10.0", "± 0.0", "3"],
    ]
    assert "95% CI is the half width of the interval of their mean" in page


def test_without_gim_the_first_method_is_the_reference():
    page = markdown([*cells("random_init", 50.0), *cells("cpc", 59.0)])
    assert "each method less cpc, in points" in page
    assert table(page, TITLE)[1:] == [["random_init", "linear probe", "-9.0", "one seed", "1"]]


def test_one_common_seed_says_so_in_place_of_an_interval():
    page = markdown([*cells("gim", 60.0), *cells("cpc", 61.0)])
    assert table(page, TITLE)[1:] == [["cpc", "linear probe", "+1.0", "one seed", "1"]]
    assert "taken seed by seed" not in page


def test_a_method_without_a_common_seed_has_no_difference():
    records = [cell("supervised", seed=7, metrics={"accuracy": 1.0})]
    records += [*cells("gim", 60.0), *cells("cpc", 61.0)]
    assert table(markdown(records), TITLE)[2] == ["supervised", "linear probe", "–", "–", "0"]


def test_seeds_that_were_left_out_are_named():
    page = markdown([*cells("gim", 60.0, 61.0, 62.0), *cells("cpc", 61.0)])
    assert "- cpc: left out, as only one of the two has them: seeds 1, 2\n" in page


def test_every_target_has_its_own_differences():
    other = {name: value - 1.5 for name, value in SPOKEN.items()}
    page = markdown([cell("gim", metrics=SPOKEN), cell("cpc", metrics=other)])
    assert table(page, TITLE)[1:] == [
        ["cpc", "phone, linear probe", "-1.5", "one seed", "1"],
        ["cpc", "speaker, linear probe", "-1.5", "one seed", "1"],
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
