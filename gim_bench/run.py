"""One cell, from its configuration to its record: build, fit, probe, measure, record."""

import gc
import time
import traceback
from dataclasses import dataclass, replace

import torch

from gim_bench import memory, provenance, seeding
from gim_bench.config import Budget, CellConfig
from gim_bench.contract import (
    Dataset,
    Examples,
    Ingredients,
    Learner,
    Progress,
    Record,
    Split,
    Status,
)
from gim_bench.datasets.batches import ImageBatches
from gim_bench.errors import BenchError, DataError
from gim_bench.methods.stack import module_name
from gim_bench.nn.resnet import ResNetEncoder
from gim_bench.probe import Probed, extract, probe
from gim_bench.registry import method as method_class
from gim_bench.store import RunsFolder
from gim_bench.training import Trained, Trainer, fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One method on one data set with one seed: all that decides its numbers."""

    suite: str
    protocol: str
    config: CellConfig
    seed: int
    data_sha256: str

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

    def __init__(self, dataset: Dataset, *, device: torch.device, progress: Progress) -> None:
        self.dataset = dataset
        self.device = device
        self.progress = progress
        self._splits: dict[Split, Examples] = {}

    def split(self, split: Split) -> Examples:
        if split not in self._splits:
            self._splits[split] = self.dataset.split(split)
        return self._splits[split]

    def batches(self, cell: Cell, split: Split) -> ImageBatches:
        return ImageBatches(
            self.split(split),
            augmentation=cell.config.augmentation,
            batch_size=cell.config.training.batch_size,
            stream=cell.stream,
            device=self.device,
        )

    def check(self, config: CellConfig) -> None:
        """Raises: DataError where the data cannot carry the cell, before anything is trained."""
        classes = len(self.dataset.classes())
        if classes < 2:
            raise DataError(
                f"{config.dataset.name} has {classes} class(es): a probe needs at least two"
            )
        for split in (Split.UNLABELLED, Split.TRAIN):
            found, needed = len(self.split(split)), config.training.batch_size
            if found < needed:
                raise DataError(
                    f"{config.dataset.name} has {found} {split} images, fewer than one batch of "
                    f"{needed}: add images, or lower it with --set training.batch_size={found}"
                )
        if not len(self.split(Split.TEST)):
            raise DataError(f"{config.dataset.name} has no test images: add some")
        for split in Split:
            height, width = self.split(split).images.shape[-2:]
            if config.augmentation.crop > min(height, width):
                raise DataError(
                    f"a crop of {config.augmentation.crop} pixels does not fit into the {split} "
                    f"images of {config.dataset.name}, {height}×{width}: lower augmentation.crop "
                    f"or use larger images"
                )


def run_cell(cell: Cell, bench: Bench, *, runs: RunsFolder) -> Record:
    """The cell's record, which is on disk when this returns.

    Whatever goes wrong inside is a record of status "failed" with the reason, never an exception;
    an interruption passes through.
    """
    record = _begun(cell, bench)
    runs.save(record)
    try:
        learner = build(cell, bench)
        trained, peaks = _train(cell, learner, bench)
        probed, probe_seconds = _probe(cell, learner, bench)
        runs.save_encoder(record, learner.encoder.state_dict())
        record = _done(
            record,
            learner=learner,
            trained=trained,
            peaks=peaks,
            probed=probed,
            probe_seconds=probe_seconds,
        )
    except Exception as error:  # a cell that fails is a result; the suite goes on
        record = _failed(record, error, runs=runs)
    runs.save(record)
    return record


def build(cell: Cell, bench: Bench) -> Learner:
    """The cell's learner on its device; its encoder is the one that every method starts from."""
    config = cell.config
    with seeding.weights_from("encoder", cell.seed):
        channels = 1 if config.augmentation.grayscale else 3
        encoder = ResNetEncoder(config.encoder, in_channels=channels)
    kind = method_class(config.method.name)
    with seeding.weights_from("heads", config.method.name, cell.seed):
        learner = kind(
            Ingredients(
                encoder=encoder,
                classes=len(bench.dataset.classes()),
                info_nce=config.info_nce,
                options=kind.Options(**config.method.options),
                negatives=seeding.generator(
                    "negatives", config.method.name, cell.seed, device=bench.device
                ),
            )
        )
    # Convolutions are fastest, on CPUs and GPUs alike, with the channels last.
    return learner.to(bench.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def trainer_of(cell: Cell, learner: Learner, *, device: torch.device) -> Trainer:
    """The trainer that the cell's settings ask for."""
    training = cell.config.training
    return Trainer(
        learner,
        learning_rate=training.learning_rate,
        schedule=training.schedule,
        precision=training.precision,
        device=device,
    )


def planned_steps(cell: Cell, bench: Bench) -> int:
    """Optimiser steps of the cell's training; 0 for a method that trains nothing."""
    trains_on, training = cell.config.method.trains_on, cell.config.training
    if trains_on == "none":
        return 0
    counted = trains_on if training.budget is Budget.EPOCHS else Split.UNLABELLED
    return training.epochs * (len(bench.split(Split(counted))) // training.batch_size)


def _train(cell: Cell, learner: Learner, bench: Bench) -> tuple[Trained, memory.Peaks]:
    steps = planned_steps(cell, bench)
    if not steps:
        return Trained(losses=[], seconds=0.0, steps=0, samples=0), memory.Peaks()
    batches = bench.batches(cell, Split(cell.config.method.trains_on))
    trainer = trainer_of(cell, learner, device=bench.device)
    _free_memory(bench.device)
    with memory.measure(bench.device) as peaks:
        trained = fit(
            trainer, batches, steps=steps, title=f"{cell.name}: training", progress=bench.progress
        )
    return trained, peaks


def _probe(cell: Cell, learner: Learner, bench: Bench) -> tuple[Probed, float]:
    """What the probes measured, and the wall seconds of feature extraction and probes."""
    started = time.perf_counter()
    learner.eval()
    train, test = (
        extract(
            learner,
            bench.batches(cell, split),
            precision=cell.config.training.precision,
            title=f"{cell.name}: {split} features",
            progress=bench.progress,
        )
        for split in (Split.TRAIN, Split.TEST)
    )
    probed = probe(
        train,
        test,
        settings=cell.config.probe,
        classes=len(bench.dataset.classes()),
        stream=cell.stream,
        title=f"{cell.name}: probes",
        progress=bench.progress,
    )
    return probed, time.perf_counter() - started


# -- the record ----------------------------------------------------------------------------------


def _begun(cell: Cell, bench: Bench) -> Record:
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
            "started_at": provenance.now(),
        },
    )


