"""One cell, from its configuration to its record: build, fit, probe, measure, record."""

import errno
import shutil
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gim_bench import RESULTS_VERSION, capacity, memory, provenance, seeding
from gim_bench.audit import Audit, audit
from gim_bench.base import Base
from gim_bench.calibration import calibration_seconds
from gim_bench.checkpoints import Checkpoints
from gim_bench.config import Budget, CellConfig, CropSettings, ResNetSettings, WindowSettings
from gim_bench.contract import (
    Batch,
    Dataset,
    Encoder,
    Examples,
    Images,
    Ingredients,
    Learner,
    Modality,
    Progress,
    Record,
    Recordings,
    Silence,
    Split,
    Status,
    Target,
    label_frames,
)
from gim_bench.datasets.batches import Batches, whole_batches
from gim_bench.datasets.crops import ImageBatches, in_gray
from gim_bench.datasets.windows import WindowBatches
from gim_bench.errors import BenchError, DataError, TrainingError, one_line
from gim_bench.interrupts import time_limit
from gim_bench.kept_outputs import Keeper
from gim_bench.nn.conv_gru import ConvGRUEncoder
from gim_bench.nn.resnet import ResNetEncoder
from gim_bench.probe import Probed, chosen_accuracy, metric_name, probe, validate
from gim_bench.registry import method as method_class
from gim_bench.store import RunsFolder
from gim_bench.training import VALIDATION, Trained, Trainer, fit, joined

CHECKPOINT_SECONDS = 60.0
NOT_WRITTEN = "cannot be written"  # what the reason of a cell begins with that a full disk ended
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One method on one data set with one seed: all that decides its numbers."""

    suite: str
    protocol: str
    config: CellConfig
    seed: int
    data_sha256: str
    base: Base | None = None  # whose modules stay as they are, below those that are trained

    @property
    def key(self) -> str:
        return self.config.key(data_sha256=self.data_sha256, seed=self.seed)

    @property
    def name(self) -> str:
        return f"{self.config.method.name} seed {self.seed}"

    @property
    def stream(self) -> tuple[str, int]:
        """(dataset, seed): what data order, augmentation and probe splits are drawn from."""
        return self.config.dataset.name, self.seed


class Bench:
    """A prepared data set on a device, on which cells are run one after another."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        device: torch.device,
        progress: Progress,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        cell_timeout: float | None = None,
    ) -> None:
        """With `checkpoint_seconds` between the checkpoints of a training.

        A cell that takes longer than `cell_timeout` seconds has failed.
        """
        self.dataset = dataset
        self.device = device
        self.progress = progress
        self.checkpoint_seconds = checkpoint_seconds
        self.cell_timeout = cell_timeout
        self._splits: dict[Split, Examples] = {}
        self._gray: dict[Split, Images] = {}

    @cached_property
    def targets(self) -> Sequence[Target]:
        return self.dataset.targets()

    def split(self, split: Split) -> Examples:
        if split not in self._splits:
            self._splits[split] = self.dataset.split(split)
        return self._splits[split]

    def images(self, split: Split, *, gray: bool) -> Images:
        """The images of one split; the gray ones are made once, for all cells."""
        examples = self.split(split)
        assert isinstance(examples, Images)
        if not gray:
            return examples
        if split not in self._gray:
            self._gray[split] = in_gray(examples)
        return self._gray[split]

    def batches(self, cell: Cell, split: Split, *, held_out: float = 0.0) -> Batches:
        augmentation = cell.config.augmentation
        shared: dict[str, Any] = {
            "batch_size": cell.config.training.batch_size,
            "stream": cell.stream,
            "device": self.device,
            "held_out": held_out,
        }
        if isinstance(augmentation, CropSettings):
            images = self.images(split, gray=augmentation.grayscale)
            return ImageBatches(images, augmentation=augmentation, **shared)
        examples = self.split(split)
        assert isinstance(examples, Recordings)
        return WindowBatches(examples, augmentation=augmentation, **shared)

    def check(self, config: CellConfig) -> None:
        """Raises: DataError where the data cannot carry the cell, before anything is trained."""
        name = config.dataset.name
        noun = "image" if self.dataset.modality is Modality.IMAGE else "recording"
        for target in self.targets:
            if len(target.classes) < 2:
                raise DataError(
                    f"{name} has {len(target.classes)} {target.name}(s): a probe needs at least "
                    f"two different ones"
                )
        for split in (Split.UNLABELLED, Split.TRAIN):
            found, needed = len(self.split(split)), config.training.batch_size
            held_out = config.training.held_out
            if not whole_batches(found, batch_size=needed, held_out=held_out):
                left = found - round(found * held_out)
                less = f" of which {left} are not held out," if held_out else ""
                raise DataError(
                    f"{name} has {found} {split} {noun}s,{less} fewer than one batch of {needed}: "
                    f"add {noun}s, or lower it with --set training.batch_size={left}"
                )
        self._check_held_out(config, noun=noun)
        if not len(self.split(Split.TEST)):
            raise DataError(f"{name} has no test {noun}s: add some")
        if isinstance(config.augmentation, CropSettings):
            self._check_crop(config.augmentation, name=name)
        for target in self.targets:
            self._check_labels(target, name=name, noun=noun)

    def _check_held_out(self, config: CellConfig, *, noun: str) -> None:
        share, batch_size = config.training.held_out, config.training.batch_size
        if not share or config.method.trains_on == "none":
            return
        split = Split(config.method.trains_on)
        held_out = round(len(self.split(split)) * share)
        if held_out < batch_size:
            raise DataError(
                f"training.held_out = {share:g} holds out {held_out} {split} {noun}(s) of "
                f"{config.dataset.name}, fewer than one batch of {batch_size}: raise it, or set it "
                f"to 0 for no validation loss"
            )

    def _check_labels(self, target: Target, *, name: str, noun: str) -> None:
        for split, needed in ((Split.TRAIN, 2), (Split.TEST, 1)):
            found = sum(1 for _ in islice(_labelled(self.split(split), target), needed))
            if found < needed:
                raise DataError(
                    f"{name} has {found} {split} {noun}(s) with a {target.name} label where a "
                    f"probe needs {needed} or more: label more"
                )

    def _check_crop(self, augmentation: CropSettings, *, name: str) -> None:
        for split in Split:
            examples = self.split(split)
            assert isinstance(examples, Images)
            height, width = examples.images.shape[-2:]
            if augmentation.crop > min(height, width):
                raise DataError(
                    f"a crop of {augmentation.crop} pixels does not fit into the {split} "
                    f"images of {name}, {height}×{width}: lower augmentation.crop or use larger "
                    f"images"
                )


