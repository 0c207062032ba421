"""Forward and backward pass of a module of bottleneck blocks, written out for CPUs.

A piece of the batch goes through all blocks while it lies in the cache. ReLUs, their gradients and
residual sums are taken in place, 1×1 convolutions are products of matrices, and the gradient of a
mean, the same at all positions of a patch, is not spread over them. Autograd sees one layer at a
time: it writes each of these tensors, for the whole batch, to fresh memory.

Letters: p = patch, d and e = channels.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from gim_bench.hardware.devices import at_least_fp32

# Bytes of the largest activations of a piece: about a shared cache, and few waits of threads.
PIECE_BYTES = 20_000_000

Weights = tuple[Tensor, Tensor]  # kernel, or the matrix of a 1×1 kernel, and bias
Activations = Float[Tensor, "p _ _ _"]  # channels, rows, columns; laid out channels last

_convolution_backward = torch.ops.aten.convolution_backward.default
_threshold_backward = torch.ops.aten.threshold_backward


class Structure(NamedTuple):
    """What a module's passes need to know beside its weights."""

    dtype: torch.dtype  # that it is computed in
    has_stem: bool  # a convolution of stride 1 below the blocks, which keeps the size
    strides: Sequence[int]  # of the blocks
    has_shortcut: Sequence[bool]  # a convolution for a shortcut, by block


class Block(NamedTuple):
    """A block's weights in the type that they are computed in."""

    stride: int
    conv1: Weights
    conv2: Weights
    conv3: Weights
    shortcut: Weights | None


class ModulePass(Function):
    """The output of a module; what is saved are its rectified activations, piece by piece.

    `learns` says whether a backward pass may follow: nothing is saved otherwise.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Activations, structure: Structure, learns: bool, *weights: Tensor
    ) -> Activations:
        stem, blocks = _cast(weights, structure)
        top = torch.empty(
            _top_shape(x, blocks), dtype=structure.dtype, memory_format=torch.channels_last
        )
        pieces = list(_pieces(x, top))
        saved = []
        for piece in pieces:
            y = x[piece].to(structure.dtype, memory_format=torch.channels_last)
            kept = []
            if stem is not None:
                kept.append(y)
                y = F.conv2d(y, *stem, padding=_padding(stem))
            for number, block in enumerate(blocks):
                y, rectified = _forward(block, y, is_own=number > 0 or stem is not None)
                kept += rectified
            top[piece] = y
            if learns:
                saved += kept
        if learns:
            ctx.structure, ctx.pieces, ctx.input = structure, pieces, (x.shape, x.dtype)
            ctx.save_for_backward(*weights, *saved)
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_top: Activations) -> tuple[Tensor | None, ...]:
        count = len(ctx.needs_input_grad) - 3
        kept = ctx.saved_tensors  # asked for once, as recomputing wants it
        weights, saved = kept[:count], list(kept[count:])
        stem, blocks = _cast(weights, ctx.structure)
        of_x, is_asked = None, ctx.needs_input_grad[0]
        if is_asked:
            size, dtype = ctx.input
            of_x = torch.empty(size, dtype=dtype, memory_format=torch.channels_last)
        of_weights = [torch.zeros_like(each, dtype=at_least_fp32(each.dtype)) for each in weights]
        for piece in reversed(ctx.pieces):
            g = _in_layout(of_top[piece])
            found: list[Tensor] = []
            for number, block in reversed(list(enumerate(blocks))):
                is_wanted = number > 0 or stem is not None or is_asked
                rectified = [saved.pop() for _ in range(3)]
                g, of_block = _backward(block, g, rectified, is_wanted=is_wanted)
                found[:0] = of_block
            if stem is not None:
                g, *of_stem = _convolution(
                    g, saved.pop(), stem[0], padding=_padding(stem), is_wanted=is_asked
                )
                found[:0] = of_stem
            if of_x is not None:
                of_x[piece] = g
            for total, each in zip(of_weights, found, strict=True):
                total.add_(each.view(total.shape))
        return of_x, None, None, *of_weights


def _cast(weights: Sequence[Tensor], structure: Structure) -> tuple[Weights | None, list[Block]]:
    """(the stem's weights, the blocks') of a module's parameters, in their order."""
    left = iter([weight.detach().to(structure.dtype) for weight in weights])

    def taken(*, pointwise: bool) -> Weights:
        kernel, bias = next(left), next(left)
        return kernel.flatten(1) if pointwise else kernel, bias

    stem = taken(pointwise=False) if structure.has_stem else None
    blocks = [
        Block(
            stride=stride,
            conv1=taken(pointwise=True),
            conv2=taken(pointwise=False),
            conv3=taken(pointwise=True),
            shortcut=taken(pointwise=True) if has_shortcut else None,
        )
        for stride, has_shortcut in zip(structure.strides, structure.has_shortcut, strict=True)
    ]
    return stem, blocks


def _padding(stem: Weights) -> int:
    return stem[0].shape[2] // 2


