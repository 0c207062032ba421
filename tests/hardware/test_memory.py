"""Peaks of memory: what happens within the block, and nothing where nothing can be known."""

import os
import platform
import subprocess
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import psutil
import pytest
import torch

from gim_bench.hardware import memory
from gim_bench.hardware.memory import is_exhausted, keep_freed_blocks, measure
from tests.pages import written

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MEGABYTE = 10**6
GPU_NAMES = {
    "memory/gpu_allocated_peak_bytes",
    "memory/gpu_reserved_peak_bytes",
    "memory/gpu_process_peak_bytes",
    "memory/gpu_process_over_baseline_bytes",
    "memory/gpu_context_bytes",
}


def resident():
    return psutil.Process().memory_info().rss


FAULTS = """
import ctypes, resource, sys
import torch
from gim_bench.hardware.memory import keep_freed_blocks

ctypes.CDLL(None).mallopt(-3, 128 * 1024)  # as at the start, where it may grow by chance
if sys.argv[1:]:
    keep_freed_blocks()
def work():
    for _ in range(20):
        blocks = [torch.ones(2 * 10**6) for _ in range(4)]  # 8 MB each
        del blocks
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_blocks_that_are_kept_cost_no_page_faults():
    given, kept = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, *arguments]))
        for arguments in ([], ["keep"])
    )
    assert kept < given / 10


def test_a_threshold_that_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv(memory.MMAP_THRESHOLD, "131072")
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("the threshold was changed"))
    keep_freed_blocks()


# -- host ------------------------------------------------------------------------------------------


def threads():
    return [thread.name for thread in threading.enumerate()]


@pytest.fixture
def touch(monkeypatch):
    """`touch(size)` allocates and writes so many bytes, holds them for two samples, frees them."""
    taken, sample = [], memory._HostPeak.sample

    def sampled(peak):
        sample(peak)
        taken.append(peak)

    def touch(size):
        block = written(size)
        enough = len(taken) + 2
        while len(taken) < enough and "sampler" in threads():
            time.sleep(0.002)
        del block

    monkeypatch.setattr(memory._HostPeak, "sample", sampled)
    return touch


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


BLOCK = 200 * MEGABYTE  # so large that all else that the process does at the time is small


@pytest.mark.usefixtures("_way")
def test_memory_freed_within_the_block_counts_in_the_peak(touch):
    before = resident()
    with measure(CPU) as peaks:
        touch(BLOCK)
    over = peaks.metrics["memory/host_peak_bytes"] - before
    assert over == pytest.approx(BLOCK, rel=0.5)


def test_what_the_process_held_before_the_block_is_no_part_of_what_the_block_took(touch):
    held = written(2 * BLOCK)
    with measure(CPU) as peaks:
        touch(BLOCK)
    assert len(held) == 2 * BLOCK
    assert peaks.metrics["memory/host_over_baseline_bytes"] == pytest.approx(BLOCK, rel=0.5)


@pytest.mark.usefixtures("_way")
def test_memory_freed_before_the_block_does_not_count(touch):
    before = resident()
    touch(BLOCK)
    with measure(CPU) as peaks:
        touch(BLOCK // 20)
    assert peaks.metrics["memory/host_peak_bytes"] - before < BLOCK / 2


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


@pytest.mark.usefixtures("driver")
def test_the_sampler_stops_when_the_block_fails():
    def fail():
        assert "sampler" in threads()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), measure(GPU):
        fail()
    assert "sampler" not in threads()


@pytest.mark.usefixtures("_way")
def test_each_phase_has_peaks_of_its_own_under_its_own_names(touch):
    with measure(CPU) as training:
        touch(BLOCK)
    with measure(CPU, prefix="memory/probe_") as probes:
        touch(BLOCK // 4)
    assert set(probes.metrics) == {
        "memory/probe_host_peak_bytes",
        "memory/probe_host_over_baseline_bytes",
    }
    assert training.metrics["memory/host_over_baseline_bytes"] > BLOCK * 3 / 4
    assert probes.metrics["memory/probe_host_over_baseline_bytes"] < BLOCK / 2


@pytest.mark.parametrize(
    ("error", "exhausted"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError("Unable to allocate 9 GiB for an array"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (torch.AcceleratorError("CUDA error: out of memory\nCompile with …"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("GET was unable to find an engine to execute this computation"), False),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a convolution"), False),
        (RuntimeError("shapes do not match"), False),
        (ValueError("can't allocate memory to this seed"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_memory_that_does_not_suffice_is_told_from_other_errors(error, exhausted):
    assert is_exhausted(error) is exhausted


# -- GPU, with a driver that is made up ------------------------------------------------------------


class Driver(ModuleType):
    """A pynvml whose answers a test decides: one GPU, and where `mig` is set an instance of it."""

    class NVMLError(Exception):
        pass

    def __init__(self):
        super().__init__("pynvml")
        self.uuids = {"GPU-0123-abcd"}
        self.processes = {"GPU-0123-abcd": {os.getpid(): 500 * MEGABYTE}}
        self.instances = {}  # {pid: (GPU instance, compute instance)}
        self.asked_for = []
        self.answers = 0  # of which processes are on the device
        self.broken = False

    @property
    def by_pid(self):
        return self.processes["GPU-0123-abcd"]

    @by_pid.setter
    def by_pid(self, processes):
        self.processes["GPU-0123-abcd"] = processes

    def nvmlInit(self):  # noqa: N802
        if self.broken:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        self.asked_for.append(uuid)
        if uuid not in self.uuids:
            raise self.NVMLError("Not Found")
        return uuid

    def wait(self):
        """Return after two samples more."""
        enough = self.answers + 2
        while self.answers < enough:
            time.sleep(0.002)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        self.answers += 1
        if handle not in self.processes:
            raise self.NVMLError("Not Supported")
        return [
            SimpleNamespace(
                pid=pid,
                usedGpuMemory=used,
                gpuInstanceId=self.instances.get(pid, (2**32 - 1,))[0],
                computeInstanceId=self.instances.get(pid, (2**32 - 1,))[-1],
            )
            for pid, used in self.processes[handle].items()
        ]

    def nvmlDeviceGetGpuInstanceId(self, handle):  # noqa: N802
        assert handle.startswith("MIG-")
        return 3

    def nvmlDeviceGetComputeInstanceId(self, handle):  # noqa: N802
        assert handle.startswith("MIG-")
        return 1

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle):  # noqa: N802
        if self.broken_parent:
            raise self.NVMLError("Insufficient Permissions")
        return "GPU-0123-abcd"

    broken_parent = False


@pytest.fixture
def driver(monkeypatch):
    """A GPU with 60 MB allocated and 100 MB reserved, peaks of 111 and 222 MB; and its driver."""
    made_up = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", made_up)
    made_up.resets = []
    made_up.reserved = 100 * MEGABYTE
    for name, stand_in in {
        "synchronize": lambda _: None,
        "reset_peak_memory_stats": made_up.resets.append,
        "memory_reserved": lambda _: made_up.reserved,
        "memory_allocated": lambda _: 60 * MEGABYTE,
        "max_memory_allocated": lambda _: 111 * MEGABYTE,
        "max_memory_reserved": lambda _: 222 * MEGABYTE,
        "get_device_properties": lambda _: SimpleNamespace(uuid="0123-abcd"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return made_up


@pytest.fixture
def _often(monkeypatch):
    """The driver is asked every 10 ms."""
    monkeypatch.setattr(memory, "DRIVER_SAMPLING_SECONDS", 0.01, raising=False)


def test_the_driver_is_asked_too_seldom_to_slow_steps_down(driver):
    """Once for the baseline and once at the end of a block of a tenth of a second."""
    with measure(GPU):
        time.sleep(0.1)
    assert driver.answers == 2


@pytest.mark.usefixtures("_often")
def test_the_gpu_s_peaks_the_one_over_the_baseline_and_the_context(driver):
    with measure(GPU) as peaks:
        driver.by_pid[os.getpid()] = 900 * MEGABYTE
        driver.wait()
        driver.by_pid[os.getpid()] = 600 * MEGABYTE
    assert {name: peaks.metrics[name] for name in GPU_NAMES} == {
        "memory/gpu_allocated_peak_bytes": 111 * MEGABYTE,
        "memory/gpu_reserved_peak_bytes": 222 * MEGABYTE,
        "memory/gpu_process_peak_bytes": 900 * MEGABYTE,
        "memory/gpu_process_over_baseline_bytes": 400 * MEGABYTE,
        "memory/gpu_context_bytes": 400 * MEGABYTE,  # 500 before, 100 of it PyTorch's
    }


@pytest.mark.usefixtures("driver")
def test_allocated_memory_over_the_baseline_leaves_out_all_but_the_learner():
    """Of 60 MB before the block, 4 MB are the learner's; the other 56 MB may be a data set."""
    learner = torch.nn.Linear(1000, 1000, bias=False)
    assert learner.weight.nbytes == 4 * MEGABYTE
    name = "memory/gpu_allocated_over_baseline_bytes"
    with measure(GPU) as without, measure(GPU, learner=learner) as with_learner:
        pass
    assert without.metrics[name] == 51 * MEGABYTE
    assert with_learner.metrics[name] == 55 * MEGABYTE
    assert "baseline 56000000 bytes" in with_learner.notes["gpu"]


