"""The loop over stages, epochs and steps; interrupted trainings resume from checkpoints."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import islice, zip_longest
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from gim_bench.errors import TrainingError
from gim_bench.progress import Progress
from gim_bench.system import interrupts
from gim_bench.system.interrupts import Interrupted
from gim_bench.training.checkpoints import Checkpoints
from gim_bench.training.kept_outputs import Keeper, Source, identity_of
from gim_bench.training.slowness import Slowness
from gim_bench.training.streamed_outputs import Streamer
from gim_bench.training.trainer import Trainer

T = TypeVar("T")

# Seconds between reads of the losses: a read makes the CPU wait for the GPU.
READ_EVERY_SECONDS = 0.5
# Called with the unit that is trained, None for all together; returns values by name.
Observe = Callable[[str | None], Mapping[str, float]]


class Report(NamedTuple):
    """State of a training under way, after a step whose losses were read."""

    stage: int  # counted from 0
    step: int  # of the stage, counted from 1
    epoch: int
    epoch_steps: int  # taken in this epoch
    means: Mapping[str, float]  # each unit's mean loss over these steps
    ended: Mapping[str, float] | None = None  # the row of the epoch in the history, at its end


# Called after each read of the losses and after each epoch.
Tell = Callable[[Report], None]
# Prefix of a unit's name in a history: the unit's loss on held-out examples.
VALIDATION = "validation_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Results of a training, beside the weights of the learner."""

    losses: Sequence[dict[str, float]]  # per epoch: {"epoch": 1, "module_1": 2.31, …}
    seconds: float
    steps: int
    samples: int  # examples that went through the encoder, each view by itself
    parameters: int  # trained ones
    # What `observe` saw: {"epoch": 0, …} before training, then one row for every epoch.
    inside: Sequence[dict[str, float]] = ()
    resumed_at: int | None = None  # step of the checkpoint from which training resumed
    kept_bytes: int = 0  # on disk, outputs of frozen units; the most at a time


@dataclass(slots=True, kw_only=True)
class _Standing:
    """Progress of a training, as a checkpoint holds it."""

    # Losses of every finished epoch, for each finished stage and the current one.
    histories: list[list[dict[str, float]]] = field(default_factory=list)
    # What was observed, for each stage: before its first epoch and after every epoch.
    inside: list[list[dict[str, float]]] = field(default_factory=list)
    done: int = 0  # steps of the current stage
    epoch_steps: int = 0  # steps of the current epoch; 0 between epochs
    sums: dict[str, Tensor] = field(default_factory=dict)  # of the current epoch's losses
    seconds: float = 0.0
    kept_bytes: int = 0  # the largest outputs of a frozen unit


class _Run:
    """A training under way, with its progress and its checkpoints."""

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
        """Wall seconds of training, those before a resumption included."""
        return time.perf_counter() - self._started

    def finished_stages(self, steps: int) -> int:
        """Number of stages that need no further step."""
        begun = len(self.standing.histories)
        at_work = self.standing.done < steps or self.standing.epoch_steps
        return begun - 1 if begun and at_work else begun

    def set_aside(self, work: Callable[[], T]) -> T:
        """Do work whose seconds do not count as training."""
        began = time.perf_counter()
        found = work()
        self._started += time.perf_counter() - began
        return found

    def validated(self, batches: Source, unit: str | None) -> dict[str, float]:
        """Losses on held-out examples, whose seconds do not count as training.

        Other processes may have steps to take before they validate, which count.
        """
        validate = partial(self.trainer.evaluate, batches.validation(), only=unit)
        return self.set_aside(validate) if self.trainer.trains_here else validate()

    def observe(self, observe: Observe | None, unit: str | None, *, epoch: int) -> None:
        """Keep what is observed after an epoch of the current stage, if anything is."""
        if observe is not None:
            rows = self.standing.inside[-1]
            self.set_aside(lambda: rows.append({"epoch": epoch, **observe(unit)}))

    def step_is_over(
        self, stop: Callable[[], bool], *, epoch_ended: bool = False, stage_ended: bool = False
    ) -> None:
        """Write a checkpoint if one is due. Raises: Interrupted after a signal to stop."""
        if self.checkpoints is None:
            if stop():
                raise Interrupted
            return
        due = self.checkpoints.due(epoch_ended=epoch_ended)
        state = self.trainer.state_if(wanted=stop() or stage_ended or due)
        if state is not None:
            self.standing.seconds = self.seconds
            standing = {f.name: getattr(self.standing, f.name) for f in fields(self.standing)}
            self.checkpoints.save({"trainer": state, "standing": standing})
            if stop():  # the signal may have come during the write
                raise Interrupted


