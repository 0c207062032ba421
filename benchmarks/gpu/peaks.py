"""Peaks of this very card: matrix products, the step's convolutions, copies, and launches."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.gpu.case import Case, Row, Setting, seconds_of
from benchmarks.gpu.machine import nvidia_smi
from gim_bench.hardware import devices
from gim_bench.settings.base import Precision

DTYPES = {Precision.BF16: torch.bfloat16, Precision.TF32: torch.float32,
          Precision.FP32: torch.float32}  # fmt: skip
PRODUCTS = "matrix product, {0}×{0}×{0}"


def cases(setting: Setting) -> Iterator[Case]:
    """Random operands: on zeros a card draws less power, and runs faster than it ever trains."""
    size, device = setting.sizes.matrix, setting.device
    on_gpu = device.type == "cuda"
    for precision in (Precision.BF16, Precision.FP32, *([Precision.TF32] if on_gpu else [])):
        yield Case(
            labels={"work": PRODUCTS.format(size), "precision": str(precision)},
            measure=partial(_product, setting, size, precision),
        )
    for channels, side in ((64, 16), (128, 8), (256, 4)):  # the 3×3 convolutions of the modules
        patches = setting.sizes.convolution_patches
        yield Case(
            labels={
                "work": f"3×3 convolution, {patches} × {channels} × {side}×{side}",
                "precision": str(Precision.BF16),
            },
            measure=partial(_convolution, setting, patches, channels, side),
        )
    yield Case(labels={"work": "copy on the device"}, measure=partial(_copy, setting, device))
    if on_gpu:
        cpu = torch.device("cpu")
        yield Case(
            labels={"work": "host (pinned) to device"},
            measure=partial(_copy, setting, cpu, pinned=True),
        )
        yield Case(labels={"work": "host to device"}, measure=partial(_copy, setting, cpu))
    yield Case(labels={"work": "smallest kernel, launched"}, measure=partial(_launch, setting))
    if on_gpu:
        asked = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
        yield Case(
            labels={"work": "just after the above"},
            measure=partial(nvidia_smi, *asked, device=device),
        )


def peak_flops(setting: Setting) -> float | None:
    """The measured FLOP/s of bf16 matrix products; None if they were not measured."""
    found = [
        row["tflop_per_second"] * 1e12
        for row in setting.rows("peaks")
        if row["work"] == PRODUCTS.format(setting.sizes.matrix)
        and row["precision"] == Precision.BF16
        and "tflop_per_second" in row
    ]
    return max(found, default=None)


def _product(setting: Setting, size: int, precision: Precision) -> Row:
    one, other = (
        torch.randn(size, size, device=setting.device, dtype=DTYPES[precision]) for _ in range(2)
    )
    with devices.arithmetic(precision):
        return _rate(setting, lambda: one @ other, flops=2 * size**3)


def _convolution(setting: Setting, patches: int, channels: int, side: int) -> Row:
    made = partial(torch.randn, device=setting.device, dtype=torch.bfloat16)
    x = made(patches, channels, side, side).to(memory_format=torch.channels_last)
    kernels = made(channels, channels, 3, 3).to(memory_format=torch.channels_last)
    flops = 2 * 9 * channels**2 * patches * side**2
    return _rate(setting, lambda: F.conv2d(x, kernels, padding=1), flops=flops)


def _rate(setting: Setting, work: Callable[[], object], *, flops: int) -> Row:
    for _ in range(3):
        work()
    seconds = seconds_of(work, device=setting.device, at_least=setting.sizes.timed_seconds)
    return {"milliseconds": 1e3 * seconds, "tflop_per_second": flops / seconds / 1e12}


def _copy(setting: Setting, source: torch.device, *, pinned: bool = False) -> Row:
    values = torch.zeros(setting.sizes.copied_bytes, dtype=torch.uint8, device=source)
    values = values.pin_memory() if pinned else values
    target = torch.empty_like(values, device=setting.device)
    target.copy_(values)
    seconds = seconds_of(
        lambda: target.copy_(values, non_blocking=True),
        device=setting.device,
        at_least=setting.sizes.timed_seconds / 2,
    )
    # On one device every byte is read and written.
    moved = values.nbytes * (2 if source.type == setting.device.type else 1)
    return {"milliseconds": 1e3 * seconds, "gb_per_second": moved / seconds / 1e9}


def _launch(setting: Setting) -> Row:
    value = torch.zeros(1, device=setting.device)
    value.add_(1)
    seconds = seconds_of(lambda: value.add_(1), device=setting.device, at_least=0.1)
    return {"milliseconds": 1e3 * seconds}