@pytest.mark.usefixtures("_often")
def test_how_the_gpu_was_measured_is_noted(driver):
    with measure(GPU) as peaks:
        driver.wait()
    assert "max_memory_allocated" in peaks.notes["gpu"]
    found = peaks.notes["gpu_process"]
    times = driver.answers - 1  # the first one gives the baseline
    assert times >= 2
    assert f"NVML: this process on GPU-0123-abcd, sampled every 10 ms, {times} times" in found
    assert "baseline 500000000 bytes before it, of which PyTorch had reserved 100000000" in found


def test_memory_that_is_only_given_back_makes_no_peak_below_the_baseline(driver):
    with measure(GPU) as peaks:
        driver.by_pid[os.getpid()] = 300 * MEGABYTE
    assert peaks.metrics["memory/gpu_process_peak_bytes"] == 500 * MEGABYTE
    assert peaks.metrics["memory/gpu_process_over_baseline_bytes"] == 0


def test_pytorchs_peaks_are_reset_before_the_block(driver):
    with measure(GPU):
        assert driver.resets == [GPU]


def test_other_processes_on_the_gpu_do_not_count(driver):
    driver.by_pid = {1: 9000 * MEGABYTE} | driver.by_pid
    with measure(GPU) as peaks:
        pass
    assert peaks.metrics["memory/gpu_process_peak_bytes"] == 500 * MEGABYTE


