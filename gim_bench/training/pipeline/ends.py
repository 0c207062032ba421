"""Ends of connections between workers: the time that they wait, and batches as lists of tensors."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from gim_bench.contract import Batch
from gim_bench.hardware.transfers import moved


class End:
    """An end at work, in the process of a worker."""

    def __init__(self) -> None:
        self.seconds_waited = 0.0  # for the other end

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds_waited += time.perf_counter() - began


def values_of(batch: Batch) -> list[Tensor]:
    """The views of a batch, then its labels."""
    return [*batch.views, *batch.labels.values()]


def batch_of(
    values: Sequence[Tensor],
    *,
    targets: Sequence[str],
    encoded_by: str | None,
    device: torch.device,
) -> Batch:
    """The batch of these views and labels, on a device; `targets` are those of the labels."""
    values = [moved(value, device=device) for value in values]
    views = len(values) - len(targets)
    first, *further = values[:views]
    return Batch(
        inputs=first,
        labels=dict(zip(targets, values[views:], strict=True)),
        further=tuple(further),
        encoded_by=encoded_by,
    )