def _labelled(examples: Examples, target: Target) -> Iterator[np.ndarray]:
    """The labels of every image or recording that has any of that target."""
    return (labels for labels in _labels_of_each(examples, target) if np.any(labels >= 0))


def _labels_of_each(examples: Examples, target: Target) -> Iterator[np.ndarray]:
    """A target's labels, of one image or recording after the other."""
    if not target.per_step:
        yield from examples.labels[target.name]
        return
    assert isinstance(examples, Recordings)
    end = 0
    for length in examples.lengths:
        start, end = end, end + label_frames(int(length))
        yield examples.frames[target.name][start:end]


class Abandoned(Exception):  # noqa: N818 - nothing has gone wrong
    """Whoever watches a cell wants no more of it."""


# Told an epoch, and the accuracy that the cell's record would be chosen by if it were the last:
# percent on validation at the top module's best rate. May raise Abandoned.
Watch = Callable[[int, float], None]


def run_cell(cell: Cell, bench: Bench, *, runs: RunsFolder, watch: Watch | None = None) -> Record:
    """The cell's record, which is on disk when this returns.

    Whatever goes wrong inside is a record of status "failed" with the reason, never an exception;
    an interruption passes through. A finished record stays until the new run has ended. `watch`
    hears of every epoch but the last, if the cell's one model is trained as a whole, and else of
    none.

    Raises: Abandoned where `watch` does, and nothing is left of the cell.
    """
    record = begun(cell, bench)
    before = runs.find(record.suite, record.method, seed=record.seed, key=record.key)
    if before is not None and before.status is Status.DONE:
        _clear(cell, bench, folder=runs.folder_of(record))  # a finished cell is run anew
    else:
        runs.save(record)
    try:
        with time_limit(bench.cell_timeout):
            models = models_of(cell, bench)
            watch = watch if len(models) == 1 else None
            finished = [
                _finished(cell, model, bench, record, runs=runs, watch=watch) for model in models
            ]
            record = _done(record, finished, largest=_largest_batch(cell, bench))
        resumable = False  # nothing is left to be resumed
    except Abandoned:
        runs.remove(record)
        raise
    except Exception as error:  # a cell that fails is a result; the suite goes on
        record = _failed(record, error, runs=runs)
        resumable = not isinstance(error, TrainingError)  # which would come again
    if record.status is Status.DONE:
        runs.put_encoders(record)
    runs.save(record)
    if not resumable:
        _clear(cell, bench, folder=runs.folder_of(record))
    return record


