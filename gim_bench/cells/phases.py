"""The two phases of a model: training, and probing its frozen features."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from gim_bench import seeding
from gim_bench.cells import data_parallel, pipelines
from gim_bench.cells.bench import Bench
from gim_bench.cells.build import (
    Model,
    build,
    planned_steps,
    rates_of,
    trainer_of,
    training_batches,
)
from gim_bench.cells.cell import Cell
from gim_bench.cells.data_parallel import data_parallel_trainer_of, shares_batches
from gim_bench.cells.frozen import SELECTION, keep
from gim_bench.cells.keeping import keeper_of
from gim_bench.cells.live import Live
from gim_bench.cells.pipelines import is_pipelined, peaks_of, pipelined_trainer_of
from gim_bench.cells.selection import (
    Selection,
    Watch,
    chosen,
    is_selected_apart,
    labelled,
    selection_folder,
    validating,
)
from gim_bench.contract import Batch, GradientFlow, Learner, Split
from gim_bench.hardware import energy, memory
from gim_bench.hardware.calibration import calibration_seconds
from gim_bench.probing.probe import (
    Choices,
    Probed,
    probe,
    validation_items,
)
from gim_bench.records import provenance
from gim_bench.records.folder import RunsFolder
from gim_bench.records.live import LiveLog
from gim_bench.records.record import Record
from gim_bench.registry import encoder as encoder_class
from gim_bench.registry import method as method_class
from gim_bench.training.audit import Audit, audit
from gim_bench.training.checkpoints import Checkpoints
from gim_bench.training.data_parallel import DataParallelTrainer
from gim_bench.training.inside import look_inside
from gim_bench.training.kept_outputs import Source
from gim_bench.training.loop import Observe, Trained, fit
from gim_bench.training.pipeline.asynchronous import AsynchronousTrainer
from gim_bench.training.pipeline.trainer import PipelinedTrainer
from gim_bench.training.trainer import Trainer


class Abandoned(Exception):  # noqa: N818 - nothing has gone wrong
    """The watcher of a cell gives the cell up."""


NOTHING = Trained(losses=[], seconds=0.0, steps=0, samples=0, parameters=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPhase:
    """Results of training one model, and measurements of it."""

    trained: Trained = NOTHING
    peaks: memory.Peaks = field(default_factory=memory.Peaks)
    used: energy.Energy = field(default_factory=energy.Energy)
    audited: Audit = field(default_factory=Audit)
    workers: Mapping[str, float] = field(default_factory=dict)  # metrics of processes of its own
    # Seconds of the fixed work, mean of before and after training; 0 if nothing is trained.
    calibration_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Results of one model of a cell, for the record."""

    model: Model
    top: Sequence[str]  # the topmost unit, whose loss is the model's; empty if nothing is trained
    uninformed_losses: Mapping[str, float]  # of a predictor without information, by unit
    selection_seconds: float  # of the training and the probes that only chose hyperparameters
    training: TrainingPhase
    probed: Probed
    probe_seconds: float
    probe_peaks: memory.Peaks
    files: Mapping[str, str]  # the encoder's file, with its sha256


def trained_and_probed(
    cell: Cell,
    model: Model,
    bench: Bench,
    record: Record,
    *,
    runs: RunsFolder,
    watch: Watch | None,
) -> Finished:
    """Train and probe one model of the cell, and write its encoder to disk.

    Where a training of its own chooses the probes' hyperparameters, this training is watched.
    """
    folder, selection = runs.folder_of(record), None
    if is_selected_apart(cell, bench):
        selection = _selected(cell, model, bench, record, runs=runs, watch=watch)
        watch = None
    learner = build(cell, bench, target=model.target)
    phase = _train(cell, model, learner, bench, folder=folder, watch=watch)
    choices = None if selection is None else selection.choices
    probed, probe_seconds, probe_peaks = _probe(cell, model, learner, bench, choices=choices)
    files = keep(learner, model, record, runs=runs)
    return Finished(
        model=model,
        top=list(learner.units())[-1:],
        uninformed_losses=learner.uninformed_losses(),
        selection_seconds=0.0 if selection is None else selection.seconds,
        training=phase,
        probed=probed,
        probe_seconds=probe_seconds,
        probe_peaks=probe_peaks,
        files={**files, **({} if selection is None else selection.files)},
    )


