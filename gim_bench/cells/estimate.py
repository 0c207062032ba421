"""Costs of a cell, estimated from a few timed steps."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from gim_bench.cells.bench import Bench
from gim_bench.cells.build import (
    Model,
    build,
    models_of,
    planned_steps,
    trainer_of,
    training_batches,
)
from gim_bench.cells.cell import Cell
from gim_bench.cells.data_parallel import of_a_process, rounds, shares_batches
from gim_bench.cells.keeping import keeper_of
from gim_bench.cells.pipelines import is_pipelined, predict
from gim_bench.cells.selection import is_selected_apart
from gim_bench.contract import SAMPLE_RATE_HZ, Learner, Split
from gim_bench.datasets.batches import Batches
from gim_bench.datasets.images.regions import PlaceBatches
from gim_bench.datasets.speech.windows import WindowBatches
from gim_bench.errors import BenchError, ConfigError, class_and_first_line
from gim_bench.hardware import memory
from gim_bench.hardware.calibration import timed
from gim_bench.hardware.devices import autocast
from gim_bench.methods.stack import LONG_STEPS
from gim_bench.probing.adam import train_linear
from gim_bench.probing.logistic import logistic_regression
from gim_bench.probing.questions import question
from gim_bench.probing.reading import readable
from gim_bench.settings.augmentations import FRAME_SAMPLES, LargeSettings
from gim_bench.settings.probing import AdamProbeSettings, LogisticRegressionSettings
from gim_bench.training.trainer import Trainer
from gim_bench.training.workers import threads_of_a_worker

TIMED_STEPS = 3
# Pixels of the sides of regions, and samples of stretches, from which larger ones are extrapolated.
SMALL = {"region": (768, 1536), "stretch": (240 * SAMPLE_RATE_HZ, 480 * SAMPLE_RATE_HZ)}
# Labels in a timed logistic regression, and iterations that a fit usually takes.
TIMED_LABELS, USUAL_ITERATIONS = 4096, 30
UNTIMED = "the search for the largest batch is not timed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Costs of one cell, extrapolated from a few timed steps."""

    steps: int
    train_seconds: float
    probe_seconds: float
    peak_bytes: int | None  # the GPU's where the cell runs on one, else the host's
    over_bytes: int = 0  # the host's, over the idle process
    held_bytes: int = 0  # most that the process holds for data, written to or not
    remark: str = ""  # on what decides the time

    @property
    def seconds(self) -> float:
        return self.train_seconds + self.probe_seconds

    def fits(self, limit_bytes: int) -> bool:
        """Whether a process that may hold so many bytes can do the work."""
        return self.held_bytes <= limit_bytes


def estimate(cell: Cell, bench: Bench) -> Estimate:
    """Times a few real steps and forward passes, and multiplies. Nothing is kept or recorded.

    Raises: ConfigError where they fail, as the cell would.
    """
    try:
        large = cell.config.augmentation
        if (
            isinstance(large, LargeSettings)
            and large.whole
            and large.extent[0] > SMALL[large.kind][-1]
        ):
            return _extrapolated(cell, bench, large=large)
        return _timed_and_multiplied(cell, bench)
    except BenchError:
        raise
    except Exception as error:  # whatever settings of absurd size make PyTorch raise
        reason = class_and_first_line(error)
        why = "does not fit into memory" if memory.is_exhausted(error) else "would fail"
        raise ConfigError(
            f"{cell.name} {why} ({reason}): lower the sizes in its settings"
        ) from None


def _extrapolated(cell: Cell, bench: Bench, *, large: LargeSettings) -> Estimate:
    """Costs of a cell whose examples are whole regions or stretches, from two small ones.

    Memory over the idle process, or of the GPU, is a + b · values; seconds are in proportion to the
    values.
    """
    memory.return_freed_blocks()
    wholes = [large.as_whole(side) for side in SMALL[large.kind]]
    # What PyTorch loads once, at the first steps of its process, is in neither of the two.
    _, small, medium = (
        _timed_and_multiplied(_with(cell, whole), bench) for whole in (wholes[0], *wholes)
    )
    low, high, values = (math.prod(each.extent) for each in (*wholes, large))
    times = (values - high) / (high - low)
    over, held = (
        round(last + (last - first) * times)
        for first, last in (
            (small.over_bytes, medium.over_bytes),
            (small.held_bytes, medium.held_bytes),
        )
    )
    peak = medium.peak_bytes
    if peak is not None and small.peak_bytes is not None and bench.device.type == "cuda":
        peak = round(peak + (peak - small.peak_bytes) * times)
    elif peak is not None:
        peak += over - medium.over_bytes
    return replace(
        medium,
        train_seconds=medium.train_seconds * values / high,
        peak_bytes=peak,
        over_bytes=over,
        held_bytes=held,
    )


