"""The counts of each method, and whether its declarations account for the differences."""

import pytest

from gim_bench.report.comparison import count_differences, undeclared
from tests.report.cells import cell, config, provenance
from tests.report.test_tables import markdown, table

COUNTED = {
    "train/labels": 0.0,
    "train/samples": 38_400.0,
    "train/steps": 1200.0,
    "train/parameters": 2_000_000.0,
    "train/operations": 2.5e12,
}


def counted(method, *, seed=0, declares=None, **changes):
    """A cell of that method whose counts are COUNTED but for `changes`."""
    settings = config(method)
    settings["method"] |= declares or {}
    metrics = COUNTED | {f"train/{name}": value for name, value in changes.items()}
    return cell(method, seed=seed, metrics=metrics, config=settings)


def test_one_row_a_method_says_all_that_it_was_given():
    page = markdown(
        [
            counted("gim"),
            counted("supervised", labels=300.0, samples=6400.0, steps=200.0, operations=4e11),
            cell("random_init", metrics={}),
        ]
    )
    assert table(page, "What each method was given") == [
        ["method", "trained on", "labels", "examples seen", "steps", "parameters", "TFLOP"],
        ["gim", "unlabelled", "0", "38,400", "1,200", "2,000,000", "2.50"],
        ["supervised", "labelled only", "300", "6,400", "200", "2,000,000", "0.40"],
        ["random_init", "nothing", "–", "–", "–", "–", "–"],
    ]
    assert "All differences here follow from what methods and rows declare." in page


def test_a_cost_that_no_record_counted_has_no_column():
    page = markdown([cell("gim", metrics={"train/steps": 3.0, "train/seconds": 1.0})])
    heading, _ = table(page, "What each method was given")
    assert heading == ["method", "trained on", "steps"]
    assert "All differences here follow" not in page


def test_no_count_stands_in_two_tables():
    page = markdown([counted("gim", seconds=1.0), counted("cpc", seconds=1.0)])
    for heading in ("trained on", "steps", "examples seen", "parameters", "TFLOP"):
        assert page.count(f" {heading} |") == 1


def test_methods_with_equal_counts_do_not_differ():
    assert count_differences([counted("gim"), counted("cpc")]) == []


DECLARED = {
    "another split": (counted("gim"), counted("supervised", labels=300.0, steps=60.0, samples=1.0)),
    "nothing is trained": (counted("gim"), counted("random_init", steps=0.0, parameters=0.0)),
    "heads of end to end training": (
        counted("gim"),
        counted("cpc", parameters=1.0, operations=1.0),
    ),
    "a method's own option": (
        counted("cpc"),
        counted("gim", declares={"options": {"layers": 4}}, parameters=1.0),
    ),
    "an ablation": (
        counted("gim"),
        counted("gim", declares={"ablation": "no GRU"}, operations=1.0),
    ),
    "modules in turn": (
        counted("gim"),
        counted("gim", declares={"schedule": "sequential"}, steps=3600.0, operations=3e12),
    ),
    "modules in turn, fewer of them": (
        counted("gim", declares={"schedule": "sequential"}, steps=7200.0),
        counted(
            "gim",
            declares={"schedule": "sequential", "ablation": "no GRU"},
            steps=6000.0,
            operations=1.0,
        ),
    ),
    "layers computed again": (
        counted("gim"),
        counted("gim", declares={"recompute": "layers"}, operations=3e12),
    ),
}


@pytest.mark.parametrize(("one", "other"), DECLARED.values(), ids=DECLARED)
def test_counts_that_follow_from_a_declaration_are_declared(one, other):
    """A row has a name of its own, as in a suite where two rows are one method."""
    records = [one, cell(f"{other.method}_b", metrics=other.metrics, config=other.config)]
    found = count_differences(records)
    assert found
    assert all(difference.declared for difference in found)


UNDECLARED = {
    "steps, end to end": (counted("gim"), counted("cpc", steps=1300.0), "train/steps"),
    "examples, end to end": (counted("gim"), counted("cpc", samples=1.0), "train/samples"),
    "labels on the same split": (counted("gim"), counted("cpc", labels=9.0), "train/labels"),
    "an objective more on the same steps": (
        counted("supervised"),
        counted("greedy_supervised", steps=1300.0),
        "train/steps",
    ),
    "parameters of one and the same": (
        counted("gim"),
        counted("gim", seed=1, parameters=1.0),
        "train/parameters",
    ),
    "arithmetic of one and the same": (
        counted("gim"),
        counted("gim", seed=1, operations=1.0),
        "train/operations",
    ),
    "a schedule that saves no steps": (
        counted("gim", declares={"schedule": "joint"}),
        counted("cpc", declares={"schedule": "interleaved"}, steps=1.0),
        "train/steps",
    ),
}


@pytest.mark.parametrize(("one", "other", "name"), UNDECLARED.values(), ids=UNDECLARED)
def test_counts_that_nothing_accounts_for_are_undeclared(one, other, name):
    (found,) = (d for d in count_differences([one, other]) if not d.declared)
    assert found.name == name


def test_a_third_method_that_declares_more_does_not_cover_for_two():
    """supervised may take other steps; that does not excuse cpc's."""
    records = [counted("gim"), counted("supervised", steps=60.0), counted("cpc", steps=1300.0)]
    (found,) = count_differences(records)
    assert not found.declared
    assert found.described() == "1,200: gim; 60: supervised; 1,300: cpc"


def test_an_undeclared_count_is_named_at_the_top_and_below_the_table():
    page = markdown([counted("gim"), counted("cpc", steps=1300.0)])
    assert "- UNDECLARED differences, see below: train/steps\n" in page
    assert "- UNDECLARED train/steps: 1,200: gim; 1,300: cpc\n" in page
    assert "All differences here follow" not in page


def test_undeclared_lists_settings_counts_and_data():
    one, other = counted("gim"), counted("cpc", steps=1300.0)
    other = cell(
        "cpc",
        metrics=other.metrics,
        config=config("cpc", epochs=7),
        provenance=provenance(data_sha256="f" * 64, git_commit="other"),
    )
    assert undeclared([one, other]) == [
        "training.epochs: 6: gim; 7: cpc",
        "train/steps: 1,200: gim; 1,300: cpc",
        f"data_sha256: {'0123456789abcdef' * 4}: gim; {'f' * 64}: cpc",
    ]


def test_a_cost_that_a_record_did_not_count_is_no_difference():
    """A record of an earlier version lacks what is counted since."""
    assert undeclared([counted("gim"), cell("gim", seed=1, metrics={})]) == []


def test_declared_differences_are_not_in_the_list():
    assert undeclared([counted("gim"), counted("supervised", labels=300.0, steps=9.0)]) == []
