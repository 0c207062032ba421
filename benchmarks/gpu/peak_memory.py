"""Memory of training, whether NVML and PyTorch agree, and the largest batch."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.case import Case, Row, Setting
from benchmarks.gpu.models import images_model
from gim_bench.cells.largest_batch import largest_batch
from gim_bench.hardware import memory
from gim_bench.training import capacity

# Of the suite `memory`, the most important first.
ROWS = (
    "gim_joint", "gim", "gim_module_1", "gim_module_2", "gim_module_3", "supervised", "cpc",
    "cpc_checkpointed", "cpc_in_pieces", "greedy_supervised", "gim_in_pieces_module_1",
)  # fmt: skip
STAIRS = (2**28, 2**30, 2**32, 2**34)  # bytes


def table(setting: Setting) -> Iterator[Case]:
    """Two steps of every row, whose second peak is that of any later step.

    The paper's number format, fp32, comes first.
    """
    for precision in ("fp32", "bf16"):
        for batch in setting.sizes.memory_batches:
            for row in ROWS[: setting.sizes.memory_rows]:
                yield Case(
                    labels={"method": row, "batch": batch, "precision": precision},
                    measure=partial(_peaks, setting, row, batch, precision),
                )


def staircase(setting: Setting) -> Iterator[Case]:
    """Blocks of known size: does NVML see what PyTorch reserves, and nothing else?"""
    if setting.device.type == "cuda":
        for size in STAIRS:
            yield Case(labels={"block_bytes": size}, measure=partial(_block, setting.device, size))


def largest(setting: Setting) -> Iterator[Case]:
    """The largest batch that two optimiser steps of a new learner can take."""
    for row in ("gim_joint", "gim", "gim_module_1", "gim_module_3"):
        yield Case(
            labels={"method": row, "precision": "bf16"},
            measure=partial(_largest, setting, row),
            seconds=40,
        )


def _peaks(setting: Setting, row: str, batch: int, precision: str) -> Row:
    numbers = f'training.precision="{precision}"'
    model = images_model(setting, row, numbers, batch=batch)
    trainer, first = model.trainer, next(model.batches.epoch(1))
    memory.free(setting.device)
    with memory.measure(setting.device, prefix="", learner=trainer.learner) as peaks:
        capacity.take_steps(trainer, first)
        used = _used(setting.device)
    return _table_row(peaks) | used


def _block(device: torch.device, size: int) -> Row:
    memory.free(device)
    before = _used(device)
    with memory.measure(device, prefix="") as peaks:
        block = torch.empty(size, dtype=torch.uint8, device=device)
        after = _used(device)
        del block
    grown = {name: value - before[name] for name, value in after.items()}
    return _table_row(peaks) | {"device_grown_bytes": grown["device_used_bytes"]}


def _table_row(peaks: memory.Peaks) -> dict[str, object]:
    """The metrics; NVML's peak over what it should be, or why NVML says nothing."""
    row: dict[str, object] = dict(peaks.metrics)
    if "gpu_process_peak_bytes" in row:
        expected = row["gpu_context_bytes"] + row["gpu_reserved_peak_bytes"]
        row["nvml_over_context_and_reserved"] = row["gpu_process_peak_bytes"] / expected
    elif "gpu_process" in peaks.notes:
        row["nvml"] = peaks.notes["gpu_process"]
    return row


def _used(device: torch.device) -> dict[str, int]:
    """Bytes that are not free on the device, whoever holds them: by the driver, so in containers
    too, where NVML does not know this process.
    """
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {"device_used_bytes": total - free}


def _largest(setting: Setting, row: str) -> Row:
    model = images_model(setting, row, 'training.precision="bf16"', batch=128)
    found = largest_batch(model.cell, model.bench)
    assert found is not None, "the suite has a table [capacity]"
    return {"largest_batch": found.batch, "how": found.note}
