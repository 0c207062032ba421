"""Methods × protocols: the table, the order, and changes of order that are no chance."""

from dataclasses import replace

import pytest

from gim_bench.records.protocols import ProtocolResult
from gim_bench.records.statistics import summarise_metrics
from gim_bench.report.columns import Row
from gim_bench.report.document import Bullets, Table
from gim_bench.report.protocols import (
    DOES_NOT_APPLY,
    differences_under,
    passes,
    protocols_section,
    rows_under,
)
from tests.report.cells import cell, report_on


def row(method, accuracies):
    records = [cell(method, seed=s, metrics={"accuracy": a}) for s, a in enumerate(accuracies)]
    return Row(method, records, summarise_metrics(records))


def results_with(numbers, *, reason=""):
    """Results by method and protocol, a number for each of the first seeds.

    Without a number, the protocol does not apply.
    """

    def results(record):
        found = {}
        for name, values in numbers[record.method].items():
            if values and record.seed not in range(len(values)):
                continue
            metrics = {"accuracy": values[record.seed]} if values else {}
            found[name] = (
                ProtocolResult(
                    protocol=name, suite=record.suite, method=record.method, seed=record.seed,
                    key=record.key, settings={}, files={}, metrics=metrics,
                    reason="" if values else reason,
                ),
                None,
            )  # fmt: skip
        return found

    return results


OWN = [row("gim", [60.0, 61.0, 60.5]), row("clapp", [50.0, 51.0, 50.5])]
SWAPPED = {"gim": {"knn": [40.0, 41.0, 40.5]}, "clapp": {"knn": [49.0, 50.0, 49.5]}}


def section(numbers, *, own=OWN, **options):
    results = results_with(numbers, **options)
    found = protocols_section(own, ["accuracy"], results=results)
    (table,) = [block for block in found.blocks if isinstance(block, Table)]
    lines = [line for block in found.blocks if isinstance(block, Bullets) for line in block.items]
    return table, lines


def test_the_table_has_a_column_for_each_protocol():
    table, _ = section(SWAPPED)
    assert [column.heading for column in table.columns] == ["method", "seeds", "own", "knn"]
    assert table.rows[0][-1] == "40.5 ± 0.5"


def test_without_results_there_is_no_section():
    assert not protocols_section(OWN, ["accuracy"], results=lambda _: {}).blocks


BOTH = {
    "gim": {"knn": [40.0, 41.0, 40.5], "clapp": [30.0, 31.0, 30.5]},
    "clapp": {"knn": [49.0, 50.0, 49.5], "clapp": [30.0, 31.0, 30.5]},
}


def reported(numbers, *, other):
    """The section of a report on a suite that reads otherwise under the protocol `other`."""
    records = [record for each in OWN for record in each.records]
    page = report_on(
        records,
        results=results_with(numbers),
        describes=lambda config: config.get("read_under") != other,
    )
    return page.partition("## Protocols")[2].partition("\n## ")[0]


def test_results_that_were_read_with_other_settings_are_left_out_with_the_command():
    found = reported(BOTH, other="knn")
    assert " own |" in found
    assert " knn |" not in found
    assert "49.5" not in found
    assert (
        "- left out: 6 result(s) of `knn`, read with other settings than the suite's: `python -m "
        "gim_bench probe --suite quickstart --protocol knn --seeds 3` reads these cells again.\n"
        in found
    )


def test_results_that_are_all_left_out_are_named_without_a_table():
    found = reported(SWAPPED, other="knn")
    assert "left out: 6 result(s) of `knn`" in found
    assert "|" not in found


def test_results_of_a_protocol_that_the_suite_lost_are_left_out_without_a_command():
    found = reported({each: {"old": [1.0, 2.0, 3.0]} for each in BOTH}, other="old")
    assert "- left out: 6 result(s) of `old`, a protocol that the suite does not have.\n" in found


def test_a_protocol_that_does_not_apply_says_so_with_its_reason():
    numbers = {"gim": {"head": []}, "clapp": {"head": [1.0, 2.0, 3.0]}}
    table, lines = section(numbers, reason="the method has no head")
    assert table.rows[0][-1] == DOES_NOT_APPLY
    assert "`head`: the method has no head (gim)." in lines


def test_a_reversal_beyond_chance_is_named_with_both_differences():
    _, lines = section(SWAPPED)
    assert (
        "Under `knn` the order of 2 methods has Kendall's tau -1.00 with `own`: clapp passes gim "
        "(-10.0 points become +9.0)." in lines
    )


