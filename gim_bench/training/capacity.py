"""The largest training batch that fits into a GPU's memory, found by trying."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from gim_bench.contract import Batch
from gim_bench.errors import class_and_first_line
from gim_bench.hardware import memory
from gim_bench.training.trainer import Trainer

# Adam's moments are allocated in the first step: the second's peak is that of any later one.
STEPS = 2
# cuDNN's words where no way of computing a convolution gets its working memory, or none exists.
NO_ENGINE = "unable to find an engine"
PARTS = 16  # the search stops within this part of the largest batch


class Capacity(NamedTuple):
    """The largest batch, in examples; None if it is unknown."""

    batch: int | None
    note: str  # how it was found, or why it was not


def largest(fits: Callable[[int], bool], *, start: int, up_to: int) -> int:
    """The largest size up to `up_to` that fits, to within `resolution`; 0 if no size fits.

    Sizes double from `start` until one does not fit; then the gap is halved. A size above one that
    does not fit is assumed not to fit.
    """
    low, high = 0, min(start, up_to)
    while fits(high):
        if high == up_to:
            return up_to
        low, high = high, min(2 * high, up_to)
    while high - low > resolution(low):
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def resolution(size: int) -> int:
    """Distance from `size`, the largest found to fit, to the next size known not to fit."""
    return max(1, size // PARTS)


def largest_batch(
    attempt: Callable[[int], None], *, start: int, up_to: int, device: torch.device
) -> Capacity:
    """The largest batch that `attempt` can train on; `attempt` raises if memory is exhausted."""
    if device.type != "cuda":
        return Capacity(
            None,
            "not measured: on a CPU nothing is refused before the system kills the process",
        )
    memory.free(device)
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    tried: list[int] = []
    fitted: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        if not _fits(attempt, size, device=device, smaller_fits=bool(fitted)):
            return False
        fitted.append(size)
        return True

    try:
        found = largest(fits, start=start, up_to=up_to)
    except RuntimeError as error:  # a kernel's own limit may be lower than memory's
        so_far = f"{fitted[-1]} fitted; " if fitted else ""
        reason = class_and_first_line(error)
        return Capacity(
            None, f"not found: {so_far}a batch of {tried[-1]} failed otherwise: {reason}"
        )
    if not found:
        return Capacity(None, "not found: not even a batch of 1 fits")
    reached = ", the limit that the suite sets" if found == up_to else ""
    return Capacity(
        found,
        f"{STEPS} optimiser steps of a new learner on batches of {', '.join(map(str, tried))}; "
        f"largest that fits {found}{reached}, to within {resolution(found)}; {free_bytes} of "
        f"{total_bytes} bytes were free before",
    )


def take_steps(trainer: Trainer, batch: Batch) -> None:
    """Take the steps that show the peak, of every stage of training."""
    for unit in trainer.stages():
        for _ in range(STEPS):
            trainer.step(batch, only=unit)
        if unit is not None:
            trainer.freeze(unit)


def repeated(batch: Batch, size: int) -> Batch:
    """A batch of `size` examples: the examples of `batch` in turn, all views of each."""
    places = torch.arange(size, device=batch.inputs.device) % len(batch.inputs)
    return Batch(
        inputs=batch.inputs[places],
        labels={name: labels[places] for name, labels in batch.labels.items()},
        further=tuple(view[places] for view in batch.further),
    )


def _fits(
    attempt: Callable[[int], None], size: int, *, device: torch.device, smaller_fits: bool
) -> bool:
    fitted = True
    try:
        attempt(size)
        torch.cuda.synchronize(device)
    except Exception as error:
        if not memory.is_exhausted(error) and not (smaller_fits and NO_ENGINE in str(error)):
            raise
        fitted = False
    # Not before the error is gone, which holds on to the tensors of every function it passed.
    memory.free(device)
    return fitted
