"""Activations that are not kept for the backward pass but computed again.

The second forward pass must repeat the first one: the same dropout is drawn, and running
statistics (of batch norm) are updated by the first pass alone.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


def recomputed(
    run: Callable[[Tensor], Result], activations: Tensor, *, layers: Iterable[nn.Module]
) -> Result:
    """`run(activations)`, of which only the input is kept; `layers` are what `run` consists of."""
    buffers = [buffer for layer in layers for buffer in layer.buffers()]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _put_back(buffers)

    return checkpoint(run, activations, use_reentrant=False, context_fn=contexts)


@contextmanager
def _put_back(buffers: Iterable[Tensor]) -> Iterator[None]:
    """When the block is left, buffers have the values that they had before it."""
    before = [(buffer, buffer.detach().clone()) for buffer in buffers]
    try:
        yield
    finally:
        for buffer, values in before:
            # Unseen by autograd, which takes a changed buffer for an error on the way back.
            buffer.data.copy_(values)
