"""Energy of a block, by counters that are made up."""

import sys
import threading
from types import ModuleType, SimpleNamespace

import pytest
import torch

from gim_bench.hardware import energy

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def package(root, number, *, microjoules, name="package-0", whole=1_000_000):
    """A zone of the kernel's powercap."""
    zone = root / f"intel-rapl:{number}"
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "max_energy_range_uj").write_text(f"{whole}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    return zone / "energy_uj"


@pytest.fixture
def powercap(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    return tmp_path / "powercap"


def test_packages_add_up_and_parts_of_packages_do_not_count_twice(powercap):
    first = package(powercap, 0, microjoules=100_000)
    second = package(powercap, 1, microjoules=0, name="package-1")
    core = package(powercap, "0:0", microjoules=0, name="core")
    with energy.measure(CPU) as used:
        first.write_text("350000")
        second.write_text("500000")
        core.write_text("900000")
    assert used.metrics == {"energy/cpu_joules": 0.75}
    assert used.notes["cpu"].startswith("RAPL: energy of all processor packages")


def test_a_counter_that_starts_again_goes_on(powercap):
    counter = package(powercap, 0, microjoules=900_000, whole=1_000_000)
    with energy.measure(CPU) as used:
        counter.write_text("100000")
    assert used.metrics == {"energy/cpu_joules": 0.2}


def test_a_counter_that_starts_again_twice_is_sampled_between(powercap, monkeypatch):
    monkeypatch.setattr(energy, "SAMPLING_SECONDS", 0.001)
    package(powercap, 0, microjoules=0, whole=1_000_000)
    readings, seen = iter([0, 900_000, 800_000]), threading.Event()

    def read(_):
        found = next(readings, None)
        if found is None:
            seen.set()
        return [700_000 if found is None else found]

    monkeypatch.setattr(energy._Processors, "_read", read)
    with energy.measure(CPU) as used:
        seen.wait(60)
    assert used.metrics == {"energy/cpu_joules": 2.7}


def test_energy_is_absent_with_a_reason_where_no_counter_is(powercap):
    with energy.measure(CPU) as used:
        pass
    assert used.metrics == {}
    assert used.notes == {
        "gpu": "not measured: the cell ran on the CPU",
        "cpu": f"not measured: no RAPL counter of a processor package in {powercap}",
    }


def test_a_counter_that_may_not_be_read_is_named(powercap):
    package(powercap, 0, microjoules=1).unlink()
    with energy.measure(CPU) as used:
        pass
    assert used.metrics == {}
    assert "energy_uj: No such file or directory" in used.notes["cpu"]


def test_a_counter_that_goes_away_leaves_no_number(powercap):
    counter = package(powercap, 0, microjoules=1)
    with energy.measure(CPU) as used:
        counter.unlink()
    assert used.metrics == {}
    assert used.notes["cpu"].startswith("not measured: ")


def test_cells_that_share_the_machine_have_no_energy_of_their_own(powercap):
    package(powercap, 0, microjoules=1)
    with energy.measure(CPU, workers=2) as used:
        pass
    assert used.metrics == {}
    assert set(used.notes.values()) == {"not measured: 2 cells shared the machine"}


class Driver(ModuleType):
    """A pynvml with one GPU, whose counter a test sets."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, uuid="GPU-0123", millijoules=5000):
        super().__init__("pynvml")
        self.uuid, self.millijoules = uuid, millijoules

    def nvmlInit(self):  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid != self.uuid:
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        if self.millijoules is None:
            raise self.NVMLError("Not Supported")
        return self.millijoules


@pytest.fixture
def on_gpu(monkeypatch, powercap):
    """Puts a driver in place, and gives the driver back."""

    def put(driver):
        monkeypatch.setitem(sys.modules, "pynvml", driver)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=driver.uuid)
        )
        return driver

    return put


def test_the_gpus_energy_is_what_its_counter_grew_by(on_gpu):
    driver = on_gpu(Driver(millijoules=5000))
    with energy.measure(GPU) as used:
        driver.millijoules = 12_500
    assert used.metrics == {"energy/gpu_joules": 7.5}
    assert used.notes["gpu"].startswith("NVML: total energy of the GPU")


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (Driver(millijoules=None), "Not Supported"),
        (Driver(uuid="MIG-0123"), "a MIG instance has no counter of its own"),
    ],
)
def test_a_gpu_without_a_counter_of_its_own_has_no_energy(driver, reason, on_gpu):
    on_gpu(driver)
    with energy.measure(GPU) as used:
        pass
    assert used.metrics == {}
    assert used.notes["gpu"] == f"not measured: {reason}"


def test_the_real_library_has_the_function():
    import pynvml

    assert callable(pynvml.nvmlDeviceGetTotalEnergyConsumption)
