"""Cells whose units are trained in processes of their own (schedule "pipeline")."""

import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from jaxtyping import Int
from torch import Tensor

from gim_bench.cells.bench import Bench
from gim_bench.cells.build import (
    Model,
    planned_steps,
    rates_of,
    trainer_of,
    trainer_settings,
)
from gim_bench.cells.cell import Cell
from gim_bench.cells.data_parallel import processes_of
from gim_bench.cells.parts import PartOfCell, devices_of_workers, told
from gim_bench.cells.shares import devices_of
from gim_bench.contract import Batch, GradientFlow, Learner, Split
from gim_bench.errors import ConfigError
from gim_bench.hardware import energy, memory
from gim_bench.hardware.calibration import timed
from gim_bench.hardware.threads import cores
from gim_bench.methods.stack import StackLearner, partition
from gim_bench.registry import encoder as encoder_class
from gim_bench.registry import method as method_class
from gim_bench.settings.schema import CellConfig, Schedule
from gim_bench.training.agents import CrewOfRanks
from gim_bench.training.kept_outputs import Source
from gim_bench.training.pipeline.asynchronous import AsynchronousTrainer
from gim_bench.training.pipeline.buffer import Use
from gim_bench.training.pipeline.distant import (
    DistantAsynchronousTrainer,
    DistantTrainer,
    InboxesOfRanks,
)
from gim_bench.training.pipeline.trainer import PipelinedTrainer, shared_out
from gim_bench.training.pipeline.worker import Measured, Part
from gim_bench.training.workers import Ticks, threads_of_a_worker, threads_of_each


def is_pipelined(cell: Cell, learner: Learner) -> bool:
    """Whether there are units to share out; else one process trains the one unit there is."""
    scheduled = cell.config.method.schedule is Schedule.PIPELINE
    return scheduled and cell.config.method.only is None and len(learner.units()) > 1


def workers_of(config: CellConfig) -> int:
    """Processes that train the units of a cell, one each or some each; 0 without a pipeline."""
    method = config.method
    kind = method_class(method.like)
    if method.schedule is not Schedule.PIPELINE or method.only is not None:
        return 0
    if not issubclass(kind, StackLearner):
        return 0
    rows = encoder_class(config.encoder.kind).rows(config.encoder, shape=config.augmentation.shape)
    flow = GradientFlow(method.gradient_flow)
    units = partition(len(rows) - kind.left_out, flow, units=method.units)
    if len(units) < 2:
        return 0
    return len(shared_out([unit.name for unit in units], workers=config.training.workers))


def processes_beside(config: CellConfig) -> int:
    """Processes that train a cell beside their parent; 0 where the parent trains."""
    return workers_of(config) or processes_of(config)


def has_workers(cell: Cell) -> bool:
    """Whether other processes train the cell, which has to be their parent."""
    return processes_beside(cell.config) > 0


def check_devices_of_workers(configs: Collection[CellConfig], devices: Sequence[str]) -> None:
    """Devices that are named are named for every worker of a pipeline. Raises: ConfigError."""
    if not devices:
        return
    named = f"--devices {','.join(devices)}"
    workers = {config.method.name: workers_of(config) for config in configs}
    if not any(workers.values()):
        raise ConfigError(
            f"{named} is for the workers of a pipeline, and no cell is one: leave it out, or add "
            f"--set training.schedule=pipeline"
        )
    for config in configs:
        if processes_of(config):
            raise ConfigError(
                f"{named} is for the workers of a pipeline, and the processes that share the "
                f"batches of {config.method.name!r} have the GPUs in turn: leave --devices out, or "
                f"choose rows by --method"
            )
    for name, count in workers.items():
        if count not in (0, len(devices)):
            raise ConfigError(
                f"{named} has {len(devices)} device(s), and {name!r} has {count} worker(s): name "
                f"{count}, or add --set training.workers={len(devices)}, or choose rows by --method"
            )


