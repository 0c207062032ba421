"""GIM's vision step at the paper's size: a process for each module, and one process for all.

Workers have one thread each; the process for all has as many as the machine has cores. The time is
that of a step once the pipeline is full. `peak_bytes` is the largest worker's, over the idle
process.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import pytest
import torch

from benchmarks.paper import CPU, PRECISION, inputs, learner
from benchmarks.test_training_step import IMAGES, RATES, VISION
from gim_bench.contract import Batch, Modality
from gim_bench.hardware import memory
from gim_bench.hardware.threads import cores
from gim_bench.methods.stack import StackLearner
from gim_bench.settings.schema import Schedule
from gim_bench.training.pipeline.trainer import PipelinedTrainer, shared_out
from gim_bench.training.pipeline.worker import Part
from gim_bench.training.trainer import Trainer
from gim_bench.training.workers import Ticks

ROUNDS, WARM = 8, 6
# Steps after the last timed one, so that no worker is idle while it is waited for.
FURTHER = 10
STEPS = WARM + ROUNDS + FURTHER
SETTINGS = {"learning_rate": RATES[Modality.IMAGE], "precision": PRECISION, "device": CPU}


class Noise:
    """A source of one epoch, whose batches are all the same images of noise."""

    stream = ("noise", 0)

    def __init__(self, *, batch_size: int, steps: int) -> None:
        self.batch_size = batch_size
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def epoch(self, number: int) -> Iterator[Batch]:
        batch = Batch(inputs=inputs(self.batch_size, Modality.IMAGE), labels={})
        return iter([batch] * len(self))

    def validation(self) -> Iterator[Batch]:
        return iter(())


def part(noise: Noise, number: int, units: Sequence[str]) -> Part:
    """A worker's part, made in the worker's process."""
    torch.set_num_threads(1)
    own = learner("gim", Modality.IMAGE)
    assert isinstance(own, StackLearner)
    own.keep_units(units)
    return Part(
        trainer=Trainer(own, schedule=Schedule.PIPELINE, share=units, **SETTINGS),
        source=None if number else noise,
        steps=noise.steps,
        rates=None,
    )


@pytest.fixture
def one_thread_for_each_core():
    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    yield
    torch.set_num_threads(before)


@pytest.mark.benchmark(group=f"{VISION}, by processes")
@pytest.mark.usefixtures("one_thread_for_each_core")
def test_one_process(benchmark, tried_only):
    own = learner("gim", Modality.IMAGE)
    trainer = Trainer(own, schedule=Schedule.INTERLEAVED, **SETTINGS)
    batch = Batch(inputs=inputs(1 if tried_only else IMAGES, Modality.IMAGE), labels={})
    with memory.measure(CPU, learner=own) as peaks:
        losses = benchmark.pedantic(partial(trainer.step, batch), rounds=ROUNDS, warmup_rounds=WARM)
    benchmark.extra_info["peak_bytes"] = peaks.metrics["memory/host_over_baseline_bytes"]
    assert len(losses) == 3


def _stepped(trainer, ticks):
    return trainer.step(next(ticks))


@pytest.mark.benchmark(group=f"{VISION}, by processes")
@pytest.mark.parametrize("workers", [2, 3])
def test_a_pipeline(benchmark, tried_only, workers):
    own = learner("gim", Modality.IMAGE)
    noise = Noise(batch_size=1, steps=1) if tried_only else Noise(batch_size=IMAGES, steps=STEPS)
    trainer = PipelinedTrainer(
        own,
        schedule=Schedule.PIPELINE,
        shares=shared_out(list(own.units()), workers=workers),
        make=partial(part, noise),
        ticks=Ticks(noise, steps=noise.steps),
        **SETTINGS,
    )
    with trainer.at_work():
        ticks = trainer.ticks.epoch(1)
        step = partial(_stepped, trainer, ticks)
        losses = benchmark.pedantic(step, rounds=ROUNDS, warmup_rounds=WARM)
        for tick in ticks:
            trainer.step(tick)
        trainer.evaluate([])
    for each in trainer.measured:
        units = "+".join(each.units)
        peak = each.peaks.metrics["memory/host_over_baseline_bytes"]
        waited = each.seconds_without_batch + each.seconds_without_room
        benchmark.extra_info[f"{units} peak_bytes"] = peak
        benchmark.extra_info[f"{units} idle_share"] = round(waited / each.seconds, 3)
    assert len(losses) == 3
