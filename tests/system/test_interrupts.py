"""Limits of time, and their end."""

import os
import signal

import pytest

from gim_bench.errors import TimeLimitError
from gim_bench.system.interrupts import time_limit


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
