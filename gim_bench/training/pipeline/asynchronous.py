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
from typing import TYPE_CHECKING, Any, ClassVar

from gim_bench.contract import Batch
from gim_bench.settings.schema import BufferSettings
from gim_bench.system.children import of_neighbours
from gim_bench.training.pipeline.buffer import BufferInlet, BufferOutlet, Link, Slots
from gim_bench.training.pipeline.trainer import PipelinedTrainer
from gim_bench.training.pipeline.worker import Begin, Post, Worker
from gim_bench.training.workers import SPAWN, Crew, Employed, take_over, tell

if TYPE_CHECKING:
    from gim_bench.training.pipeline.network_buffer import NetworkBufferInlet, NetworkBufferOutlet

PATIENCE_SECONDS = 0.005  # between two looks of a worker that has nothing to do


class AsynchronousWorker(Worker):
    """Trains on what its buffer holds, at its own pace.

    It answers its parent after every step: "state" asks for the state, "stop" ends it.
    """

    inlet: "ClassVar[type[BufferInlet | NetworkBufferInlet]]" = BufferInlet
    outlet: "ClassVar[type[BufferOutlet | NetworkBufferOutlet]]" = BufferOutlet
    below: "BufferInlet | NetworkBufferInlet | None"
    above: "BufferOutlet | NetworkBufferOutlet | None"

    def __init__(self, post: Post) -> None:
        super().__init__(post)
        device = self.trainer.device
        self.below = None if post.below is None else self.inlet(post.below, device=device)
        self.above = None if post.above is None else self.outlet(post.above)
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


class Inboxes(Crew):
    """Workers whose messages are kept by kind, in order: fast ones are heard before their turn."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._inboxes: dict[Employed, dict[str, deque[list[Any]]]] = {}

    def end(self) -> None:
        super().end()
        self._inboxes = {}

    def hear(self, worker: Employed, wanted: str) -> tuple[Any, ...]:
        inbox = self.inbox(worker)[wanted]
        while not inbox:
            self._wait_for(*self.workers)
            for each in self.workers:
                self._listen(each)
        return tuple(inbox.popleft())

    def inbox(self, worker: Employed) -> dict[str, deque[list[Any]]]:
        """What the worker has said and nobody has heard, by kind."""
        return self._inboxes.setdefault(worker, defaultdict(deque))

    def _listen(self, worker: Employed) -> None:
        """Put the worker's next message, if there is one, into its inbox. Raises: as `hear`."""
        if not self.has_message(worker):
            return
        inbox = self.inbox(worker)
        kind, said = self.next_message(worker)
        if kind == "state":
            said.append(len(inbox["losses"]))
        if kind in ("state", "done"):
            said.append(self.hear_state(worker))
        inbox[kind].append(said)


class AsynchronousTrainer(PipelinedTrainer):
    """Hears of the steps of workers that are not at the same step.

    A step is over once all workers have taken theirs of that number. A state has each worker's own
    after as many steps as it has taken, with the losses of the steps that are not over.
    """

    kind = AsynchronousWorker
    _crew: Inboxes

    def __init__(
        self, *args: Any, buffer: BufferSettings, crew: Inboxes | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, crew=crew or Inboxes(), **kwargs)
        self.buffer = buffer

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
        workers = self._crew.workers
        heard = [self._crew.hear(worker, "state") for worker in workers]
        ahead = [
            [list(said) for said in islice(self._crew.inbox(worker)["losses"], count)]
            for worker, (count, _) in zip(workers, heard, strict=True)
        ]
        return {**self._merged([state for _, state in heard]), "ahead": ahead}

    # -- workers -----------------------------------------------------------------------------------

    def _linked(self, lower: int) -> tuple[Any, Any]:
        slots = Slots(size=self.buffer.size, policy=self.buffer.policy)
        below, above = SPAWN.Pipe()
        lock = SPAWN.Lock()
        return (
            Link(connection=below, slots=slots, lock=lock),
            Link(connection=above, slots=slots, lock=lock),
        )

    def _begins_at(
        self, number: int, resumed: Mapping[str, Any] | None, *, position: int
    ) -> tuple[int, int]:
        """Steps are counted through all epochs."""
        ahead = self._crew.inbox(self._crew.workers[number])["losses"]
        if resumed is not None:
            ahead.extend(resumed["ahead"][number])
        return 1, self._steps_heard + len(ahead)

    def _finish(self) -> None:
        heard = [self._crew.hear(worker, "done") for worker in self._crew.workers]
        self.measured.extend(measured for measured, _ in heard)
        self._final = self._merged([state for _, state in heard])
        self._ask("stop")
        take_over(self.learner, self._final)

    def _ask(self, what: str) -> None:
        for worker in self._crew.workers:
            with suppress(OSError):  # it has ended, and the next look at its messages tells
                worker.connection.send(what)
