"""Copies to a device that a training step does not wait for."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

Numbers = Sequence["float | Numbers"]


def moved(values: Tensor, *, device: torch.device) -> Tensor:
    """Return `values` on the device.

    On the way to a GPU the values pass through pinned memory. The CPU then goes on while they are
    copied; a copy from memory that the system may page out waits for all that the GPU has to do.
    """
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


@cache
def constant(values: Numbers, *, device: torch.device) -> Tensor:
    """Return a tuple of numbers, or of tuples, as a tensor on the device, made there only once."""
    return torch.tensor(values, device=device)
