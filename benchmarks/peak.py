"""Peak memory of a call in a process of its own: what a user's machine must have."""

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

from gim_bench.hardware import memory

STEPS = 2  # the first one allocates the optimiser's state


def peak_bytes(make_step: Callable[[], Callable[[], object]]) -> int:
    """Peak resident bytes of a fresh process that builds a step and runs it twice, imports and all.

    `make_step` is a function of a module's top level that returns the step.
    """
    place = f"{make_step.__module__}:{make_step.__qualname__}"
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", "benchmarks.peak", place],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


def main() -> None:
    """Runs what the first argument names, and prints its peak in bytes."""
    module, _, name = sys.argv[1].partition(":")
    make_step = getattr(import_module(module), name)
    with memory.measure(torch.device("cpu")) as peaks:
        step = make_step()
        for _ in range(STEPS):
            step()
    sys.stdout.write(f"{peaks.metrics['memory/host_peak_bytes']}\n")


if __name__ == "__main__":
    main()