def _train(
    cell: Cell,
    model: Model,
    learner: Learner,
    bench: Bench,
    *,
    folder: Path,
    watch: Watch | None,
) -> TrainingPhase:
    """Train a model. Checkpoints and kept outputs of frozen units lie in `folder`."""
    if not planned_steps(cell, bench):
        return _fitted_without_gradients(cell, learner, bench)
    course = _Course(cell, model, learner, bench, folder=folder, watch=watch)
    course.live = _live(cell, course, bench, folder=folder, label=model.prefix)
    course.observe = _observing(cell, course)
    before = calibration_seconds(bench.device)
    memory.free(bench.device)
    with (
        memory.measure(bench.device, learner=learner) as peaks,
        energy.measure(bench.device, workers=bench.workers) as used,
    ):
        trained = course.run(title=f"{model.name}: training")
    after = calibration_seconds(bench.device)
    why_not = _not_alone(trained, course)
    workers: dict[str, float] = {}
    if (of_workers := course.peaks_of_workers) and not why_not:
        peaks = peaks_of(of_workers)
        workers = course.costs_of_workers(steps=trained.steps)
        pipelines.leave_out_energy(used, bench)
    # After the measurement: seconds and memory of the audit are not training's. A batch that
    # processes shared may be too large for this one.
    part, parts = data_parallel.part_of(next(course.batches.epoch(1)), cell.config)
    audited = _audited(
        course.trainer, part, steps=parts * course.steps, kept_batches=course.kept_batches
    )
    if cell.config.training.held_out and used.metrics:
        note = "not measured: losses of held-out examples were computed after every epoch"
        used = energy.Energy(notes={"training": note})
    return TrainingPhase(
        trained=trained,
        peaks=memory.Peaks(notes=why_not) if why_not else peaks,
        used=energy.Energy(notes=why_not) if why_not else used,
        audited=audited,
        workers=workers,
        calibration_seconds=(before + after) / 2,
    )


