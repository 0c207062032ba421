"""The section of pipelines: what every worker holds and waits for, and how fast all are."""

from dataclasses import replace

import pytest

from gim_bench.report.document import Bullets, Table
from gim_bench.report.pipelines import pipelines_section
from tests.report.cells import cell, config

LOSSES = [{"epoch": 1, "module_1": 1.5, "module_2": 1.25}]


def record(method, *, schedule, speed, seed=0, losses=LOSSES, workers=0, **training):
    of_row = config("gim")
    of_row["method"] |= {"name": method, "schedule": schedule}
    of_row["training"] |= {"schedule": schedule, **training}
    metrics = {"train/samples_per_second": speed}
    for number in range(1, workers + 1):
        module = f"module_{number}"
        metrics |= {
            "pipeline/workers": workers,
            f"pipeline/idle_share/{module}": 0.25 * number,
            f"pipeline/seconds_without_batch/{module}": 2.0 * number,
            f"pipeline/seconds_without_room/{module}": 1.0,
            f"pipeline/bytes_per_sample/{module}": 5e5,
            f"pipeline/host_over_baseline_bytes/{module}": 2e9,
        }
    return cell(method, seed=seed, config=of_row, metrics=metrics, losses=losses)


def pipelined(speed=30.0, **further):
    return record("gim_pipeline", schedule="pipeline", speed=speed, workers=2, **further)


def blocks_of(records, kind):
    return [block for block in pipelines_section(records).blocks if isinstance(block, kind)]


def lines_of(records):
    return [line for bullets in blocks_of(records, Bullets) for line in bullets.items]


def test_a_row_for_every_worker_with_the_mean_of_the_seeds():
    other = pipelined(seed=1)
    other.metrics["pipeline/idle_share/module_1"] = 0.75
    (table,) = blocks_of([pipelined(), other], Table)
    assert table.rows == [
        ["gim_pipeline", "module_1", "50", "2.0", "1.0", "0.500", "2.000"],
        ["gim_pipeline", "module_2", "50", "4.0", "1.0", "0.500", "2.000"],
    ]


def test_a_worker_on_a_gpu_has_the_gpu_s_peak():
    record = pipelined()
    record.metrics["pipeline/gpu_allocated_over_baseline_bytes/module_2"] = 3e9
    (table,) = blocks_of([record], Table)
    assert [row[-1] for row in table.rows] == ["2.000", "3.000"]


def test_the_same_row_in_one_process_is_compared_in_speed_and_losses():
    one = record("gim", schedule="interleaved", speed=20.0)
    one.provenance["threads"] = 2
    (line,) = lines_of([pipelined(), one])
    assert line == (
        "gim_pipeline, by 2 workers, trains 1.50 times as fast as gim, by one process of 2 threads "
        "(30.0 and 20.0 examples per second), with the same losses to the bit."
    )


@pytest.mark.parametrize(
    "losses", [[{"epoch": 1, "module_1": 1.5, "module_2": 1.2500001}], LOSSES * 2]
)
def test_other_losses_are_said(losses):
    one = record("gim", schedule="interleaved", speed=20.0, losses=losses)
    (line,) = lines_of([pipelined(), one])
    assert line.endswith("with other losses.")


def test_one_seed_that_differs_is_enough_to_say_so():
    one = record("gim", schedule="interleaved", speed=20.0)
    two = record("gim", schedule="interleaved", speed=20.0, seed=1, losses=LOSSES * 2)
    (line,) = lines_of([pipelined(), pipelined(seed=1), one, two])
    assert line.endswith("with other losses.")


def test_a_seed_that_was_resumed_and_so_not_measured_is_left_out():
    one = record("gim", schedule="interleaved", speed=20.0)
    resumed = record("gim_pipeline", schedule="pipeline", speed=5.0)
    records = [resumed, pipelined(seed=1), one, replace(one, seed=1)]
    (table,) = blocks_of(records, Table)
    assert [row[2] for row in table.rows] == ["25", "50"]
    (line,) = lines_of(records)
    assert line.startswith("gim_pipeline, by 2 workers, trains 1.50 times as fast as gim")


def test_without_a_shared_seed_nothing_is_said_of_losses():
    one = record("gim", schedule="interleaved", speed=20.0, seed=7)
    (line,) = lines_of([pipelined(), one])
    assert line.endswith("(30.0 and 20.0 examples per second).")


def test_rows_of_other_settings_are_not_compared():
    other = record("gim_long", schedule="interleaved", speed=20.0, epochs=99)
    assert lines_of([pipelined(), other]) == []


@pytest.mark.parametrize("fact", [{"cpu": "another"}, {"git_commit": "another"}, {"threads": 1}])
def test_speeds_of_two_machines_or_versions_of_the_code_are_not_compared(fact):
    one = record("gim", schedule="interleaved", speed=20.0)
    one.provenance.update(fact)
    (name,) = fact
    assert lines_of([pipelined(), one]) == [
        f"gim_pipeline and gim are not compared in speed: they differ in {name}."
    ]


def test_the_speed_of_a_resumed_cell_is_not_compared():
    one = record("gim", schedule="interleaved", speed=20.0)
    resumed = record("gim", schedule="interleaved", speed=1.0, seed=1)
    resumed.provenance["resumed_at_step"] = [50]
    (line,) = lines_of([pipelined(), one, resumed])
    assert "trains 1.50 times as fast as gim" in line
    assert lines_of([pipelined(), resumed]) == []


def test_an_older_record_without_a_newer_setting_is_compared():
    one = record("gim", schedule="interleaved", speed=20.0)
    newer = pipelined(rate_schedule={"kind": "constant"})
    (line,) = lines_of([newer, one])
    assert "trains 1.50 times as fast as gim" in line


@pytest.mark.parametrize(("slowdown", "lines"), [({"module_2": 4.0}, 0), ({}, 1)])
def test_a_speed_that_is_made_up_is_not_compared(slowdown, lines):
    slowed = pipelined(buffer={"size": 8, "slowdown": slowdown})
    one = record("gim", schedule="interleaved", speed=20.0)
    assert len(lines_of([slowed, one])) == lines


def test_without_a_pipeline_there_is_no_section():
    assert pipelines_section([record("gim", schedule="interleaved", speed=1.0)]).blocks == []


def test_accuracy_stands_beside_the_staleness_of_what_a_worker_used():
    record = pipelined()
    used = {
        "pipeline/staleness_median/module_2": 2.0,
        "pipeline/staleness_p90/module_2": 5.0,
        "pipeline/staleness_max/module_2": 7.0,
        "pipeline/uses_per_batch/module_2": 1.25,
        "pipeline/dropped_share/module_2": 0.5,
        "pipeline/after_below_share/module_2": 0.75,
        "accuracy/module_2": 31.25,
    }
    record.metrics.update(used)
    _, buffers = blocks_of([record], Table)
    assert buffers.rows == [["gim_pipeline", "module_2", "75", "2", "5", "7", "1.25", "50", "31.2"]]


def test_staleness_is_a_dash_where_the_module_below_had_finished_before_every_use():
    record = pipelined()
    used = {
        "pipeline/uses_per_batch/module_2": 1.25,
        "pipeline/dropped_share/module_2": 0.5,
        "pipeline/after_below_share/module_2": 1.0,
    }
    record.metrics.update(used)
    _, buffers = blocks_of([record], Table)
    assert buffers.rows == [["gim_pipeline", "module_2", "100", *"–––", "1.25", "50", "–"]]