def _top_shape(x: Activations, blocks: Sequence[Block]) -> tuple[int, int, int, int]:
    rows, columns = x.shape[2:]
    for block in blocks:
        rows, columns = -(-rows // block.stride), -(-columns // block.stride)
    return len(x), len(blocks[-1].conv3[0]), rows, columns


def _pieces(x: Activations, top: Activations) -> Iterator[slice]:
    entries = max(math.prod(x.shape[1:]), math.prod(top.shape[1:]))
    size = max(1, PIECE_BYTES // (entries * top.element_size()))
    for start in range(0, len(x), size):
        yield slice(start, start + size)


def _forward(
    block: Block, x: Activations, *, is_own: bool
) -> tuple[Activations, list[Activations]]:
    """A block's output, and the rectified activations within it. It overwrites an own x."""
    activated = x.relu_() if is_own and block.shortcut else x.relu()
    inner = _images(_product(_rows(activated), block.conv1), like=activated).relu_()
    kernel, bias = block.conv2
    upper = F.conv2d(inner, kernel, bias, stride=block.stride, padding=1).relu_()
    if block.shortcut:
        x = _images(_product(_rows(_strided(activated, block.stride)), block.shortcut), like=upper)
    elif not is_own:
        x = x.clone()
    matrix, bias = block.conv3
    rows = _rows(x)
    torch.addmm(rows, _rows(upper), matrix.t(), out=rows).add_(bias)
    return x, [activated, inner, upper]


def _backward(
    block: Block, g: Activations, saved: Sequence[Activations], *, is_wanted: bool
) -> tuple[Activations, list[Tensor]]:
    """The gradient of a block's input, if it is wanted, and those of its weights.

    `g` is the gradient of its output, `saved` its rectified activations, the topmost first.
    """
    upper, inner, activated = saved
    g_upper, *of_conv3 = _pointwise(g, upper, block.conv3)
    g_upper = _rectified(g_upper, upper)
    g_inner, *of_conv2 = _convolution(g_upper, inner, block.conv2[0], stride=block.stride)
    g_inner = _rectified(g_inner, inner)
    g_activated, *of_conv1 = _pointwise(g_inner, activated, block.conv1, is_wanted=is_wanted)
    of_weights = [*of_conv1, *of_conv2, *of_conv3]
    if block.shortcut is None:
        return (_rectified(g_activated, activated).add_(g) if is_wanted else g), of_weights
    strided = _strided(activated, block.stride)
    g_strided, *of_shortcut = _pointwise(g, strided, block.shortcut, is_wanted=is_wanted)
    if is_wanted:
        g_activated[:, :, :: block.stride, :: block.stride] += g_strided
        g_activated = _rectified(g_activated, activated)
    return g_activated, [*of_weights, *of_shortcut]


def _pointwise(
    g: Activations, x: Activations, weights: Weights, *, is_wanted: bool = True
) -> tuple[Activations, Tensor, Tensor]:
    """Gradients of a 1×1 convolution's input (if it is wanted), matrix and bias.

    Where g is constant over the positions of a patch, so is the gradient of the input.
    """
    matrix, _ = weights
    if _is_constant(g):
        each, positions = g[:, :, 0, 0], g[0, 0].numel()
        of_x = (each @ matrix)[:, :, None, None].expand(-1, -1, *g.shape[2:]) if is_wanted else g
        return of_x, each.t() @ x.sum(dim=(2, 3)), each.sum(dim=0) * positions
    rows = _rows(g)
    of_x = _images(rows @ matrix, like=g) if is_wanted else g
    return of_x, rows.t() @ _rows(x), rows.sum(dim=0)


def _convolution(
    g: Activations,
    x: Activations,
    kernel: Tensor,
    *,
    stride: int = 1,
    padding: int = 1,
    is_wanted: bool = True,
) -> tuple[Activations, Tensor, Tensor]:
    """Gradients of a convolution's input (if it is wanted), kernel and bias."""
    of_x, of_kernel, of_bias = _convolution_backward(
        g, x, kernel, [len(kernel)], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1,
        [is_wanted, True, True],
    )  # fmt: skip
    return (of_x if is_wanted else g), of_kernel, of_bias


def _rectified(g: Activations, activated: Activations) -> Activations:
    """The gradient before a ReLU whose output is `activated`: in place, unless g is constant."""
    if _is_constant(g):
        return _in_layout(_threshold_backward.default(g, activated, 0))
    return _threshold_backward.grad_input(g, activated, 0, grad_input=g)


def _is_constant(g: Activations) -> bool:
    """Whether g is one value for all positions of a patch, and stored once."""
    return g.stride()[2:] == (0, 0)


def _in_layout(g: Activations) -> Activations:
    return g if _is_constant(g) else g.contiguous(memory_format=torch.channels_last)


def _product(rows: Float[Tensor, "position d"], weights: Weights) -> Float[Tensor, "position e"]:
    matrix, bias = weights
    return torch.addmm(bias, rows, matrix.t())


def _rows(x: Activations) -> Float[Tensor, "position d"]:
    """The positions of all patches; shares memory with x."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _images(rows: Float[Tensor, "position e"], *, like: Activations) -> Activations:
    """`rows` as patches with as many positions as `like`."""
    return rows.unflatten(0, (len(like), *like.shape[2:])).permute(0, 3, 1, 2)


def _strided(x: Activations, stride: int) -> Activations:
    """What a 1×1 convolution of that stride reads of x."""
    if stride == 1:
        return x
    return x[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last)
