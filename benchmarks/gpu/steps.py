"""Optimiser steps, timed: examples per second, and the share of the card's measured peak."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import torch

from benchmarks.gpu.case import Case, Row, Setting, seconds_of, wait_for
from benchmarks.gpu.models import Model, SpeechModel, images_model, top_loss, without_end
from benchmarks.gpu.peaks import peak_flops
from gim_bench.contract import Batch
from gim_bench.methods.compiling import compiled_anew
from gim_bench.system.children import end_with_parent
from gim_bench.training.audit import flop_counter, untouched
from gim_bench.training.trainer import Trainer

WARM_UP_STEPS = 3  # the optimiser's state, the choice of kernels, CUDA graphs
# Rows of the suite `memory`, and settings in place of the suite's.
METHODS = {
    "gim": ("gim",),
    "gim, joint": ("gim_joint",),
    "gim, pieces": ("gim", 'method.gim.recompute="pieces"'),
    **{f"gim, module {m} alone": (f"gim_module_{m}",) for m in (1, 2, 3)},
    **{name: (name,) for name in ("cpc", "supervised", "greedy_supervised")},
}
COMPILED = "training.compile=true"
GRAPHS = "training.cuda_graphs=true"
JOINT = 'training.schedule="joint"'
NO_COMPILER = "not measured: torch.compile needs a C compiler, on a CPU a C++ compiler"


def vision(setting: Setting) -> Iterator[Case]:
    """Steps on images as they are written, the most important first: all of Table 1 at 128."""
    usual, large, small = setting.sizes.batches
    yield _on_images(setting, "gim", usual)
    yield _on_images(setting, "gim, joint", usual)
    yield _on_images(setting, "gim", usual, with_data=True)
    for method in METHODS:
        if not method.startswith(("gim, joint", "gim, pieces")) and method != "gim":
            yield _on_images(setting, method, usual)
    for method, batch in (
        ("gim, pieces", usual), ("gim", large), ("gim", small), ("gim, joint", large),
        ("gim, joint", small), ("gim, pieces", large), ("gim, pieces", small),
    ):  # fmt: skip
        yield _on_images(setting, method, batch)
    yield _on_images(setting, "gim", usual, tried=True)
    for precision in ("fp32", *(["tf32"] if setting.device.type == "cuda" else [])):
        yield _on_images(setting, "gim", usual, precision=precision)


def compiled(setting: Setting) -> Iterator[Case]:
    """The compiled steps by which `training.compile` is decided."""
    usual, _, small = setting.sizes.batches
    yield _on_images(setting, "gim", usual, COMPILED)
    yield _on_images(setting, "gim", small, COMPILED, GRAPHS)
    yield _on_images(setting, "gim, joint", usual, COMPILED)


def compiled_more(setting: Setting) -> Iterator[Case]:
    """Compiled steps for which time may be left."""
    usual, large, small = setting.sizes.batches
    yield _on_images(setting, "gim, pieces", usual, COMPILED)
    yield _on_images(setting, "gim", usual, COMPILED, GRAPHS)
    yield _on_images(setting, "gim", large, COMPILED)
    yield _on_images(setting, "gim", small, COMPILED)
    yield _on_speech(setting, "gim", setting.sizes.audio_batches[0], COMPILED)


def audio(setting: Setting) -> Iterator[Case]:
    """GIM on speech as it is written."""
    usual, small = setting.sizes.audio_batches
    for batch in (usual, small):
        yield _on_speech(setting, "gim", batch)
        yield _on_speech(setting, "gim", batch, JOINT)
    yield _on_speech(setting, "gim_no_bptt", usual)


def _on_images(
    setting: Setting,
    method: str,
    batch: int,
    *settings: str,
    precision: str = "bf16",
    with_data: bool = False,
    tried: bool = False,
) -> Case:
    row, *own = METHODS[method]
    numbers = f'training.precision="{precision}"'
    make = partial(images_model, setting, row, *own, numbers, *settings, batch=batch)
    labels = {"method": method, "batch": batch, "precision": precision}
    return _case(setting, make, labels, settings, with_data=with_data, tried=tried)


def _on_speech(setting: Setting, row: str, batch: int, *settings: str) -> Case:
    numbers = 'training.precision="bf16"'
    make = partial(SpeechModel, setting, row, numbers, *settings, batch=batch)
    joint = ", joint" if JOINT in settings else ""
    labels = {"method": f"{row}{joint}", "batch": batch, "precision": "bf16"}
    return _case(setting, make, labels, settings)


def _case(
    setting: Setting,
    make: Callable[[], Model],
    labels: dict[str, object],
    settings: tuple[str, ...],
    *,
    with_data: bool = False,
    tried: bool = False,
) -> Case:
    """`tried`: cuDNN tries all of its kernels and keeps the fastest."""
    is_compiled = COMPILED in settings
    said = {
        "as written": not is_compiled,
        "compiled": is_compiled,
        "CUDA graphs": GRAPHS in settings,
        "batches drawn": with_data,
        "cudnn.benchmark": tried,
    }
    labels = {**labels, "run": ", ".join(name for name, is_so in said.items() if is_so)}
    if is_compiled and not _has_compiler(setting.device):
        return Case(labels=labels, measure=lambda: {"note": NO_COMPILER}, seconds=0)
    if tried:
        return Case(labels=labels, measure=partial(_tried_row, setting, make), seconds=20)
    return Case(
        labels=labels,
        measure=partial(step_row, setting, make, with_data=with_data),
        seconds=setting.sizes.compile_seconds if is_compiled else 5,
    )


def _has_compiler(device: torch.device) -> bool:
    """Whether torch.compile finds the compiler that it calls: on a GPU Triton's, of C."""
    variable, *names = ("CC", "gcc", "clang") if device.type == "cuda" else ("CXX", "g++")
    return any(shutil.which(name) for name in (os.environ.get(variable, names[0]), *names))


