"""What a step takes at least on this machine: its multiplications at peak, its bytes at bandwidth.

The larger of the two is the bound (the roofline model, Williams et al. 2009): a program that
overlaps both perfectly takes as long.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from gim_bench.contract import Batch
from gim_bench.settings.base import Precision
from gim_bench.training.trainer import Trainer

SIDE = 1024  # of square matrices that stay in the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a step of one example cannot do without."""

    flops: float  # two for each multiply-add; taps of convolutions on padding are left out
    kept_bytes: float  # written in the forward pass and read in the backward pass, of all modules


def work_of(trainer: Trainer, batch: Batch) -> Work:
    """Counted during one step."""
    own = {weights.untyped_storage().data_ptr() for weights in trainer.learner.parameters()}
    alive: dict[int, int] = {}
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own | alive.keys():
            alive[storage.data_ptr()] = storage.nbytes()
            kept += storage.nbytes()
        return tensor

    counter = without_padding()
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for _, loss in trainer.losses(batch):
            loss.backward()
            alive.clear()  # later modules use the memory again
    trainer.learner.zero_grad(set_to_none=True)
    examples = len(batch.inputs)
    return Work(flops=counter.get_total_flops() / examples, kept_bytes=kept / examples)


def without_padding() -> FlopCounterMode:
    """Counts matrix products, and convolutions without their taps on padding."""
    aten: Any = torch.ops.aten
    mapping = {aten.convolution: _forward, aten.convolution_backward: _backward}
    return FlopCounterMode(display=False, custom_mapping=mapping)


def products(flops: float, *, precision: Precision) -> Callable[[], Tensor]:
    """Does so many operations as products of matrices."""
    dtype = torch.bfloat16 if precision == Precision.BF16 else torch.float32
    one, other = torch.randn(SIDE, SIDE, dtype=dtype), torch.randn(SIDE, SIDE, dtype=dtype)
    result = torch.empty_like(one)

    def multiply() -> Tensor:
        for _ in range(max(1, round(flops / (2 * SIDE**3)))):
            torch.mm(one, other, out=result)
        return result

    return multiply


def copies(kept_bytes: float) -> Callable[[], Tensor]:
    """Reads and writes so many bytes."""
    source = torch.ones(round(kept_bytes), dtype=torch.uint8)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def _forward(
    x: list[int],
    weights: list[int],
    _bias: object,
    strides: Sequence[int],
    paddings: Sequence[int],
    *_others: object,
    out_shape: list[int],
) -> int:
    """Operations of a convolution on its input, without those on its padding."""
    meet = map(_share_on_input, x[2:], weights[2:], strides, paddings)
    return round(conv_flop_count(x, weights, out_shape) * prod(meet))


def _backward(
    gradient: list[int],
    *tensors_and_settings: Any,
    out_shape: object,  # noqa: ARG001 - the counter passes it by name
) -> int:
    """As many operations as the way there, for each of both gradients that is computed."""
    *of_forward, (to_input, to_weights, _) = tensors_and_settings
    return (to_input + to_weights) * _forward(*of_forward, out_shape=gradient)


def _share_on_input(size: int, kernel: int, stride: int, padding: int) -> float:
    """The share of a kernel's taps along an axis that meet the input."""
    starts = range(-padding, size + padding - kernel + 1, stride)
    inside = sum(0 <= start + tap < size for start in starts for tap in range(kernel))
    return inside / (len(starts) * kernel)