@pytest.mark.parametrize(
    ("uuid", "there", "asked"),
    [
        ("0123-abcd", "GPU-0123-abcd", ["GPU-0123-abcd"]),
        ("GPU-0123", "GPU-0123", ["GPU-0123"]),
        ("MIG-0123", "MIG-0123", ["MIG-0123"]),
        ("0123", "MIG-0123", ["GPU-0123", "MIG-0123"]),
    ],
)
def test_the_device_is_found_by_its_uuid(uuid, there, asked, driver, monkeypatch):
    """NVML numbers all devices; PyTorch those that CUDA_VISIBLE_DEVICES leaves."""
    properties = SimpleNamespace(uuid=uuid)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    driver.uuids = {there}
    driver.processes = {there: {os.getpid(): 700 * MEGABYTE}}
    with measure(GPU) as peaks:
        pass
    assert driver.asked_for == asked
    assert peaks.metrics["memory/gpu_process_peak_bytes"] == 700 * MEGABYTE


@pytest.fixture
def mig(driver, monkeypatch):
    """The same, where CUDA runs on a MIG instance, which lists no processes itself."""
    properties = SimpleNamespace(uuid="4567")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    driver.uuids = {"GPU-0123-abcd", "MIG-4567"}
    driver.instances = {os.getpid(): (3, 1)}
    return driver


