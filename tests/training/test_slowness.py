"""A training says once that its threads wait for each other."""

import pytest
import torch

from gim_bench.training import slowness
from gim_bench.training.slowness import WINDOW_SECONDS, Slowness
from tests.clocks import Clock

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(slowness, "time", clock)
    return clock


def window(watch, clock, *, seconds):
    """What is said in a window of steps that take so long each."""
    said = []
    for _ in range(round(WINDOW_SECONDS / seconds) + 1):
        clock.now += seconds
        said.append(watch.step())
    return [line for line in said if line]


def test_steps_that_become_many_times_slower_are_said_once(clock):
    watch = Slowness(CPU, threads=2)
    assert window(watch, clock, seconds=0.1) == []
    (line,) = window(watch, clock, seconds=1.0)
    assert line == (
        "steps take 1 s, 10 times as long as before: other programs keep the cores busy, and 2 "
        "threads wait for each other; on a busy machine stop and resume with fewer threads, as by "
        "OMP_NUM_THREADS=1"
    )
    assert window(watch, clock, seconds=1.0) == []


def test_a_machine_that_is_shared_fairly_is_no_reason(clock):
    watch = Slowness(CPU, threads=2)
    window(watch, clock, seconds=0.1)
    assert window(watch, clock, seconds=0.3) == []


def test_the_fastest_steps_count_though_the_first_were_slow(clock):
    watch = Slowness(CPU, threads=2)
    window(watch, clock, seconds=0.5)
    window(watch, clock, seconds=0.1)
    assert len(window(watch, clock, seconds=1.0)) == 1


def test_one_thread_waits_for_nobody(clock):
    watch = Slowness(CPU, threads=1)
    window(watch, clock, seconds=0.1)
    assert window(watch, clock, seconds=5.0) == []


def test_steps_of_a_gpu_are_not_timed(clock):
    watch = Slowness(torch.device("cuda"), threads=2)
    window(watch, clock, seconds=0.1)
    assert window(watch, clock, seconds=5.0) == []


def test_other_work_between_steps_is_not_counted(clock):
    watch = Slowness(CPU, threads=2)
    window(watch, clock, seconds=0.1)
    clock.now += 600
    watch.restart()
    assert window(watch, clock, seconds=0.1) == []
