"""Were the settings identical? The verdict, the kinds of difference, and who declares them."""

from dataclasses import replace

import pytest
import torch

from gim_bench import registry
from gim_bench.cells.resolve import configs
from gim_bench.report.comparison import differences, undeclared
from gim_bench.settings.suites import load_suite
from tests.report.cells import Suite, config, provenance, report_on
from tests.report.cells import cell as any_cell
from tests.report.test_tables import table

TITLE = "Were the settings identical?"
COUNTED = {"train/labels": 0.0, "train/samples": 38_400.0, "train/steps": 1200.0}
YES = (
    "Yes: all 8 settings of data, encoder, training and probe are the same. The rows differ only "
    "in their methods."
)


def nested(dotted, value):
    """{"training": {"epochs": 7}} of "training.epochs" and 7."""
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


def laid_over(below, above):
    return below | {
        name: laid_over(below.get(name) or {}, value) if isinstance(value, dict) else value
        for name, value in above.items()
    }


def cell(method="gim", *, seed=0, counts=None, **settings):
    """A cell with those counts, and with settings by dotted name ("__" for the dot)."""
    resolved = config(method) | {"probe": {"steps": 200}, "info_nce": {"negatives": 16}}
    for name, value in settings.items():
        resolved = laid_over(resolved, nested(name.replace("__", "."), value))
    return any_cell(method, seed=seed, metrics=COUNTED | (counts or {}), config=resolved)


def verdict(*records, rows=None):
    """The line below the heading."""
    page = report_on(records, suite=Suite(method=rows or {}))
    assert f"## {TITLE}\n" in page
    return page.partition(f"## {TITLE}\n")[2].strip().partition("\n")[0]


def lines(*records, rows=None):
    """The table below the verdict, without its heading."""
    return table(report_on(records, suite=Suite(method=rows or {})), TITLE)[1:]


def of_kind(kind, *records, rows=None):
    """The names and declarers of the differences of one kind."""
    return {(line[1], line[3]) for line in lines(*records, rows=rows) if line[0] == kind}


# -- yes -------------------------------------------------------------------------------------------


def test_rows_that_differ_in_their_methods_alone_had_identical_settings():
    records = [cell("gim"), cell("cpc", method__options={"depth": 4}, method__ablation="no GRU")]
    assert verdict(*records) == YES
    assert lines(*records) == [
        ["method", "method.gradient_flow", "isolated: gim; end_to_end: cpc", "the method"],
        ["method", "method.ablation", "null: gim; no GRU: cpc", "the method"],
        ["method", "method.options.depth", "4: cpc", "the method"],
    ]


def test_a_row_that_trains_nothing_lacks_neither_budget_nor_labels():
    untrained = replace(cell("random_init"), metrics={})
    counted_as_none = cell("random_init", counts=dict.fromkeys(COUNTED, 0.0))
    note = " Without optimiser steps, and so without a budget: random_init."
    assert verdict(cell("gim"), untrained) == YES + note
    assert verdict(cell("gim"), counted_as_none) == YES + note


def test_twice_the_operations_of_a_method_are_no_difference_in_settings_but_never_yes():
    counts = {"train/parameters": 2e6, "train/operations": 2e12}
    more = {name: 2 * value for name, value in counts.items()}
    records = [cell("gim", counts=counts), cell("cpc", counts=more)]
    assert verdict(*records) == (
        "Not in everything: cpc computes 2 times as many operations as gim."
    )
    assert "train/operations" not in {line[1] for line in lines(*records)}


def test_the_settings_of_a_methods_own_objective_are_the_methods():
    other = cell("other", method__objective="theirs", objective__off_diagonal=0.005)
    records = [cell("gim", objective=None), other]
    assert verdict(*records) == YES
    assert ("objective.off_diagonal", "the method") in of_kind("method", *records)


def test_settings_of_an_objective_that_a_row_does_not_have_are_no_difference():
    rows = {"gim": nested("objective.negatives", 2)}
    records = [cell("gim", info_nce__negatives=2), cell("random_init")]
    assert verdict(*records, rows=rows) == YES
    assert ("info_nce.negatives", "its row") in of_kind("method", *records, rows=rows)


