"""Rows upon rows: a row of a suite that extends another row."""

import pytest

from gim_bench.cells.resolve import configs
from tests.settings.tables import SUITE, complaint, load
from tests.tiny_suite import CPU

BASE = {
    "schedule": "joint",
    "encoder": {"width": 16, "blocks": [1, 1]},
    "training": {"epochs": 5, "rate_schedule": {"kind": "steps", "at": [2], "factor": 0.5}},
    "probe": {"neighbours": 7},
}


def suite(**rows):
    return SUITE | {"methods": list(rows), "method": rows}


def rows_of(folder, *overrides, **rows):
    return load(folder, *overrides, suite=suite(**rows)).method


def test_a_row_that_extends_another_differs_in_what_it_says_alone(tmp_path):
    own = {"extends": "gim", "training": {"epochs": 9}, "encoder": {"blocks": [2]}}
    found = rows_of(tmp_path, gim=BASE, more=own)
    assert found["gim"] == BASE
    assert found["more"] == BASE | {
        "like": "gim",
        "training": BASE["training"] | {"epochs": 9},
        "encoder": {"width": 16, "blocks": [2]},
    }


def test_a_cell_of_an_extending_row_is_the_cell_of_the_row_spelled_out(tmp_path):
    spelled = BASE | {"like": "gim", "encoder": {"width": 4, "blocks": [1, 1]}}
    short = {"extends": "gim", "encoder": {"width": 4}}
    long, found = (
        configs(load(tmp_path, suite=suite(gim=BASE, more=row)), methods=["more"], device=CPU)
        for row in (spelled, short)
    )
    assert found == long


def test_rows_extend_rows_that_extend_rows_in_any_order(tmp_path):
    found = rows_of(
        tmp_path,
        top={"extends": "middle", "schedule": "interleaved"},
        middle={"extends": "gim", "units": 1},
        gim={"units": 2, "schedule": "joint", "only": "module_1"},
    )
    expected = {"like": "gim", "units": 1, "schedule": "interleaved", "only": "module_1"}
    assert found["top"] == expected


def test_a_row_has_the_method_of_the_row_that_it_extends(tmp_path):
    found = rows_of(tmp_path, twin={"like": "gim"}, more={"extends": "twin", "units": 2})
    assert found["more"] == {"like": "gim", "units": 2}


def test_a_set_value_of_a_row_reaches_the_rows_that_extend_it(tmp_path):
    override = "method.gim.training.epochs=2"
    found = rows_of(tmp_path, override, gim=BASE, more={"extends": "gim"})
    assert found["more"]["training"]["epochs"] == 2


def test_settings_of_probes_of_any_kind_leave_the_kind_to_the_suite(tmp_path):
    """The suite's probe is Adam's, and no setting of the two rows is of another kind."""
    more = {"extends": "gim", "probe": {"validation_fraction": 0.5}}
    loaded = load(tmp_path, suite=suite(gim={"probe": {"neighbours": 7}}, more=more))
    probe = configs(loaded, methods=["more"], device=CPU)["more"].probe
    assert (probe.kind, probe.neighbours, probe.validation_fraction) == ("adam", 7, 0.5)


@pytest.mark.parametrize("base", ["gym", 3])
def test_a_row_that_extends_no_row_of_the_suite_is_one_line(base, tmp_path):
    message = complaint(tmp_path, suite=suite(gim=BASE, more={"extends": base}))
    where = "(mine.toml, [method.more], extends)"
    assert message.startswith(f"no table of a row {str(base)!r} {where}.")
    assert "Available: gim, more" in message


def test_rows_that_extend_each_other_in_a_circle_are_one_line(tmp_path):
    rows = {"gim": {"extends": "more"}, "more": {"extends": "gim"}}
    assert complaint(tmp_path, suite=suite(**rows)) == (
        "mine.toml, [method.more], extends: a circle (gim over more over gim): one row must stand "
        "by itself"
    )