def test_a_process_on_a_mig_instance_is_found_on_its_gpu_where_the_driver_lists_it_there(mig):
    with measure(GPU) as peaks:
        pass
    assert peaks.metrics["memory/gpu_process_peak_bytes"] == 500 * MEGABYTE


def test_what_a_mig_instance_lists_itself_comes_first(mig):
    mig.processes["MIG-4567"] = {os.getpid(): 300 * MEGABYTE}
    with measure(GPU) as peaks:
        pass
    assert peaks.metrics["memory/gpu_process_peak_bytes"] == 300 * MEGABYTE


@pytest.mark.parametrize("instance", [(2, 1), (3, 0)])
def test_on_its_gpu_a_process_of_another_instance_does_not_count(mig, instance):
    mig.instances = {os.getpid(): instance}
    with measure(GPU) as peaks:
        pass
    assert "memory/gpu_process_peak_bytes" not in peaks.metrics
    assert "Not Supported; the driver does not list" in peaks.notes["gpu_process"]


def test_without_leave_to_look_at_the_gpu_a_mig_instance_has_to_tell(mig):
    mig.broken_parent = True
    with measure(GPU) as peaks:
        pass
    assert peaks.notes["gpu_process"] == "NVML: not measured: Not Supported"


def _hidden(driver):
    driver.by_pid = {1: 5 * MEGABYTE}


def _telling(used):
    def spoil(driver):
        driver.by_pid = {os.getpid(): used}

    return spoil


def _broken(driver):
    driver.broken = True


def _elsewhere(driver):
    driver.uuids = {"GPU-other"}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_hidden, "the driver does not list this process"),
        (_telling(None), "the driver does not tell the memory"),
        (_telling(0), "the driver does not tell the memory"),
        (_telling(0xFFFFFFFFFFFFFFFF), "the driver does not tell the memory"),
        (_telling(99 * MEGABYTE), "is another process (a container)"),
        (_broken, "Driver Not Loaded"),
        (_elsewhere, "no device GPU-0123-abcd or MIG-0123-abcd: Not Found"),
        (lambda _: sys.modules.__setitem__("pynvml", None), "nvidia-ml-py is not installed"),
    ],
    ids=["not listed", "memory None", "memory 0", "memory not available", "less than reserved",
         "no driver", "no such device", "no nvidia-ml-py"],
)  # fmt: skip
def test_what_nvml_cannot_tell_is_absent_with_the_reason(spoil, reason, driver):
    spoil(driver)
    with measure(GPU) as peaks:
        pass
    assert GPU_NAMES & set(peaks.metrics) == {
        "memory/gpu_allocated_peak_bytes",
        "memory/gpu_reserved_peak_bytes",
    }
    assert peaks.notes["gpu_process"].startswith("NVML: not measured: ")
    assert reason in peaks.notes["gpu_process"]


def test_a_peak_below_what_pytorch_holds_at_the_end_is_another_process_s(driver):
    with measure(GPU) as peaks:
        driver.reserved = 501 * MEGABYTE
    assert "memory/gpu_process_peak_bytes" not in peaks.metrics
    assert "is another process (a container)" in peaks.notes["gpu_process"]


@pytest.mark.usefixtures("_often")
def test_a_process_that_vanishes_from_the_list_makes_the_peak_unknown(driver):
    with measure(GPU) as peaks:
        driver.by_pid.clear()
        driver.wait()
        driver.by_pid[os.getpid()] = 900 * MEGABYTE
    assert "memory/gpu_process_peak_bytes" not in peaks.metrics
    assert "does not list this process" in peaks.notes["gpu_process"]


def test_the_names_that_are_asked_of_nvml_are_those_of_nvidia_ml_py():
    """Which a made-up driver would not notice."""
    import pynvml

    names = {name for name in vars(Driver) if name.startswith("nvml")}
    assert len(names) == 6
    assert all(callable(getattr(pynvml, name)) for name in names)
    fields = {name for name, _ in pynvml.c_nvmlProcessInfo_v3_t._fields_}
    assert {"pid", "usedGpuMemory", "gpuInstanceId", "computeInstanceId"} <= fields
    assert pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value == memory.NOT_AVAILABLE