def test_a_variant_under_a_name_of_its_own_says_whose_variant_the_row_is():
    rows = {"gim_b": {"like": "gim"}}
    records = [cell("gim", method__like="gim"), cell("gim_b", method__like="gim")]
    assert lines(*records, rows=rows) == [
        ["method", "method.like", "gim: gim_b", "its row"],
    ]


def test_one_row_alone_is_not_compared():
    assert TITLE not in report_on([cell("gim"), cell("gim", seed=1)])


def test_the_unit_of_a_loss_decides_no_number():
    """The record of a method without an objective lacked the unit, and has none since."""
    unit = {"method__loss_unit": None}
    assert differences([cell("random_init"), cell("random_init", seed=1, **unit)]) == []


# -- every kind ------------------------------------------------------------------------------------

SGD = {"kind": "sgd", "momentum": 0.9}
SETTINGS = {
    "training.optimiser": (SGD, "optimiser", "training.optimiser.momentum"),
    "training.learning_rate": (0.5, "rate", "training.learning_rate"),
    "training.rate_schedule": ({"kind": "cosine"}, "rate", "training.rate_schedule.kind"),
    "encoder.width": (16, "encoder", "encoder.width"),
    "augmentation.flip": (False, "augmentation", "augmentation.flip"),
    "training.epochs": (7, "budget", "training.epochs"),
    "training.batch_size": (64, "budget", "training.batch_size"),
    "training.budget": ("steps", "budget", "training.budget"),
    "training.held_out": (0.25, "budget", "training.held_out"),
    "probe.steps": (10, "probe", "probe.steps"),
    "training.precision": ("bf16", "precision", "training.precision"),
    "dataset.size": (30, "data", "dataset.size"),
    "info_nce.negatives": (2, "settings of one objective", "info_nce.negatives"),
    "capacity": ({"up_to": 8}, "other settings", "capacity.up_to"),
    "training.compile": (True, "other settings", "training.compile"),
}


@pytest.mark.parametrize(("name", "expected"), SETTINGS.items(), ids=SETTINGS)
def test_a_setting_that_nobody_declares_is_undeclared_and_never_yes(name, expected):
    value, kind, setting = expected
    records = [cell("gim"), cell("cpc", **{name.replace(".", "__"): value})]
    found = verdict(*records)
    assert found.startswith(f"Not in everything: the rows differ in {kind}. UNDECLARED by")
    assert setting in found
    assert (setting, "UNDECLARED") in of_kind(kind, *records)
    assert setting in report_on(records).partition("UNDECLARED differences, see below: ")[2]


@pytest.mark.parametrize(("name", "expected"), SETTINGS.items(), ids=SETTINGS)
def test_a_setting_that_the_row_declares_is_declared_and_never_yes(name, expected):
    """InfoNCE's settings stand in a row's table of its objective, whatever the objective."""
    value, kind, setting = expected
    records = [cell("gim"), cell("cpc", **{name.replace(".", "__"): value})]
    rows = {"cpc": nested(name.replace("info_nce", "objective"), value)}
    assert verdict(*records, rows=rows) == f"Not in everything: the rows differ in {kind}."
    assert (setting, "its row") in of_kind(kind, *records, rows=rows)
    assert "UNDECLARED" not in report_on(records, suite=Suite(method=rows))


COUNTS = {
    "steps": ("supervised", {"train/steps": 60.0}, "budget"),
    "examples": ("supervised", {"train/samples": 60.0}, "budget"),
    "labels": ("supervised", {"train/labels": 300.0}, "labels"),
}


@pytest.mark.parametrize(("method", "counts", "kind"), COUNTS.values(), ids=COUNTS)
def test_steps_examples_and_labels_are_lines_of_their_own_although_the_method_declares_them(
    method, counts, kind
):
    records = [cell("gim"), cell(method, counts=counts)]
    (name,) = counts
    assert kind in verdict(*records)
    assert (name, "the method") in of_kind(kind, *records)


