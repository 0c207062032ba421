"""Worker processes of one training, and what their parent hears of them."""

import io
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import get_temp_dir
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import format_exception
from typing import IO, Any, NamedTuple, NoReturn, cast

import torch

from gim_bench.contract import Batch, Learner
from gim_bench.errors import BenchError, WorkerError
from gim_bench.hardware.process_group import FileMeeting, Meeting
from gim_bench.hardware.threads import asking_for
from gim_bench.system.children import (
    NeighbourGoneError,
    Process,
    deaf_to_interrupts,
    end,
    end_with_parent,
    how_it_ended,
    of_neighbours,
)
from gim_bench.system.interrupts import ENDINGS
from gim_bench.system.streams import forgive
from gim_bench.training.kept_outputs import Source

SPAWN = multiprocessing.get_context("spawn")
LAST_WORDS_SECONDS = 5.0  # in which all workers end after one has
# The usual reasons of a death, by signal.
HINTS = {
    "SIGKILL": ", as by the system when memory is full",
    "SIGBUS": ", as where /dev/shm has no room for the buffers",
}
# Errors that say to their reader what happened, as those of the package and their children do;
# others are told by their names.
KNOWN = (MemoryError, torch.OutOfMemoryError)
# Exit codes of a worker whose neighbour or parent has ended, and of one that has told its failure.
NEIGHBOUR_GONE, TOLD = 76, 77
LOST = 78  # stands for the exit code of a worker on a machine that is out of reach


