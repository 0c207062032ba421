"""Peak memory of one phase: the host's, PyTorch's two peaks, and NVML's peak of this process.

A figure that cannot be measured is absent, never 0. A note gives the reason.
"""

import ctypes
import gc
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from gim_bench.hardware import nvml, threads
from gim_bench.hardware.nvml import UnmeasurableError
from gim_bench.hardware.sampling import repeated

SAMPLING_SECONDS = 0.01
# Seldom, because the steps that are timed may wait for the driver meanwhile. PyTorch keeps what it
# has reserved, so that little is missed in between.
DRIVER_SAMPLING_SECONDS = 0.5
# Environment variable: glibc returns freed blocks of at least this size to the system at once.
MMAP_THRESHOLD = "MALLOC_MMAP_THRESHOLD_"
# Parameters of glibc's mallopt (malloc.h), with the size of a block that is mapped apart and the
# size of free memory at the end of the heap that goes back to the system.
KEPT = {-3: 32 * 2**20, -1: 256 * 2**20}
RETURNED_BYTES = 128 * 1024  # glibc's threshold to begin with
NOT_AVAILABLE = 2**64 - 1  # NVML's value for an unknown number of bytes


@dataclass(slots=True, kw_only=True)
class Peaks:
    """Peaks of a measured block, filled in at the end of the block."""

    metrics: dict[str, float] = field(default_factory=dict)  # bytes
    notes: dict[str, str] = field(default_factory=dict)  # how each is measured, or why it is not


@contextmanager
def measure(
    device: torch.device, *, prefix: str = "memory/", learner: nn.Module | None = None
) -> Iterator[Peaks]:
    """Peaks of the block's memory; the metrics' names begin with `prefix`.

    Weights of the `learner` that the block works on count as allocated by the block.
    """
    peaks = Peaks()
    host = _HostPeak()
    gpu = _GpuPeak(device, own=_bytes_of(learner)) if device.type == "cuda" else None
    with (
        _sampling(host, every_seconds=SAMPLING_SECONDS),
        nullcontext() if gpu is None else _sampling(gpu, every_seconds=DRIVER_SAMPLING_SECONDS),
    ):
        yield peaks
    for part in [host.read()] if gpu is None else [host.read(), gpu.read()]:
        peaks.metrics |= {f"{prefix}{name}": value for name, value in part.metrics.items()}
        peaks.notes |= part.notes
    if gpu is None:
        peaks.notes["gpu"] = "not measured: the cell ran on the CPU"


def free(device: torch.device) -> None:
    """Return unreferenced memory to the system, so that the next peak does not contain it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def available_bytes(device: torch.device) -> int:
    """Memory that this process may still take on a device."""
    if device.type != "cuda":
        return threads.available_bytes()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def keep_freed_blocks() -> None:
    """Let this process keep freed blocks for its next allocations, for as long as it runs.

    glibc hands large blocks back to the system, whose page faults take a third of the time of an
    encoder that reads small images on a CPU. Peaks of memory then say less about tensors. Without
    effect on other C libraries, and where the user has set glibc's threshold.
    """
    _set_thresholds(KEPT)


def return_freed_blocks() -> None:
    """Let this process return large freed blocks at once, as the process of a single cell does.

    Else glibc keeps more of them from measurement to measurement. Without effect on other C
    libraries, and where the user has set glibc's threshold.
    """
    _set_thresholds({-3: RETURNED_BYTES})


def _set_thresholds(sizes: Mapping[int, int]) -> None:
    if platform.libc_ver()[0] == "glibc" and MMAP_THRESHOLD not in os.environ:
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, size in sizes.items():
            mallopt(parameter, size)


def held_bytes() -> int | None:
    """Bytes of memory that this process holds for data of its own; None if nobody can tell."""
    try:
        return _of_status("VmData")
    except OSError:
        return None


@dataclass(slots=True)
class HeldPeak:
    """The most bytes for data that a process held in a block."""

    bytes: int = 0


@contextmanager
def held_peak() -> Iterator[HeldPeak]:
    """The highest `held_bytes` of the block, sampled every 10 ms; 0 if nobody can tell.

    What is allocated and never written to is held, too, and `limit` counts it.
    """
    peak = HeldPeak()

    def sample() -> None:
        peak.bytes = max(peak.bytes, held_bytes() or 0)

    try:
        with repeated(sample, every_seconds=SAMPLING_SECONDS):
            yield peak
    finally:
        sample()


def limit(to_bytes: int) -> None:
    """Let the system refuse this process more memory for data than `to_bytes`, from now on.

    Code and mapped files do not count. Raises: OSError or ValueError if the system refuses.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (to_bytes, to_bytes))


