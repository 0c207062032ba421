"""The trainer of a pipeline: its steps are taken by worker processes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gim_bench.contract import Batch
from gim_bench.methods.stack import HandOn
from gim_bench.training.pipeline.worker import (
    Begin,
    LosslessWorker,
    Measured,
    Part,
    Post,
    Worker,
    serve,
)
from gim_bench.training.trainer import Trainer
from gim_bench.training.workers import SPAWN, Crew, Ticks, take_over

# Makes a worker's part, in the worker's process, from the worker's number and its units.
Make = Callable[[int, Sequence[str]], Part]


def shared_out(units: Sequence[str], *, workers: int | None) -> list[list[str]]:
    """Consecutive units for each worker, as equal in number as can be; None: one for each.

    Numbers of units differ by one at most, and the lowest worker never has the smaller number.

    >>> shared_out(["a", "b", "c"], workers=2)
    [['a', 'b'], ['c']]
    >>> [len(share) for share in shared_out("abcdefg", workers=5)]
    [2, 1, 2, 1, 1]
    """
    count = min(workers or len(units), len(units))
    ends = [-(-(number + 1) * len(units) // count) for number in range(count)]
    return [list(units[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]


class PipelinedTrainer(Trainer):
    """Has every step taken by its workers, and hears of the losses.

    Workers run ahead of the steps that are heard of. A state that is asked for therefore comes some
    steps later: it is the state of all units after the same step.
    """

    trains_here = False
    kind: type[Worker] = LosslessWorker

    def __init__(
        self,
        *args: Any,
        shares: Sequence[Sequence[str]],
        make: Make,
        ticks: Ticks,
        crew: Crew | None = None,
        **kwargs: Any,
    ) -> None:
        """`crew` has the workers; by default they are on this machine."""
        super().__init__(*args, **kwargs)
        self.shares = shares
        self.make = make
        self.ticks = ticks
        self.measured: list[Measured] = []
        self._crew = crew or Crew()
        # The names in the learner's state of what each worker has.
        self._names: list[Sequence[str]] = []
        self._resumed: Mapping[str, Any] | None = None
        self._begun = self._is_asked = False
        self._steps_heard = 0
        self._state: dict[str, Any] | None = None  # after the last step, if workers reported it
        self._final: dict[str, Any] | None = None  # after the end of training

    @property
    def threads(self) -> int:
        return self._crew.threads_of_each(len(self.shares))

    # -- as the loop of training sees it -----------------------------------------------------------

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Workers take the steps within the block. After the last, the learner has their weights.

        Raises: whatever a worker raised, and WorkerError where one ended otherwise.
        """
        try:
            self._hire()
            yield
            assert self._final is not None or not self._begun, "a pipeline ends with its last step"
        finally:
            self._crew.end()
            self._final = None  # with moments that nobody needs any more

    def step(
        self, batch: Any, *, only: str | None = None, hand_on: HandOn | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Hear of the losses of the next step; `batch` is a tick."""
        self._begin(position=batch)
        found: dict[str, Tensor] = {}
        states = []
        for worker in self._crew.workers:
            losses, state_follows = self._crew.hear(worker, "losses")
            found |= {unit: torch.tensor(loss) for unit, loss in losses.items()}
            if state_follows:
                states.append(self._crew.hear_state(worker))
        self._steps_heard += 1
        self._state = self._merged(states) if states else None
        return found

    def evaluate(
        self, batches: Iterable[Batch], *, only: str | None = None, hand_on: HandOn | None = None
    ) -> dict[str, float]:
        """Hear of the losses on held-out batches, which the lowest worker has."""
        self._begin(position=self.ticks.steps_of_epoch)
        heard = [self._crew.hear(worker, "validated") for worker in self._crew.workers]
        if self._steps_heard == self.ticks.steps:
            self._finish()
        return {unit: loss for (losses,) in heard for unit, loss in losses.items()}

    def set_rate(self, factor: float) -> None:
        """Workers set the rates of their steps themselves."""

    def state_if(self, *, wanted: bool) -> dict[str, Any] | None:
        """The state after the last step, where it was asked for before that step was begun.

        It is of the moment after the step: an evaluation draws further negatives.
        """
        if self._final is not None:
            return self._final if wanted else None
        state, self._state = self._state, None
        if state is not None:
            self._is_asked = False
        elif wanted and not self._is_asked:
            self._is_asked = True
            with suppress(OSError):  # it has taken its last step: the final state is on its way
                self._crew.workers[0].connection.send("state")
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        take_over(self.learner, state)
        self._resumed = state

    # -- workers -----------------------------------------------------------------------------------

    def _linked(self, lower: int) -> tuple[Any, Any]:
        """Both ends of the connection of worker `lower` with the one above, its own end first."""
        return SPAWN.Pipe()

    def _hire(self) -> None:
        """Start all workers, each connected with the next."""
        links = [self._linked(lower) for lower in range(len(self.shares) - 1)]
        below = [None, *(upper for _, upper in links)]
        above = [*(lower for lower, _ in links), None]
        for number, units in enumerate(self.shares):
            post = partial(
                Post,
                kind=self.kind,
                make=partial(self.make, number, units),
                below=below[number],
                above=above[number],
            )
            title = f"worker {number + 1} ({', '.join(units)}) of the pipeline"
            self._crew.hire(title, serve, post, threads=self.threads)
        for link in links:
            for end_of_link in link:
                end_of_link.close()
        self._names = [self._crew.hear(worker, "ready")[0] for worker in self._crew.workers]

    def _begin(self, *, position: int) -> None:
        """Tell the workers where the training begins, with the first step that is asked for."""
        if self._begun:
            return
        self._begun = True
        self._steps_heard = (self.ticks.epoch_under_way - 1) * len(self.ticks) + position
        resumed, self._resumed = self._resumed, None
        for number, worker in enumerate(self._crew.workers):
            state = None if resumed is None else self._part_of(resumed, number)
            epoch, done = self._begins_at(number, resumed, position=position)
            begin = Begin(epoch, done, has_state=state is not None)
            self._crew.tell(worker, begin, state=state)

    def _begins_at(
        self, number: int, resumed: Mapping[str, Any] | None, *, position: int
    ) -> tuple[int, int]:
        """The epoch with which a worker begins, and the steps of it that are done."""
        return self.ticks.epoch_under_way, position

    def _finish(self) -> None:
        """Take over what the workers have learned."""
        states = []
        for worker in self._crew.workers:
            (measured,) = self._crew.hear(worker, "done")
            self.measured.append(measured)
            states.append(self._crew.hear_state(worker))
        self._final = self._merged(states)
        take_over(self.learner, self._final)

    # -- states ------------------------------------------------------------------------------------

    def _merged(self, states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The state of all units, from those of the workers."""
        whole = self.state()
        for units, state in zip(self.shares, states, strict=True):
            whole["learner"].update(state["learner"])
            whole["optimisers"].update(state["optimisers"])
            drawn = state["generators"]
            whole["generators"].update({unit: drawn[unit] for unit in units if unit in drawn})
            whole.setdefault("workers", []).append(
                {k: drawn[k] for k in ("cpu", "cuda") if k in drawn}
            )
        return whole

    def _part_of(self, state: Mapping[str, Any], number: int) -> dict[str, Any]:
        """A worker's part of the state of all units."""
        own = {name: state["learner"][name] for name in self._names[number]}
        optimisers = {unit: state["optimisers"][unit] for unit in self.shares[number]}
        generators = {**state["generators"], **state["workers"][number]}
        return {"learner": own, "optimisers": optimisers, "generators": generators}
