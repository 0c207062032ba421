"""Bottleneck blocks of pre-activation ResNets, and modules of them.

Letters: p = patch (all patches of all images form one batch), d and e = channels.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from gim_bench.encoders.bottleneck_passes import ModulePass, Structure
from gim_bench.hardware import devices

EXPANSION = 4  # output channels of a block over its inner width


class Bottleneck(nn.Module):
    """Pre-activation bottleneck block without batch norm.

    The shortcut is a 1×1 convolution if the block changes size, else the identity.

    Source: He et al. 2016 (identity mappings), Fig. 4e; Löwe et al. 2019, appendix A.1.
    """

    def __init__(self, in_channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1)
        self.conv3 = nn.Conv2d(width, out_channels, kernel_size=1)
        resizes = stride != 1 or in_channels != out_channels
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride) if resizes else None
        )

    def forward(self, x: Float[Tensor, "p d h w"]) -> Float[Tensor, "p e i j"]:
        activated = F.relu(x)
        residual = self.conv1(activated)
        residual = self.conv2(F.relu(residual, inplace=True))
        residual = self.conv3(F.relu(residual, inplace=True))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return residual.add_(shortcut)


class BottleneckModule(nn.Sequential):
    """The blocks of a module; those of the lowest one lie above a convolution.

    On a CPU the module is one operation, which takes less time and memory than its layers do and
    gives the same numbers up to rounding. Layers run one by one where they are compiled or
    exported, and where one of them has hooks or is of another kind.
    """

    @property
    def is_one_operation(self) -> bool:
        """Whether the module runs as one operation, where it is now."""
        if torch.compiler.is_compiling():  # or exporting
            return False
        stem, *blocks = self
        if not isinstance(stem, nn.Conv2d):
            blocks = [stem, *blocks]
        are_known = all(type(block) is Bottleneck for block in blocks)
        in_pieces = devices.works_in_pieces(next(self.parameters()).device)
        layers = (module for layer in self for module in layer.modules())
        return in_pieces and are_known and not any(_runs_itself(layer) for layer in layers)

    def forward(self, x: Float[Tensor, "p d h w"]) -> Float[Tensor, "p e i j"]:
        if not self.is_one_operation:
            return super().forward(x)  # type: ignore[no-untyped-call]
        is_cast = torch.is_autocast_enabled("cpu") and x.dtype is not torch.float64
        dtype = torch.get_autocast_dtype("cpu") if is_cast else x.dtype
        parameters = list(self.parameters())
        given = [x, *parameters]
        learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        blocks = [layer for layer in self if isinstance(layer, Bottleneck)]
        structure = Structure(
            dtype=dtype,
            has_stem=len(blocks) < len(self),
            strides=[block.conv2.stride[0] for block in blocks],
            has_shortcut=[block.shortcut is not None for block in blocks],
        )
        with torch.autocast("cpu", enabled=False):
            return ModulePass.apply(  # type: ignore[no-untyped-call]
                x, structure, learns, *parameters
            )


def _runs_itself(layer: nn.Module) -> bool:
    """Whether a layer is compiled, has hooks or other weights, which only its own call heeds."""
    hooks = (
        layer._forward_pre_hooks, layer._forward_hooks,  # noqa: SLF001 - PyTorch has no function
        layer._backward_pre_hooks, layer._backward_hooks,  # noqa: SLF001 - that tells
    )  # fmt: skip
    is_compiled = layer._compiled_call_impl is not None  # noqa: SLF001
    return is_compiled or any(hooks) or is_parametrized(layer)
