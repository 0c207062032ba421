"""One optimiser step of GIM at the paper's sizes, and the peak memory of a process that takes it.

Vision: ResNet-50, gray 64×64 images, batch 16. Audio: 512 channels, 20,480 samples, batch 8.
"""

import math
from collections.abc import Callable

import pytest
import torch

from benchmarks import textbook_audio, textbook_vision
from benchmarks.peak import peak_bytes
from gim_bench import registry, seeding
from gim_bench.contract import Batch, Encoder, Ingredients, Target
from gim_bench.encoders.conv_gru import ConvGRUEncoder, ConvGRUSettings
from gim_bench.encoders.resnet import ResNetEncoder, ResNetSettings
from gim_bench.hardware import devices
from gim_bench.objectives.info_nce import InfoNCESettings
from gim_bench.settings.schema import Precision, Schedule
from gim_bench.training.trainer import Trainer

CPU = torch.device("cpu")
PRECISION = devices.resolve_precision(Precision.AUTO, CPU)
VISION = "one optimiser step of GIM on images, paper size, batch 16"
AUDIO = "one optimiser step of GIM on speech, paper size, batch 8"
AUDIO_INFO_NCE = InfoNCESettings(prediction_steps=12, skip_rows=0, negatives=10, anchor_rows=128)

Step = Callable[[], object]


def images() -> torch.Tensor:
    return torch.randn(16, 1, 64, 64, generator=seeding.generator("benchmarks", "images"))


def speech() -> torch.Tensor:
    return torch.randn(8, 20_480, generator=seeding.generator("benchmarks", "speech"))


def step_of(
    name: str,
    encoder: Encoder,
    info_nce: InfoNCESettings,
    *,
    inputs: torch.Tensor,
    rate: float,
    schedule: Schedule = Schedule.INTERLEAVED,
) -> Step:
    """A step of ours: channels last, fused Adam, bf16 where the CPU has it."""
    method = registry.method(name)
    learner = method(
        Ingredients(
            encoder=encoder,
            target=Target(name="class", classes=["one", "other"]),
            info_nce=info_nce,
            options=method.Options(),
            negatives=seeding.generator("negatives", name, 0),
        )
    )
    trainer = Trainer(
        learner.to(memory_format=torch.channels_last),
        learning_rate=rate,
        schedule=schedule,
        precision=PRECISION,
        device=CPU,
    )
    batch = Batch(inputs=inputs, labels={})
    return lambda: list(trainer.step(batch).values())


def ours_on_images(schedule: Schedule = Schedule.INTERLEAVED) -> Step:
    encoder = ResNetEncoder(ResNetSettings(kind="resnet"), in_channels=1)
    return step_of(
        "gim", encoder, InfoNCESettings(), inputs=images(), rate=1.5e-4, schedule=schedule
    )


def ours_on_images_joint() -> Step:
    return ours_on_images(Schedule.JOINT)


def textbook_on_images() -> Step:
    trainer = textbook_vision.Trainer(textbook_vision.GreedyInfoMax(), learning_rate=1.5e-4)
    inputs = images()
    return lambda: trainer.step(inputs)


def ours_on_speech(name: str = "gim", schedule: Schedule = Schedule.INTERLEAVED) -> Step:
    encoder = ConvGRUEncoder(ConvGRUSettings(kind="conv_gru"), samples=20_480)
    return step_of(name, encoder, AUDIO_INFO_NCE, inputs=speech(), rate=2e-4, schedule=schedule)


def ours_on_speech_joint() -> Step:
    return ours_on_speech(schedule=Schedule.JOINT)


def ours_on_speech_without_bptt() -> Step:
    return ours_on_speech("gim_no_bptt")


def textbook_on_speech() -> Step:
    trainer = textbook_audio.Trainer(textbook_audio.GreedyInfoMax(), learning_rate=2e-4)
    inputs = speech()
    return lambda: trainer.step(inputs)


def measure(benchmark, make_step: Callable[[], Step], *, chance: float) -> None:
    benchmark.extra_info["precision"] = (
        "fp32" if "textbook" in make_step.__name__ else str(PRECISION)
    )
    if not benchmark.disabled:
        benchmark.extra_info["peak_bytes"] = peak_bytes(make_step)
    losses = benchmark.pedantic(make_step(), rounds=5, warmup_rounds=1)
    assert all(0 < loss < 2 * chance for loss in losses)


@pytest.mark.benchmark(group=VISION)
@pytest.mark.parametrize(
    "make_step",
    [textbook_on_images, ours_on_images, ours_on_images_joint],
    ids=lambda f: f.__name__,
)
def test_vision(benchmark, make_step):
    measure(benchmark, make_step, chance=math.log(17))


@pytest.mark.benchmark(group=AUDIO)
@pytest.mark.parametrize(
    "make_step",
    [textbook_on_speech, ours_on_speech, ours_on_speech_joint, ours_on_speech_without_bptt],
    ids=lambda f: f.__name__,
)
def test_audio(benchmark, make_step):
    measure(benchmark, make_step, chance=math.log(11))
