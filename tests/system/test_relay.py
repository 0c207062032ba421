"""Progress of child processes over a pipe."""

import multiprocessing
from contextlib import contextmanager, suppress

import pytest

from gim_bench.system import relay
from gim_bench.system.relay import Displays, Reports, listen


class Board:
    """Progress that keeps what it is told."""

    def __init__(self):
        self.lines, self.open, self.closed, self.broken = [], {}, {}, {}

    def say(self, line):
        self.lines.append(line)

    @contextmanager
    def task(self, title, *, total, unit):
        task = self.open[title] = Counted(total, unit)
        try:
            yield task
        except BaseException:
            self.broken[title] = self.open.pop(title)
            raise
        self.closed[title] = self.open.pop(title)


class Counted:
    def __init__(self, total, unit):
        self.total, self.unit, self.done, self.facts = total, unit, 0, {}

    def advance(self, steps=1, **facts):
        self.done += steps
        self.facts = facts


@pytest.fixture
def pipe():
    return multiprocessing.Pipe(duplex=False)


def heard(here, *boards):
    return list(listen({here: Displays(boards)}, gone=lambda _: None))


def test_what_a_child_reports_is_on_every_display(pipe):
    here, there = pipe
    reports = Reports(there)
    reports.say("found 3 images")
    with reports.task("gim seed 0", total=5, unit="step") as task:
        for step in range(5):
            task.advance(loss=float(step))
    there.close()
    boards = Board(), Board()
    assert heard(here, *boards) == []
    for board in boards:
        assert board.lines == ["found 3 images"]
        task = board.closed["gim seed 0"]
        assert (task.total, task.unit, task.done, task.facts) == (5, "step", 5, {"loss": 4.0})


def test_what_has_ended_is_yielded_in_order(pipe):
    here, there = pipe
    reports = Reports(there)
    reports.ended("a")
    reports.say("between")
    reports.ended("b")
    there.close()
    board = Board()
    assert heard(here, board) == ["a", "b"]
    assert board.lines == ["between"]


def test_a_task_in_which_an_error_is_raised_ends_as_broken_and_not_as_finished(pipe):
    here, there = pipe
    with suppress(ValueError), Reports(there).task("gim seed 0", total=5, unit="step") as task:
        task.advance(2)
        raise ValueError
    there.send(("say", "the next cell"))
    there.close()
    board = Board()
    heard(here, board)
    assert (board.open, board.closed, board.broken["gim seed 0"].done) == ({}, {}, 2)
    assert board.lines == ["the next cell"]


def test_who_is_gone_is_told_by_the_pipe(pipe):
    here, there = pipe
    there.close()
    gone = []
    assert list(listen({here: Displays([Board()])}, gone=gone.append)) == []
    assert gone == [here]


def test_tasks_of_a_child_that_is_gone_end_as_broken(pipe):
    here, there = pipe
    there.send(("task", 0, {"title": "gim seed 0", "total": 5, "unit": "step"}))
    there.send(("advance", 0, 2, {}))
    there.close()
    board = Board()
    heard(here, board)
    assert (board.open, board.closed, board.broken["gim seed 0"].done) == ({}, {}, 2)


def test_a_task_reports_now_and_then_and_loses_no_step(pipe, monkeypatch):
    """A thousand steps in no time are two messages: the steps, and the end."""
    here, there = pipe
    monkeypatch.setattr(relay, "REPORT_SECONDS", 3600.0)
    with Reports(there).task("gim seed 0", total=1000, unit="step") as task:
        for _ in range(1000):
            task.advance()
    there.close()
    board = Board()
    heard(here, board)
    assert board.closed["gim seed 0"].done == 1000


def test_a_task_does_not_wait_for_a_parent_that_is_busy(pipe, monkeypatch):
    """The pipe is full long before all steps are reported, and nobody reads."""
    monkeypatch.setattr(relay, "REPORT_SECONDS", 0.0)
    _, there = pipe
    task = relay._ReportedTask(0, there)
    for _ in range(20_000):
        task.advance(loss=1.0)
    assert task._steps > 0


def test_a_parent_that_is_gone_is_no_error_of_the_work(pipe):
    here, there = pipe
    here.close()
    reports = Reports(there)
    with reports.task("gim seed 0", total=1, unit="step") as task:
        task.advance()
    reports.say("done")
    reports.ended("a")