def kills_for_memory() -> int:
    """Processes that the kernel has killed since it started because memory was full.

    Those of all users and containers; 0 where the kernel does not tell.
    """
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def is_exhausted(error: Exception) -> bool:
    """Whether the error means that the GPU or the host is out of memory.

    CUDA, cuBLAS, cuDNN, oneDNN, C++ and PyTorch's allocator for the CPU raise a RuntimeError with
    their own words.
    """
    words = (
        *("ALLOC_FAILED", "ALLOCATION_FAILED", "CUDA error: out of memory"),
        *("can't allocate memory", "bad_alloc", "could not create a memory"),
    )
    # oneDNN says no more where it is refused memory to work in. A layer that it cannot compute at
    # all has no "primitive descriptor".
    refused = "could not create a primitive"
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError)
        and (str(error) == refused or any(word in str(error) for word in words))
    )


@contextmanager
def _sampling(peak: "_HostPeak | _GpuPeak", *, every_seconds: float) -> Iterator[None]:
    """A context that samples in a separate thread, and once more at its end."""
    if not peak.needs_sampling:
        yield
        return
    try:
        with repeated(peak.sample, every_seconds=every_seconds):
            yield
    finally:
        peak.sample()


def _of_status(name: str) -> int:
    """Bytes of one entry of /proc/self/status. Raises: OSError where there is no such file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(found) * 1024


class _HostPeak:
    """Peak resident memory: the kernel's high-water mark if it can be reset, else samples."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._baseline = self._sampled = self._process.memory_info().rss
        self._samples = 0
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (man 5 proc)
            self.needs_sampling = False
        except OSError:
            self.needs_sampling = True

    def sample(self) -> None:
        self._samples += 1
        self._sampled = max(self._sampled, self._process.memory_info().rss)

    def read(self) -> Peaks:
        how = (
            f"resident size {_sampled(self._samples, every_seconds=SAMPLING_SECONDS)}"
            if self.needs_sampling
            else "VmHWM of /proc/self/status, reset before the phase"
        )
        threshold = os.environ.get(MMAP_THRESHOLD)
        if threshold is not None:
            returned = f"; blocks of {threshold} bytes are given back once free"
        else:
            returned = ""
        peak = self._sampled if self.needs_sampling else _of_status("VmHWM")
        return Peaks(
            metrics={
                "host_peak_bytes": peak,
                "host_over_baseline_bytes": max(0, peak - self._baseline),
            },
            notes={"host": f"{how}; baseline {self._baseline} bytes before it{returned}"},
        )


