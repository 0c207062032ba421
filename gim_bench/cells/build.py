"""A cell's models, learners and trainers, built from its settings."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from gim_bench import seeding
from gim_bench.cells.bench import Bench, labelled
from gim_bench.cells.cell import Cell
from gim_bench.contract import GradientFlow, Ingredients, Learner, Split, Target
from gim_bench.datasets.batches import Batches, whole_batches
from gim_bench.errors import DataError
from gim_bench.methods.stack import StackLearner
from gim_bench.probing.questions import labelled_items
from gim_bench.probing.reading import metric_name
from gim_bench.registry import encoder as encoder_class
from gim_bench.registry import method as method_class
from gim_bench.settings.optimisers import ConstantRate
from gim_bench.settings.schema import Budget, TrainingSettings
from gim_bench.training.optimisers import rate_at
from gim_bench.training.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that a cell trains. Supervised methods train one model for each target."""

    name: str  # the cell's name, with the target where the cell has several models
    prefix: str  # of the names of its losses; empty for the class of an image
    target: Target  # what a supervised method learns
    probed: Sequence[Target]
    labels: int  # labelled examples of its split; 0 if it learns without labels


def models_of(cell: Cell, bench: Bench) -> list[Model]:
    """One model for each target if the method learns from labels, else one model for all."""
    targets = bench.targets
    if not cell.config.method.uses_labels:
        return [Model(name=cell.name, prefix="", target=targets[0], probed=targets, labels=0)]
    return [
        Model(
            name=cell.name if len(targets) == 1 else f"{cell.name}, {target.name}",
            prefix=metric_name(target, ""),
            target=target,
            probed=[target],
            labels=sum(1 for _ in labelled(bench.split(Split.TRAIN), target))
            - len(items_without_labels(cell, target, bench)),
        )
        for target in targets
    ]


def items_without_labels(cell: Cell, target: Target, bench: Bench) -> Int[Tensor, "item"]:
    """Labelled items that a method which learns from labels does without; ascending.

    They are those beyond `probe.labelled_fraction`, whose labels the probe does without, too.
    """
    probe = cell.config.probe
    if probe is None or probe.labelled_fraction == 1 or not cell.config.method.uses_labels:
        return torch.arange(0)
    train = bench.batches(cell, Split.TRAIN, whole=probe.whole_recordings)
    everything, share = (
        labelled_items(train, target, settings=settings)
        for settings in (probe.model_copy(update={"labelled_fraction": 1.0}), probe)
    )
    return everything[~torch.isin(everything, share)]


def build(
    cell: Cell, bench: Bench, *, target: Target, units: Collection[str] | None = None
) -> Learner:
    """The cell's learner on its device, with the first weights that all methods of a seed share.

    Of a worker of a pipeline it has the weights of these `units` alone.
    """
    config = cell.config
    with seeding.weights_from("encoder", cell.seed):
        encoder = encoder_class(config.encoder.kind)(
            config.encoder, shape=config.augmentation.shape
        )
    kind = method_class(config.method.like)
    with seeding.weights_from("heads", config.method.like, cell.seed):
        learner = kind(
            Ingredients(
                encoder=encoder,
                shape=config.augmentation.shape,
                target=target,
                objective=config.objective_settings,
                options=config.method.options,
                gradient_flow=GradientFlow(config.method.gradient_flow),
                stream=partial(
                    seeding.generator,
                    "negatives",
                    config.method.like,
                    cell.seed,
                    device=bench.device,
                ),
                recompute=config.method.recompute,
                compiled=config.training.compile,
                cuda_graphs=config.training.cuda_graphs,
                units=config.method.units,
            )
        )
    if cell.base is not None:
        cell.base.load_into(learner.encoder)
    if units is not None:  # before the device has to hold the others
        assert isinstance(learner, StackLearner)
        learner.keep_units(units)
    # Convolutions are fastest, on CPUs and GPUs alike, with the channels last.
    return learner.to(bench.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def trainer_of(
    cell: Cell, learner: Learner, *, device: torch.device, share: Sequence[str] | None = None
) -> Trainer:
    """The trainer for a learner, or for a `share` of its units, from the cell's settings."""
    return Trainer(learner, device=device, share=share, **trainer_settings(cell))


def trainer_settings(cell: Cell) -> dict[str, Any]:
    """Arguments of a trainer, from the cell's settings."""
    training = cell.config.training
    return {
        "learning_rate": training.learning_rate,
        "optimiser": training.optimiser,
        "schedule": cell.config.method.schedule,
        "only": cell.config.method.only,
        "frozen": None if cell.base is None else cell.base.top,
        "precision": training.precision,
    }


def training_batches(
    cell: Cell, model: Model, bench: Bench, *, apart: Int[Tensor, "item"] | None = None
) -> Batches:
    """The batches that a training visits: no items `apart`, and none whose labels it may not use.

    Raises: DataError if fewer items than a batch are left.
    """
    without = items_without_labels(cell, model.target, bench)
    if apart is not None:
        without = torch.cat([without, apart]).unique()
    batches = bench.batches(
        cell,
        Split(cell.config.method.trains_on),
        held_out=cell.config.training.held_out,
        without=without,
    )
    if not len(batches):
        raise DataError(
            f"{model.name}: without {len(without)} of {batches.items} {batches.noun_of_items}s, "
            f"which validate or whose labels are not used, fewer than one batch of "
            f"{batches.batch_size} are left: lower training.batch_size, raise "
            f"probe.labelled_fraction, or set probe.unseen_validation=false"
        )
    return batches


def rates_of(training: TrainingSettings, *, steps: int) -> Callable[[int], float] | None:
    """The factor of the learning rate at each step of a unit; None if the rate is constant."""
    if isinstance(training.rate_schedule, ConstantRate):
        return None
    return partial(
        rate_at,
        settings=training.rate_schedule,
        steps=steps,
        steps_per_epoch=steps / training.epochs,
    )


def planned_steps(cell: Cell, bench: Bench) -> int:
    """Optimiser steps of each model of the cell; 0 for a method without gradients."""
    trains_on, training = cell.config.method.trains_on, cell.config.training
    if cell.config.method.gradient_flow == GradientFlow.NONE:
        return 0
    counted = trains_on if training.budget is Budget.EPOCHS else Split.UNLABELLED
    return training.epochs * whole_batches(
        bench.items(cell.config, Split(counted)),
        batch_size=training.batch_size,
        held_out=training.held_out,
    )