def _done(
    record: Record,
    *,
    learner: Learner,
    trained: Trained,
    peaks: memory.Peaks,
    probed: Probed,
    probe_seconds: float,
) -> Record:
    metrics: dict[str, float] = dict(probed.metrics) | {"probe/seconds": probe_seconds}
    if trained.steps:
        units = learner.units().values()
        metrics |= {
            **_last_losses(trained, modules=len(learner.encoder.stages)),
            "train/seconds": trained.seconds,
            "train/steps": trained.steps,
            "train/samples": trained.samples,
            "train/samples_per_second": trained.samples / trained.seconds,
            "train/parameters": sum(p.numel() for parameters in units for p in parameters),
            **peaks.metrics,
        }
    return replace(
        record,
        status=Status.DONE,
        metrics=metrics,
        losses=trained.losses,
        probe_curves=probed.curves,
        provenance={
            **record.provenance,
            "memory": peaks.notes,
            "finished_at": provenance.now(),
        },
    )


def _last_losses(trained: Trained, *, modules: int) -> dict[str, float]:
    """The last epoch's losses; the bare name is the top module's."""
    last = {unit: loss for unit, loss in trained.losses[-1].items() if unit != "epoch"}
    named = {f"loss/{unit}": loss for unit, loss in last.items()}
    top = last.get(module_name(modules - 1))
    return named if top is None else named | {"loss": top}


def _failed(record: Record, error: Exception, *, runs: RunsFolder) -> Record:
    reason = str(error).strip() or "no message"
    if not isinstance(error, BenchError):
        log = runs.save_log(record, traceback.format_exc())
        reason = f"{type(error).__name__}: {reason.splitlines()[0]} (traceback in {log})"
    finished = {"finished_at": provenance.now()}
    return replace(
        record,
        status=Status.FAILED,
        error=reason,
        provenance={**record.provenance, **finished},
    )


def _free_memory(device: torch.device) -> None:
    """So that one cell's peak does not hold what another left behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