def test_the_budgets_of_the_paper_s_table_are_never_yes():
    """In STL-10, equal epochs are 234,300 steps on unlabelled images and 11,700 on labelled."""
    labelled = {"train/steps": 11_700.0, "train/samples": 1.5e6, "train/labels": 5000.0}
    records = [
        cell("gim", counts={"train/steps": 234_300.0, "train/samples": 3e7}),
        cell("supervised", counts=labelled),
    ]
    assert verdict(*records) == (
        "Not in everything: the rows differ in budget and labels. gim takes 20 times as many "
        "optimiser steps as supervised. gim sees 20 times as many examples as supervised."
    )
    assert ["budget", "train/steps", "234,300: gim; 11,700: supervised", "the method"] in lines(
        *records
    )


STL10 = {
    "gim": {"train/steps": 234_300.0, "train/samples": 29_990_400.0, "train/operations": 2.3e18},
    "cpc": {"train/steps": 234_300.0, "train/samples": 29_990_400.0, "train/operations": 2.5e18},
    "supervised": {"train/steps": 11_700.0, "train/samples": 1_497_600.0,
                   "train/operations": 1.1e17},
    "greedy_supervised": {"train/steps": 11_700.0, "train/samples": 1_497_600.0,
                          "train/operations": 1.2e17},
    "gim_iterative": {"train/steps": 702_900.0, "train/samples": 89_971_200.0,
                      "train/operations": 4.0e18},
    "supervised_equal_steps": {"train/steps": 234_300.0, "train/samples": 29_990_400.0,
                               "train/operations": 2.2e18},
    "greedy_supervised_equal_steps": {"train/steps": 234_300.0, "train/samples": 29_990_400.0,
                                      "train/operations": 2.4e18},
}  # fmt: skip


def of_suite(name, counts):
    """A record for each row of a shipped suite, as the suite resolves its settings.

    Rows that are not in `counts` take no steps.
    """
    suite = load_suite(name)
    resolved = configs(suite, methods=[], device=torch.device("cpu"))
    records = [
        any_cell(method, metrics=counts.get(method, {}), config=config.as_dict())
        for method, config in resolved.items()
    ]
    return records, suite


def test_the_verdict_on_the_suite_of_the_paper_s_table_names_rows_and_factors():
    records, suite = of_suite("stl10", STL10)
    page = report_on(records, suite=suite)
    found = page.partition(f"## {TITLE}\n")[2].strip().partition("\n")[0]
    labelled_only = "supervised, greedy_supervised"
    equal = "gim, cpc, supervised_equal_steps, greedy_supervised_equal_steps take 20 times"
    assert found.startswith("Not in everything: the rows differ in budget and labels. ")
    assert f". gim_iterative takes 60.1 times and {equal} as many optimiser steps as " in found
    assert f" as many optimiser steps as {labelled_only}. " in found
    assert f" as many examples as {labelled_only}. " in found
    assert f" as many operations as {labelled_only}." in found
    idle = [method for method in suite.methods if method not in STL10]
    assert "random_init" in idle
    assert found.endswith(f" Without optimiser steps, and so without a budget: {', '.join(idle)}.")
    assert "UNDECLARED" not in page


def test_rows_of_equal_steps_declare_their_budget():
    records, suite = of_suite("stl10", STL10)
    found = of_kind("budget", *records, rows=suite.method)
    assert ("training.budget", "its row") in found


@pytest.mark.parametrize("name", ["train/steps", "train/samples", "train/operations"])
def test_a_tenth_more_of_a_budget_is_tolerated_and_anything_beyond_is_named(name):
    """1.1 times exactly is no more than a tenth; one in 11,000 more is."""
    noun = {"train/steps": "optimiser steps", "train/samples": "examples"}.get(name, "operations")

    def found(more):
        return verdict(
            cell("supervised", counts={name: 10_000.0}), cell("gim", counts={name: more})
        )

    assert noun not in found(11_000.0)
    assert f"gim {VERBS[name]} 1.1 times as many {noun} as supervised" in found(11_001.0)
    assert not found(11_001.0).startswith("Yes")