def pipelined_trainer_of(
    cell: Cell,
    model: Model,
    learner: Learner,
    bench: Bench,
    *,
    batches: Source,
    apart: Int[Tensor, "item"] | None,
) -> PipelinedTrainer:
    """The trainer of a learner whose units are shared out to workers.

    `batches` are those of the lowest worker, which visits no items `apart`.
    """
    steps = planned_steps(cell, bench)
    training, units = cell.config.training, list(learner.units())
    kind: Callable[..., PipelinedTrainer] = PipelinedTrainer
    if training.buffer is not None and bench.ranks is not None:
        crew = InboxesOfRanks(bench.ranks)
        kind = partial(DistantAsynchronousTrainer, buffer=training.buffer, crew=crew)
    elif training.buffer is not None:
        kind = partial(AsynchronousTrainer, buffer=training.buffer)
    elif bench.ranks is not None:
        kind = partial(DistantTrainer, crew=CrewOfRanks(bench.ranks))
    shares = shared_out(units, workers=training.workers)
    parts = told(cell, model, bench, apart=apart, workers=len(shares))
    return kind(
        learner,
        device=bench.device,
        shares=shares,
        make=_PartOf(**parts, steps=steps),
        ticks=Ticks(batches, steps=steps),
        **trainer_settings(cell),
    )


def slowdown_of(cell: Cell, share: Sequence[str]) -> float:
    """How many times as long as its own step the worker of a share takes."""
    buffer = cell.config.training.buffer
    return 1.0 if buffer is None else max(buffer.slowdown.get(unit, 1.0) for unit in share)


