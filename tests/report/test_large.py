"""The section of images and recordings larger than memory."""

from dataclasses import replace

import pytest

from gim_bench.records.record import Status
from gim_bench.report.document import Bullets, Figure, Table
from gim_bench.report.large import large_section
from tests.report.cells import cell, config, provenance

METHODS = ["whole_512", "whole_1024", "gim_512", "gim_1024"]
OVER = "memory/host_over_baseline_bytes"
GPU = "memory/gpu_allocated_over_baseline_bytes"


def record(method, *, peak=None, limit=3 * 10**9, seconds=2.0):
    side = int(method.rpartition("_")[2])
    of_row = config("gim")
    of_row["method"]["name"] = method
    of_row["augmentation"] = {"kind": "region", "side": side, "window": 128}
    metrics = {} if peak is None else {OVER: peak, "train/seconds": seconds}
    if method.startswith("gim"):
        metrics["train/kept_bytes"] = 4 * side**2
    return cell(
        method,
        config=of_row,
        metrics=metrics,
        fits=peak is not None,
        status=Status.FAILED if peak is None else Status.DONE,
        provenance=provenance(memory_limit_bytes=limit),
    )


@pytest.fixture
def section():
    records = [
        record("gim_1024", peak=1e8),
        record("whole_1024"),
        record("whole_512", peak=2e9),
        record("gim_512", peak=1e8),
    ]
    return large_section(records, METHODS)


def test_a_row_for_each_side_in_the_order_of_the_suite(section):
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert [row[:2] for row in table.rows] == [
        ["whole", "512"],
        ["whole", "1,024"],
        ["gim", "512"],
        ["gim", "1,024"],
    ]


def test_costs_are_for_each_megapixel(section):
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert table.rows[0] == ["whole", "512", "0.26", "2.000", "7.63", "–"]
    assert table.rows[3] == ["gim", "1,024", "1.05", "0.100", "1.91", "4.00"]


def test_a_side_that_does_not_fit_is_a_result(section):
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert table.rows[1][3:] == ["does not fit", "–", "–"]
    (largest,) = (block for block in section.blocks if isinstance(block, Bullets))
    assert largest.items == [
        "whole: the largest side is 512 pixels within 3 GB; 1,024 does not fit",
        "gim: the largest side is 1,024 pixels within 3 GB",
    ]


def largest_of(records):
    blocks = large_section(records, METHODS).blocks
    (largest,) = (block for block in blocks if isinstance(block, Bullets))
    return largest.items


def test_no_limit_is_named_where_one_row_had_none():
    records = [record("gim_512", peak=1e8), record("gim_1024", peak=1e8, limit=None)]
    assert largest_of(records) == ["gim: the largest side is 1,024 pixels"]


def test_a_side_that_does_not_fit_is_named_with_its_limit_where_limits_differ():
    records = [record("whole_512", peak=2e9, limit=None), record("whole_1024")]
    assert largest_of(records) == [
        "whole: the largest side is 512 pixels; 1,024 does not fit within 3 GB"
    ]


def test_a_side_that_does_not_fit_without_a_limit_is_not_said_to_be_limited():
    records = [record("whole_512", peak=2e9), record("whole_1024", limit=None)]
    assert largest_of(records) == [
        "whole: the largest side is 512 pixels within 3 GB; 1,024 does not fit without a limit"
    ]


def test_a_side_that_does_not_fit_for_some_seeds_is_not_one_that_fits():
    records = [
        record("whole_512", peak=1e9),
        record("whole_1024", peak=2e9),
        replace(record("whole_1024"), seed=1),
    ]
    assert largest_of(records) == [
        "whole: the largest side is 512 pixels within 3 GB; 1,024 does not fit for 1 of 2 seeds"
    ]
    table, *_ = large_section(records, METHODS).blocks
    assert [row[3] for row in table.rows] == ["1.000", "2.000; does not fit for 1 of 2 seeds"]


def test_seeds_of_one_row_with_several_limits_name_none():
    limits = (3 * 10**9, None)
    records = [
        replace(record("gim_512", peak=1e8, limit=limit), seed=seed)
        for seed, limit in enumerate(limits)
    ]
    assert largest_of(records) == ["gim: the largest side is 512 pixels under several limits"]


def test_a_row_that_was_resumed_and_so_not_measured_changes_no_memory():
    records = [record("gim_512", peak=1e8), record("gim_1024", peak=1e8)]
    for each in records:
        each.metrics[GPU] = 5e8
    whole = record("whole_512", peak=1e8)
    del whole.metrics[OVER]
    table, note, *_ = large_section([*records, whole], METHODS).blocks
    assert [row[3] for row in table.rows] == ["–", "0.500", "0.500"]
    assert note.startswith("Peak over idle: peak memory that PyTorch allocated on the GPU")


def test_memory_is_drawn_over_megapixels_on_logarithmic_axes(section):
    (figure,) = (block for block in section.blocks if isinstance(block, Figure))
    assert figure.log_x
    assert figure.log_y
    (panel,) = figure.panels
    assert {curve.method: curve.seeds for curve in panel.curves} == {
        "whole": [[(0.262144, 2.0)]],
        "gim": [[(0.262144, 0.1), (1.048576, 0.1)]],
    }


def stretch(method, *, minutes, **settings):
    found = record(f"{method}_{minutes}", **settings)
    found.config["method"]["name"] = f"{method}_{minutes}min"
    length = minutes * 60 * 16_000
    found.config["augmentation"] = {"kind": "stretch", "length": length, "samples": 20_480}
    return replace(found, method=f"{method}_{minutes}min")


def test_recordings_are_counted_in_minutes():
    records = [
        stretch("gim", minutes=60, peak=1e8, seconds=30.0),
        stretch("gim", minutes=1, peak=1e8),
        stretch("whole", minutes=1, peak=2e9),
        stretch("whole", minutes=60),
    ]
    names = ["whole_1min", "whole_60min", "gim_1min", "gim_60min"]
    table, note, largest, figure = large_section(records, names).blocks
    assert [column.heading for column in table.columns][1:4:2] == ["samples", "peak over idle, GB"]
    assert table.columns[4].heading == "s / minute"
    assert [row[:4] for row in table.rows] == [
        ["whole", "960,000", "1.00", "2.000"],
        ["whole", "57,600,000", "60.00", "does not fit"],
        ["gim", "960,000", "1.00", "0.100"],
        ["gim", "57,600,000", "60.00", "0.100"],
    ]
    assert table.rows[3][4] == "0.50"
    assert note.endswith("for each minute of the stretch.")
    assert largest.items == [
        "whole: the longest stretch is 1 min within 3 GB; 60 min does not fit",
        "gim: the longest stretch is 60 min within 3 GB",
    ]
    assert figure.x_label == "minutes"


def test_a_suite_of_small_images_has_no_such_section():
    assert large_section([cell("gim", config=config("gim"), metrics={})], ["gim"]).blocks == []