def fit(
    trainer: Trainer,
    batches: Source,
    *,
    steps: int,
    title: str,
    progress: Progress,
    keeper: Keeper | Streamer | None = None,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[int], None] | None = None,
    rates: Callable[[int], float] | None = None,
    observe: Observe | None = None,
    tell: Tell | None = None,
) -> Trained:
    """Train every unit for `steps` optimiser steps, epoch after epoch.

    In sequence, each unit sees the same epochs, one after the other. With a `keeper`, outputs of a
    frozen unit are computed once and read by the unit above. With `checkpoints`, training resumes
    from the newest one; on a CPU the result equals an uninterrupted training bit for bit.
    `on_epoch` is called with the number of every epoch but a stage's last; its exception ends the
    training. `observe` is called with the unit of a stage, before the stage and after every epoch,
    and changes nothing. Seconds of both do not count. `tell` is called after each read of the
    losses and each epoch. `rates` gives the factor of the rate at each step of a stage, from 0.

    Raises: TrainingError where a loss is not finite; RoomError where the disk has no room for
    outputs; Interrupted after the step in which a signal to stop arrived.
    """
    run = _Run(trainer, checkpoints)
    trainer.learner.train()
    left = list(enumerate(trainer.stages()))[run.finished_stages(steps) :]
    if keeper is not None:
        kept_bytes = _make_room(trainer, left, batches, keeper)
        run.standing.kept_bytes = max(run.standing.kept_bytes, kept_bytes)
    for number, unit in left:
        _fit_stage(
            run,
            batches if keeper is None else _kept_below(trainer, unit, batches, keeper),
            unit,
            number,
            steps=steps,
            title=title if unit is None else f"{title} {unit}",
            progress=progress,
            on_epoch=on_epoch,
            rates=rates,
            observe=observe,
            tell=tell,
        )
    if keeper is not None:
        keeper.clear()
    taken = steps * len(run.standing.histories)
    return Trained(
        losses=joined(run.standing.histories),
        seconds=run.seconds,
        steps=taken,
        samples=taken * batches.batch_size * trainer.learner.traits.views,
        parameters=trainer.parameters,
        inside=joined(run.standing.inside),
        resumed_at=run.resumed_at,
        kept_bytes=run.standing.kept_bytes,
    )


def _make_room(
    trainer: Trainer,
    left: Sequence[tuple[int, str | None]],
    batches: Source,
    keeper: Keeper | Streamer,
) -> int:
    """Bytes of the largest outputs that the stages `left` will read. Raises: RoomError."""
    below = filter(None, (trainer.below(unit) for _, unit in left))
    return keeper.make_room(batches, {unit: partial(trainer.outputs, unit=unit) for unit in below})


def _kept_below(
    trainer: Trainer, unit: str | None, batches: Source, keeper: Keeper | Streamer
) -> Source:
    """Kept outputs of the unit below `unit`; the batches themselves for the lowest unit.

    Outputs are computed from the batches, not from the kept outputs of a lower unit, which may be
    rounded. So they do not depend on interruptions in between.
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
    observe: Observe | None,
    tell: Tell | None,
) -> None:
    """Train stage `number`, that of `unit`, from the run's progress up to `steps`."""
    standing, trainer = run.standing, run.trainer
    if number == len(standing.histories):
        standing.histories.append([])
        standing.inside.append([])
        standing.done = 0
        run.observe(observe, unit, epoch=0)
    history = standing.histories[number]
    if standing.done:
        title = f"{title}, from step {standing.done + 1}"
    slowness = Slowness(trainer.device, threads=trainer.threads)
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
                was_read = epoch.add(trainer.step(batch, only=unit))
                if was_read and tell is not None:
                    tell(epoch.report(stage=number))
                task.advance(1, **epoch.facts())
                if line := slowness.step():
                    progress.say(line)
                run.step_is_over(stop)
            validated = run.validated(batches, unit)
            state = epoch.report(stage=number)
            history.append(
                epoch.close() | {f"{VALIDATION}{unit}": loss for unit, loss in validated.items()}
            )
            if tell is not None:
                tell(state._replace(ended=history[-1]))
            run.observe(observe, unit, epoch=epoch.number)
            run.step_is_over(stop, epoch_ended=True)
            if on_epoch is not None and standing.done < steps:
                run.set_aside(partial(on_epoch, epoch.number))
            slowness.restart()
        # Kept outputs depend on the weights of the finished unit: the weights are safe first.
        run.step_is_over(stop, stage_ended=unit is not None)
    if unit is not None:
        trainer.freeze(unit)


def joined(histories: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """Histories of several stages or models as one, epoch by epoch.

    Models of few labels may take other numbers of epochs for their steps.
    """
    return [
        {unit: loss for row in rows for unit, loss in row.items()}
        for rows in zip_longest(*histories, fillvalue={})
    ]


class _Epoch:
    """Mean losses of one epoch, summed on the device and read now and then."""

    def __init__(self, standing: _Standing, *, number: int) -> None:
        self.standing = standing
        self.number = number
        self.shown: dict[str, float] = {}
        self.read_at = 0.0

    def add(self, losses: dict[str, Tensor]) -> bool:
        """Count a step with its losses. Return whether the losses were read."""
        self.standing.done += 1
        self.standing.epoch_steps += 1
        sums = self.standing.sums
        for unit, loss in losses.items():
            sums[unit] = sums[unit] + loss if unit in sums else loss.clone()
        is_due = time.perf_counter() - self.read_at > READ_EVERY_SECONDS
        if is_due:
            self._read()
        return is_due

    def report(self, *, stage: int) -> Report:
        """State of the training when the losses were last read."""
        standing = self.standing
        return Report(stage, standing.done, self.number, standing.epoch_steps, self.shown)

    def facts(self) -> dict[str, float]:
        """Facts for the progress bar: the epoch, and its mean losses as last read."""
        return {"epoch": self.number, **self.shown}

    def close(self) -> dict[str, float]:
        """Return the epoch's losses, and begin another epoch."""
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
