"""Training: a learner yields its losses in forward order, the trainer decides when to go back."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from gim_bench.errors import TrainingError
from gim_bench.progress import Progress
from gim_bench.system import interrupts
from gim_bench.system.interrupts import Interrupted
from gim_bench.training.checkpoints import Checkpoints
from gim_bench.training.kept_outputs import Encode, Keeper, Source, identity_of
from gim_bench.training.trainer import Trainer

# Losses are read (and checked) this often, because reading them makes the CPU wait for a GPU.
READ_EVERY_SECONDS = 0.5
# Before the name of a unit whose validation loss stands beside the training losses.
VALIDATION = "validation_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What training leaves behind besides the learner's weights."""

    losses: Sequence[dict[str, float]]  # per epoch: {"epoch": 1, "module_1": 2.31, …}
    seconds: float
    steps: int
    samples: int  # examples that went through the encoder, each view by itself
    parameters: int  # that were trained
    resumed_at: int | None = None  # the step that a checkpoint was taken after, if it began there


@dataclass(slots=True, kw_only=True)
class _Standing:
    """How far training has come."""

    # Of every epoch that is over, for the units that are finished and the one at work.
    histories: list[list[dict[str, float]]] = field(default_factory=list)
    done: int = 0  # steps of the unit at work
    epoch_steps: int = 0  # steps in the epoch under way, which is over where there are none
    sums: dict[str, Tensor] = field(default_factory=dict)  # of that epoch's losses
    seconds: float = 0.0


class _Run:
    """A training under way: where it stands, and when that is written down."""

    def __init__(self, trainer: Trainer, checkpoints: Checkpoints | None) -> None:
        self.trainer = trainer
        self.checkpoints = checkpoints
        self.standing = _Standing()
        self.resumed_at: int | None = None
        found = None if checkpoints is None else checkpoints.newest()
        if found is not None:
            trainer.restore(found["trainer"])
            self.standing = _Standing(**found["standing"])
            self.resumed_at = self.standing.done
        self._started = time.perf_counter() - self.standing.seconds

    @property
    def seconds(self) -> float:
        """Of training, those before a checkpoint included."""
        return time.perf_counter() - self._started

    def finished_stages(self, steps: int) -> int:
        """How many of the stages need no step more."""
        begun = len(self.standing.histories)
        at_work = self.standing.done < steps or self.standing.epoch_steps
        return begun - 1 if begun and at_work else begun

    def set_aside(self, work: Callable[[], None]) -> None:
        """Does work that is no training: its seconds do not count."""
        began = time.perf_counter()
        work()
        self._started += time.perf_counter() - began

    def step_is_over(
        self, stop: Callable[[], bool], *, epoch_ended: bool = False, stage_ended: bool = False
    ) -> None:
        """Writes down where it stands if that is due. Raises: Interrupted if it is to stop."""
        if self.checkpoints is None:
            if stop():
                raise Interrupted
            return
        if stop() or stage_ended or self.checkpoints.due(epoch_ended=epoch_ended):
            self.standing.seconds = self.seconds
            standing = {f.name: getattr(self.standing, f.name) for f in fields(self.standing)}
            self.checkpoints.save({"trainer": self.trainer.state(), "standing": standing})
            if stop():  # it may have been heard while this was written
                raise Interrupted


def fit(
    trainer: Trainer,
    batches: Source,
    *,
    steps: int,
    title: str,
    progress: Progress,
    keeper: Keeper | None = None,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[int], None] | None = None,
    rates: Callable[[int], float] | None = None,
) -> Trained:
    """Train every unit for `steps` optimiser steps, epoch after epoch.

    In sequence each unit sees the same epochs, one unit after the other; with a `keeper`, a frozen
    unit's outputs are computed once and read by the unit above. With `checkpoints` it goes on from
    the last one, on a CPU bit for bit as if it had never been interrupted. `on_epoch` is called
    with the number of every epoch of a unit but the last; its seconds do not count, and what it
    raises ends the training. `rates` gives the factor of the learning rate before a unit's step,
    counted from 0.

    Raises: TrainingError where a loss is no longer finite, naming unit and step, or where there is
    no room for the outputs; Interrupted after the step in which a signal to end was heard.
    """
    run = _Run(trainer, checkpoints)
    trainer.learner.train()
    left = list(enumerate(trainer.stages()))[run.finished_stages(steps) :]
    if keeper is not None:
        keeper.make_room(batches, _handing_on(trainer, [unit for _, unit in left]))
    for number, unit in left:
        source = batches if keeper is None else _kept_below(trainer, unit, batches, keeper)
        named = title if unit is None else f"{title} {unit}"
        _fit_stage(
            run,
            source,
            unit,
            number,
            steps=steps,
            title=named,
            progress=progress,
            on_epoch=on_epoch,
            rates=rates,
        )
        if unit is not None:
            trainer.freeze(unit)
    if keeper is not None:
        keeper.clear()
    histories = run.standing.histories
    taken = steps * len(histories)
    return Trained(
        losses=joined(histories),
        seconds=run.seconds,
        steps=taken,
        samples=taken * batches.batch_size * trainer.learner.traits.views,
        parameters=trainer.parameters,
        resumed_at=run.resumed_at,
    )


