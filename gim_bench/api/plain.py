"""An exported encoder for PyTorch without gim_bench: the part that all exports share.

The text of this file is copied into every export, so it imports PyTorch and safetensors alone.

Letters: n = examples, d = feature dimensions.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


class ExportedEncoder(nn.Module):
    """A trained encoder as a graph of PyTorch's operations, in eval mode whatever is asked for.

    Names of parameters are those of the file of weights. Another batch size is no problem, another
    size of examples is.
    """

    def __init__(
        self,
        graph: Callable[..., Sequence[Tensor]],
        *,
        modules: Sequence[str],
        tensors: Mapping[str, str],
        files: Sequence[Path],
        dtype: torch.dtype,
        shape: Sequence[int],
    ) -> None:
        """`graph` is given the `tensors` and then examples.

        `tensors` are {name: "parameter", "buffer" or "constant"}, in the order of its arguments.
        """
        super().__init__()
        self.graph, self.names, self.order = graph, tuple(modules), tuple(tensors)
        self.dtype, self.shape = dtype, tuple(shape)
        values = {name: value for file in files for name, value in load_file(file).items()}
        for name, kind in tensors.items():
            *path, last = name.split(".")
            holder: nn.Module = self
            for part in path:
                if not hasattr(holder, part):
                    holder.add_module(part, nn.Module())
                holder = getattr(holder, part)
            if kind == "parameter":
                holder.register_parameter(last, nn.Parameter(values[name]))
            else:
                holder.register_buffer(last, values[name], persistent=kind == "buffer")

    def forward(self, examples: Tensor) -> dict[str, Tensor]:
        """Encodings of each module, averaged over places: {"module_1": [n d], …}, float32.

        Images are uint8 [n channel row column] with 1 or 3 channels, whose centre is read. Speech
        is int16 [n sample] at 16 kHz. Raises: ValueError for anything else.
        """
        images = len(self.shape) == 3
        if examples.dtype != self.dtype or examples.dim() != 1 + len(self.shape):
            raise ValueError(
                f"examples are {self.dtype} {['n', *self.shape]}: these are {examples.dtype} "
                f"{list(examples.shape)}"
            )
        if images and examples.shape[1] == 1:
            examples = examples.expand(-1, self.shape[0], -1, -1)
        if images and min(examples.shape[2:]) >= self.shape[-1]:
            examples = centre(examples, size=self.shape[-1])
        if tuple(examples.shape[1:]) != self.shape:
            raise ValueError(
                f"examples are of shape {list(self.shape)}, or larger images: these are of shape "
                f"{list(examples.shape[1:])}"
            )
        values = self.graph(*(attrgetter(name)(self) for name in self.order), examples)
        return dict(zip(self.names, values, strict=True))


def centre(images: Tensor, *, size: int) -> Tensor:
    """The square of `size` pixels in the middle of images [n channel row column]."""
    height, width = images.shape[-2:]
    top, left = (height - size) // 2, (width - size) // 2
    return images[:, :, top : top + size, left : left + size]
