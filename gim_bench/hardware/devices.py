"""The device and the number format of a cell: decided once, explicit from then on."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from gim_bench.errors import ConfigError
from gim_bench.settings.base import Precision

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> "torch.device":
    """The device of that name; for "auto" the first GPU, or the CPU if there is no GPU.

    Raises: ConfigError if PyTorch cannot use the device.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"no device {name!r} (--device): use auto, cpu, cuda or cuda:<number>")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"no device {name!r} (--device): PyTorch sees {torch.cuda.device_count()} GPU(s); "
            f"use --device cpu, or install a driver for CUDA {torch.version.cuda}"
        )
    return device


def resolve_precision(precision: Precision, device: "torch.device") -> Precision:
    """`precision`; for "auto" bf16 if the hardware multiplies in bf16, else fp32."""
    import torch

    if precision is not Precision.AUTO:
        return precision
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - no public name
    return Precision.BF16 if fast else Precision.FP32


def autocast(device: "torch.device", precision: Precision) -> AbstractContextManager[object]:
    """A context in which matrix products and convolutions compute in `precision`."""
    import torch

    enabled = precision is Precision.BF16
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def at_least_fp32(dtype: "torch.dtype") -> "torch.dtype":
    """The number format of a loss: `dtype`, or fp32 if `dtype` is narrower."""
    import torch

    return torch.promote_types(dtype, torch.float32)
