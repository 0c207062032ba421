"""The work that a training step's time is divided by."""

import torch

from gim_bench.hardware import calibration
from gim_bench.hardware.calibration import WORK, Work, calibration_seconds

CPU = torch.device("cpu")


def test_it_draws_no_random_numbers_and_leaves_no_gradients():
    before = torch.get_rng_state()
    calibration_seconds(CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_convolutions_are_in_fp32(monkeypatch):
    """By itself a GPU rounds their factors to TF32."""
    rounded = []
    monkeypatch.setattr(
        calibration.F, "conv2d", lambda *_, **__: rounded.append(torch.backends.cudnn.allow_tf32)
    )
    calibration_seconds(CPU)
    assert rounded
    assert not any(rounded)


def test_the_median_is_of_the_runs_after_the_first(monkeypatch):
    """Readings of the clock in pairs: a cold run of 100 s, then runs of 1, 9 and 2 s."""
    clock = iter([0, 100, 0, 1, 0, 9, 0, 2])
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: next(clock))
    assert calibration_seconds(CPU) == 2


def test_more_work_takes_longer(monkeypatch):
    few = calibration_seconds(CPU)
    monkeypatch.setitem(WORK, "cpu", Work(batch=8, side=256, rounds=20))
    assert calibration_seconds(CPU) > few