VERBS = {"train/steps": "takes", "train/samples": "sees", "train/operations": "computes"}


def test_operations_within_a_tenth_are_yes_and_beyond_it_never():
    def found(operations):
        return verdict(
            cell("gim", counts={"train/operations": 1e12}),
            cell("cpc", counts={"train/operations": operations}),
        )

    assert found(1.1e12) == YES
    assert found(1.1e12 + 1) == (
        "Not in everything: cpc computes 1.1 times as many operations as gim."
    )


def test_a_budget_is_the_mean_over_the_seeds_of_a_row():
    """One seed of cpc has 1.15 times the operations of gim, and the other as many."""
    operations = [("gim", 0, 1.0), ("gim", 1, 1.0), ("cpc", 0, 1.15), ("cpc", 1, 1.0)]
    records = [cell(m, seed=s, counts={"train/operations": f * 1e12}) for m, s, f in operations]
    assert "times as many" not in verdict(*records)


def test_equal_steps_on_labels_differ_in_labels_alone():
    records = [cell("gim"), cell("supervised", counts={"train/labels": 300.0})]
    assert verdict(*records) == "Not in everything: the rows differ in labels."
    assert {name for name, _ in of_kind("labels", *records)} == {
        "method.trains_on", "method.uses_labels", "train/labels",
    }  # fmt: skip


def test_arithmetic_that_nothing_accounts_for_is_budget():
    counts = ({"train/operations": 2e12}, {"train/operations": 3e12})
    records = [cell("gim", seed=seed, counts=each) for seed, each in enumerate(counts)]
    assert verdict(*records, cell("cpc"), cell("cpc", seed=1)) == (
        "Not in everything: the rows differ in budget. "
        "UNDECLARED by method and row: train/operations."
    )


def test_a_second_view_is_augmentation_that_the_method_declares():
    seen_twice = {"train/samples": 76_800.0}
    records = [
        cell("gim", method__views=1),
        cell("cpc", method__views=2, method__gradient_flow="isolated", counts=seen_twice),
    ]
    assert verdict(*records) == (
        "Not in everything: the rows differ in augmentation and budget. cpc sees 2 times as many "
        "examples as gim."
    )
    assert of_kind("augmentation", *records) == {("method.views", "the method")}
    assert of_kind("budget", *records) == {("train/samples", "the method")}


def test_rows_with_other_seeds_differ_in_seeds():
    records = [*(cell("gim", seed=seed) for seed in range(4)), cell("cpc"), cell("cpc", seed=2)]
    assert verdict(*records) == "Not in everything: the rows differ in seeds."
    assert ["seeds", "seeds", "0 to 3: gim; 0, 2: cpc", "the run"] in lines(*records)


def test_the_value_of_most_rows_is_said_of_the_others():
    """Only where every row has a value: the others are rows that the line does not name."""
    untrained = [cell(name, method__objective="none") for name in ("a", "b", "c")]
    found = [line for line in lines(cell("gim"), *untrained) if line[1] == "method.objective"]
    assert [line[2] for line in found] == ["info_nce: gim; none: the others"]


def test_other_data_of_one_name_is_named_by_its_fingerprint():
    records = [cell("gim"), replace(cell("cpc"), provenance=provenance(data_sha256="x"))]
    assert verdict(*records) == (
        "Not in everything: the rows differ in data. UNDECLARED by method and row: data_sha256."
    )


def test_a_row_that_is_not_probed_differs_in_every_setting_of_the_probe():
    records = [cell("gim"), cell("cpc", probe=None)]
    assert ["probe", "probe.steps", "200: gim; absent: cpc", "UNDECLARED"] in lines(*records)
    assert "probe" not in {line[1] for line in lines(*records)}


def test_two_rows_of_one_objective_with_other_settings_of_the_objective_are_never_yes():
    def twin(name, weight):
        settings = {"method__objective": "theirs", "method__gradient_flow": "isolated"}
        return cell(name, objective={"weight": weight}, **settings)

    records = [twin("one", 0.1), twin("two", 0.2), cell("gim")]
    assert "UNDECLARED by method and row: objective.weight." in verdict(*records)
    rows = {"two": {"objective": {"weight": 0.2}}}
    assert verdict(*records, rows=rows) == (
        "Not in everything: the rows differ in settings of one objective."
    )


