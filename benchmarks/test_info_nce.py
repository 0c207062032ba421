"""InfoNCE forward and backward at the top module's size: 1024 channels, 7×7 patches, batch 16."""

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from benchmarks import textbook
from gim_bench import devices, seeding
from gim_bench.config import InfoNCESettings, Precision
from gim_bench.objectives.info_nce import InfoNCEHead

CHANNELS = 1024
CPU = torch.device("cpu")
GROUP = "InfoNCE forward and backward, 1024 channels, batch 16"


@pytest.fixture
def z() -> Tensor:
    """Encodings [image row column channel] that ask for a gradient."""
    draw = seeding.generator("benchmarks", "encodings")
    return torch.randn(16, 7, 7, CHANNELS, generator=draw).requires_grad_()


def forward_and_backward(loss_of: nn.Module, z: Tensor, *, precision: Precision) -> Tensor:
    """The loss; gradients of z and of the predictors are left behind."""
    with devices.autocast(CPU, precision):
        loss = loss_of(z, z)
    loss.backward()
    return loss


@pytest.mark.benchmark(group=GROUP)
def test_textbook(benchmark, z):
    z = rearrange(z, "image row column d -> image d row column").detach().contiguous()
    loss_of = textbook.InfoNCE(CHANNELS)
    benchmark.pedantic(
        forward_and_backward,
        args=(loss_of, z.requires_grad_()),
        kwargs={"precision": Precision.FP32},
        rounds=5,
        warmup_rounds=1,
    )


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.AUTO], ids=str)
def test_ours(benchmark, z, precision):
    """In fp32, and in what "auto" resolves to on this CPU."""
    resolved = devices.resolve_precision(precision, CPU)
    benchmark.extra_info["precision"] = str(resolved)
    head = InfoNCEHead(
        CHANNELS,
        settings=InfoNCESettings(),
        generator=seeding.generator("benchmarks", "negatives"),
    )
    benchmark.pedantic(
        forward_and_backward,
        args=(head, z),
        kwargs={"precision": resolved},
        rounds=10,
        warmup_rounds=2,
    )
