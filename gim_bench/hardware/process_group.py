"""The processes that share each batch of a training, and the tensors that they exchange.

Each process has as many examples of a batch as every other; process r has those after the examples
of the processes 0 … r - 1. The loss of the batch is the mean of the losses of the processes, and so
are its gradients, once each process has those of the sum of all losses: `gathered` sees to that.
Outside of a group, a process is the only one and exchanges nothing.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.distributed import FileStore, Store  # type: ignore[attr-defined]

from gim_bench.errors import ConfigError
from gim_bench.hardware.devices import at_least_fp32
from gim_bench.system.children import NeighbourGoneError

LOOPBACK = "127.0.0.1"
INTERFACE, INTERFACE_OF_NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
# Of an exchange: a process may wait as long for another one's batch. Its parent ends it.
PATIENCE = timedelta(days=30)

_groups: list[dist.ProcessGroup] = []  # the one of this process, if it is in one


# -- joining ---------------------------------------------------------------------------------------


class Meeting(ABC):
    """How the processes of a group find each other; each of them is given it through a pipe."""

    @property
    @abstractmethod
    def address(self) -> str:
        """The address at which the others reach this machine. Raises: ConfigError."""

    @abstractmethod
    def store(self, processes: int) -> Store:
        """Keys that all `processes` share. Raises: RuntimeError or OSError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMeeting(Meeting):
    """A file, for processes of one machine: a store over TCP would listen on all interfaces."""

    path: Path

    @property
    def address(self) -> str:
        return LOOPBACK

    def store(self, processes: int) -> Store:
        return FileStore(str(self.path), processes)


@contextmanager
def connected(
    meeting: Meeting, *, number: int, processes: int, device: torch.device
) -> Iterator[dist.ProcessGroup]:
    """Within the block, this process exchanges tensors with the others: as their `number`, from 0.

    They go by NCCL on GPUs and by gloo on CPUs. Both listen on the interface of the meeting's
    address, unless GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME names another; by default it is one
    that others may reach. Raises: NeighbourGoneError where another process has ended.
    """
    if (interface := interface_of(meeting.address)) is not None:
        os.environ.setdefault(INTERFACE, interface)
        os.environ.setdefault(INTERFACE_OF_NCCL, f"={interface}")  # this name, not a beginning
    with exchange():
        store = meeting.store(processes)
        store.set_timeout(PATIENCE)  # NCCL waits there for those who are slow to read their data
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=number,
            world_size=processes,
            timeout=PATIENCE,
            device_id=device if device.type == "cuda" else None,
        )
    assert dist.group.WORLD is not None
    yield dist.group.WORLD
    dist.destroy_process_group()  # a process that an error ends has no time for farewells


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has the address; None if none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return name
    return None


@contextmanager
def joined(
    meeting: Meeting, *, number: int, processes: int, device: torch.device
) -> Iterator[None]:
    """Within the block, this process has its share of each batch, as the `connected` number."""
    with connected(meeting, number=number, processes=processes, device=device) as group:
        _groups.append(group)
        try:
            yield
        finally:
            _groups.clear()


# -- sharing ---------------------------------------------------------------------------------------


def size() -> int:
    """Processes of the group; 1 outside of one."""
    return _groups[0].size() if _groups else 1


def own(examples: int) -> slice:
    """The examples of a whole batch that this process has."""
    share = examples // size()
    first = share * (_groups[0].rank() if _groups else 0)
    return slice(first, first + share)


def drawn(shape: Sequence[int], *, example: int = 0, draw: torch.Generator) -> Tensor:
    """Uniform numbers in 0..1 for each of one's own examples, which are along axis `example`.

    They are those that one process draws for these examples among the whole batch.
    """
    whole = list(shape)
    whole[example] *= size()
    own_part = own(whole[example])
    return torch.rand(whole, generator=draw).narrow(example, own_part.start, shape[example])


