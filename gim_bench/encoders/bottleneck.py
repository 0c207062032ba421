"""Bottleneck blocks of pre-activation ResNets, and modules of them.

Letters: p = patch (all patches of all images form one batch), d and e = channels.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.encoders.bottleneck_passes import Block, ModulePass, Plan
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
    """Blocks of an encoder's module, in the lowest above a convolution without an activation.

    On a CPU the module is one operation, which takes less time and memory than its layers do and
    gives the same numbers up to rounding. Layers run one by one where one of them has hooks, and
    where they are compiled or exported.
    """

    @property
    def is_one_operation(self) -> bool:
        """Whether the module runs as one operation, where it is now."""
        if torch.compiler.is_compiling():  # or exporting
            return False
        layers = (module for layer in self for module in layer.modules())
        in_pieces = devices.works_in_pieces(next(self.parameters()).device)
        return in_pieces and not any(_runs_itself(layer) for layer in layers)

    def forward(self, x: Float[Tensor, "p d h w"]) -> Float[Tensor, "p e i j"]:
        if not self.is_one_operation:
            return super().forward(x)  # type: ignore[no-untyped-call]
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        parameters = list(self.parameters())
        given = [x, *parameters]
        learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        with torch.autocast("cpu", enabled=False):
            return ModulePass.apply(  # type: ignore[no-untyped-call]
                x, self._plan(dtype), learns, *parameters
            )

    def _plan(self, dtype: torch.dtype) -> Plan:
        stems = [_weights(layer, dtype) for layer in self if isinstance(layer, nn.Conv2d)]
        blocks = [
            Block(
                stride=layer.conv2.stride[0],
                conv1=_weights(layer.conv1, dtype),
                conv2=_weights(layer.conv2, dtype),
                conv3=_weights(layer.conv3, dtype),
                shortcut=None if layer.shortcut is None else _weights(layer.shortcut, dtype),
            )
            for layer in self
            if isinstance(layer, Bottleneck)
        ]
        return Plan(stem=stems[0] if stems else None, blocks=blocks)


def _runs_itself(layer: nn.Module) -> bool:
    """Whether a layer is compiled or has hooks, which only its own call runs."""
    hooks = (
        layer._forward_pre_hooks, layer._forward_hooks,  # noqa: SLF001 - PyTorch has no function
        layer._backward_pre_hooks, layer._backward_hooks,  # noqa: SLF001 - that tells
    )  # fmt: skip
    return layer._compiled_call_impl is not None or any(hooks)  # noqa: SLF001


def _weights(conv: nn.Conv2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(kernel, bias) of a convolution in the type that it is computed in; 1×1 as a matrix."""
    assert conv.bias is not None
    kernel = conv.weight.detach().to(dtype)
    return kernel.flatten(1) if conv.kernel_size == (1, 1) else kernel, conv.bias.detach().to(dtype)
