"""Points of a cell that trains, in a file that other processes read as it grows."""

import json

import pytest

from gim_bench.records.live import LIVE, LiveLog, read_live


def logged(folder, *points, made_by="this code"):
    log = LiveLog(folder, made_by=made_by)
    for name, value, step in points:
        log.add(name, value, step=step)
    log.write()
    return log


def values(folder):
    return [(name, value, step) for name, value, step, _ in read_live(folder).points]


def test_points_are_read_as_they_were_written(tmp_path):
    points = [("loss", 0.1 + 0.2, 1), ("speed", 31.5, 1), ("loss", 1e-30, 2)]
    logged(tmp_path, *points)
    assert values(tmp_path) == points


def test_a_point_says_when_it_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 1_793_527_200_000_999_999)
    logged(tmp_path, ("loss", 1.0, 1))
    assert read_live(tmp_path).points[0].milliseconds == 1_793_527_200_000


def test_nothing_is_on_disk_until_points_are_written(tmp_path):
    log = LiveLog(tmp_path, made_by="this code")
    log.add("loss", 1.0, step=1)
    assert not log.begun
    assert read_live(tmp_path) is None
    log.write()
    assert log.begun


def test_a_training_that_repeats_steps_goes_on_with_its_attempt_and_each_point_is_there_once(
    tmp_path,
):
    logged(tmp_path, ("loss", 3.0, 1), ("loss", 2.0, 2))
    first = read_live(tmp_path).name
    logged(tmp_path, ("loss", 2.0, 2), ("loss", 1.0, 3))
    assert read_live(tmp_path).name == first
    assert values(tmp_path) == [("loss", 3.0, 1), ("loss", 2.0, 2), ("loss", 1.0, 3)]


def test_the_last_step_is_known_for_each_metric_by_itself(tmp_path):
    logged(tmp_path, ("loss/module_1", 3.0, 90))
    logged(tmp_path, ("loss/module_2", 3.0, 1))
    assert values(tmp_path) == [("loss/module_1", 3.0, 90), ("loss/module_2", 3.0, 1)]


def test_other_code_begins_another_attempt(tmp_path):
    logged(tmp_path, ("loss", 3.0, 1))
    first = read_live(tmp_path).name
    logged(tmp_path, ("loss", 4.0, 1), made_by="other code")
    assert read_live(tmp_path).name != first
    assert values(tmp_path) == [("loss", 4.0, 1)]


@pytest.mark.parametrize("cut", range(1, 30, 7))
def test_half_a_line_of_a_killed_process_costs_this_line_alone(tmp_path, cut):
    logged(tmp_path, ("loss", 3.0, 1), ("loss", 2.0, 2))
    path = tmp_path / LIVE
    path.write_bytes(path.read_bytes()[:-cut])
    assert values(tmp_path) == [("loss", 3.0, 1)]
    logged(tmp_path, ("loss", 2.0, 2), ("loss", 1.0, 3))
    assert values(tmp_path) == [("loss", 3.0, 1), ("loss", 2.0, 2), ("loss", 1.0, 3)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_not_kept(tmp_path, value):
    logged(tmp_path, ("loss", value, 1), ("loss", 2.0, 2))
    assert values(tmp_path) == [("loss", 2.0, 2)]


def test_a_disk_that_refuses_costs_points_and_nothing_else(tmp_path):
    folder = tmp_path / "later"
    log = logged(folder, ("loss", 1.0, 1))
    folder.mkdir()
    log.add("loss", 0.5, step=2)
    log.write()
    assert values(folder) == [("loss", 0.5, 2)]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"[]\n", b"{}\n", b"\xff\n", b"[" * 10**5 + b"\n", b"null\n"]
)
def test_a_file_that_is_no_log_holds_nothing(tmp_path, content):
    (tmp_path / LIVE).write_bytes(content)
    assert read_live(tmp_path) is None


@pytest.mark.parametrize(
    "line", ["", "7", "[]", '["loss", "x", 1, 2]', '["loss", NaN, 1, 2]', '["loss", 1, 1e999, 2]']
)
def test_a_line_that_is_no_point_is_passed_over(tmp_path, line):
    head = json.dumps({"attempt": "a", "made_by": "b"})
    (tmp_path / LIVE).write_text(f'{head}\n{line}\n["loss", 1.0, 1, 2]\n')
    assert values(tmp_path) == [("loss", 1.0, 1)]