def _with(cell: Cell, augmentation: LargeSettings) -> Cell:
    """The cell with another augmentation."""
    return replace(cell, config=cell.config.model_copy(update={"augmentation": augmentation}))


def _timed_and_multiplied(cell: Cell, bench: Bench) -> Estimate:
    steps, planned = 0, planned_steps(cell, bench)
    train_seconds = probe_seconds = 0.0
    remark = ""
    models = models_of(cell, bench)
    memory.free(bench.device)
    with memory.held_peak() as held, memory.measure(bench.device) as peaks:
        for model in models:
            learner = build(cell, bench, target=model.target)
            if planned:
                taken, seconds, remark = _training(cell, model, learner, bench, steps=planned)
                steps += taken
                train_seconds += seconds
            elif cell.config.method.trains_on != "none":
                train_seconds += _seconds_of_fit(cell, learner, bench)
            probe_seconds += _probe_seconds(cell, model, learner, bench)
    if is_selected_apart(cell, bench):  # a training before that of the record
        train_seconds *= 2
    if cell.config.capacity is not None and bench.device.type == "cuda":
        remark = f"{remark}; {UNTIMED}" if remark else UNTIMED
    name = "gpu_reserved_peak_bytes" if bench.device.type == "cuda" else "host_peak_bytes"
    peak = peaks.metrics.get(f"memory/{name}")
    return Estimate(
        steps=steps,
        train_seconds=train_seconds,
        probe_seconds=probe_seconds,
        peak_bytes=None if peak is None else int(peak),
        over_bytes=int(peaks.metrics["memory/host_over_baseline_bytes"]),
        held_bytes=held.bytes,
        remark=remark,
    )


def _training(
    cell: Cell, model: Model, learner: Learner, bench: Bench, *, steps: int
) -> tuple[int, float, str]:
    """Steps of all stages of a model, their seconds, and a remark on what decides the time."""
    if is_pipelined(cell, learner):
        predicted = predict(cell, learner, bench, timed_steps=TIMED_STEPS)
        return steps, steps * predicted.seconds, str(predicted)
    trainer = trainer_of(cell, learner, device=bench.device)
    taken = steps * len(trainer.stages())
    if shares_batches(cell):
        processes = cell.config.training.processes
        with threads_of_a_worker(processes):
            seconds = _seconds_per_step(of_a_process(cell), trainer, bench)
        remark = f"{processes} processes share each batch; their exchange is not timed"
        return taken, steps * seconds * rounds(processes, bench.device), remark
    seconds = steps * _seconds_per_step(cell, trainer, bench)
    return taken, seconds + _seconds_of_keeping(cell, model, trainer, bench, steps=steps), ""


def _seconds_per_step(cell: Cell, trainer: Trainer, bench: Bench) -> float:
    """Median over a few steps, after one that warms up; in sequence, of all units' together.

    Where outputs are kept, a unit is given those of the unit below.
    """
    batches = bench.batches(cell, Split(cell.config.method.trains_on))
    are_kept = cell.config.training.kept_outputs is not None
    total = 0.0
    for unit in trainer.stages():
        below = trainer.below(unit) if are_kept else None
        times = []
        for batch in islice(batches.epoch(1), TIMED_STEPS + 1):
            given = batch if below is None else trainer.outputs(batch, unit=below)
            with timed(bench.device) as seconds:
                trainer.step(given, only=unit)
            times += seconds
        total += statistics.median(times[1:] or times)
    return total


