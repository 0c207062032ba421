"""Energy of a block of work: the GPU's by NVML, the processors' by RAPL.

A figure that cannot be measured is absent, never 0. A note gives the reason. Both counters are of
the whole device: whatever else runs there counts, too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from gim_bench.hardware import nvml
from gim_bench.hardware.nvml import UnmeasurableError
from gim_bench.hardware.sampling import repeated

# The kernel's counters of running energy: a folder for each package (socket) of the machine.
POWERCAP = Path("/sys/class/powercap")
# Counters start again at 0 after about 20 minutes of full load, so they are read more often.
SAMPLING_SECONDS = 20.0


@dataclass(slots=True, kw_only=True)
class Energy:
    """Energy of a measured block, filled in at the end of the block."""

    metrics: dict[str, float] = field(default_factory=dict)  # joules
    notes: dict[str, str] = field(default_factory=dict)  # how each is measured, or why it is not


@contextmanager
def measure(device: torch.device, *, workers: int = 1) -> Iterator[Energy]:
    """The energy that the device and the processors use in the block.

    `workers` cells run on the machine at once: where there are several, no counter of a whole
    device tells the energy of one of them.
    """
    energy = Energy()
    counters: dict[str, _Gpu | _Processors] = {}
    makers: dict[str, Callable[[], _Gpu | _Processors]] = {
        "gpu": lambda: _Gpu(device),
        "cpu": _Processors,
    }
    for name, make in makers.items():
        if workers > 1:
            energy.notes[name] = f"not measured: {workers} cells shared the machine"
            continue
        try:
            counters[name] = make()
        except UnmeasurableError as error:
            energy.notes[name] = f"not measured: {error}"
    processors = counters.get("cpu")
    sample = processors.sample_if_readable if isinstance(processors, _Processors) else None
    with repeated(sample, every_seconds=SAMPLING_SECONDS):
        yield energy
    for name, counter in counters.items():
        try:
            energy.metrics[f"energy/{name}_joules"] = counter.joules()
            energy.notes[name] = counter.how
        except UnmeasurableError as error:
            energy.notes[name] = f"not measured: {error}"


class _Gpu:
    """NVML's counter of the whole GPU, in millijoules since the driver was loaded."""

    how = "NVML: total energy of the GPU, all of its processes"

    def __init__(self, device: torch.device) -> None:
        """Raises: UnmeasurableError."""
        if device.type != "cuda":
            raise UnmeasurableError("the cell ran on the CPU")
        self._nvml, uuid, self._handle = nvml.device(device)
        if uuid.startswith("MIG-"):
            raise UnmeasurableError("a MIG instance has no counter of its own")
        torch.cuda.synchronize(device)
        self._device = device
        self._start = self._millijoules()

    def joules(self) -> float:
        """Energy since the counter was made. Raises: UnmeasurableError."""
        torch.cuda.synchronize(self._device)
        return (self._millijoules() - self._start) / 1000

    def _millijoules(self) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError as error:
            raise UnmeasurableError(str(error)) from None


class _Processors:
    """The kernel's counters of all processor packages, in microjoules, which start again at 0.

    Source: Linux, Documentation/power/powercap. Most systems let the administrator alone read them.
    """

    how = "RAPL: energy of all processor packages, all processes of the machine"

    def __init__(self) -> None:
        """Raises: UnmeasurableError."""
        zones = sorted(POWERCAP.glob("intel-rapl:*")) if POWERCAP.is_dir() else []
        self._packages = [zone for zone in zones if _text(zone / "name").startswith("package")]
        if not self._packages:
            raise UnmeasurableError(f"no RAPL counter of a processor package in {POWERCAP}")
        self._ranges = [int(_text(zone / "max_energy_range_uj")) for zone in self._packages]
        self._last = self._read()
        self._microjoules = 0

    def sample(self) -> None:
        """Add what was used since the last sample. Raises: UnmeasurableError."""
        now = self._read()
        for before, after, whole in zip(self._last, now, self._ranges, strict=True):
            self._microjoules += after - before + (whole if after < before else 0)
        self._last = now

    def sample_if_readable(self) -> None:
        """Sample; the last sample meets a counter that cannot be read again."""
        with suppress(UnmeasurableError):
            self.sample()

    def joules(self) -> float:
        """Energy since the counter was made. Raises: UnmeasurableError."""
        self.sample()
        return self._microjoules / 1e6

    def _read(self) -> list[int]:
        return [int(_text(zone / "energy_uj")) for zone in self._packages]


def _text(path: Path) -> str:
    """Raises: UnmeasurableError."""
    try:
        return path.read_text().strip()
    except OSError as error:
        raise UnmeasurableError(f"{path}: {error.strerror}") from None
