"""Processes that share each batch of a training, on a device each: data parallelism.

They are on one machine, or one on each rank of several: that is for the crew to know.

Every process has all units, and the same weights. It computes the losses of its own examples; the
gradients of each unit are averaged over the processes, and all take the same step. The parent asks
for every step, so that all processes are at the same one whenever it asks for something else.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gim_bench.contract import Batch
from gim_bench.hardware import memory, process_group
from gim_bench.hardware.process_group import Meeting
from gim_bench.methods.stack import HandOn, StackLearner
from gim_bench.system.children import of_neighbours
from gim_bench.training.kept_outputs import Source
from gim_bench.training.trainer import Trainer
from gim_bench.training.workers import (
    Crew,
    Ticks,
    at_post,
    receive_state,
    send_state,
    take_over,
    tell,
)

# -- in each process -------------------------------------------------------------------------------


class AveragingTrainer(Trainer):
    """The trainer of a process, whose steps are those of the mean gradients of all processes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._under_way: tuple[str, process_group.Mean] | None = None

    def synchronise(self) -> None:
        """Have batch norm take the statistics of all processes, where each has its own examples."""
        learner = self.learner
        assert isinstance(learner, StackLearner)
        for part in (learner.encoder, *([learner.heads] if learner.shares_losses else [])):
            process_group.synchronised(part, device=self.device)

    def step(
        self, batch: Batch, *, only: str | None = None, hand_on: HandOn | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        losses = super().step(batch, only=only, hand_on=hand_on)
        self._end_update()
        return losses

    def _update(self, unit: str) -> None:
        """Begin with the mean of the unit's gradients, which goes on while the next one computes.

        The step of a unit may wait: what is handed on was computed before it.
        """
        self._end_update()
        parameters = [p for group in self.optimisers[unit].param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        self._under_way = unit, process_group.Mean(gradients)

    def _end_update(self) -> None:
        if self._under_way is not None:
            unit, mean = self._under_way
            self._under_way = None
            mean.put_back()
            super()._update(unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a process trains, and on what."""

    trainer: AveragingTrainer
    source: Source  # of its own examples, once the process is in the group


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """The place of a process among the others; its part is made in the process itself."""

    make: Callable[[], Part]
    number: int  # from 0
    processes: int
    meeting: Meeting
    parent: Connection


def serve(post: Post) -> None:
    """Answer the parent until it asks for the end.

    ("step", only, epoch, position, rate) is answered by ("losses", {unit: loss}), ("evaluate",
    only) by ("validated", {unit: loss}), ("state",) by ("state",) and a state, ("end",) by ("done",
    peaks); ("restore",) and a state, and ("freeze", unit), have no answer. The first message is
    ("ready",), the last that of `at_post` where an error ends the process.
    """
    at_post(post.parent, lambda: _work(post))


def _work(post: Post) -> None:
    part = post.make()
    device = part.trainer.device
    with process_group.joined(
        post.meeting, number=post.number, processes=post.processes, device=device
    ):
        part.trainer.synchronise()
        part.trainer.learner.train()
        tell(post.parent, "ready")
        memory.free(device)
        with memory.measure(device, learner=part.trainer.learner) as peaks:
            answers = _Answers(part, post)
            while answers.next():
                pass
        tell(post.parent, "done", peaks)


class _Answers:
    """A process at work."""

    def __init__(self, part: Part, post: Post) -> None:
        self.trainer, self.source = part.trainer, part.source
        self.parent, self.number = post.parent, post.number
        self._under_way: tuple[str | None, int] | None = None  # stage and epoch of `_batches`
        self._batches: Iterator[Batch] = iter(())

    def next(self) -> bool:
        """Do what the parent asks for next; False where that is the end."""
        with of_neighbours():
            request = self.parent.recv()
        match request:
            case ("step", only, epoch, position, rate):
                batch = self._batch(only, epoch, position)
                if rate is not None:
                    self.trainer.set_rate(rate)
                losses = self.trainer.step(batch, only=only)
                tell(self.parent, "losses", {unit: float(loss) for unit, loss in losses.items()})
            case ("evaluate", only):
                validated = self.trainer.evaluate(self.source.validation(), only=only)
                tell(self.parent, "validated", validated)
            case ("state",):
                self._report_state()
            case ("restore",):
                with of_neighbours():
                    state = receive_state(self.parent)
                self.trainer.restore(state)
            case ("freeze", unit):
                self.trainer.freeze(unit)
        return request != ("end",)

    def _report_state(self) -> None:
        """Report the state; of all processes but the first, what the others do not have."""
        state = self.trainer.state()
        tell(self.parent, "state")
        with of_neighbours():
            own = {"generators": state["generators"]}
            send_state(self.parent, own if self.number else state)

    def _batch(self, stage: str | None, epoch: int, position: int) -> Batch:
        """This process's examples of the batch at a position of an epoch."""
        if (stage, epoch) != self._under_way:
            self._under_way = stage, epoch
            self._batches = islice(self.source.epoch(epoch), position, None)
        return next(self._batches)


# -- in the parent's process -----------------------------------------------------------------------


class DataParallelTrainer(Trainer):
    """Has every step taken by processes that share its batch, and hears of the losses."""

    trains_here = False

    def __init__(
        self,
        *args: Any,
        processes: int,
        make: Callable[[int], Part],
        ticks: Ticks,
        crew: Crew,
        **kwargs: Any,
    ) -> None:
        """`make` makes the part of a process, by its number, in that process of the `crew`."""
        super().__init__(*args, **kwargs)
        self.processes = processes
        self.make = make
        self.ticks = ticks
        self.measured: list[memory.Peaks] = []
        self._crew = crew
        self._rate: float | None = None
        self._resumed: Mapping[str, Any] | None = None
        self._begun = False

    @property
    def threads(self) -> int:
        return self._crew.threads_of_each(self.processes)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Processes take the steps within the block. At its end, the learner has their weights.

        Raises: whatever a process raised, and WorkerError where one ended otherwise.
        """
        try:
            with self._crew.meeting() as meeting:
                self._hire(meeting)
                yield
                self._end()
        finally:
            self._crew.end()

    def step(
        self, batch: Any, *, only: str | None = None, hand_on: HandOn | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Have a step taken; `batch` is a tick."""
        asked = ("step", only, self.ticks.epoch_under_way, batch, self._rate)
        losses = self._mean(self._ask(*asked, wanted="losses"))
        return {unit: torch.tensor(loss) for unit, loss in losses.items()}

    def evaluate(
        self, batches: Iterable[Batch], *, only: str | None = None, hand_on: HandOn | None = None
    ) -> dict[str, float]:
        """Mean losses on held-out batches, which the processes share as they share all others."""
        return self._mean(self._ask("evaluate", only, wanted="validated"))

    def set_rate(self, factor: float) -> None:
        self._rate = factor

    def freeze(self, unit: str) -> None:
        super().freeze(unit)
        for worker in self._crew.workers:
            self._crew.tell(worker, ("freeze", unit))

    def state(self) -> dict[str, Any]:
        self._ask("state", wanted="state")
        states = [self._crew.hear_state(worker) for worker in self._crew.workers]
        of_each = (state["generators"] for state in states)
        own = [{k: found[k] for k in ("cpu", "cuda") if k in found} for found in of_each]
        return {**states[0], "workers": own}

    def restore(self, state: Mapping[str, Any]) -> None:
        take_over(self.learner, state)
        self._resumed = state

    def _hire(self, meeting: Meeting) -> None:
        for number in range(self.processes):
            post = partial(
                Post,
                make=partial(self.make, number),
                number=number,
                processes=self.processes,
                meeting=meeting,
            )
            title = f"process {number + 1} of the {self.processes} that share each batch"
            self._crew.hire(title, serve, post, threads=self.threads)
        for worker in self._crew.workers:
            self._crew.hear(worker, "ready")

    def _ask(self, *message: Any, wanted: str) -> list[tuple[Any, ...]]:
        """The answers of all processes, which go on from where a training resumes."""
        self._begun = True
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            for worker, own in zip(self._crew.workers, resumed["workers"], strict=True):
                generators = {**resumed["generators"], **own}
                state = {**resumed, "generators": generators}
                self._crew.tell(worker, ("restore",), state=state)
        for worker in self._crew.workers:
            self._crew.tell(worker, message)
        return [self._crew.hear(worker, wanted) for worker in self._crew.workers]

    def _mean(self, answers: Iterable[tuple[Mapping[str, float]]]) -> dict[str, float]:
        """The losses of the batch: the means of those of the processes."""
        found = [losses for (losses,) in answers]
        return {unit: fmean(losses[unit] for losses in found) for unit in found[0]}

    def _end(self) -> None:
        """Take over what the processes have learned."""
        if self._begun:
            take_over(self.learner, self.state())
            self.measured += [peaks for (peaks,) in self._ask("end", wanted="done")]