@dataclass(frozen=True, kw_only=True)
class _PartOf(PartOfCell):
    """Makes a worker's part of a cell: its units, and the batches where it is the lowest."""

    steps: int

    def __call__(self, number: int, units: Sequence[str]) -> Part:
        bench, training = self.bench(number), self.cell.config.training
        learner = self.learner(bench, *units, units=units)
        return Part(
            trainer=trainer_of(self.cell, learner, device=bench.device, share=units),
            source=None if number else self.batches(bench),
            steps=self.steps,
            rates=rates_of(training, steps=self.steps),
            slowdown=slowdown_of(self.cell, units),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """How fast the workers of a pipeline are, from a few steps of each share in one process."""

    shares: Sequence[Sequence[str]]
    seconds_of: Sequence[float]  # a step of each worker; the lowest one's with its batch
    lasting: Sequence[float]  # the same with the sleep of a slowdown, which takes no core
    at_once: int  # workers that the hardware serves at the same time
    devices: Sequence[str] = ()  # the GPU of each worker; cores serve whoever has work

    @property
    def seconds(self) -> float:
        """A step of all: as long as the slowest worker takes, where there is room for all."""
        if self.devices:
            of_workers = list(zip(self.devices, self.seconds_of, strict=True))
            of_gpus = [sum(s for at, s in of_workers if at == gpu) for gpu in set(self.devices)]
            return max(*self.lasting, *of_gpus)
        return max(*self.lasting, sum(self.seconds_of) / self.at_once)

    def __str__(self) -> str:
        slowest = max(range(len(self.shares)), key=lambda number: self.lasting[number])
        share = self.seconds_of[slowest] / sum(self.seconds_of)
        return (
            f"{len(self.shares)} workers, {min(self.at_once, len(self.shares))} at once; the "
            f"slowest trains {', '.join(self.shares[slowest])}, {share:.0%} of the work"
            f"{', slowed down' if self.lasting[slowest] > self.seconds_of[slowest] else ''}"
        )


def predict(cell: Cell, learner: Learner, bench: Bench, *, timed_steps: int) -> Prediction:
    """Time the steps of every share, one after the other, with the threads of one worker.

    Each share is given what the share below hands on. The first step warms up.
    """
    shares = shared_out(list(learner.units()), workers=cell.config.training.workers)
    trainers = [trainer_of(cell, learner, device=bench.device, share=share) for share in shares]
    batches = bench.batches(cell, Split(cell.config.method.trains_on)).epoch(1)
    batches = islice(batches, timed_steps + 1)
    times: list[list[float]] = [[] for _ in shares]
    lasting: list[list[float]] = [[] for _ in shares]
    with threads_of_a_worker(len(shares)):
        while True:
            with timed(bench.device) as fetching:
                given = next(batches, None)
            if given is None:
                break
            for number, trainer in enumerate(trainers):
                handed: list[Batch] = []
                above = handed.append if trainer is not trainers[-1] else None
                with timed(bench.device) as seconds:
                    trainer.step(given, hand_on=above)
                before = 0 if number else fetching[0]
                times[number].append(before + seconds[0])
                lasting[number].append(before + seconds[0] * slowdown_of(cell, shares[number]))
                given = handed[0] if handed else given
    devices: Sequence[str] = ()
    if bench.device.type != "cpu":
        devices = devices_of_workers(bench, workers=len(shares))
    served = len(set(devices)) or cores() // threads_of_each(len(shares))
    return Prediction(
        shares=shares,
        seconds_of=[statistics.median(each[1:] or each) for each in times],
        lasting=[statistics.median(each[1:] or each) for each in lasting],
        at_once=max(1, served),
        devices=devices,
    )


def peaks_of(workers: Sequence[memory.Peaks]) -> memory.Peaks:
    """The highest of every peak among the workers: the most that one process holds."""
    names = set.intersection(*(set(peaks.metrics) for peaks in workers))
    metrics = {name: max(peaks.metrics[name] for peaks in workers) for name in sorted(names)}
    notes = workers[0].notes.items()
    about = f"; the highest of {len(workers)} workers, as here for the first"
    return memory.Peaks(metrics=metrics, notes={name: f"{note}{about}" for name, note in notes})


def leave_out_energy(used: energy.Energy, bench: Bench) -> None:
    """Leave out what counters of this machine, or of one GPU, cannot know of the workers."""
    if bench.ranks is not None:
        used.metrics.clear()
        used.notes |= dict.fromkeys(used.notes, "not measured: workers are on several ranks")
    elif devices_of(bench.device) > 1 or {*bench.devices} - {str(bench.device)}:
        used.metrics.pop("energy/gpu_joules", None)
        used.notes["gpu"] = "not measured: the workers are on other GPUs, or on several"


def costs_of(measured: Sequence[Measured], *, steps: int, batch_size: int) -> dict[str, float]:
    """Measurements of each worker, as metrics of its topmost unit, and the number of workers.

    Each worker took all `steps`. The examples of a batch have all their views.
    """
    found: dict[str, float] = {"pipeline/workers": len(measured)}
    for each in measured:
        costs = {
            "idle_share": (each.seconds_without_batch + each.seconds_without_room) / each.seconds,
            "seconds_without_batch": each.seconds_without_batch,
            "seconds_without_room": each.seconds_without_room,
            "bytes_per_sample": each.bytes_trained_on / (steps * batch_size),
            **{name.removeprefix("memory/"): x for name, x in each.peaks.metrics.items()},
            **uses_of(each.uses, steps=steps),
        }
        found |= {f"pipeline/{name}/{each.units[-1]}": cost for name, cost in costs.items()}
    return found


def uses_of(uses: Sequence[Use], *, steps: int) -> dict[str, float]:
    """How stale the batches of a buffer were in use, and how often they were used; by metric.

    Staleness is that of the batches which the worker below made before its last of `steps`; it is
    left out where all batches were made later. Percentiles are values that occurred: the next
    higher one where a percentile lies between two. Empty where no buffer was used.

    >>> uses_of([Use(1, 0, 0, 0), Use(1, 0, 0, 0), Use(4, 3, 3, 0)], steps=9)["dropped_share"]
    0.5
    """
    if not uses:
        return {}
    staleness = np.array([use.staleness for use in uses if use.version < steps])
    _, counts = np.unique([use.number for use in uses], return_counts=True)
    found = {
        "after_below_share": 1 - len(staleness) / len(uses),
        "uses_per_batch": float(counts.mean()),
        "uses_of_a_batch_max": float(counts.max()),
        "dropped_share": 1 - len(counts) / uses[-1].made,
    }
    if not len(staleness):
        return found
    median, high = np.quantile(staleness, [0.5, 0.9], method="higher")
    return found | {
        "staleness_mean": float(staleness.mean()),
        "staleness_median": float(median),
        "staleness_p90": float(high),
        "staleness_max": float(staleness.max()),
    }
