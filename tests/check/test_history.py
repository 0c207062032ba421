"""The history of checks: lines that are appended, and the page that is made of them."""

import json
import os

import pytest

from gim_bench.check.history import append, read_history
from gim_bench.check.judge import judge
from gim_bench.errors import ConfigError
from gim_bench.report.document import Figure, Table
from gim_bench.site.checks import checks_page
from tests.check.cells import cells, changed, moved, reference_of
from tests.tiny_suite import tiny_suite

OTHER = {"git_commit": "b" * 40, "git_dirty": True}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return cells(tiny_suite(tmp_path_factory.mktemp("suite")))


@pytest.fixture(scope="module")
def verdict(records, tmp_path_factory):
    suite = tiny_suite(tmp_path_factory.mktemp("suite"))
    return judge(records, reference_of(records, suite=suite), suite=suite)


@pytest.fixture
def history(tmp_path):
    return tmp_path / "kept" / "history.jsonl"


@pytest.fixture
def add(history, verdict):
    return lambda records: append(history, records, verdict=verdict)


def test_a_check_appends_a_line_for_each_method(add, history, records):
    assert add(records) == (2, [])
    assert add(changed(records, **OTHER)) == (2, [])
    lines = read_history(history)
    assert [(line.method, line.commit, line.outcome) for line in lines] == [
        ("gim", "a" * 40, "passes"),
        ("random_init", "a" * 40, "passes"),
        ("gim", f"{'b' * 40}-dirty", "passes"),
        ("random_init", f"{'b' * 40}-dirty", "passes"),
    ]
    accuracy = lines[0].metrics["accuracy"]
    assert (accuracy.mean, accuracy.unit, accuracy.seeds) == (61.0, "%", 3)
    assert "memory/host_over_baseline_bytes" in lines[0].metrics


def test_a_line_that_was_cut_off_is_named_and_spoils_no_other(add, history, records):
    add(records)
    history.write_text(history.read_text()[:-20])
    add(records)
    lines = history.read_text().splitlines()
    assert len(lines) == 4
    assert json.loads(lines[2])["method"] == "gim"
    with pytest.raises(ConfigError, match=r"history.jsonl, line 2: .*: remove the line"):
        read_history(history)


def test_cells_of_several_commits_have_no_line(add, history, records):
    first, *others = records
    lines, (note,) = add([*changed([first], **OTHER), *others])
    assert note.startswith("--history: no line for gim, whose cells are of commits aaaa")
    assert lines == 1
    assert [line.method for line in read_history(history)] == ["random_init"]


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"cpu": "Another"}, "Another, "),
        ({"threads": 8}, "8 thread(s)"),
        ({"device": "cuda", "gpu": "A GPU"}, "A GPU"),
    ],
)
def test_cells_of_several_machines_have_no_line(add, history, records, facts, named):
    """The line would have the name of the first seed's machine."""
    first, *others = records
    lines, (note,) = add([*changed([first], **facts), *others])
    assert note.startswith("--history: no line for gim, whose cells are of machines ")
    assert named in note
    assert lines == 1


def test_lines_for_which_there_is_no_room_are_not_lost_in_silence(
    add, history, records, monkeypatch
):
    add(records)
    before, write = history.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:100]))
    with pytest.raises(ConfigError, match=r"cannot append to the history .* \(No space left"):
        add(records)
    assert history.read_bytes() == before


def test_the_page_draws_each_metric_by_commit_and_has_its_numbers_in_a_table(add, history, records):
    add(records)
    worse = moved(records, "accuracy", factor=0.5)
    add(changed(worse, git_commit="b" * 40))
    (section,) = checks_page(read_history(history)).sections
    assert section.title.startswith("tiny: ")
    figures = [block for block in section.blocks if isinstance(block, Figure)]
    assert [figure.title for figure in figures] == [
        "Accuracy", "Loss", "Peak memory", "Time of a step",
    ]  # fmt: skip
    gim, _ = figures[0].panels[0].curves
    assert [point for points in gim.seeds for point in points] == [(1, 61.0), (2, 30.5)]
    commits, accuracy, *_ = (block for block in section.blocks if isinstance(block, Table))
    assert [row[:2] for row in commits.rows] == [["1", "a" * 12], ["2", "b" * 12]]
    assert [row[:2] for row in accuracy.rows] == [["1", "61.000 ± 0.610"], ["2", "30.500 ± 0.305"]]


def test_a_commit_that_is_checked_again_has_its_newest_numbers(add, history, records):
    add(records)
    add(moved(records, "accuracy", factor=0.5))
    (section,) = checks_page(read_history(history)).sections
    gim, _ = section.blocks[1].panels[0].curves
    assert [point for points in gim.seeds for point in points] == [(1, 30.5)]


def test_checks_of_another_machine_or_other_data_stand_apart(add, history, records):
    add(records)
    for facts in ({"cpu": "Another"}, {"data_sha256": "f" * 64}):
        add(changed(records, **facts))
    assert len(checks_page(read_history(history)).sections) == 3
