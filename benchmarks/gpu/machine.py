"""Hardware, driver and versions."""

import platform
import subprocess
from collections.abc import Iterator

import torch

from benchmarks.gpu.case import Case, Row, Setting
from gim_bench.hardware import threads
from gim_bench.methods.gim import GreedyInfoMax
from gim_bench.records import provenance

ASKED = (
    "name", "driver_version", "memory.total", "power.limit", "clocks.max.sm", "clocks.max.mem",
    "temperature.gpu", "pcie.link.gen.current", "pcie.link.width.current", "ecc.mode.current",
    "mig.mode.current", "compute_mode",
)  # fmt: skip


def cases(setting: Setting) -> Iterator[Case]:
    """Facts that may explain a number later: of the software, of PyTorch and of the driver."""
    yield Case(labels={}, measure=lambda: _software(setting.device))
    if setting.device.type == "cuda":
        yield Case(labels={}, measure=lambda: _by_pytorch(setting.device))
        yield Case(labels={}, measure=lambda: facts(nvidia_smi(*ASKED, device=setting.device)))


def facts(values: Row) -> list[Row]:
    """A row for each value that is known."""
    return [{"fact": name, "value": value} for name, value in values.items() if value is not None]


def nvidia_smi(*asked: str, device: torch.device) -> dict[str, str]:
    """What the driver says of the card. Raises: OSError, CalledProcessError.

    The card is named by its place on the bus: the driver's numbers are not those of PyTorch, and a
    MIG instance has a UUID of its own.
    """
    card = torch.cuda.get_device_properties(device)
    place = f"{card.pci_domain_id:08x}:{card.pci_bus_id:02x}:{card.pci_device_id:02x}.0"
    done = subprocess.run(  # noqa: S603 - names and numbers of our own
        ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader", f"--id={place}"],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return dict(zip(asked, done.stdout.strip().split(", "), strict=True))


def _software(device: torch.device) -> list[Row]:
    described = provenance.describe(str(device))
    versions = described.pop("versions")
    return facts(
        described
        | versions
        | {
            # Of a checkout without git, too.
            "sha256 of the sources": provenance.code_sha256(GreedyInfoMax)[:16],
            "cores of this process": threads.cores(),
            "memory of the host, bytes": threads.available_bytes(),
            "cudnn": torch.backends.cudnn.version(),
            "libc": " ".join(platform.libc_ver()),
        }
    )


def _by_pytorch(device: torch.device) -> list[Row]:
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return facts(
        {
            "compute capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "L2 cache, bytes": properties.L2_cache_size,
            "memory, bytes": total,
            "memory free with PyTorch's context, bytes": free,
            "uuid": str(properties.uuid),
        }
    )
