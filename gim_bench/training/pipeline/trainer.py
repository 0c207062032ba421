"""The trainer of a pipeline: its steps are taken by worker processes."""

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from gim_bench.contract import Batch
from gim_bench.errors import WorkerError
from gim_bench.hardware.threads import asking_for
from gim_bench.methods.stack import HandOn
from gim_bench.system.children import deaf_to_interrupts, end, how_it_ended
from gim_bench.training.kept_outputs import Source
from gim_bench.training.pipeline.worker import (
    NEIGHBOUR_GONE,
    Begin,
    Failure,
    LosslessWorker,
    Measured,
    Part,
    Post,
    Worker,
    receive_state,
    send_state,
    serve,
)
from gim_bench.training.trainer import Trainer

SPAWN = multiprocessing.get_context("spawn")
LAST_WORDS_SECONDS = 5.0  # in which all workers end after one has
# The usual reasons of a death, by signal.
HINTS = {
    "SIGKILL": ", as by the system when memory is full",
    "SIGBUS": ", as where /dev/shm has no room for the buffers",
}
# Makes a worker's part, in the worker's process, from the worker's number and its units.
Make = Callable[[int, Sequence[str]], Part]


def shared_out(units: Sequence[str], *, workers: int | None) -> list[list[str]]:
    """Consecutive units for each worker, as equal in number as can be; None: one for each.

    Where units are left over, lower workers have one more.

    >>> shared_out(["a", "b", "c"], workers=2)
    [['a', 'b'], ['c']]
    """
    count = min(workers or len(units), len(units))
    ends = [-(-(number + 1) * len(units) // count) for number in range(count)]
    return [list(units[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]


def threads_of_each(workers: int) -> int:
    """Threads of a worker, where all together have those of this process."""
    return max(1, torch.get_num_threads() // workers)


@dataclass(slots=True, kw_only=True, eq=False)
class Employed:
    """A worker in the eyes of its parent."""

    number: int
    units: Sequence[str]
    process: BaseProcess
    connection: Connection
    names: Sequence[str] = ()  # of its part of the learner's state

    def __str__(self) -> str:
        return f"worker {self.number + 1} ({', '.join(self.units)})"


class Ticks:
    """The steps of a source as the parent counts them: the lowest worker has the batches."""

    def __init__(self, source: Source, *, steps: int) -> None:
        """`source` is visited for that number of `steps`."""
        self.batch_size = source.batch_size
        self.stream = source.stream
        self.steps = steps
        self.epoch_under_way = 1
        self._of_an_epoch = len(source)

    @property
    def steps_of_epoch(self) -> int:
        """Steps of the epoch under way; the last one may be short."""
        return min(len(self), self.steps - (self.epoch_under_way - 1) * len(self))

    def __len__(self) -> int:
        return self._of_an_epoch

    def epoch(self, number: int) -> Iterator[Any]:
        self.epoch_under_way = number
        yield from range(self._of_an_epoch)

    def validation(self) -> Iterator[Batch]:
        return iter(())


class PipelinedTrainer(Trainer):
    """Has every step taken by its workers, and hears of the losses.

    Workers run ahead of the steps that are heard of. A state that is asked for therefore comes some
    steps later: it is the state of all units after the same step.
    """

    kind: type[Worker] = LosslessWorker

    def __init__(
        self, *args: Any, shares: Sequence[Sequence[str]], make: Make, ticks: Ticks, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.shares = shares
        self.make = make
        self.ticks = ticks
        self.measured: list[Measured] = []
        self._crew: list[Employed] = []
        self._resumed: Mapping[str, Any] | None = None
        self._begun = self._is_asked = False
        self._steps_heard = 0
        self._state: dict[str, Any] | None = None  # after the last step, if workers reported it
        self._final: dict[str, Any] | None = None  # after the end of training

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
            end(*(worker.process for worker in self._crew), at_once=True)
            self._crew = []
            self._final = None  # with moments that nobody needs any more

    def step(
        self, batch: Any, *, only: str | None = None, hand_on: HandOn | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Hear of the losses of the next step; `batch` is a tick."""
        self._begin(position=batch)
        found: dict[str, Tensor] = {}
        states = []
        for worker in self._crew:
            losses, state_follows = self._hear(worker, "losses")
            found |= {unit: torch.tensor(loss) for unit, loss in losses.items()}
            if state_follows:
                states.append(self._hear_state(worker))
        self._steps_heard += 1
        self._state = self._merged(states) if states else None
        return found

    def evaluate(
        self, batches: Iterable[Batch], *, only: str | None = None, hand_on: HandOn | None = None
    ) -> dict[str, float]:
        """Hear of the losses on held-out batches, which the lowest worker has."""
        self._begin(position=self.ticks.steps_of_epoch)
        heard = [self._hear(worker, "validated") for worker in self._crew]
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
                self._crew[0].connection.send("state")
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        self._take_over(state)
        self._resumed = state

    # -- workers -----------------------------------------------------------------------------------

    def _linked(self) -> tuple[Any, Any]:
        """Both ends of a connection between two workers, the lower one's end first."""
        return SPAWN.Pipe()

    def _hire(self) -> None:
        """Start all workers, each connected with the next."""
        links = [self._linked() for _ in self.shares[1:]]
        below = [None, *(upper for _, upper in links)]
        above = [*(lower for lower, _ in links), None]
        threads = threads_of_each(len(self.shares))
        for number, units in enumerate(self.shares):
            here, there = SPAWN.Pipe()
            post = Post(
                kind=self.kind,
                make=partial(self.make, number, units),
                parent=there,
                below=below[number],
                above=above[number],
            )
            # A daemon: it ends with this process even if a signal comes before it is listed.
            process = SPAWN.Process(target=serve, args=(post,), daemon=True)
            with deaf_to_interrupts(), asking_for(threads):
                process.start()
            there.close()  # each end is held by one process: a pipe closes with its worker
            self._crew.append(
                Employed(number=number, units=units, process=process, connection=here)
            )
        for link in links:
            for end_of_link in link:
                end_of_link.close()
        for worker in self._crew:
            (worker.names,) = self._hear(worker, "ready")

    def _begin(self, *, position: int) -> None:
        """Tell the workers where the training begins, with the first step that is asked for."""
        if self._begun:
            return
        self._begun = True
        self._steps_heard = (self.ticks.epoch_under_way - 1) * len(self.ticks) + position
        resumed, self._resumed = self._resumed, None
        for worker in self._crew:
            epoch, done = self._begins_at(worker, resumed, position=position)
            try:
                worker.connection.send(Begin(epoch, done, has_state=resumed is not None))
                if resumed is not None:
                    send_state(worker.connection, self._part_of(resumed, worker))
            except OSError:
                self._explain()

    def _begins_at(
        self, worker: Employed, resumed: Mapping[str, Any] | None, *, position: int
    ) -> tuple[int, int]:
        """The epoch with which the worker begins, and the steps of it that are done."""
        return self.ticks.epoch_under_way, position

    def _finish(self) -> None:
        """Take over what the workers have learned."""
        states = []
        for worker in self._crew:
            (measured,) = self._hear(worker, "done")
            self.measured.append(measured)
            states.append(self._hear_state(worker))
        self._final = self._merged(states)
        self._take_over(self._final)

    def _take_over(self, state: Mapping[str, Any]) -> None:
        """The learner has the weights and the negatives of a state; moments are for the workers."""
        self.learner.load_state_dict(state["learner"])
        for unit, generator in self.learner.generators().items():
            generator.set_state(state["generators"][unit])

    def _hear(self, worker: Employed, wanted: str) -> tuple[Any, ...]:
        """The next message of the worker. Raises: its error, or WorkerError where it has ended."""
        try:
            kind, *said = worker.connection.recv()
        except (EOFError, OSError):
            self._explain()
        if kind == "failed":
            raise said[0].again()
        assert kind == wanted, f"{worker} says {kind!r}, not {wanted!r}"
        return tuple(said)

    def _hear_state(self, worker: Employed) -> dict[str, Any]:
        try:
            return receive_state(worker.connection)
        except (EOFError, OSError):
            self._explain()

    def _explain(self) -> NoReturn:
        """Raise the error of the worker that has ended first, where it left one; else WorkerError.

        The others end as soon as they miss a neighbour.
        """
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        for worker in self._crew:
            worker.process.join(max(0.0, deadline - time.monotonic()))
        for worker in self._crew:
            if (failure := _last_words(worker.connection)) is not None:
                raise failure.again()
        others = (None, 0, NEIGHBOUR_GONE)
        known = [worker for worker in self._crew if worker.process.exitcode not in others]
        first = (known or self._crew)[0]
        how = how_it_ended(first.process) or "has ended"
        hint = next((hint for name, hint in HINTS.items() if name in how), "")
        raise WorkerError(
            f"{first} of the pipeline {how}{hint}: the same command resumes from the last "
            f"checkpoint"
        )

    # -- states ------------------------------------------------------------------------------------

    def _merged(self, states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The state of all units, from those of the workers."""
        whole = self.state()
        for worker, state in zip(self._crew, states, strict=True):
            whole["learner"].update(state["learner"])
            whole["optimisers"].update(state["optimisers"])
            drawn = state["generators"]
            whole["generators"].update(
                {unit: drawn[unit] for unit in worker.units if unit in drawn}
            )
            whole.setdefault("workers", []).append(
                {k: drawn[k] for k in ("cpu", "cuda") if k in drawn}
            )
        return whole

    def _part_of(self, state: Mapping[str, Any], worker: Employed) -> dict[str, Any]:
        """A worker's part of the state of all units."""
        own = {name: state["learner"][name] for name in worker.names}
        optimisers = {unit: state["optimisers"][unit] for unit in worker.units}
        generators = {**state["generators"], **state["workers"][worker.number]}
        return {"learner": own, "optimisers": optimisers, "generators": generators}


def _last_words(connection: Connection) -> Failure | None:
    """The failure that a worker has reported, among what it said before it ended."""
    while True:
        try:
            if not connection.poll():
                return None
            said = connection.recv()
        except (EOFError, OSError):
            return None
        except Exception:  # noqa: S112 - a part of a state, which is no message
            continue
        if said[0] == "failed":
            failure: Failure = said[1]
            return failure