def gathered(values: Shaped[Tensor, "n *rest"]) -> Shaped[Tensor, "m *rest"]:
    """The values of all processes one below the other; on the way back, each gets its gradients.

    The gradients of `values` are those of the sum of the losses of all processes.
    """
    if not _groups:
        return values
    return _Gathered.apply(values)  # type: ignore[no-untyped-call]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        values = values.contiguous()
        parts = [torch.empty_like(values) for _ in range(size())]
        with exchange():
            dist.all_gather(parts, values, group=_groups[0])
        return torch.cat(parts)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        total = gradient.to(at_least_fp32(gradient.dtype), copy=True).contiguous()
        with exchange():
            dist.all_reduce(total, group=_groups[0])
        return total[own(len(total))].to(gradient.dtype)


class Mean:
    """The mean of tensors over the processes, which goes on while the process computes."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        """Begin with the exchange of the values, which are all of one number format."""
        self._values = values
        self._flat = torch.cat([each.flatten() for each in values])
        with exchange():
            self._work = dist.all_reduce(self._flat, group=_groups[0], async_op=True)

    def put_back(self) -> None:
        """Wait for the exchange, and put the means in the place of the values."""
        with exchange():
            self._work.wait()
        parts = self._flat.div_(size()).split([each.numel() for each in self._values])
        for each, part in zip(self._values, parts, strict=True):
            each.copy_(part.view_as(each))


@contextmanager
def exchange() -> Iterator[None]:
    """A context in which the end of another process has a name."""
    try:
        yield
    except RuntimeError as error:  # of gloo and of NCCL alike
        raise NeighbourGoneError from error


# -- batch norm ------------------------------------------------------------------------------------


def synchronised(module: nn.Module, *, device: torch.device) -> nn.Module:
    """The module, whose layers of batch norm take the statistics of the whole batch from now on.

    PyTorch's own layer is one of GPUs alone. Raises: ConfigError for a batch norm of another class,
    whose own computation neither layer knows.
    """
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and type(layer) not in _SYNCHRONISED:  # noqa: SLF001
            raise ConfigError(
                f"processes that share a batch cannot synchronise the batch norm "
                f"{type(layer).__qualname__}: set training.processes=1, or use "
                f"{' or '.join(kind.__name__ for kind in _SYNCHRONISED)}"
            )
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module, _groups[0])
    for layer in module.modules():
        # Parameters and buffers stay where they are: optimisers have them, and so do states.
        layer.__class__ = _SYNCHRONISED.get(type(layer), type(layer))
    return module


class _OverProcesses(nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the base of all of them
    """Batch norm whose mean and variance in training are those of all processes' examples.

    The variance of the whole is the mean of the variances and the variance of the means, because
    all processes have as many values.
    """

    def forward(self, x: Float[Tensor, "n d *place"]) -> Float[Tensor, "n d *place"]:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        places = [axis for axis in range(x.dim()) if axis != 1]
        precise = x.to(at_least_fp32(x.dtype))
        own_var, own_mean = torch.var_mean(precise, places, correction=0)
        means, variances = gathered(torch.stack([own_mean, own_var])[None]).unbind(1)
        mean = means.mean(0)
        var = variances.mean(0) + (means - mean).square().mean(0)
        self._keep(mean.detach(), var.detach(), count=size() * x.numel() // x.shape[1])
        shape = [1, -1, *[1] * (x.dim() - 2)]
        normed = (precise - mean.view(shape)) * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            normed = normed * self.weight.view(shape) + self.bias.view(shape)
        return normed.to(x.dtype)

    @torch.no_grad()
    def _keep(self, mean: Tensor, var: Tensor, *, count: int) -> None:
        """Move the running statistics, of which the variance is that of a sample."""
        batches, kept_mean, kept_var = (
            self.num_batches_tracked,
            self.running_mean,
            self.running_var,
        )
        if batches is None or kept_mean is None or kept_var is None:
            return
        batches.add_(1)
        share = 1 / float(batches) if self.momentum is None else self.momentum
        kept_mean.lerp_(mean.to(kept_mean.dtype), share)
        sample = var * (count / max(1, count - 1))
        kept_var.lerp_(sample.to(kept_var.dtype), share)


class _OverProcesses1d(_OverProcesses, nn.BatchNorm1d):
    pass


class _OverProcesses2d(_OverProcesses, nn.BatchNorm2d):
    pass


_SYNCHRONISED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _OverProcesses1d,
    nn.BatchNorm2d: _OverProcesses2d,
}
