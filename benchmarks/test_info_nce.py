"""InfoNCE forward and backward, at the sizes where each task spends most on it.

Vision: the top module, 1024 channels, 7×7 patches, batch 16. Audio: the first convolution, 512
channels, 4,095 time steps, batch 8.
"""

from typing import NamedTuple

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from benchmarks import textbook_audio, textbook_vision
from benchmarks.paper import CPU, INFO_NCE
from gim_bench import seeding
from gim_bench.contract import Modality
from gim_bench.hardware import devices
from gim_bench.objectives.info_nce import InfoNCEHead, InfoNCESettings
from gim_bench.settings.schema import Precision


class Task(NamedTuple):
    """Sizes of the encodings, and both ways to their loss."""

    group: str
    grid: tuple[int, int, int, int]  # example, row, column, channel
    settings: InfoNCESettings
    textbook: type[nn.Module]
    layout: str  # of the textbook's encodings


VISION = Task(
    group="InfoNCE forward and backward, images, 1024 channels, batch 16",
    grid=(16, 7, 7, 1024),
    settings=INFO_NCE[Modality.IMAGE],
    textbook=textbook_vision.InfoNCE,
    layout="example d row column",
)
AUDIO = Task(
    group="InfoNCE forward and backward, speech, 512 channels, 4095 steps, batch 8",
    grid=(8, 4095, 1, 512),
    settings=INFO_NCE[Modality.SPEECH],
    textbook=textbook_audio.InfoNCE,
    layout="example d (row column)",
)


def encodings(task: Task, *, tried_only: bool) -> Tensor:
    """[example row column channel], asking for a gradient; of one example if only tried."""
    draw = seeding.generator("benchmarks", "encodings")
    grid = (1, *task.grid[1:]) if tried_only else task.grid
    return torch.randn(grid, generator=draw).requires_grad_()


def forward_and_backward(loss_of: nn.Module, z: Tensor, *, precision: Precision) -> Tensor:
    """The loss; gradients of z and of the predictors are left behind."""
    with devices.autocast(CPU, precision):
        loss = loss_of(z, z)
    loss.backward()
    return loss


@pytest.mark.parametrize("task", [VISION, AUDIO], ids=["vision", "audio"])
def test_textbook(benchmark, tried_only, task):
    benchmark.group = task.group
    z = encodings(task, tried_only=tried_only).detach()
    z = rearrange(z, f"example row column d -> {task.layout}").contiguous()
    channels = (task.grid[-1],) * (1 if task is VISION else 2)
    benchmark.pedantic(
        forward_and_backward,
        args=(task.textbook(*channels), z.requires_grad_()),
        kwargs={"precision": Precision.FP32},
        rounds=5,
        warmup_rounds=1,
    )


@pytest.mark.parametrize("task", [VISION, AUDIO], ids=["vision", "audio"])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.AUTO], ids=str)
def test_ours(benchmark, tried_only, task, precision):
    """In fp32, and in what "auto" resolves to on this CPU."""
    benchmark.group = task.group
    resolved = devices.resolve_precision(precision, CPU)
    benchmark.extra_info["precision"] = str(resolved)
    head = InfoNCEHead(
        z_dim=task.grid[-1],
        c_dim=task.grid[-1],
        settings=task.settings,
        generator=seeding.generator("benchmarks", "negatives"),
    )
    benchmark.pedantic(
        forward_and_backward,
        args=(head, encodings(task, tried_only=tried_only)),
        kwargs={"precision": resolved},
        rounds=10,
        warmup_rounds=2,
    )
