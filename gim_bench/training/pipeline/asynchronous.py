"""A pipeline whose workers do not wait for each other: batches are dropped, or used again.

Every worker takes as many steps as the training has, at its own pace. One that has taken them goes
on to encode, without training, what the worker above lacks. Which batch a step is taken with
depends on the pace of the processes, so two trainings differ; every use is recorded.
"""

import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from multiprocessing.connection import wait
from typing import Any

from gim_bench.contract import Batch
from gim_bench.settings.schema import BufferSettings
from gim_bench.training.pipeline.buffer import BufferInlet, BufferOutlet, Link, Slots
from gim_bench.training.pipeline.ring import of_neighbours
from gim_bench.training.pipeline.trainer import SPAWN, Employed, PipelinedTrainer
from gim_bench.training.pipeline.worker import Begin, Post, Worker, receive_state, tell

PATIENCE_SECONDS = 0.005  # between two looks of a worker that has nothing to do


class AsynchronousWorker(Worker):
    """Trains on what its buffer holds, at its own pace.

    It answers its parent after every step: "state" asks for the state, "stop" ends it.
    """

    below: BufferInlet | None
    above: BufferOutlet | None

    def __init__(self, post: Post) -> None:
        super().__init__(post)
        device = self.trainer.device
        self.below = None if post.below is None else BufferInlet(post.below, device=device)
        self.above = None if post.above is None else BufferOutlet(post.above)
        self._has_trained = self._stops = False

    def train(self, begin: Begin) -> None:
        self._batches = self._of_source(begin.position) if self.below is None else self._taken()
        for number in range(begin.position, self.part.steps):
            batch = next(self._batches)
            began = time.perf_counter()
            put = None if self.above is None else partial(self.above.put, version=number)
            losses = self.step(batch, number=number, hand_on=put)
            time.sleep((self.part.slowdown - 1) * (time.perf_counter() - began))
            tell(self.parent, "losses", losses, False)
            self._answer()

    def linger(self) -> None:
        """Encode what the worker above lacks, until the parent says stop."""
        self._has_trained = True
        top = list(self.trainer.optimisers)[-1]
        while not self._stops:
            if self.above is not None and self.above.has_room():
                batch = self.trainer.outputs(next(self._batches), unit=top)
                self.above.put(batch, version=self.part.steps)
            else:
                with of_neighbours():
                    self.parent.poll(PATIENCE_SECONDS)
            self._answer()

    def _answer(self) -> None:
        while not self._stops:
            with of_neighbours():
                if not self.parent.poll():
                    return
                asked = self.parent.recv()
            if asked == "stop":
                self._stops = True
            else:
                tell(self.parent, "state")
                self.report_state()

    def _taken(self) -> Iterator[Batch]:
        assert self.below is not None
        while True:
            batch, use = self.below.take()
            if not self._has_trained:
                self.uses.append(use)
            yield batch

    def _of_source(self, step: int) -> Iterator[Batch]:
        """Batches of the source from that step on, epoch by epoch, without an end."""
        source = self.part.source
        assert source is not None
        epoch, position = divmod(step, len(source))
        while True:
            epoch += 1
            yield from islice(source.epoch(epoch), position, None)
            position = 0


class AsynchronousTrainer(PipelinedTrainer):
    """Hears of the steps of workers that are not at the same step.

    A step is over once all workers have taken theirs of that number. A state has each worker's own
    after as many steps as it has taken, with the losses of the steps that are not over.
    """

    kind = AsynchronousWorker

    def __init__(self, *args: Any, buffer: BufferSettings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.buffer = buffer
        # Messages of each worker by kind, in order: the fast ones are heard before their turn.
        self._inboxes: dict[int, dict[str, deque[list[Any]]]] = {}

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Nothing is held out; after the last epoch, take over what the workers have learned."""
        self._begin(position=self.ticks.steps_of_epoch)
        if self._steps_heard == self.ticks.steps:
            self._finish()
        return {}

    def state_if(self, *, wanted: bool) -> dict[str, Any] | None:
        """The state of now, which each worker reports after the step that it is at."""
        if self._final is not None or not wanted:
            return self._final if wanted else None
        self._ask("state")
        heard = [self._hear(worker, "state") for worker in self._crew]
        ahead = [
            [list(said) for said in islice(self._inbox(worker)["losses"], count)]
            for worker, (count, _) in zip(self._crew, heard, strict=True)
        ]
        return {**self._merged([state for _, state in heard]), "ahead": ahead}

    # -- workers -----------------------------------------------------------------------------------

    def _linked(self) -> tuple[Link, Link]:
        slots = Slots(size=self.buffer.size, policy=self.buffer.policy)
        lower, upper = SPAWN.Pipe()
        lock = SPAWN.Lock()
        return (
            Link(connection=lower, slots=slots, lock=lock),
            Link(connection=upper, slots=slots, lock=lock),
        )

    def _hire(self) -> None:
        self._inboxes = {}
        super()._hire()

    def _begins_at(
        self, worker: Employed, resumed: Mapping[str, Any] | None, *, position: int
    ) -> tuple[int, int]:
        """Steps are counted through all epochs."""
        if resumed is not None:
            self._inbox(worker)["losses"].extend(resumed["ahead"][worker.number])
        return 1, self._steps_heard + len(self._inbox(worker)["losses"])

    def _finish(self) -> None:
        heard = [self._hear(worker, "done") for worker in self._crew]
        self.measured.extend(measured for measured, _ in heard)
        self._final = self._merged([state for _, state in heard])
        self._ask("stop")
        self._take_over(self._final)

    def _ask(self, what: str) -> None:
        for worker in self._crew:
            with suppress(OSError):  # it has ended, and the next look at its messages tells
                worker.connection.send(what)

    def _hear(self, worker: Employed, wanted: str) -> tuple[Any, ...]:
        inbox = self._inbox(worker)[wanted]
        while not inbox:
            ready = wait([each.connection for each in self._crew])
            for each in self._crew:
                if each.connection in ready:
                    self._listen(each)
        return tuple(inbox.popleft())

    def _listen(self, worker: Employed) -> None:
        """Put the worker's next message into its inbox. Raises: its error, or WorkerError."""
        inbox = self._inbox(worker)
        try:
            kind, *said = worker.connection.recv()
            if kind == "state":
                said.append(len(inbox["losses"]))
            if kind in ("state", "done"):
                said.append(receive_state(worker.connection))
        except (EOFError, OSError):
            self._explain()
        if kind == "failed":
            raise said[0].again()
        inbox[kind].append(said)

    def _inbox(self, worker: Employed) -> dict[str, deque[list[Any]]]:
        return self._inboxes.setdefault(worker.number, defaultdict(deque))