class _GpuPeak:
    """PyTorch's peaks, and NVML's memory of this process on the device that CUDA uses."""

    def __init__(self, device: torch.device, *, own: int) -> None:
        """`own` bytes are on the device already and belong to the measured work."""
        self._device = device
        torch.cuda.synchronize(device)  # creates the context, which belongs to the baseline
        torch.cuda.reset_peak_memory_stats(device)
        self._allocated = torch.cuda.memory_allocated(device) - own
        self._reserved = torch.cuda.memory_reserved(device)
        self._baseline = self._sampled = self._samples = 0
        self._why_not = ""
        try:
            self._process = _ProcessOnGpu(device)
            self._baseline = self._sampled = self._process.used_bytes()
            self._check_that_it_is_ours()
        except UnmeasurableError as error:
            self._why_not = str(error)
        self.needs_sampling = not self._why_not

    def sample(self) -> None:
        self._samples += 1
        try:
            self._sampled = max(self._sampled, self._process.used_bytes())
        except UnmeasurableError as error:
            self._why_not = str(error)

    def read(self) -> Peaks:
        torch.cuda.synchronize(self._device)
        allocated = torch.cuda.max_memory_allocated(self._device)
        peaks = Peaks(
            metrics={
                "gpu_allocated_peak_bytes": allocated,
                "gpu_allocated_over_baseline_bytes": max(0, allocated - self._allocated),
                "gpu_reserved_peak_bytes": torch.cuda.max_memory_reserved(self._device),
            },
            notes={
                "gpu": f"PyTorch's max_memory_allocated and max_memory_reserved, reset before; "
                f"baseline {self._allocated} bytes allocated before, without the learner"
            },
        )
        try:
            self._read_process_into(peaks)
        except UnmeasurableError as error:
            peaks.notes["gpu_process"] = f"NVML: not measured: {error}"
        return peaks

    def _read_process_into(self, peaks: Peaks) -> None:
        """Raises: UnmeasurableError."""
        if self._why_not:
            raise UnmeasurableError(self._why_not)
        self._check_that_it_is_ours()
        peaks.metrics |= {
            "gpu_process_peak_bytes": self._sampled,
            "gpu_process_over_baseline_bytes": self._sampled - self._baseline,
            "gpu_context_bytes": self._baseline - self._reserved,
        }
        peaks.notes["gpu_process"] = (
            f"NVML: this process on {self._process.uuid}, "
            f"{_sampled(self._samples, every_seconds=DRIVER_SAMPLING_SECONDS)}; baseline "
            f"{self._baseline} bytes before it, of which PyTorch had reserved {self._reserved}"
        )

    def _check_that_it_is_ours(self) -> None:
        """Check that the driver knows this process by the number that the container gives it.

        Raises: UnmeasurableError.
        """
        if self._sampled < torch.cuda.memory_reserved(self._device):
            raise UnmeasurableError(
                f"the driver's process {os.getpid()} is another process (a container): it holds "
                f"less memory than PyTorch has reserved here"
            )


def _bytes_of(learner: nn.Module | None) -> int:
    tensors = [] if learner is None else [*learner.parameters(), *learner.buffers()]
    return sum(tensor.nbytes for tensor in tensors)


def _sampled(times: int, *, every_seconds: float) -> str:
    return f"sampled every {every_seconds * 1000:.0f} ms, {times} times"


# -- NVML ------------------------------------------------------------------------------------------


class _ProcessOnGpu:
    """This process as the driver sees it, on the GPU or MIG instance that CUDA uses.

    The UUID identifies the device: NVML's index differs from that of CUDA_VISIBLE_DEVICES.
    """

    def __init__(self, device: torch.device) -> None:
        """Raises: UnmeasurableError."""
        self._nvml, self.uuid, handle = nvml.device(device)
        # Devices that list the process, each with its (GPU instance, compute instance); (): any.
        self._places: list[tuple[Any, tuple[int, ...]]] = [(handle, ())]
        if self.uuid.startswith("MIG-"):
            self._places += self._on_parent(handle)

    def used_bytes(self) -> int:
        """Bytes that the process holds now, with its CUDA context. Raises: UnmeasurableError."""
        reasons = []
        for handle, instance in self._places:
            try:
                return self._used_bytes(handle, instance)
            except UnmeasurableError as error:
                reasons.append(str(error))
        raise UnmeasurableError("; ".join(dict.fromkeys(reasons)))

    def _on_parent(self, handle: Any) -> list[tuple[Any, tuple[int, ...]]]:
        """The GPU of a MIG instance, where some drivers list the instance's processes."""
        try:
            instance = (
                self._nvml.nvmlDeviceGetGpuInstanceId(handle),
                self._nvml.nvmlDeviceGetComputeInstanceId(handle),
            )
            return [(self._nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle), instance)]
        except self._nvml.NVMLError:
            return []

    def _used_bytes(self, handle: Any, instance: tuple[int, ...]) -> int:
        try:
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except self._nvml.NVMLError as error:
            raise UnmeasurableError(str(error)) from None
        for process in processes:
            if process.pid != os.getpid():
                continue
            if instance and (process.gpuInstanceId, process.computeInstanceId) != instance:
                continue
            if process.usedGpuMemory in (None, 0, NOT_AVAILABLE):
                raise UnmeasurableError("the driver does not tell the memory of a process")
            return int(process.usedGpuMemory)
        raise UnmeasurableError("the driver does not list this process (a container, or WSL)")