# -- together --------------------------------------------------------------------------------------


def test_the_verdict_names_the_kinds_once_and_the_table_has_undeclared_ones_first():
    rows = {"cpc": nested("training.optimiser.kind", "sgd")}
    records = [
        cell("gim", training__optimiser={"kind": "adam", "eps": 1e-8}, encoder__width=16),
        cell("cpc", training__optimiser=SGD, encoder__width=8),
        cell("supervised", training__optimiser={"kind": "adam", "eps": 1e-8}, encoder__width=8,
             counts={"train/labels": 300.0, "train/steps": 60.0}),
    ]  # fmt: skip
    assert verdict(*records, rows=rows) == (
        "Not in everything: the rows differ in optimiser, encoder, budget and labels. gim, cpc "
        "take 20 times as many optimiser steps as supervised. UNDECLARED by method and row: "
        "encoder.width."
    )
    kinds = [line[0] for line in lines(*records, rows=rows)]
    assert kinds[0] == "encoder"
    assert [*dict.fromkeys(kinds[1:])] == ["optimiser", "budget", "labels", "method"]


# -- who declares ----------------------------------------------------------------------------------


def test_a_row_with_a_table_of_another_kind_declares_all_settings_of_the_table():
    rows = {"cpc": nested("encoder.kind", "conv")}
    records = [cell("gim"), cell("cpc", encoder={"kind": "conv", "kernels": [3]})]
    assert of_kind("encoder", *records, rows=rows) == {
        ("encoder.kind", "its row"),
        ("encoder.kernels", "its row"),
    }


def test_a_row_that_declares_a_setting_does_not_cover_for_two_others():
    rows = {"cpc": nested("training.learning_rate", 0.5)}
    records = [
        cell("gim", training__learning_rate=0.1),
        cell("cpc", training__learning_rate=0.5),
        cell("supervised", training__learning_rate=0.2),
    ]
    assert of_kind("rate", *records, rows=rows) == {("training.learning_rate", "UNDECLARED")}


def test_a_row_that_declares_one_setting_of_a_table_declares_no_other():
    rows = {"cpc": nested("training.optimiser.momentum", 0.5)}
    records = [
        cell("gim", training__optimiser={"kind": "sgd", "momentum": 0.9, "nesterov": False}),
        cell("cpc", training__optimiser={"kind": "sgd", "momentum": 0.5, "nesterov": True}),
    ]
    assert of_kind("optimiser", *records, rows=rows) == {
        ("training.optimiser.momentum", "its row"),
        ("training.optimiser.nesterov", "UNDECLARED"),
    }


def test_a_row_on_a_base_has_the_table_of_the_row_that_it_is_called_after():
    rows = {"gim": nested("training.learning_rate", 0.5)}
    on_base = cell("gim_on_cpc_1a2b3c4d", method__base="b" * 64, training__learning_rate=0.5)
    records = [on_base, cell("cpc", training__learning_rate=0.1)]
    assert of_kind("rate", *records, rows=rows) == {("training.learning_rate", "its row")}


def test_two_rows_may_both_declare_a_setting_that_the_suite_has_otherwise():
    rows = {m: nested("training.learning_rate", rate) for m, rate in (("gim", 0.1), ("cpc", 0.2))}
    records = [cell(m, training__learning_rate=rate) for m, rate in (("gim", 0.1), ("cpc", 0.2))]
    assert of_kind("rate", *records, rows=rows) == {("training.learning_rate", "its row")}


def test_an_option_and_a_flow_that_the_row_sets_are_the_rows():
    rows = {"cpc": {"depth": 4, "gradient_flow": "end_to_end"}}
    records = [cell("gim"), cell("cpc", method__options={"depth": 4})]
    assert of_kind("method", *records, rows=rows) == {
        ("method.options.depth", "its row"),
        ("method.gradient_flow", "its row"),
    }


