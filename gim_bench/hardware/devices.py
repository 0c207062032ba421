"""The device and the number format of a cell: decided once, explicit from then on."""

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from gim_bench.errors import ConfigError
from gim_bench.settings.base import Precision

if TYPE_CHECKING:
    import torch


def resolve_device(name: str, *, option: str = "--device") -> "torch.device":
    """The device of that name; for "auto" the first GPU, or the CPU if there is no GPU.

    Raises: ConfigError if PyTorch cannot use the device that `option` names.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"no device {name!r} ({option}): use auto, cpu, cuda or cuda:<number>")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"no device {name!r} ({option}): PyTorch sees {torch.cuda.device_count()} GPU(s); "
            f"use --device cpu, or install a driver for CUDA {torch.version.cuda}"
        )
    return device


def listed_devices(text: str, *, device: str) -> list[str]:
    """The names in `--devices`, which are all of one kind, that of `--device`.

    Raises: ConfigError.
    """
    names = text.split(",")
    for name in names:
        kind, colon, number = name.partition(":")
        if name != "cpu" and not (kind == "cuda" and colon and number.isdecimal()):
            raise ConfigError(
                f"no device {name!r} in --devices {text}: name each worker's device as cpu or "
                f"cuda:<number>, with commas in between"
            )
    kinds = {name.partition(":")[0] for name in (*names, *([] if device == "auto" else [device]))}
    if len(kinds) > 1:
        beside = "" if device == "auto" else f" --device {device}"
        raise ConfigError(
            f"--devices {text}{beside} has CPUs and GPUs, whose numbers differ: use one kind"
        )
    return names


def resolve_precision(precision: Precision, device: "torch.device") -> Precision:
    """`precision`; for "auto" bf16 if the hardware multiplies in bf16, else fp32.

    Hardware that is not here counts as one that does not.
    Raises: ConfigError for TF32 on a CPU.
    """
    import torch

    if precision is Precision.TF32 and device.type != "cuda":
        raise ConfigError(
            "the precision tf32 is one of GPUs, and the device is a CPU: use fp32 or bf16"
        )
    if precision is not Precision.AUTO:
        return precision
    if device.type == "cuda":
        here = torch.cuda.is_available()
        fast = here and torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = _cpu_multiplies_in_bf16()
    return Precision.BF16 if fast else Precision.FP32


def _cpu_multiplies_in_bf16() -> bool:
    """Whether the CPU has instructions for it.

    PyTorch supports bf16 on every x86 CPU with AVX-512. Where such a CPU lacks AVX512_BF16 and AMX,
    it computes in fp32 with conversions, and fp32 alone is faster (docs/experiments.md).
    """
    import torch

    native = (
        platform.machine() not in {"x86_64", "AMD64"}
        or torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001 - no public name
        or torch.cpu._is_amx_tile_supported()  # noqa: SLF001
    )
    return native and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001


@contextmanager
def arithmetic(precision: Precision) -> Iterator[None]:
    """A context in which a GPU rounds the factors of fp32 products to TF32 only for "tf32".

    PyTorch lets convolutions and recurrent layers do so by default, and matrix products not: what a
    record calls fp32 would be neither. Without effect on a CPU.
    """
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision is Precision.TF32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def autocast(device: "torch.device", precision: Precision) -> Iterator[None]:
    """A context in which matrix products and convolutions compute in `precision`."""
    import torch

    enabled = precision is Precision.BF16
    with arithmetic(precision), torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
        yield


def without_autocast(device: "torch.device") -> AbstractContextManager[object]:
    """Within the block nothing is computed in a narrower format.

    Where autocast is off already nothing is entered, so that `torch.export` sees no region.
    """
    import torch

    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def works_in_pieces(device: "torch.device") -> bool:
    """Whether a batch is worked on a few examples at a time there, as many as a cache holds."""
    return device.type == "cpu"


def at_least_fp32(dtype: "torch.dtype") -> "torch.dtype":
    """The number format of a loss: `dtype`, or fp32 if `dtype` is narrower."""
    import torch

    return torch.promote_types(dtype, torch.float32)
