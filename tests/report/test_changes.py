"""Settings beside the suite's file, and records that a report leaves out."""

import pytest

from gim_bench.report.changes import changed_settings, left_out
from tests.report.cells import cell, config, report_on
from tests.tiny_suite import tiny_suite


def changed(folder, *overrides):
    return changed_settings(tiny_suite(folder, *overrides), file=tiny_suite(folder))


def test_each_setting_that_is_not_the_files_is_named_with_both_values(tmp_path):
    assert changed(tmp_path, "training.epochs=7", "dataset.size=27") == (
        "Not the suite's file: --set dataset.size = 27 (in the file 26), "
        "training.epochs = 7 (in the file 1)"
    )


def test_a_table_that_the_file_leaves_out_is_named_by_its_settings_alone(tmp_path):
    line = changed(tmp_path, "training.buffer={size=8}", "training.schedule=pipeline")
    assert "training.buffer.size = 8 (in the file absent)" in line
    assert "None" not in line
    assert "training.buffer =" not in line


@pytest.mark.parametrize("overrides", [(), ("training.epochs=1",)])
def test_the_values_of_the_file_are_no_change(overrides, tmp_path):
    assert changed(tmp_path, *overrides) == ""


def longer(**changes):
    settings = config("gim")
    settings["training"].update(changes)
    return cell("gim", metrics={}, config=settings)


def test_records_that_are_left_out_are_counted_with_their_settings():
    line = left_out([longer(epochs=7), longer(epochs=8)], kept=[longer()])
    assert line == (
        "Left out: 2 record(s) of this suite with other settings, such as training.epochs = 7, "
        "training.epochs = 8; --set shows them"
    )


def test_of_many_settings_some_are_named():
    line = left_out([longer(epochs=number) for number in range(7, 13)], kept=[longer()])
    assert "training.epochs = 10, and 2 more;" in line


def test_a_left_out_method_without_kept_records_is_counted():
    assert left_out([longer()], kept=[cell("cpc", metrics={})]) == (
        "Left out: 1 record(s) of this suite with other settings; --set shows them"
    )
    assert left_out([], kept=[longer()]) == ""


def test_notes_stand_on_top_of_the_report():
    text = report_on([cell(metrics={"accuracy": 60.0})], notes=["", "Left out: 3 record(s)"])
    assert text.startswith("# Suite quickstart\n\n- Left out: 3 record(s)\n\n**Does it work?**")