def test_the_seeds_of_one_row_never_differ_by_declaration():
    rows = {"cpc": nested("training.learning_rate", 0.5)}
    rates = ((0, 0.5), (1, 0.25))
    records = [cell("cpc", seed=seed, training__learning_rate=rate) for seed, rate in rates]
    assert undeclared(records, rows=rows) == [
        "training.learning_rate: 0.5: cpc seed 0; 0.25: cpc seed 1"
    ]
    assert "UNDECLARED by method and row: training.learning_rate." in verdict(*records, rows=rows)


def test_seeds_in_a_row_are_named_as_one_span():
    rates = [0.25 if seed == 3 else 0.5 for seed in range(8)]
    records = [cell(seed=seed, training__learning_rate=rate) for seed, rate in enumerate(rates)]
    assert undeclared([*records, cell("cpc", training__learning_rate=0.5)]) == [
        "training.learning_rate: 0.5: gim seed 0 to 2, gim seed 4 to 7, cpc; 0.25: gim seed 3"
    ]


def test_the_steps_of_a_row_that_trains_for_longer_are_the_rows():
    rows = {"cpc": nested("training.epochs", 12)}
    records = [cell("gim"), cell("cpc", training__epochs=12, counts={"train/steps": 2400.0})]
    assert of_kind("budget", *records, rows=rows) == {
        ("training.epochs", "its row"),
        ("train/steps", "its row"),
    }


def test_a_row_with_another_rate_does_not_account_for_other_steps():
    rows = {"cpc": nested("training.learning_rate", 0.5)}
    other = {"train/steps": 2400.0}
    records = [
        cell("gim", training__learning_rate=0.1),
        cell("cpc", training__learning_rate=0.5, counts=other),
    ]
    assert of_kind("budget", *records, rows=rows) == {("train/steps", "UNDECLARED")}


def test_an_encoder_of_the_rows_accounts_for_its_parameters_and_arithmetic():
    rows = {"cpc": nested("encoder.width", 16)}
    more = {"train/parameters": 4e6, "train/operations": 4e12}
    records = [
        cell("gim", counts={"train/parameters": 1e6, "train/operations": 1e12}),
        cell("gim_b", encoder__width=16, counts=more),
    ]
    assert len(undeclared(records)) == 3
    assert undeclared(records, rows={"gim_b": rows["cpc"]}) == []


def test_seeds_of_one_method_with_other_options_are_never_yes():
    options = [{"depth": 4}, {"depth": 5}]
    records = [cell("cpc", seed=s, method__options=each) for s, each in enumerate(options)]
    assert verdict(*records, cell("gim"), cell("gim", seed=1)) == (
        "Not in everything: the rows differ in method. UNDECLARED by method and row: "
        "method.options.depth."
    )


def test_an_undeclared_difference_keeps_its_kind_whomever_the_setting_is_about():
    records = [cell("gim"), cell("random_init", info_nce__negatives=2)]
    assert of_kind("settings of one objective", *records) == {("info_nce.negatives", "UNDECLARED")}


# -- records from before a setting -----------------------------------------------------------------

ADAM = {"kind": "adam", "weight_decay": 0.0, "excludes": ["biases", "norms"],
        "betas": [0.9, 0.999], "eps": 1e-8}  # fmt: skip
LATER = {
    "training.optimiser": (ADAM, ADAM | {"eps": 1e-6}),
    "training.rate_schedule": ({"kind": "constant"}, {"kind": "cosine"}),
    "training.held_out": (0.0, 0.5),
    "training.budget": ("epochs", "steps"),
    "training.compile": (False, True),
    "training.cuda_graphs": (False, True),
    "method.views": (1, 2),
    "method.ablation": (None, "no GRU"),
    "objective": (None, {"weight": 1.0}),
    "capacity": (None, {"up_to": 8}),
    "info_nce.skip_rows": (1, 0),
}


