"""One optimiser step of GIM at the paper's sizes, and the peak memory of a process that takes it.

Vision: ResNet-50, gray 64×64 images, batch 16. Audio: 512 channels, 20,480 samples, batch 8. The
textbook's number format is fp32; ours is bf16 where the CPU has it, and fp32 beside it. The
bound of both is the larger of two rows: the step's multiplications, and its bytes.
"""

import math
from collections.abc import Callable

import pytest

from benchmarks import textbook_audio, textbook_vision
from benchmarks.bound import copies, products, work_of
from benchmarks.paper import CPU, PRECISION, inputs, learner
from benchmarks.peak import peak_bytes
from gim_bench.contract import Batch, Modality
from gim_bench.settings.schema import Precision, Schedule
from gim_bench.training.trainer import Trainer

VISION = "one optimiser step of GIM on images, paper size, batch 16"
AUDIO = "one optimiser step of GIM on speech, paper size, batch 8"
IMAGES, WINDOWS = 16, 8
RATES = {Modality.IMAGE: 1.5e-4, Modality.SPEECH: 2e-4}

Step = Callable[[], object]


def trainer_of(
    name: str,
    modality: Modality,
    *,
    schedule: Schedule = Schedule.INTERLEAVED,
    precision: Precision = PRECISION,
) -> Trainer:
    """A trainer of ours: channels last, fused Adam, by default bf16 where the CPU has it."""
    return Trainer(
        learner(name, modality),
        learning_rate=RATES[modality],
        schedule=schedule,
        precision=precision,
        device=CPU,
    )


def batch_of(size: int, modality: Modality) -> Batch:
    return Batch(inputs=inputs(size, modality), labels={})


def step_of(trainer: Trainer, batch: Batch) -> Step:
    return lambda: list(trainer.step(batch).values())


def ours_on_images(batch_size: int = IMAGES) -> Step:
    return step_of(trainer_of("gim", Modality.IMAGE), batch_of(batch_size, Modality.IMAGE))


def ours_on_images_in_fp32(batch_size: int = IMAGES) -> Step:
    return step_of(
        trainer_of("gim", Modality.IMAGE, precision=Precision.FP32),
        batch_of(batch_size, Modality.IMAGE),
    )


def ours_on_images_joint(batch_size: int = IMAGES) -> Step:
    return step_of(
        trainer_of("gim", Modality.IMAGE, schedule=Schedule.JOINT),
        batch_of(batch_size, Modality.IMAGE),
    )


def textbook_on_images(batch_size: int = IMAGES) -> Step:
    model = textbook_vision.GreedyInfoMax()
    trainer = textbook_vision.Trainer(model, learning_rate=RATES[Modality.IMAGE])
    images = inputs(batch_size, Modality.IMAGE)
    return lambda: trainer.step(images)


def ours_on_speech(batch_size: int = WINDOWS) -> Step:
    return step_of(trainer_of("gim", Modality.SPEECH), batch_of(batch_size, Modality.SPEECH))


def ours_on_speech_in_fp32(batch_size: int = WINDOWS) -> Step:
    return step_of(
        trainer_of("gim", Modality.SPEECH, precision=Precision.FP32),
        batch_of(batch_size, Modality.SPEECH),
    )


def ours_on_speech_joint(batch_size: int = WINDOWS) -> Step:
    return step_of(
        trainer_of("gim", Modality.SPEECH, schedule=Schedule.JOINT),
        batch_of(batch_size, Modality.SPEECH),
    )


def ours_on_speech_without_bptt(batch_size: int = WINDOWS) -> Step:
    return step_of(
        trainer_of("gim_no_bptt", Modality.SPEECH), batch_of(batch_size, Modality.SPEECH)
    )


def textbook_on_speech(batch_size: int = WINDOWS) -> Step:
    model = textbook_audio.GreedyInfoMax()
    trainer = textbook_audio.Trainer(model, learning_rate=RATES[Modality.SPEECH])
    speech = inputs(batch_size, Modality.SPEECH)
    return lambda: trainer.step(speech)


def multiplications_at_peak(modality: Modality, size: int) -> Callable[[], object]:
    """As many operations as a step of ours, as products of matrices that stay in the cache."""
    work = work_of(trainer_of("gim", modality), batch_of(size, modality))
    return products(size * work.flops, precision=PRECISION)


def bytes_at_bandwidth(modality: Modality, size: int) -> Callable[[], object]:
    """A copy of as many bytes as a step of ours keeps for the backward passes."""
    work = work_of(trainer_of("gim", modality), batch_of(size, modality))
    return copies(size * work.kept_bytes)


def in_fp32(make_step: Callable[..., Step]) -> list[Callable[..., Step]]:
    """The step where `PRECISION` is another number format: else it is there already."""
    return [] if PRECISION is Precision.FP32 else [make_step]


def measure(benchmark, make_step: Callable[..., Step], *, classes: int, tried_only: bool) -> None:
    """`classes` is the number of candidates of a prediction."""
    name = make_step.__name__
    is_fp32 = name.startswith("textbook") or name.endswith("in_fp32")
    benchmark.extra_info["precision"] = str(Precision.FP32 if is_fp32 else PRECISION)
    if not tried_only:
        benchmark.extra_info["peak_bytes"] = peak_bytes(make_step)
    step = make_step(batch_size=1) if tried_only else make_step()
    losses = benchmark.pedantic(step, rounds=5, warmup_rounds=1)
    assert all(0 < loss < 2 * math.log(classes) for loss in losses)


@pytest.mark.benchmark(group=VISION)
@pytest.mark.parametrize(
    "make_step",
    [
        textbook_on_images,
        *in_fp32(ours_on_images_in_fp32),
        ours_on_images,
        ours_on_images_joint,
    ],
    ids=lambda f: f.__name__,
)
def test_vision(benchmark, tried_only, make_step):
    measure(benchmark, make_step, classes=17, tried_only=tried_only)


@pytest.mark.benchmark(group=AUDIO)
@pytest.mark.parametrize(
    "make_step",
    [
        textbook_on_speech,
        *in_fp32(ours_on_speech_in_fp32),
        ours_on_speech,
        ours_on_speech_joint,
        ours_on_speech_without_bptt,
    ],
    ids=lambda f: f.__name__,
)
def test_audio(benchmark, tried_only, make_step):
    measure(benchmark, make_step, classes=11, tried_only=tried_only)


@pytest.mark.parametrize(
    "least", [multiplications_at_peak, bytes_at_bandwidth], ids=lambda f: f.__name__
)
@pytest.mark.parametrize(
    "of_step",
    [(VISION, Modality.IMAGE, IMAGES), (AUDIO, Modality.SPEECH, WINDOWS)],
    ids=[Modality.IMAGE, Modality.SPEECH],
)
def test_bound(benchmark, tried_only, of_step, least):
    benchmark.group, modality, size = of_step
    work = least(modality, 1 if tried_only else size)
    benchmark.pedantic(work, rounds=5, warmup_rounds=1)
