"""Limits of time, and their end."""

import os
import signal

import pytest

from gim_bench.errors import TimeLimitError
from gim_bench.system.interrupts import terminate_as_interrupt, time_limit


def test_a_block_that_is_in_time_leaves_no_alarm():
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(100.0):
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


def test_an_alarm_that_rings_while_it_is_called_off_is_a_time_limit_too(monkeypatch):
    set_ = signal.setitimer

    def ring_first(which, seconds, again=0.0):
        if not seconds and signal.getitimer(which)[0]:
            set_(which, 0)
            os.kill(os.getpid(), signal.SIGALRM)
        return set_(which, seconds, again)

    monkeypatch.setattr(signal, "setitimer", ring_first)
    with pytest.raises(TimeLimitError, match="took longer than"), time_limit(100.0):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.fixture
def handlers():
    """Puts the handlers of signals back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_terminal_that_hangs_up_interrupts_unless_that_is_ignored(handlers):
    """`nohup` has SIGHUP ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    terminate_as_interrupt()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    terminate_as_interrupt()
    os.kill(os.getpid(), signal.SIGHUP)