def _clear(cell: Cell, bench: Bench, *, folder: Path) -> None:
    """Nothing is left of a training that is not to be gone on with."""
    for model in models_of(cell, bench):
        _checkpoints(cell, model, bench, folder=folder).clear()
        shutil.rmtree(_kept_outputs(model, folder=folder), ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One of the models that a cell trains: supervised methods learn one for each target."""

    name: str  # of the cell, and where there are several models of the target
    prefix: str  # of its losses, where it learns a target other than the class of an image
    target: Target  # what it learns, if anything
    probed: Sequence[Target]
    labels: int  # labelled examples of its split, if it learns from labels


def models_of(cell: Cell, bench: Bench) -> list[Model]:
    """A model for each target if it learns from labels, else one that is probed for all."""
    targets = bench.targets
    if not cell.config.method.uses_labels:
        return [Model(name=cell.name, prefix="", target=targets[0], probed=targets, labels=0)]
    return [
        Model(
            name=cell.name if len(targets) == 1 else f"{cell.name}, {target.name}",
            prefix=metric_name(target, ""),
            target=target,
            probed=[target],
            labels=sum(1 for _ in _labelled(bench.split(Split.TRAIN), target)),
        )
        for target in targets
    ]


def build(cell: Cell, bench: Bench, *, target: Target) -> Learner:
    """The cell's learner on its device; its encoder is the one that every method starts from."""
    config = cell.config
    with seeding.weights_from("encoder", cell.seed):
        encoder = _encoder(config)
    kind = method_class(config.method.like)
    with seeding.weights_from("heads", config.method.like, cell.seed):
        learner = kind(
            Ingredients(
                encoder=encoder,
                target=target,
                info_nce=config.info_nce,
                options=kind.Options(**config.method.options),
                negatives=seeding.generator(
                    "negatives", config.method.like, cell.seed, device=bench.device
                ),
                recompute=config.method.recompute,
                compiled=config.training.compile,
            )
        )
    if cell.base is not None:
        cell.base.load_into(learner.encoder)
    # Convolutions are fastest, on CPUs and GPUs alike, with the channels last.
    return learner.to(bench.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _encoder(config: CellConfig) -> Encoder:
    if isinstance(config.encoder, ResNetSettings):
        assert isinstance(config.augmentation, CropSettings)
        channels = 1 if config.augmentation.grayscale else 3
        return ResNetEncoder(config.encoder, in_channels=channels)
    assert isinstance(config.augmentation, WindowSettings)
    return ConvGRUEncoder(config.encoder, samples=config.augmentation.samples)


def trainer_of(cell: Cell, learner: Learner, *, device: torch.device) -> Trainer:
    """The trainer that the cell's settings ask for."""
    training = cell.config.training
    return Trainer(
        learner,
        learning_rate=training.learning_rate,
        schedule=cell.config.method.schedule,
        only=cell.config.method.only,
        frozen=None if cell.base is None else cell.base.top,
        precision=training.precision,
        device=device,
    )


def planned_steps(cell: Cell, bench: Bench) -> int:
    """Optimiser steps of one of the cell's models; 0 for a method that trains nothing."""
    trains_on, training = cell.config.method.trains_on, cell.config.training
    if trains_on == "none":
        return 0
    counted = trains_on if training.budget is Budget.EPOCHS else Split.UNLABELLED
    return training.epochs * whole_batches(
        len(bench.split(Split(counted))),
        batch_size=training.batch_size,
        held_out=training.held_out,
    )


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


def _finished(
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
            folder=_kept_outputs(model, folder=folder),
            views=min(kept.views, -(-steps // len(batches))),
            dtype=torch.bfloat16 if kept.precision == "bf16" else torch.float32,
            progress=bench.progress,
        )
    on_epoch = None
    if watch is not None and not trainer.one_by_one:
        on_epoch = _validating(cell, model, learner, bench, watch=watch)
    before = calibration_seconds(bench.device)
    memory.free(bench.device)
    with memory.measure(bench.device) as peaks:
        trained = fit(
            trainer,
            batches,
            steps=steps,
            title=f"{model.name}: training",
            progress=bench.progress,
            keeper=keeper,
            checkpoints=_checkpoints(cell, model, bench, folder=folder),
            on_epoch=on_epoch,
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
        kept_batches=0 if keeper is None else keeper.views * len(batches),
    )
    return TrainingPhase(
        trained=trained,
        peaks=peaks,
        audited=audited,
        calibration_seconds=(before + after) / 2,
    )


def _validating(
    cell: Cell, model: Model, learner: Learner, bench: Bench, *, watch: Watch
) -> Callable[[int], None]:
    """Tells `watch` what the learner is worth after an epoch; draws from nothing that trains it."""
    settings = cell.config.probe
    assert settings is not None
    train = bench.batches(cell, Split.TRAIN)

    def on_epoch(epoch: int) -> None:
        learner.eval()
        curves = validate(
            learner,
            train=train,
            targets=model.probed,
            settings=settings,
            precision=cell.config.training.precision,
            title=f"{model.name}, epoch {epoch}",
            progress=Silence(),
        )
        learner.train()
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


def _kept_outputs(model: Model, *, folder: Path) -> Path:
    return folder / f"{model.prefix}kept-outputs"


def _checkpoints(cell: Cell, model: Model, bench: Bench, *, folder: Path) -> Checkpoints:
    """Only the same code goes on from them: half a training each by two would be neither's."""
    code = provenance.code_sha256(method_class(cell.config.method.like))
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
    learner.eval()
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


def _largest_batch(cell: Cell, bench: Bench) -> capacity.Capacity | None:
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


# -- the record ----------------------------------------------------------------------------------


def begun(cell: Cell, bench: Bench) -> Record:
    """The record of a cell that has not ended."""
    return Record(
        suite=cell.suite,
        method=cell.config.method.name,
        dataset=cell.config.dataset.name,
        seed=cell.seed,
        key=cell.key,
        status=Status.RUNNING,
        config=cell.config.as_dict(),
        protocol=cell.protocol,
        provenance={
            **provenance.describe(str(bench.device)),
            "precision": cell.config.training.precision,
            "data_sha256": cell.data_sha256,
            **({"data_incomplete": here} if (here := bench.dataset.incomplete()) else {}),
            "results_version": RESULTS_VERSION,
            "started_at": provenance.now(),
        },
    )


def _done(
    record: Record, finished: Sequence[Finished], *, largest: capacity.Capacity | None = None
) -> Record:
    """Costs of a cell's models add up; their peaks do not."""
    metrics: dict[str, float] = {}
    for found in finished:
        metrics |= dict(found.probed.metrics) | _last_losses(found)
    if probe_seconds := sum(found.probe_seconds for found in finished):
        metrics["probe/seconds"] = probe_seconds
    steps = sum(found.training.trained.steps for found in finished)
    if steps:
        seconds = sum(found.training.trained.seconds for found in finished)
        samples = sum(found.training.trained.samples for found in finished)
        metrics |= {
            "train/seconds": seconds,
            "train/steps": steps,
            "train/samples": samples,
            "train/samples_per_second": samples / seconds,
            "train/step_per_calibration": seconds / steps / _calibration(finished),
            "train/labels": sum(found.model.labels for found in finished),
            "train/parameters": sum(found.training.trained.parameters for found in finished),
        }
        if all(found.training.audited.flops for found in finished):
            metrics["train/flops"] = sum(found.training.audited.flops for found in finished)
    training = [found.training.peaks for found in finished]
    probing = [found.probe_peaks for found in finished]
    metrics |= _highest(training) | _highest(probing)
    notes: dict[str, Any] = {"training": _notes(training), "probe": _notes(probing)}
    if largest is not None:
        notes["largest_batch"] = largest.note
        metrics |= {} if largest.batch is None else {"memory/largest_batch": largest.batch}
    return replace(
        record,
        status=Status.DONE,
        metrics=metrics,
        losses=joined([_prefixed(found) for found in finished]),
        probe_curves={
            name: curve for found in finished for name, curve in found.probed.curves.items()
        },
        isolation={
            f"{found.model.prefix}{unit}": row
            for found in finished
            for unit, row in found.training.audited.isolation.items()
        },
        files={name: sha256 for found in finished for name, sha256 in found.files.items()},
        provenance={
            **record.provenance,
            "memory": notes,
            **_resumed(finished),
            "finished_at": provenance.now(),
        },
    )


def _highest(peaks: Sequence[memory.Peaks]) -> dict[str, float]:
    """Of every peak that is known of all models, the highest."""
    return {
        name: max(found.metrics[name] for found in peaks)
        for name in peaks[0].metrics
        if all(name in found.metrics for found in peaks)
    }


def _notes(peaks: Sequence[memory.Peaks]) -> dict[str, str]:
    """Of the model of which least is known, for they say why."""
    return min(peaks, key=lambda found: len(found.metrics)).notes


def _calibration(finished: Sequence[Finished]) -> float:
    """Seconds of one run of the fixed work, the mean over the models that were trained."""
    return statistics.fmean(
        x.training.calibration_seconds for x in finished if x.training.trained.steps
    )


def _last_losses(found: Finished) -> dict[str, float]:
    """The last epoch's losses; the bare name is the top unit's."""
    if not found.training.trained.losses:
        return {}
    prefix, losses = found.model.prefix, found.training.trained.losses[-1]
    named = {_loss_name(prefix, unit): x for unit, x in losses.items() if unit != "epoch"}
    for top in found.top:
        for unit in (top, f"{VALIDATION}{top}"):
            if unit in losses:
                named[_loss_name(prefix, unit).rpartition("/")[0]] = losses[unit]
    return named


def _loss_name(prefix: str, unit: str) -> str:
    """Of a unit's training or, where the history says so, validation loss."""
    bare = unit.removeprefix(VALIDATION)
    return f"{prefix}loss/{unit}" if bare == unit else f"{prefix}validation_loss/{bare}"


def _resumed(finished: Sequence[Finished]) -> dict[str, Any]:
    """After which step's checkpoint training went on, where it did."""
    steps = [found.training.trained.resumed_at for found in finished]
    return {} if steps == [None] * len(steps) else {"resumed_at_step": steps}


def _prefixed(found: Finished) -> list[dict[str, float]]:
    """The losses of every epoch, named so that several models' can stand beside each other."""
    return [
        {unit if unit == "epoch" else f"{found.model.prefix}{unit}": x for unit, x in row.items()}
        for row in found.training.trained.losses
    ]


def _failed(record: Record, error: Exception, *, runs: RunsFolder) -> Record:
    reason = str(error).strip() or "no message"
    fits = not memory.is_exhausted(error)
    if not fits:
        reason = f"does not fit: {reason.splitlines()[0]}"
    elif isinstance(error, OSError) and error.errno in NO_ROOM:
        reason = f"{NOT_WRITTEN}: {reason}"
    elif not isinstance(error, BenchError):
        log = runs.save_log(record, traceback.format_exc())
        reason = f"{type(error).__name__}: {reason.splitlines()[0]} (traceback in {log})"
    finished = {"finished_at": provenance.now()}
    return replace(
        record,
        status=Status.FAILED,
        error=one_line(reason),
        fits=fits,
        provenance={**record.provenance, **finished},
    )