class _Course:
    """A training that is about to begin, or to resume from checkpoints in `folder`."""

    def __init__(
        self,
        cell: Cell,
        model: Model,
        learner: Learner,
        bench: Bench,
        *,
        folder: Path,
        watch: Watch | None,
        apart: Int[Tensor, "item"] | None = None,
    ) -> None:
        """The training visits neither the items `apart` nor those whose labels it may not use.

        Raises: DataError if fewer items than a batch are left.
        """
        self.cell = cell
        self.bench = bench
        self.steps = planned_steps(cell, bench)
        self.batches = training_batches(cell, model, bench, apart=apart)
        self.source: Source = self.batches
        self.trainer: Trainer
        if is_pipelined(cell, learner):
            self.trainer = pipelined_trainer_of(
                cell, model, learner, bench, batches=self.batches, apart=apart
            )
            self.source = self.trainer.ticks
        elif shares_batches(cell):
            self.trainer = data_parallel_trainer_of(
                cell, model, learner, bench, batches=self.batches, apart=apart
            )
            self.source = self.trainer.ticks
        else:
            self.trainer = trainer_of(cell, learner, device=bench.device)
        epochs = -(-self.steps // len(self.batches))
        self.keeper = keeper_of(cell, model, bench, folder=folder, epochs=epochs)
        self.checkpoints = checkpoints_of(cell, model, bench, folder=folder)
        self.observe: Observe | None = None
        self.live: Live | None = None
        self.on_epoch: Callable[[int], None] | None = None
        in_one = self.source is self.batches and not self.trainer.one_by_one
        if watch is not None and in_one:
            self.on_epoch = validating(cell, model, learner, bench, watch=watch)

    @property
    def peaks_of_workers(self) -> list[memory.Peaks]:
        """Peaks of each process that took the steps for this one."""
        match self.trainer:
            case PipelinedTrainer(measured=measured):
                return [found.peaks for found in measured]
            case DataParallelTrainer(measured=peaks):
                return peaks
        return []

    def costs_of_workers(self, *, steps: int) -> dict[str, float]:
        """Metrics of the processes that took the steps."""
        if isinstance(self.trainer, PipelinedTrainer):
            measured, batch_size = self.trainer.measured, self.batches.batch_size
            return pipelines.costs_of(measured, steps=steps, batch_size=batch_size)
        return data_parallel.costs_of(self.peaks_of_workers)

    @property
    def kept_batches(self) -> int:
        """Batches whose outputs of a frozen unit are kept on disk."""
        return 0 if self.keeper is None else self.keeper.batches(self.batches)

    def run(self, *, title: str) -> Trained:
        """Train to the end. Raises: as `fit`."""
        # Dropout draws the same whatever ran before in this process.
        with (
            seeding.weights_from("training", self.cell.config.method.like, self.cell.seed),
            self.trainer.at_work(),
        ):
            trained = fit(
                self.trainer,
                self.source,
                steps=self.steps,
                title=title,
                progress=self.bench.progress,
                keeper=self.keeper,
                checkpoints=self.checkpoints,
                on_epoch=self.on_epoch,
                rates=rates_of(self.cell.config.training, steps=self.steps),
                observe=self.observe,
                tell=self.live,
            )
        if self.live is not None:
            self.live.close()
        return trained


def _selected(
    cell: Cell,
    model: Model,
    bench: Bench,
    record: Record,
    *,
    runs: RunsFolder,
    watch: Watch | None,
) -> Selection:
    """The probes' hyperparameters, chosen with an encoder that never saw the validation examples.

    The encoder takes as many steps as planned. A selection that is done is read from disk.
    """
    settings = cell.config.probe
    assert settings is not None
    apart = selection_folder(model, folder=runs.folder_of(record))
    apart.mkdir(parents=True, exist_ok=True)
    done = checkpoints_of(cell, model, bench, folder=apart / "done")
    if (state := done.newest()) is not None and runs.are_new(record, state["files"]):
        return Selection.of_state(state)
    train = labelled(cell, bench, Split.TRAIN)
    learner = build(cell, bench, target=model.target)
    items = validation_items(train, model.probed, settings=settings)
    course = _Course(cell, model, learner, bench, folder=apart, watch=watch, apart=items)
    course.live = _live(
        cell, course, bench, folder=runs.folder_of(record), label=f"selection/{model.prefix}"
    )
    trained = course.run(title=f"{model.name}: training without the validation examples")
    began = time.perf_counter()
    title = f"{model.name}, selection"
    choices = chosen(cell, model, learner, train=train, title=title, progress=bench.progress)
    seconds = trained.seconds + time.perf_counter() - began
    files = keep(learner, model, record, runs=runs, kind=SELECTION)
    selection = Selection(choices=choices, seconds=seconds, files=files)
    done.save(selection.as_state())
    return selection


def _fitted_without_gradients(cell: Cell, learner: Learner, bench: Bench) -> TrainingPhase:
    """Fit a method that takes no steps to its split; there is nothing to measure without one."""
    method = cell.config.method
    if method.trains_on == "none" or method.gradient_flow != GradientFlow.NONE:
        return TrainingPhase()
    batches = bench.batches(cell, Split(cell.config.method.trains_on))
    memory.free(bench.device)
    started = time.perf_counter()
    with memory.measure(bench.device, learner=learner) as peaks:
        learner.fit_without_gradients(batches.epoch(1))
    seconds = time.perf_counter() - started
    return TrainingPhase(trained=replace(NOTHING, seconds=seconds), peaks=peaks)


def _observing(cell: Cell, course: _Course) -> Observe | None:
    """A function that looks inside the encoder, on one batch; None if the settings ask for none."""
    settings = cell.config.inside
    if settings is None:
        return None
    batch = course.batches.fixed(settings.examples or cell.config.training.batch_size)
    return lambda unit: look_inside(course.trainer, batch, only=unit)


def _live(cell: Cell, course: _Course, bench: Bench, *, folder: Path, label: str) -> Live:
    """What writes points in the cell's folder while a training goes on."""
    return Live(
        LiveLog(folder, made_by=course.checkpoints.made_by),
        label=label,
        device=bench.device,
        trains_here=course.trainer.trains_here,
        steps=course.steps,
        stages=len(course.trainer.stages()),
        samples_per_step=cell.config.training.batch_size * cell.config.method.views,
        every_seconds=bench.live_seconds,
    )


def _not_alone(trained: Trained, course: _Course) -> dict[str, str]:
    """A note on why what was measured is not training's alone; empty if it is."""
    if trained.resumed_at is not None:
        reason = f"training was resumed after step {trained.resumed_at} of a unit"
    elif course.on_epoch is not None:
        reason = "the model was validated after every epoch, which takes memory and energy too"
    elif course.observe is not None:
        reason = "the encoder was looked into after every epoch, see [inside]"
    else:
        return {}
    return {"training": f"not measured: {reason}"}


def _audited(trainer: Trainer, batch: Batch, **counts: int) -> Audit:
    """The audit; an empty one if memory does not suffice, for training is over and counts."""
    try:
        found = audit(trainer, batch, **counts)
    except Exception as error:
        if memory.is_exhausted(error):
            return Audit()
        raise
    # A worker that does not wait goes on encoding after its last step, and nobody counts that.
    return replace(found, flops=0) if isinstance(trainer, AsynchronousTrainer) else found


def checkpoints_of(cell: Cell, model: Model, bench: Bench, *, folder: Path) -> Checkpoints:
    """Checkpoints of a model. Only the code that wrote them resumes from them."""
    code = provenance.code_sha256(
        method_class(cell.config.method.like), encoder_class(cell.config.encoder.kind)
    )
    return Checkpoints(
        folder / f"{model.prefix}checkpoints",
        made_by=f"cell {cell.key}, code {code[:16]}, PyTorch {torch.__version__}",
        every_seconds=bench.checkpoint_seconds,
        progress=bench.progress,
    )


def _probe(
    cell: Cell, model: Model, learner: Learner, bench: Bench, *, choices: Choices | None
) -> tuple[Probed, float, memory.Peaks]:
    """Results of the probes, with wall seconds and peaks of feature extraction and probes.

    The probes have the hyperparameters `choices`; without them, validation chooses.
    """
    if cell.config.probe is None:
        return Probed(metrics={}, curves={}), 0.0, memory.Peaks()
    train, test = (labelled(cell, bench, split) for split in (Split.TRAIN, Split.TEST))
    memory.free(bench.device)
    started = time.perf_counter()
    with memory.measure(bench.device, prefix="memory/probe_", learner=learner) as peaks:
        probed = probe(
            learner,
            train=train,
            test=test,
            targets=model.probed,
            settings=cell.config.probe,
            precision=cell.config.training.precision,
            title=model.name,
            progress=bench.progress,
            chosen=choices,
        )
    return probed, time.perf_counter() - started, peaks
