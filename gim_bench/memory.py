"""Peak memory of one phase of work: host, PyTorch's two peaks, and NVML's for this very process.

A figure that cannot be measured is absent, with the reason beside it, and never 0.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

SAMPLING_SECONDS = 0.01


@dataclass(slots=True, kw_only=True)
class Peaks:
    """Filled in when the measured block is left."""

    metrics: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)  # how it was measured, or why it was not


@contextmanager
def measure(device: torch.device) -> Iterator[Peaks]:
    """Peaks of all that happens within the block."""
    peaks = Peaks()
    host = _HostPeak()
    gpu = _GpuPeak(device) if device.type == "cuda" else None
    with _sampling([sampler for sampler in (host, gpu) if sampler is not None]):
        yield peaks
    peak = host.peak_bytes()
    peaks.metrics["memory/host_peak_bytes"] = peak
    peaks.metrics["memory/host_over_baseline_bytes"] = max(0, peak - host.baseline)
    peaks.notes["host"] = f"{host.method}; baseline {host.baseline} bytes before it"
    if gpu is None:
        peaks.notes["gpu"] = "not measured: the cell ran on the CPU"
    else:
        gpu.read_into(peaks)


@contextmanager
def _sampling(samplers: "list[_HostPeak | _GpuPeak]") -> Iterator[None]:
    """Samples every 10 ms in a thread of its own, and once at either end."""
    wanted = [sampler for sampler in samplers if sampler.needs_sampling]
    stop = threading.Event()

    def sample() -> None:
        while wanted and not stop.wait(SAMPLING_SECONDS):
            for sampler in wanted:
                sampler.sample()

    thread = threading.Thread(target=sample, name="memory sampler", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for sampler in wanted:
            sampler.sample()


class _HostPeak:
    """Peak resident memory: the kernel's high-water mark where it can be reset, else samples."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.baseline = self._sampled = self._process.memory_info().rss
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (man 5 proc)
            self._status = Path("/proc/self/status")
            self.method = "VmHWM of /proc/self/status, reset before the phase"
            self.needs_sampling = False
        except OSError:
            self.method = f"resident size sampled every {SAMPLING_SECONDS * 1000:.0f} ms"
            self.needs_sampling = True

    def sample(self) -> None:
        self._sampled = max(self._sampled, self._process.memory_info().rss)

    def peak_bytes(self) -> int:
        if self.needs_sampling:
            return self._sampled
        lines = self._status.read_text().splitlines()
        (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(peak) * 1024


class _GpuPeak:
    """PyTorch's peaks, and NVML's memory of this process on the device that CUDA really uses."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        torch.cuda.synchronize(device)  # creates the context, which belongs to the baseline
        torch.cuda.reset_peak_memory_stats(device)
        self._sampled = 0
        self._baseline = 0
        self._why_not = ""
        try:
            self._nvml, self._handle = _nvml_handle(device)
            self._baseline = self._process_bytes()
        except _UnmeasurableError as error:
            self._why_not = str(error)
        self.needs_sampling = not self._why_not

    def sample(self) -> None:
        try:
            self._sampled = max(self._sampled, self._process_bytes())
        except _UnmeasurableError as error:
            self._why_not = str(error)

    def read_into(self, peaks: Peaks) -> None:
        torch.cuda.synchronize(self._device)
        stats = {
            "memory/gpu_allocated_peak_bytes": torch.cuda.max_memory_allocated(self._device),
            "memory/gpu_reserved_peak_bytes": torch.cuda.max_memory_reserved(self._device),
        }
        if self._why_not:
            peaks.notes["gpu"] = f"NVML: not measured: {self._why_not}"
        else:
            stats["memory/gpu_process_peak_bytes"] = self._sampled
            stats["memory/gpu_process_over_baseline_bytes"] = self._sampled - self._baseline
            peaks.notes["gpu"] = (
                f"NVML: this process, by device UUID, every {SAMPLING_SECONDS * 1000:.0f} ms; "
                f"baseline {self._baseline} bytes before the phase"
            )
        peaks.metrics |= stats

    def _process_bytes(self) -> int:
        try:
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError as error:
            raise _UnmeasurableError(str(error)) from None
        for process in processes:
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
        raise _UnmeasurableError("the driver does not list this process (a container, or WSL)")


class _UnmeasurableError(Exception):
    """Why NVML cannot tell."""


def _nvml_handle(device: torch.device) -> tuple[Any, Any]:
    """(pynvml, handle), found by UUID: NVML's index is not that of CUDA_VISIBLE_DEVICES."""
    try:
        import pynvml
    except ImportError:
        raise _UnmeasurableError("nvidia-ml-py is not installed") from None
    try:
        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        prefixed = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(prefixed)
    except pynvml.NVMLError as error:
        raise _UnmeasurableError(str(error)) from None
