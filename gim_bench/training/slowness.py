"""Trainings on a CPU whose threads wait for each other while other programs keep the cores busy."""

import time

import torch

WINDOW_SECONDS = 10.0  # over which the time of a step is averaged
SLOWER = 4.0  # than the fastest window; two threads that share a core lose half, not three quarters


class Slowness:
    """Watches the steps of a training, and says once that they have become many times slower.

    One thread waits for nobody, and steps of a GPU are not timed here.
    """

    def __init__(self, device: torch.device, *, threads: int) -> None:
        """`threads` take each step."""
        self._threads = threads if device.type == "cpu" else 1
        self._steps = 0
        self._began = time.monotonic()
        self._fastest: float | None = None  # seconds of a step
        self._said = False

    def restart(self) -> None:
        """Begin a window: other work than steps was done."""
        self._steps, self._began = 0, time.monotonic()

    def step(self) -> str | None:
        """Count a step; return the line that is to be said, if any."""
        self._steps += 1
        seconds = time.monotonic() - self._began
        if self._threads == 1 or self._said or seconds < WINDOW_SECONDS:
            return None
        of_a_step = seconds / self._steps
        self.restart()
        if self._fastest is None or of_a_step < self._fastest:
            self._fastest = of_a_step
        if of_a_step < SLOWER * self._fastest:
            return None
        self._said = True
        return (
            f"steps take {of_a_step:.2g} s, {of_a_step / self._fastest:.0f} times as long as "
            f"before: other programs keep the cores busy, and {self._threads} threads wait for "
            f"each other; on a busy machine stop and resume with fewer threads, as by "
            f"OMP_NUM_THREADS=1"
        )
