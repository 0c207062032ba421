"""Peaks of memory: what happens within the block, and nothing where nothing can be known."""

import os
import sys
import time
from types import ModuleType, SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from gim_bench import memory
from gim_bench.memory import measure

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MEGABYTE = 10**6
GPU_NAMES = {
    "memory/gpu_allocated_peak_bytes",
    "memory/gpu_reserved_peak_bytes",
    "memory/gpu_process_peak_bytes",
    "memory/gpu_process_over_baseline_bytes",
}


def resident():
    return psutil.Process().memory_info().rss


def touch(megabytes):
    """Allocates and writes so much, waits for a few samples, and frees it."""
    block = np.ones(megabytes * MEGABYTE, dtype=np.uint8)
    time.sleep(0.08)
    del block


# -- host ------------------------------------------------------------------------------------------


@pytest.fixture(params=["high-water mark", "samples"])
def _way(request, monkeypatch):
    """Both ways of measuring; the kernel's needs a Linux that lets the mark be reset."""
    if request.param == "samples":

        class Refusing(type(memory.Path())):
            def write_text(self, *_, **__):
                raise PermissionError

        monkeypatch.setattr(memory, "Path", Refusing)
    elif not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("no /proc/self/clear_refs")


@pytest.mark.usefixtures("_way")
def test_memory_freed_within_the_block_counts_in_the_peak():
    before = resident()
    with measure(CPU) as peaks:
        touch(200)
    over = peaks.metrics["memory/host_peak_bytes"] - before
    assert 150 * MEGABYTE < over < 350 * MEGABYTE


def test_what_the_process_held_before_the_block_is_no_part_of_what_the_block_took():
    held = np.ones(200 * MEGABYTE, dtype=np.uint8)
    with measure(CPU) as peaks:
        touch(100)
    assert len(held)
    assert 90 * MEGABYTE < peaks.metrics["memory/host_over_baseline_bytes"] < 190 * MEGABYTE


@pytest.mark.usefixtures("_way")
def test_memory_freed_before_the_block_does_not_count():
    before = resident()
    touch(300)
    with measure(CPU) as peaks:
        touch(10)
    assert peaks.metrics["memory/host_peak_bytes"] - before < 150 * MEGABYTE


@pytest.mark.usefixtures("_way")
def test_how_the_host_was_measured_is_noted(request):
    with measure(CPU) as peaks:
        pass
    wanted = "sampled every 10 ms" if "samples" in request.node.name else "VmHWM"
    assert wanted in peaks.notes["host"]


def test_on_the_cpu_there_is_no_gpu_metric_but_a_reason():
    with measure(CPU) as peaks:
        pass
    assert set(peaks.metrics) == {"memory/host_peak_bytes", "memory/host_over_baseline_bytes"}
    assert peaks.notes["gpu"] == "not measured: the cell ran on the CPU"


def test_the_sampler_stops_when_the_block_fails():
    def names():
        import threading

        return [thread.name for thread in threading.enumerate()]

    with pytest.raises(ZeroDivisionError), measure(CPU):
        1 / 0  # noqa: B018
    assert "memory sampler" not in names()


# -- GPU, with a driver that is made up ------------------------------------------------------------


class Driver(ModuleType):
    """A pynvml whose answers a test decides."""

    class NVMLError(Exception):
        pass

    def __init__(self):
        super().__init__("pynvml")
        self.by_pid = {os.getpid(): 500 * MEGABYTE}
        self.asked_for = []
        self.broken = False

    def nvmlInit(self):  # noqa: N802
        if self.broken:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        self.asked_for.append(uuid)
        return f"handle of {uuid}"

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        assert handle == f"handle of {self.asked_for[-1]}"
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.by_pid.items()]


@pytest.fixture
def driver(monkeypatch):
    """A GPU whose PyTorch peaks are 111 MB and 222 MB, and its driver."""
    made_up = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", made_up)
    resets = []
    for name, stand_in in {
        "synchronize": lambda _: None,
        "reset_peak_memory_stats": resets.append,
        "max_memory_allocated": lambda _: 111 * MEGABYTE,
        "max_memory_reserved": lambda _: 222 * MEGABYTE,
        "get_device_properties": lambda _: SimpleNamespace(uuid="0123-abcd"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    made_up.resets = resets
    return made_up


def test_the_three_gpu_peaks_and_the_one_over_the_baseline(driver):
    with measure(GPU) as peaks:
        driver.by_pid[os.getpid()] = 900 * MEGABYTE
        time.sleep(0.08)
        driver.by_pid[os.getpid()] = 600 * MEGABYTE
    assert {name: peaks.metrics[name] for name in GPU_NAMES} == {
        "memory/gpu_allocated_peak_bytes": 111 * MEGABYTE,
        "memory/gpu_reserved_peak_bytes": 222 * MEGABYTE,
        "memory/gpu_process_peak_bytes": 900 * MEGABYTE,
        "memory/gpu_process_over_baseline_bytes": 400 * MEGABYTE,
    }
    assert "baseline 500000000 bytes" in peaks.notes["gpu"]
    assert "every 10 ms" in peaks.notes["gpu"]


def test_pytorchs_peaks_are_reset_before_the_block(driver):
    with measure(GPU):
        assert driver.resets == [GPU]


def test_other_processes_on_the_gpu_do_not_count(driver):
    driver.by_pid = {1: 9000 * MEGABYTE} | driver.by_pid
    with measure(GPU) as peaks:
        pass
    assert peaks.metrics["memory/gpu_process_peak_bytes"] == 500 * MEGABYTE


@pytest.mark.parametrize(
    ("uuid", "asked"),
    [("0123-abcd", "GPU-0123-abcd"), ("GPU-0123", "GPU-0123"), ("MIG-0123", "MIG-0123")],
)
def test_the_device_is_found_by_its_uuid(uuid, asked, driver, monkeypatch):
    """NVML numbers all devices; PyTorch those that CUDA_VISIBLE_DEVICES leaves."""
    properties = SimpleNamespace(uuid=uuid)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    with measure(GPU):
        pass
    assert driver.asked_for == [asked]


def _hidden(driver):
    driver.by_pid = {1: 5 * MEGABYTE}


def _unknown(driver):
    driver.by_pid = {os.getpid(): None}


def _broken(driver):
    driver.broken = True


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_hidden, "the driver does not list this process"),
        (_unknown, "the driver does not list this process"),
        (_broken, "Driver Not Loaded"),
        (lambda _: sys.modules.__setitem__("pynvml", None), "nvidia-ml-py is not installed"),
    ],
    ids=["process not listed", "memory not told", "no driver", "no nvidia-ml-py"],
)
def test_what_nvml_cannot_tell_is_absent_with_the_reason(spoil, reason, driver):
    spoil(driver)
    with measure(GPU) as peaks:
        pass
    assert GPU_NAMES & set(peaks.metrics) == {
        "memory/gpu_allocated_peak_bytes",
        "memory/gpu_reserved_peak_bytes",
    }
    assert peaks.notes["gpu"].startswith("NVML: not measured: ")
    assert reason in peaks.notes["gpu"]


def test_a_process_that_vanishes_from_the_list_makes_the_peak_unknown(driver):
    with measure(GPU) as peaks:
        driver.by_pid.clear()
        time.sleep(0.05)
        driver.by_pid[os.getpid()] = 900 * MEGABYTE
    assert "memory/gpu_process_peak_bytes" not in peaks.metrics
    assert "does not list this process" in peaks.notes["gpu"]