def threads_of_each(workers: int) -> int:
    """Threads of a worker, where all together have those of this process."""
    return max(1, torch.get_num_threads() // workers)


@contextmanager
def threads_of_a_worker(workers: int) -> Iterator[None]:
    """Within the block, this process computes with the threads of a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads_of_each(workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Ticks:
    """The steps of a source as the parent counts them: workers have the batches."""

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


# -- in a worker's process -------------------------------------------------------------------------


class Failure(NamedTuple):
    """An error of a worker, for its parent to raise."""

    names: Sequence[str]  # of its class, and of the classes that this one is derived from
    text: str
    number: int | None  # of an error of the system
    file: Any  # of an error of the system
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        names = [kind.__name__ for kind in type(error).__mro__]
        number, file, text = None, None, str(error)
        if isinstance(error, OSError) and error.errno is not None:
            number, file = error.errno, error.filename
            text = error.strerror or os.strerror(number)
        return cls(names, text, number, file, "".join(format_exception(error)))

    def again(self) -> Exception:
        """The error, with the worker's traceback as a note; a RuntimeError where it is unknown."""
        known = {kind.__name__: kind for kind in (*BenchError.__subclasses__(), *KNOWN)}
        kind = next((known[name] for name in self.names if name in known), None)
        if self.number is not None:
            error: Exception = OSError(self.number, self.text, self.file)
        elif kind is not None:
            error = kind(self.text)
        elif self.names[0] == "RuntimeError":
            error = RuntimeError(self.text)
        else:
            error = RuntimeError(f"{self.names[0]}: {self.text}")
        error.add_note(self.traceback)
        return error


def at_post(parent: Connection, work: Callable[[], None]) -> None:
    """Do the work of a worker, whose last message is ("failed", failure) where an error ends it.

    It is ("missed", failure) where an exchange with other workers fails, most likely because one
    has ended. Signals are for the parent, which ends its workers.
    """
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    forgive()
    end_with_parent(at_once=True)
    try:
        work()
    except NeighbourGoneError as gone:
        if isinstance(gone.__cause__, RuntimeError):
            with suppress(NeighbourGoneError):
                tell(parent, "missed", Failure.of(gone.__cause__))
        sys.exit(NEIGHBOUR_GONE)
    except Exception as error:  # the parent raises it, if it is there
        with suppress(NeighbourGoneError):
            tell(parent, "failed", Failure.of(error))
        sys.exit(TOLD)


def tell(parent: Connection, *message: Any) -> None:
    """Raises: NeighbourGoneError where the parent has ended."""
    with of_neighbours():
        parent.send(message)


# -- states ----------------------------------------------------------------------------------------


class _Through:
    """A file whose content goes through a connection as it is written."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def write(self, content: bytes | memoryview) -> int:
        if content:
            self._connection.send_bytes(content)
        return len(content)

    def flush(self) -> None: ...


def send_state(connection: Connection, state: Mapping[str, Any]) -> None:
    """Send a state of tensors, numbers, lists and mappings, tensor by tensor. Raises: OSError."""
    torch.save(dict(state), cast(IO[bytes], _Through(connection)))
    connection.send_bytes(b"")


def receive_state(connection: Connection) -> dict[str, Any]:
    """The state that `send_state` sends, on the CPU.

    Raises: the error that ended the sending, if the sender told it; EOFError or OSError.
    """
    file = io.BytesIO()
    part = b""
    try:
        while part := connection.recv_bytes():
            file.write(part)
    except EOFError:
        if (failure := _failure_in(part)) is not None:
            raise failure.again() from None
        raise
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def take_over(learner: Learner, state: Mapping[str, Any]) -> None:
    """Give the learner the weights and the negatives of a state; moments are for the workers."""
    learner.load_state_dict(state["learner"])
    for unit, generator in learner.generators().items():
        generator.set_state(state["generators"][unit])


# -- in the parent's process -----------------------------------------------------------------------


@dataclass(slots=True, kw_only=True, eq=False)
class Employed:
    """A worker in the eyes of its parent."""

    title: str  # "worker 1 (module_1) of the pipeline"
    process: Process
    connection: Connection

    @property
    def is_broken(self) -> bool:
        """Whether the worker has ended before its work."""
        return self.process.exitcode not in (None, 0)


class Crew:
    """The workers of a training."""

    def __init__(self) -> None:
        self.workers: list[Employed] = []

    def threads_of_each(self, workers: int) -> int:
        """Threads of a worker."""
        return threads_of_each(workers)

    @contextmanager
    def meeting(self) -> Iterator[Meeting]:
        """Within the block, workers of one training can find each other."""
        with TemporaryDirectory(prefix="gim_bench-") as folder:
            yield FileMeeting(path=Path(folder) / "processes")

    def hire(
        self, title: str, serve: Callable[[Any], None], post: Callable[..., Any], *, threads: int
    ) -> None:
        """Start `serve(post(parent=connection))` in a process, connected with this one."""
        here, there = SPAWN.Pipe()
        get_temp_dir()  # one for all workers, which are killed: this process removes it
        # A daemon: it ends with this process even if a signal comes before it is listed.
        process = SPAWN.Process(target=serve, args=(post(parent=there),), daemon=True)
        with deaf_to_interrupts(), asking_for(threads):
            process.start()
        there.close()  # each end is held by one process: a pipe closes with its worker
        self.workers.append(Employed(title=title, process=process, connection=here))

    def end(self) -> None:
        """End all workers at once."""
        end(*(worker.process for worker in self.workers), at_once=True)
        self.workers = []

    def tell(
        self, worker: Employed, message: Any, *, state: Mapping[str, Any] | None = None
    ) -> None:
        """Send a message, and a state after it. Raises: as `hear`."""
        try:
            worker.connection.send(message)
            if state is not None:
                send_state(worker.connection, state)
        except OSError:
            self.explain()

    def hear(self, worker: Employed, wanted: str) -> tuple[Any, ...]:
        """The next message of the worker.

        Raises: its error; where a worker has ended, the error that it left, or WorkerError.
        """
        self._wait_for(worker)
        kind, said = self.next_message(worker)
        assert kind == wanted, f"{worker.title} says {kind!r}, not {wanted!r}"
        return tuple(said)

    def next_message(self, worker: Employed) -> tuple[str, list[Any]]:
        """The kind of the worker's next message, and what it says. Raises: as `hear`."""
        try:
            kind, *said = worker.connection.recv()
        except (EOFError, OSError):
            self.explain()
        if kind == "failed":
            raise said[0].again()
        if kind == "missed":
            self.explain(missed=said[0])
        return kind, said

    def has_message(self, worker: Employed) -> bool:
        """Whether `next_message` returns, or raises, at once. Raises: as `hear`."""
        try:
            return worker.connection.poll()
        except OSError:
            self.explain()

    def hear_state(self, worker: Employed) -> dict[str, Any]:
        """The state that the worker sends after a message. Raises: as `hear`."""
        try:
            return receive_state(worker.connection)
        except (EOFError, OSError):
            self.explain()

    def heed_signals(self) -> None:
        """Raise in this process the signals that others had. Hook: workers here have none."""

    def explain(self, *, missed: Failure | None = None) -> NoReturn:
        """Raise the error of the worker that has ended first, where it left one; else WorkerError.

        The others end as soon as they miss a neighbour. Where none ended before the others, the
        exchange that a worker `missed` is the error.
        """
        until = time.monotonic() + LAST_WORDS_SECONDS
        for worker in self.workers:
            worker.process.join(max(0.0, until - time.monotonic()))
        for worker in self.workers:
            if (failure := _last_words(worker.connection)) is not None:
                raise failure.again()
        others = (None, 0, NEIGHBOUR_GONE)
        known = [worker for worker in self.workers if worker.process.exitcode not in others]
        if missed is not None and not known:
            raise missed.again()
        first = (known or self.workers)[0]
        is_lost = first.process.exitcode == LOST
        how = "is out of reach" if is_lost else how_it_ended(first.process) or "has ended"
        hint = next((hint for name, hint in HINTS.items() if name in how), "")
        raise WorkerError(
            f"{first.title} {how}{hint}: the same command resumes from the last checkpoint"
        )

    def _wait_for(self, *workers: Employed) -> None:
        """Wait for a message of one of these, which may wait for another one that has ended.

        Raises: as `hear`.
        """
        self.heed_signals()
        while not any(self.has_message(worker) for worker in workers):
            # Looked at first: of one that ends after this line, the wait below hears.
            alive = [other for other in self.workers if other.process.exitcode is None]
            broken = any(other.is_broken for other in self.workers)
            if broken and not any(self.has_message(worker) for worker in workers):
                self.explain()
            connections = [worker.connection for worker in workers]
            wait([*connections, *(other.process.sentinel for other in alive)])
            self.heed_signals()


def _last_words(connection: Connection) -> Failure | None:
    """The failure that a worker has reported, among what it said before it ended."""
    while True:
        try:
            if not connection.poll():
                return None
            content = connection.recv_bytes()
        except (EOFError, OSError):
            return None
        if (failure := _failure_in(content)) is not None:
            return failure


def _failure_in(content: bytes) -> Failure | None:
    """The failure that a worker reports with these bytes, if they are such a message."""
    with suppress(Exception):  # a part of a state, which is no message
        match ForkingPickler.loads(content):
            case ("failed", Failure() as failure):
                return failure
    return None
