"""The two phases of a model: training, and probing its frozen features."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from gim_bench import seeding
from gim_bench.cells.bench import Bench
from gim_bench.cells.build import Model, build, models_of, planned_steps, trainer_of
from gim_bench.cells.cell import Cell
from gim_bench.contract import Batch, Learner, Split
from gim_bench.hardware import memory
from gim_bench.hardware.calibration import calibration_seconds
from gim_bench.probing.probe import Probed, chosen_accuracy, probe, validate
from gim_bench.progress import Silence
from gim_bench.records import provenance
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record
from gim_bench.registry import encoder as encoder_class
from gim_bench.registry import method as method_class
from gim_bench.settings.optimisers import ConstantRate
from gim_bench.settings.schema import TrainingSettings
from gim_bench.training import capacity
from gim_bench.training.audit import Audit, audit
from gim_bench.training.checkpoints import Checkpoints
from gim_bench.training.kept_outputs import Keeper
from gim_bench.training.loop import Trained, fit
from gim_bench.training.optimisers import rate_at
from gim_bench.training.trainer import Trainer


class Abandoned(Exception):  # noqa: N818 - nothing has gone wrong
    """Whoever watches a cell wants no more of it."""


# Told an epoch, and the accuracy that the cell's record would be chosen by if it were the last:
# percent on validation at the top module's best rate. May raise Abandoned.
Watch = Callable[[int, float], None]


NOTHING = Trained(losses=[], seconds=0.0, steps=0, samples=0, parameters=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPhase:
    """What training one model gave, and what was measured of it."""

    trained: Trained = NOTHING
    peaks: memory.Peaks = field(default_factory=memory.Peaks)
    audited: Audit = field(default_factory=Audit)
    # Of one run of the fixed work, the mean of before and after; 0 where nothing is trained.
    calibration_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What one of the cell's models leaves for the record."""

    model: Model
    top: Sequence[str]  # the unit whose loss is the model's own; none where nothing is trained
    training: TrainingPhase
    probed: Probed
    probe_seconds: float
    probe_peaks: memory.Peaks
    files: Mapping[str, str]  # the encoder's, with its sha256


