"""Speed of the machine at this moment, by which the time of a training step is divided.

A step's seconds say little about another machine, or about the same machine under load. A step
that takes 1.3 times as long as a fixed piece of work says more.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gim_bench.hardware.devices import arithmetic
from gim_bench.settings.base import Precision

RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Size of a 3×3 convolution of 64 channels on 32×32 places, and of a square matrix product.

    Both compute in fp32.
    """

    batch: int
    side: int  # of the matrices
    rounds: int = 1


# 20 ms on one core of 2020's processors; 780 GFLOP, a GPU's 20 to 50 ms, in 0.3 GB.
WORK = {"cpu": Work(batch=16, side=768), "cuda": Work(batch=256, side=4096, rounds=5)}


def calibration_seconds(device: torch.device) -> float:
    """Median wall time of the fixed work on `device`, in seconds, after one run for warming up.

    The work draws no random numbers. It waits for a GPU only at the start and the end of a run.
    """
    work = WORK[device.type]
    images = torch.full((work.batch, 64, 32, 32), 0.5, device=device)
    kernels = torch.full((64, 64, 3, 3), 0.01, device=device)
    matrix = torch.full((work.side, work.side), 0.5, device=device)

    def run() -> float:
        _wait_for(device)
        started = time.perf_counter()
        for _ in range(work.rounds):
            F.conv2d(images, kernels, padding=1)
            _ = matrix @ matrix
        _wait_for(device)
        return time.perf_counter() - started

    with torch.inference_mode(), arithmetic(Precision.FP32):
        run()
        return statistics.median(run() for _ in range(RUNS))


@contextmanager
def timed(device: torch.device) -> Iterator[list[float]]:
    """A list that holds the block's wall seconds once it is left, the device's work included."""
    seconds: list[float] = []
    _wait_for(device)
    started = time.perf_counter()
    yield seconds
    _wait_for(device)
    seconds.append(time.perf_counter() - started)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