def _seconds_of_keeping(
    cell: Cell, model: Model, trainer: Trainer, bench: Bench, *, steps: int
) -> float:
    """Computing all outputs that are kept: a piece of each unit, timed as steps are, times pieces.

    How fast the disk takes them is not timed.
    """
    batches = training_batches(cell, model, bench)
    epochs = -(-steps // len(batches))
    keeper = keeper_of(cell, model, bench, folder=Path(), epochs=epochs)
    if keeper is None:
        return 0.0
    total = 0.0
    for unit in filter(None, map(trainer.below, trainer.stages())):
        encode, times = partial(trainer.outputs, unit=unit), []
        for _ in range(TIMED_STEPS + 1):
            with timed(bench.device) as seconds:
                keeper.piece(batches, encode, unit=unit)
            times += seconds
        total += keeper.pieces(batches, unit=unit) * statistics.median(times[1:])
    return total


def _seconds_of_fit(cell: Cell, learner: Learner, bench: Bench) -> float:
    """A whole fit without gradients: nothing says beforehand how many batches a learner takes."""
    batches = bench.batches(cell, Split(cell.config.method.trains_on))
    with timed(bench.device) as seconds:
        learner.fit_without_gradients(batches.epoch(1))
    return seconds[0]


def _probe_seconds(cell: Cell, model: Model, learner: Learner, bench: Bench) -> float:
    """Feature extraction of both splits, and the training of every module's linear probes."""
    settings = cell.config.probe
    if settings is None:
        return 0.0
    train, test = (
        bench.batches(cell, split, whole=settings.whole_recordings)
        for split in (Split.TRAIN, Split.TEST)
    )

    def extract() -> tuple[Tensor, Mapping[str, Tensor]]:
        with autocast(bench.device, settings.precision or cell.config.training.precision):
            inputs = next(train.in_order()).inputs
            if isinstance(train, WindowBatches):
                inputs = inputs[:, : LONG_STEPS * FRAME_SAMPLES]  # as long recordings are read
            return inputs, learner.features(inputs)

    extract()  # untimed, as in _second_run
    with timed(bench.device) as extraction:
        inputs, features = extract()
    of_example = math.prod(cell.config.augmentation.shape)
    if isinstance(train, PlaceBatches):
        of_example = inputs[0].numel()
    apart = is_selected_apart(cell, bench)  # the encoder that chooses reads training examples, too
    read = [train, train, test] if apart else [train, test]
    values = sum(_values_in_order(batches, of_example=of_example) for batches in read)
    values += settings.augment * train.items * of_example * read.count(train)
    seconds = extraction[0] * values / inputs.numel()
    for target in model.probed:
        rows = [readable(values, target).float() for values in features.values()]
        classes = len(target.classes)
        if isinstance(settings, AdamProbeSettings):
            seconds += _adam_seconds(rows, settings, classes=classes, stream=cell.stream)
        else:
            labels = len(question(train, target, settings=settings).places)
            copies = 1 if target.per_step else max(1, settings.augment)
            seconds += _regression_seconds(rows, settings, classes=classes, labels=copies * labels)
    return seconds


def _second_run(work: Callable[[], object], *, device: torch.device) -> float:
    """Seconds of a second run: in the first, PyTorch loads what it loads once in a process."""
    work()
    with timed(device) as seconds:
        work()
    return seconds[0]


def _values_in_order(batches: Batches, *, of_example: int) -> int:
    """Pixels or samples of all inputs of a split. Whole recordings differ in length."""
    if isinstance(batches, WindowBatches) and batches.whole:
        return sum(batches.samples_in_order)
    return len(batches.groups) * of_example


def _adam_seconds(
    modules: Sequence[Tensor],
    settings: AdamProbeSettings,
    *,
    classes: int,
    stream: tuple[str, int],
) -> float:
    """Fitting for validation and fitting on everything, with some features of each module.

    What a fit costs without its steps is not multiplied, unless it hides what they cost.
    """

    def train(steps: int) -> None:
        for rows in modules:
            features = _repeated(rows, size=settings.batch_size)
            train_linear(
                features,
                torch.zeros(len(features), dtype=torch.long, device=features.device),
                learning_rates=settings.learning_rates,
                classes=classes,
                steps=steps,
                batch_size=settings.batch_size,
                standardised=settings.standardise,
                stream=stream,
            )

    whole, without_steps = (
        _second_run(partial(train, steps), device=modules[0].device) for steps in (TIMED_STEPS, 0)
    )
    of_steps = whole - without_steps
    return 2 * (of_steps if of_steps > 0 else whole) / TIMED_STEPS * settings.steps


def _regression_seconds(
    modules: Sequence[Tensor], settings: LogisticRegressionSettings, *, classes: int, labels: int
) -> float:
    """Logistic regressions at all penalties on that number of labels, for every module."""
    size = min(labels, TIMED_LABELS)

    def fit() -> None:
        for rows in modules:
            features = _repeated(rows, size=size)[:size]
            logistic_regression(
                features,
                torch.arange(size, device=features.device) % classes,
                penalties=settings.penalties,
                classes=classes,
                iterations=TIMED_STEPS,
                tolerance=settings.tolerance,
                standardised=settings.standardise,
            )

    seconds = _second_run(fit, device=modules[0].device)
    iterations = min(settings.iterations, USUAL_ITERATIONS)
    return seconds / TIMED_STEPS * iterations * labels / size


def _repeated(rows: Tensor, *, size: int) -> Tensor:
    """At least `size` rows."""
    return rows.repeat(-(-size // len(rows)), 1)
