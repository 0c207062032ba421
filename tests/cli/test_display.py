"""Bars on a terminal, plain lines elsewhere, both on standard error."""

import io

import pytest
from rich.console import Console

from gim_bench.cli import display
from gim_bench.cli.display import Bars, Lines, duration, progress_for
from tests.clocks import Clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (0.84, "0.8 s"),
        (9.94, "9.9 s"),
        (10.4, "10 s"),
        (42.0, "42 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (425.0, "7 min 5 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (12_000.0, "3 h 20 min"),
        (360_000.0, "100 h 0 min"),
    ],
)
def test_durations_are_written_for_people(seconds, text):
    assert duration(seconds) == text


# -- which one -------------------------------------------------------------------------------------


def test_without_a_terminal_there_are_lines(capsys):
    assert isinstance(progress_for(), Lines)


@pytest.mark.parametrize(("terminal", "kind"), [(True, Bars), (False, Lines)])
def test_what_is_asked_for_is_shown(terminal, kind):
    assert isinstance(progress_for(terminal=terminal), kind)


def test_quiet_shows_lines_that_stay_and_no_task(capsys):
    progress = progress_for(terminal=True, quiet=True)
    with progress.task("gim seed 0", total=3, unit="step") as task:
        task.advance(3, loss=1.0)
        progress.say("gim seed 0 failed")
    assert capsys.readouterr().err == "gim seed 0 failed\n"


# -- lines -----------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    clock.now = 100.0
    monkeypatch.setattr(display, "time", clock)
    return clock


def test_a_line_stays_as_it_is_said(capsys):
    Lines().say("[bold]12[/bold] cells: 100%")
    captured = capsys.readouterr()
    assert captured.err == "[bold]12[/bold] cells: 100%\n"
    assert captured.out == ""


def test_a_task_says_every_few_seconds_how_far_it_is_and_at_the_end_how_long_it_took(clock, capsys):
    with Lines().task("training", total=2000, unit="step") as task:
        task.advance(10, loss=1.0)  # at once: too early for a line
        clock.now += display.PLAIN_EVERY_SECONDS + 5
        task.advance(490, epoch=3, loss=2.34567, phase="warm")
        task.advance(500)
        clock.now += 20
        task.advance(1000)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "training: 500/2,000 steps, 25.0 step/s, 1 min 0 s left, epoch 3  loss 2.346  phase warm",
        "training: 2,000/2,000 steps, 50.0 step/s, 0.0 s left",
        "training: 2,000 steps in 40 s",
    ]
    assert captured.out == ""


def test_plain_lines_hold_no_control_characters(clock, capsys):
    with Lines().task("features", total=3, unit="image") as task:
        clock.now += 60
        task.advance(3)
    text = capsys.readouterr().err
    assert text.isascii()
    assert text.replace("\n", "").isprintable()


def test_a_task_that_fails_does_not_say_that_it_ended(capsys):
    with pytest.raises(ZeroDivisionError), Lines().task("training", total=5, unit="step"):
        1 / 0  # noqa: B018
    assert "training" not in capsys.readouterr().err


def test_megabytes_have_no_plural(clock, capsys):
    with Lines().task("downloading", total=2, unit="MB") as task:
        clock.now += 60
        task.advance(2)
    assert "2/2 MB, " in capsys.readouterr().err


def test_a_task_without_steps_can_be_shown(clock, capsys):
    with Lines().task("features", total=0, unit="image") as task:
        clock.now += 60
        task.advance(0)
    assert "0/0 images" in capsys.readouterr().err


# -- bars ------------------------------------------------------------------------------------------


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=160, highlight=False)


def test_a_bar_shows_title_count_speed_and_facts(terminal):
    with Bars(terminal).task("gim [seed 0]", total=100, unit="step") as task:
        task.advance(40, epoch=3, loss_module_1=2.34567)
    shown = terminal.file.getvalue()
    for part in ("gim [seed 0]", "40/100", "step/s", "epoch 3  loss_module_1 2.346"):
        assert part in shown


def test_what_stays_of_a_bar_is_the_line_that_says_how_long_it_took(terminal, clock):
    with Bars(terminal).task("training", total=2, unit="step") as task:
        clock.now += 75
        task.advance(2)
    assert terminal.file.getvalue().rstrip().endswith("training: 2 steps in 1 min 15 s")


def test_a_line_beside_bars_is_not_taken_for_markup_and_not_wrapped(terminal):
    line = "not mirrored: [bold]" + "x" * 300
    Bars(terminal).say(line)
    assert line in terminal.file.getvalue()