def _tried_row(setting: Setting, make: Callable[[], Model]) -> Row:
    """The row of a fresh process, in which cuDNN tries its kernels.

    PyTorch keeps a process's first kernel of each shape, tried or not.
    """
    with ProcessPoolExecutor(
        max_workers=1,
        mp_context=get_context("spawn"),
        initializer=partial(end_with_parent, at_once=True),
    ) as process:
        return process.submit(_try_kernels, setting, make).result()


def _try_kernels(setting: Setting, make: Callable[[], Model]) -> Row:
    torch.backends.cudnn.benchmark = True
    return step_row(setting, make, with_data=False)


def step_row(setting: Setting, make: Callable[[], Model], *, with_data: bool) -> Row:
    """Speed and memory of a step on one batch, or on batches that are drawn as in training."""
    with compiled_anew():
        return _step_row(setting, make, with_data=with_data)


def _step_row(setting: Setting, make: Callable[[], Model], *, with_data: bool) -> Row:
    device = setting.device
    model = make()
    drawn = without_end(model.batches)
    batch = next(drawn)
    examples = len(batch.inputs)
    trainer = model.trainer
    (unit,) = trainer.stages()
    flops = flops_of_example(trainer, batch, only=unit)
    step = partial(trainer.step, only=unit)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    first_loss = top_loss(step(batch))
    first_seconds = time.perf_counter() - began
    for _ in range(WARM_UP_STEPS):
        step(batch)
    seconds = seconds_of(
        lambda: step(next(drawn) if with_data else batch),
        device=device,
        at_least=setting.sizes.timed_seconds,
    )
    wait_for(device)
    row = {
        "ms_per_step": 1e3 * seconds,
        "examples_per_second": examples / seconds,
        "tflop_per_second": examples * flops / seconds / 1e12,
    }
    if (peak := peak_flops(setting)) is not None:
        row["share_of_bf16_peak"] = examples * flops / seconds / peak
    if device.type == "cuda":
        row["allocated_peak_bytes"] = torch.cuda.max_memory_allocated(device)
        row["reserved_peak_bytes"] = torch.cuda.max_memory_reserved(device)
    return row | {"first_step_seconds": first_seconds, "first_loss": first_loss}


def flops_of_example(trainer: Trainer, batch: Batch, *, only: str | None = None) -> float:
    """FLOP of a step for each example, two for each multiply-add, without the optimiser's.

    Counted on the learner as it is written. What recomputing runs twice counts twice.
    """
    few = Batch(inputs=batch.inputs[:2], labels={n: x[:2] for n, x in batch.labels.items()})
    with untouched(trainer.learner, device=trainer.device), flop_counter() as counter:
        for _, loss in list(trainer.losses(few, only=only)):
            loss.backward()
    trainer.learner.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(few.inputs)
