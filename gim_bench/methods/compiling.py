"""Layers that torch.compile compiles, under every schedule."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

# Layers of one encoder have several shapes and share their code. By default PyTorch gives up on a
# piece of code, and runs it as it is written, from its ninth shape on.
SHAPES = 64


def compile_layers(layers: Sequence[nn.Module], *, cuda_graphs: bool) -> None:
    """Compile each layer where it stands, for each of its shapes anew.

    Equal layers share a compilation, and schedules and recomputing still see layers. By default
    PyTorch takes a size for a variable once the same code has met two values of it, as it does in
    the layers of one encoder, and generates slower kernels.
    """
    config = torch._dynamo.config  # noqa: SLF001 - PyTorch documents the setting under this name
    config.recompile_limit = max(config.recompile_limit, SHAPES)
    for layer in layers:
        layer.compile(mode="reduce-overhead" if cuda_graphs else None, dynamic=False)


def as_written(*, compiled: bool) -> AbstractContextManager[object]:
    """A context in which no layer runs compiled; `compiled` says whether there are such layers.

    A reading takes less time than the compilation for each size of its batches.
    """
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


@contextmanager
def compiled_anew() -> Iterator[None]:
    """A block that finds nothing compiled, and leaves neither compilations nor CUDA graphs."""
    torch.compiler.reset()
    try:
        yield
    finally:
        torch.compiler.reset()


def begin_pass(*, cuda_graphs: bool) -> None:
    """Let the graphs of a GPU, if there are any, reuse the memory of what an earlier pass computed.

    Without the mark a graph would end with each backward pass, and take the activations with it
    that one unit hands to the next.
    """
    if cuda_graphs:
        torch.compiler.cudagraph_mark_step_begin()