@pytest.mark.parametrize(("name", "values"), LATER.items(), ids=LATER)
def test_a_setting_that_a_record_lacks_stands_at_its_default(name, values):
    default, other = (cell(**{name.replace(".", "__"): value}) for value in values)
    assert differences([cell(seed=1), default]) == []
    assert differences([cell(seed=1), other]) != []
    assert differences([default, cell(seed=1)]) == []


def test_a_table_that_lacks_a_setting_is_filled_by_its_own_kind():
    """Momentum is none of Adam's; the weight decay is either's."""
    sgd = cell(seed=1, training__optimiser={"kind": "sgd", "momentum": 0.9})
    old, new = cell(), cell(training__optimiser=ADAM)
    expected = [
        ("training.optimiser.kind", "adam: gim seed 0; sgd: gim seed 1"),
        ("training.optimiser.betas", "[0.9, 0.999]: gim seed 0; absent: gim seed 1"),
        ("training.optimiser.eps", "1e-08: gim seed 0; absent: gim seed 1"),
        ("training.optimiser.momentum", "absent: gim seed 0; 0.9: gim seed 1"),
        ("training.optimiser.nesterov", "absent: gim seed 0; false: gim seed 1"),
    ]
    for record in (old, new):
        found = {d.name: d.described() for d in differences([record, sgd])}
        assert found == dict(expected)


def test_the_epochs_of_kept_outputs_were_called_views():
    old = cell(training__kept_outputs={"views": 4, "precision": "bf16"})
    new = cell(seed=1, training__kept_outputs={"epochs": 4, "precision": "bf16"})
    assert differences([old, new]) == []


def test_settings_of_encoder_and_data_that_a_record_lacks_are_the_plug_ins_defaults():
    plain = {"encoder": {"kind": "resnet", "width": 8}, "dataset": {"name": "photos"}}
    full = {
        "encoder": {"kind": "resnet", "width": 8, "patch_size": 16},
        "dataset": {"name": "photos", "stripes": photos_default("stripes")},
    }
    assert differences([cell(**plain), cell(seed=1, **full)]) == []
    full["encoder"]["patch_size"] = 8
    (found,) = differences([cell(**plain), cell(seed=1, **full)])
    assert found.name == "encoder.patch_size"


def photos_default(setting):
    return registry.dataset("photos").Options().model_dump()[setting]


def test_an_option_that_a_record_lacks_stands_at_the_default_of_its_method():
    def with_options(seed, options):
        return cell("cpc", seed=seed, method__like="cpc", method__options=options)

    old, new = with_options(0, {}), with_options(1, {"autoregressor_layers": 4})
    assert differences([old, new]) == []
    assert differences([old, with_options(1, {"autoregressor_layers": 2})]) != []


def test_an_option_of_a_method_that_is_not_installed_stays_as_it_is():
    def theirs(seed, options):
        return cell("theirs", seed=seed, method__like="theirs", method__options=options)

    (found,) = differences([theirs(0, {}), theirs(1, {"depth": 1})])
    assert found.described() == "absent: theirs seed 0; 1: theirs seed 1"


@pytest.mark.parametrize("name", ["larger-than-memory", "larger-than-memory-audio", "pipeline"])
def test_a_row_that_alone_has_a_table_declares_all_of_it(name):
    """With its defaults: streamed outputs in bf16, a buffer's policy."""
    records, suite = of_suite(name, {})
    found = differences(records, rows=suite.method)
    assert {d.name for d in found} & {"training.kept_outputs.precision", "training.buffer.policy"}
    assert [d.name for d in found if not d.declared] == []


def test_a_row_with_a_setting_of_a_table_that_all_have_declares_no_other():
    rows = {"cpc": nested("training.optimiser.eps", 1e-4)}
    adam = {"kind": "adam", "weight_decay": 0.0, "excludes": ["biases", "norms"]}
    records = [
        cell("gim", training__optimiser=adam | {"betas": [0.9, 0.999], "eps": 1e-8}),
        cell("cpc", training__optimiser=adam | {"betas": [0.9, 0.99], "eps": 1e-4}),
    ]
    found = differences(records, rows=rows)
    assert [d.name for d in found if not d.declared] == ["training.optimiser.betas"]
