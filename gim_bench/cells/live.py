"""Points of a training under way: losses, speed, memory, and the time that is left."""

import time
from collections.abc import Mapping
from functools import cached_property

import psutil
import torch

from gim_bench.records.live import LiveLog
from gim_bench.training.loop import Report


class Live:
    """Writes a few points every `every_seconds` while a training goes on."""

    def __init__(
        self,
        log: LiveLog,
        *,
        label: str,
        device: torch.device,
        trains_here: bool,
        steps: int,
        stages: int,
        samples_per_step: int,
        every_seconds: float,
    ) -> None:
        """`label` stands before the name of each unit, and tells this training from the cell's
        others. The training has `stages` of `steps` each. Without `trains_here`, the memory of
        this process is not that of the training, and is left out.
        """
        self._log = log
        self._label = label
        self._device = device
        self._trains_here = trains_here
        self._steps = steps
        self._total = steps * stages
        self._samples_per_step = samples_per_step
        self._every_seconds = every_seconds
        self._written_at = time.monotonic()
        # Time, step and state at the last points, or at the first state of a stage.
        self._before: tuple[float, int, Report] | None = None

    def __call__(self, report: Report) -> None:
        """Take the state of the training, and write points if they are due."""
        if report.ended is not None:
            for unit, loss in report.ended.items():
                if unit != "epoch":
                    self._log.add(f"epoch_loss/{self._label}{unit}", loss, step=report.epoch)
            return
        now, step = time.monotonic(), report.stage * self._steps + report.step
        if self._before is None or self._before[-1].stage != report.stage:
            self._before = now, step, report
        if now - self._written_at < self._every_seconds:
            return
        self._add(report, step=step, now=now)
        self._log.write()
        self._before = now, step, report
        self._written_at = time.monotonic()

    def close(self) -> None:
        """Write the last epochs of a training that has written points already."""
        if self._log.begun:
            self._log.write()

    def _add(self, report: Report, *, step: int, now: float) -> None:
        assert self._before is not None
        time_before, step_before, before = self._before
        for unit, loss in _means_since(before, report).items():
            self._log.add(f"step_loss/{self._label}{unit}", loss, step=report.step)
        measured: dict[str, float] = {}
        if self._trains_here:
            measured["host_resident_bytes"] = self._process.memory_info().rss
            if self._device.type == "cuda":
                measured["gpu_allocated_bytes"] = torch.cuda.memory_allocated(self._device)
        if now > time_before and step > step_before:  # from the second state of a stage on
            speed = (step - step_before) / (now - time_before)
            measured["samples_per_second"] = speed * self._samples_per_step
            measured["seconds_left"] = (self._total - step) / speed
        for name, value in measured.items():
            self._log.add(f"live/{self._label}{name}", value, step=step)

    @cached_property
    def _process(self) -> psutil.Process:
        return psutil.Process()


def _means_since(before: Report, now: Report) -> Mapping[str, float]:
    """Mean losses of the steps since an earlier state; of the whole epoch if another one began."""
    steps = now.epoch_steps - before.epoch_steps
    if (before.stage, before.epoch) != (now.stage, now.epoch) or not steps:
        return now.means
    return {
        unit: (mean * now.epoch_steps - before.means[unit] * before.epoch_steps) / steps
        for unit, mean in now.means.items()
    }