def trained_and_probed(
    cell: Cell,
    model: Model,
    bench: Bench,
    record: Record,
    *,
    runs: RunsFolder,
    watch: Watch | None,
) -> Finished:
    """One of the cell's models, trained and probed, and its encoder on disk."""
    learner = build(cell, bench, target=model.target)
    phase = _train(cell, model, learner, bench, folder=runs.folder_of(record), watch=watch)
    probed, probe_seconds, probe_peaks = _probe(cell, model, learner, bench)
    weights = learner.encoder.state_dict()
    return Finished(
        model=model,
        top=list(learner.units())[-1:],
        training=phase,
        probed=probed,
        probe_seconds=probe_seconds,
        probe_peaks=probe_peaks,
        files=runs.save_encoder(record, weights, name=f"{model.prefix}encoder"),
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
    """`folder` is where checkpoints go, and outputs of frozen units if they are kept."""
    steps = planned_steps(cell, bench)
    if not steps:
        return TrainingPhase()
    held_out = cell.config.training.held_out
    batches = bench.batches(cell, Split(cell.config.method.trains_on), held_out=held_out)
    trainer = trainer_of(cell, learner, device=bench.device)
    keeper = None
    if (kept := cell.config.training.kept_outputs) is not None:
        keeper = Keeper(
            folder=kept_outputs_folder(model, folder=folder),
            epochs=min(kept.epochs, -(-steps // len(batches))),
            dtype=torch.bfloat16 if kept.precision == "bf16" else torch.float32,
            progress=bench.progress,
        )
    on_epoch = None
    if watch is not None and not trainer.one_by_one:
        on_epoch = _validating(cell, model, learner, bench, watch=watch)
    before = calibration_seconds(bench.device)
    memory.free(bench.device)
    with (
        # What layers draw in training (dropout) is the same whatever ran before in this process.
        seeding.weights_from("training", cell.config.method.like, cell.seed),
        memory.measure(bench.device) as peaks,
    ):
        trained = fit(
            trainer,
            batches,
            steps=steps,
            title=f"{model.name}: training",
            progress=bench.progress,
            keeper=keeper,
            checkpoints=checkpoints_of(cell, model, bench, folder=folder),
            on_epoch=on_epoch,
            rates=_rates(cell.config.training, steps=steps),
        )
    after = calibration_seconds(bench.device)
    if trained.resumed_at is not None:
        reason = f"not measured: training was resumed after step {trained.resumed_at} of a unit"
        peaks = memory.Peaks(notes={"training": reason})
    elif on_epoch is not None:
        reason = "not measured: the model was validated after every epoch, which takes memory too"
        peaks = memory.Peaks(notes={"training": reason})
    # Outside of what is measured: its seconds and its memory are not training's.
    audited = _audited(
        trainer,
        next(batches.epoch(1)),
        steps=steps,
        kept_batches=0 if keeper is None else keeper.epochs * len(batches),
    )
    return TrainingPhase(
        trained=trained,
        peaks=peaks,
        audited=audited,
        calibration_seconds=(before + after) / 2,
    )


def _rates(training: TrainingSettings, *, steps: int) -> Callable[[int], float] | None:
    """The factor of the learning rate at each of a unit's steps; None where it is always 1."""
    if isinstance(training.rate_schedule, ConstantRate):
        return None
    return partial(
        rate_at,
        settings=training.rate_schedule,
        steps=steps,
        steps_per_epoch=steps / training.epochs,
    )


def _validating(
    cell: Cell, model: Model, learner: Learner, bench: Bench, *, watch: Watch
) -> Callable[[int], None]:
    """Tells `watch` what the learner is worth after an epoch; draws from nothing that trains it."""
    settings = cell.config.probe
    assert settings is not None
    train = bench.batches(cell, Split.TRAIN)

    def on_epoch(epoch: int) -> None:
        curves = validate(
            learner,
            train=train,
            targets=model.probed,
            settings=settings,
            precision=cell.config.training.precision,
            title=f"{model.name}, epoch {epoch}",
            progress=Silence(),
        )
        watch(epoch, chosen_accuracy(curves))

    return on_epoch


def _audited(trainer: Trainer, batch: Batch, **counts: int) -> Audit:
    """The audit; an empty one where memory does not suffice for it: training is over and counts."""
    try:
        return audit(trainer, batch, **counts)
    except Exception as error:
        if memory.is_exhausted(error):
            return Audit()
        raise


def kept_outputs_folder(model: Model, *, folder: Path) -> Path:
    return folder / f"{model.prefix}kept-outputs"


def checkpoints_of(cell: Cell, model: Model, bench: Bench, *, folder: Path) -> Checkpoints:
    """Only the same code goes on from them: half a training each by two would be neither's."""
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
    cell: Cell, model: Model, learner: Learner, bench: Bench
) -> tuple[Probed, float, memory.Peaks]:
    """What the probes measured; wall seconds and peaks of feature extraction and probes."""
    if cell.config.probe is None:
        return Probed(metrics={}, curves={}), 0.0, memory.Peaks()
    train, test = (bench.batches(cell, split) for split in (Split.TRAIN, Split.TEST))
    memory.free(bench.device)
    started = time.perf_counter()
    with memory.measure(bench.device, prefix="memory/probe_") as peaks:
        probed = probe(
            learner,
            train=train,
            test=test,
            targets=model.probed,
            settings=cell.config.probe,
            precision=cell.config.training.precision,
            title=model.name,
            progress=bench.progress,
        )
    return probed, time.perf_counter() - started, peaks


def largest_batch(cell: Cell, bench: Bench) -> capacity.Capacity | None:
    """The largest batch that all models of the cell can be trained on; None: nobody asked."""
    settings = cell.config.capacity
    if settings is None:
        return None
    if not planned_steps(cell, bench):
        return capacity.Capacity(None, "not measured: nothing is trained")
    batches = bench.batches(cell, Split(cell.config.method.trains_on))
    batch = next(batches.epoch(1))

    def attempt(size: int) -> None:
        for model in models_of(cell, bench):
            learner = build(cell, bench, target=model.target)
            trainer = trainer_of(cell, learner, device=bench.device)
            capacity.take_steps(trainer, capacity.repeated(batch, size))
            del learner, trainer  # before the next model's

    return capacity.largest_batch(
        attempt, start=batches.batch_size, up_to=settings.up_to, device=bench.device
    )