def _handing_on(trainer: Trainer, stages: Sequence[str | None]) -> dict[str, Encode]:
    """What computes the outputs of every frozen unit that one of these is trained on."""
    below = (trainer.below(unit) for unit in stages)
    return {unit: partial(trainer.outputs, unit=unit) for unit in below if unit is not None}


def _kept_below(trainer: Trainer, unit: str | None, batches: Source, keeper: Keeper) -> Source:
    """The outputs, kept, of the unit below; the batches themselves for the lowest.

    They are computed from the batches, not from outputs kept of a lower unit, which may have been
    rounded: so they are the same whether or not training was interrupted in between.
    """
    below = trainer.below(unit)
    if below is None:
        return batches
    identity = identity_of(trainer.weights_up_to(below))
    return keeper.keep(batches, partial(trainer.outputs, unit=below), unit=below, identity=identity)


def _fit_stage(
    run: _Run,
    batches: Source,
    unit: str | None,
    number: int,
    *,
    steps: int,
    title: str,
    progress: Progress,
    on_epoch: Callable[[int], None] | None,
    rates: Callable[[int], float] | None,
) -> None:
    """Trains the unit that is `number` in order, from where the run stands to `steps`."""
    standing, trainer = run.standing, run.trainer
    if number == len(standing.histories):
        standing.histories.append([])
        standing.done = 0
    history = standing.histories[number]
    if standing.done:
        title = f"{title}, from step {standing.done + 1}"
    with (
        progress.task(title, total=steps - standing.done, unit="step") as task,
        interrupts.noted() as stop,
    ):
        while standing.done < steps or standing.epoch_steps:
            epoch = _Epoch(standing, number=len(history) + 1)
            for batch in islice(batches.epoch(epoch.number), standing.epoch_steps, None):
                if standing.done == steps:
                    break
                if rates is not None:
                    trainer.set_rate(rates(standing.done))
                epoch.add(trainer.step(batch, only=unit))
                task.advance(1, **epoch.facts())
                run.step_is_over(stop)
            validated = trainer.evaluate(batches.validation(), only=unit)
            history.append(
                epoch.close() | {f"{VALIDATION}{unit}": loss for unit, loss in validated.items()}
            )
            run.step_is_over(stop, epoch_ended=True)
            if on_epoch is not None and standing.done < steps:
                run.set_aside(partial(on_epoch, epoch.number))
        # What is kept of a unit depends on its very weights: those of one that is finished are safe
        # before anything is made of them.
        run.step_is_over(stop, stage_ended=unit is not None)


def joined(histories: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """Losses that were recorded apart, epoch by epoch; all are of as many epochs."""
    return [
        {unit: loss for row in rows for unit, loss in row.items()}
        for rows in zip(*histories, strict=True)
    ]


class _Epoch:
    """The mean losses of one epoch, summed on the device and read now and then."""

    def __init__(self, standing: _Standing, *, number: int) -> None:
        self.standing = standing
        self.number = number
        self.shown: dict[str, float] = {}
        self.read_at = 0.0

    def add(self, losses: dict[str, Tensor]) -> None:
        """One step more."""
        self.standing.done += 1
        self.standing.epoch_steps += 1
        sums = self.standing.sums
        for unit, loss in losses.items():
            sums[unit] = sums[unit] + loss if unit in sums else loss.clone()
        if time.perf_counter() - self.read_at > READ_EVERY_SECONDS:
            self._read()

    def facts(self) -> dict[str, float]:
        """What the progress bar shows: the epoch, and the mean losses in it so far."""
        return {"epoch": self.number, **self.shown}

    def close(self) -> dict[str, float]:
        """The epoch's losses; another one begins."""
        self._read()
        self.standing.epoch_steps, self.standing.sums = 0, {}
        return {"epoch": self.number, **self.shown}

    def _read(self) -> None:
        steps = self.standing.epoch_steps
        self.shown = {unit: float(total) / steps for unit, total in self.standing.sums.items()}
        self.read_at = time.perf_counter()
        for unit, mean in self.shown.items():
            if not torch.isfinite(torch.tensor(mean)):
                raise TrainingError(
                    f"the loss of {unit} is {mean} at or shortly before step "
                    f"{self.standing.done} (epoch {self.number}): lower training.learning_rate"
                )