def test_a_reversal_within_chance_is_no_change_of_order():
    noisy = {"gim": {"knn": [40.0, 60.0, 50.0]}, "clapp": {"knn": [49.0, 58.0, 49.0]}}
    _, lines = section(noisy)
    assert NO_CHANGE in lines
    assert any("tau -1.00" in line for line in lines)


FIRST_SEED = {"gim": {"knn": [40.0]}, "clapp": {"knn": [49.0]}}
UNTESTED = (
    "No change of order is tested under `knn`: a test needs two seeds of two methods, there and "
    "under `own`."
)
NO_CHANGE = "No two methods change places with intervals that exclude 0 both times."


def test_numbers_of_fewer_seeds_than_the_cells_have_say_so():
    table, _ = section(FIRST_SEED)
    assert [row[1:] for row in table.rows] == [
        ("3", "60.5 ± 0.5", "40.0 (n=1)"),
        ("3", "50.5 ± 0.5", "49.0 (n=1)"),
    ]


def test_the_order_under_a_protocol_is_compared_over_the_seeds_that_were_read():
    own = [row("gim", [60.0, 61.0, 60.5]), row("clapp", [70.0, 51.0, 50.0])]
    _, lines = section(FIRST_SEED, own=own)
    assert "Under `knn` the order of 2 methods has Kendall's tau +1.00 with `own`." in lines


def test_without_two_seeds_under_a_protocol_no_change_of_order_is_tested():
    _, lines = section(FIRST_SEED)
    assert UNTESTED in lines
    assert NO_CHANGE not in lines


def test_a_protocol_without_a_test_is_named_beside_the_conclusion_on_the_others():
    numbers = {each: of | FIRST_SEED[each] for each, of in BOTH.items()}
    _, lines = section(numbers)
    assert UNTESTED in lines
    assert NO_CHANGE in lines


@pytest.mark.parametrize("own", [[50.0, 51.0, 50.5], [60.4, 61.2, 60.6]])
def test_methods_that_keep_their_order_or_were_alike_do_not_pass(own):
    """Where the cell's own probe does not tell two methods apart, none passes the other."""
    rows = [OWN[0], row("clapp", own)]
    kept = {"gim": {"knn": [60.0, 61.0, 60.5]}, "clapp": {"knn": [40.0, 41.0, 40.5]}}
    numbers = kept if own[0] == 50.0 else SWAPPED | {"gim": {"knn": [70.0, 71.0, 70.5]}}
    under = {each.method: rows_under(each, results_with(numbers)) for each in rows}
    assert passes(differences_under(rows, under, ["knn"], metric="accuracy")) == []


@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize("curves", [{}, {"top": [[0.1, 60.0]]}])
def test_labels_that_an_encoder_was_trained_on_are_named_where_a_protocol_chooses_by_them(
    unseen, curves
):
    of_gim = OWN[0]
    supervised = row("supervised", [70.0, 71.0, 70.5])
    records = [
        replace(record, config=record.config | {"probe": {"unseen_validation": unseen}})
        for record in supervised.records
    ]
    plain = results_with(dict.fromkeys(("gim", "supervised"), SWAPPED["gim"]))

    def results(record):
        (result, predictions) = plain(record)["knn"]
        return {"knn": (replace(result, curves=curves), predictions)}

    rows = [of_gim, supervised._replace(records=records)]
    found = protocols_section(rows, ["accuracy"], results=results)
    lines = [line for block in found.blocks if isinstance(block, Bullets) for line in block.items]
    named = [line for line in lines if "trained on the labels" in line]
    assert [line.partition(":")[0] for line in named] == (
        ["supervised"] if curves and not unseen else []
    )


def test_a_row_under_a_protocol_names_the_protocol_in_its_configuration():
    """By which the tags of published numbers find the row."""
    under = rows_under(OWN[0], results_with(SWAPPED))["knn"]
    assert {record.config["read_under"] for record in under.records} == {"knn"}


def test_probes_that_ran_out_of_iterations_are_counted_by_protocol_and_method():
    plain = results_with(SWAPPED)

    def results(record):
        (result, predictions) = plain(record)["knn"]
        metrics = result.metrics | ({"unconverged": 1} if record.method == "gim" else {})
        return {"knn": (replace(result, metrics=metrics), predictions)}

    found = protocols_section(OWN, ["accuracy"], results=results)
    lines = [line for block in found.blocks if isinstance(block, Bullets) for line in block.items]
    assert [line for line in lines if "iterations" in line] == [
        "`knn`: 3 linear probe(s) of gim ran out of iterations."
    ]
