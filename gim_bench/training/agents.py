"""Ranks of a command: rank 0 is the parent of every training, the others are its agents.

An agent starts one worker at a time, in a process of its own, tells rank 0 how the worker ended,
and ends it when rank 0 asks or is gone. Agents and their workers connect to rank 0, and show the
token that the store of all ranks has. The worker of rank 0 is its own child, as on one machine.
"""

import hmac
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

from gim_bench.errors import ConfigError, first_line
from gim_bench.hardware.process_group import LOOPBACK
from gim_bench.hardware.ranks import LOOK_SECONDS, MEETING_SECONDS, Rank, RankMeeting
from gim_bench.hardware.threads import asking_for, threads_asked_for
from gim_bench.system.children import deaf_to_interrupts, end
from gim_bench.system.interrupts import SIGNALS
from gim_bench.training.workers import LOST, SPAWN, Crew, Employed

GREETING_SECONDS = 5.0  # for whoever connects to show the token
LISTENING_SECONDS = 0.5  # between an agent's looks for signals
# A machine without power says nothing: it is missed after 15 + 3 · 5 s.
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
MEETING = "meeting"  # a key of the store: rank 0's port, and the token


class Hello(NamedTuple):
    """An agent's first message."""

    number: int  # of its rank
    host: str
    code: str  # identity of the code, which has to be that of rank 0
    device: str  # of its workers
    data_dir: Path | None  # --data-dir of its own command
    error: str  # why it cannot have that device; empty if it can

    def __str__(self) -> str:
        return f"rank {self.number} on {self.host}"


class Start(NamedTuple):
    """Asks an agent for a worker."""

    serve: Callable[[Any], None]
    post: Callable[..., Any]  # makes the argument of `serve`, from the connection with its parent
    threads: int


class RemoteProcess:
    """A worker's process, of which its agent tells; it takes the place of a child process."""

    def __init__(self, agent: "Agent") -> None:
        self._agent = agent
        self._code: int | None = None

    @property
    def sentinel(self) -> Connection:
        """Ready where the agent has something to say, or is gone."""
        return self._agent.connection

    @property
    def exitcode(self) -> int | None:
        """The exit code; None as long as the process runs, LOST where nobody can tell."""
        if self._code is None:
            self._code = self._agent.heard()
        return self._code

    def join(self, timeout: float | None = None) -> None:
        until = None if timeout is None else time.monotonic() + timeout
        while self.exitcode is None:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            wait([self.sentinel], left)

    def kill(self) -> None:
        if self.exitcode is None:
            with suppress(OSError):
                self._agent.connection.send("end")

    def terminate(self) -> None:
        self.kill()


class Agent:
    """Another rank in the eyes of rank 0."""

    def __init__(self, connection: Connection, hello: Hello) -> None:
        self.connection = connection
        self.hello = hello
        self.is_lost = self.is_to_end = False

    def heard(self) -> int | None:
        """The exit code of its worker, if it tells one now; LOST where it is gone itself."""
        try:
            while not self.is_lost and self.connection.poll():
                said = self.connection.recv()
                if said != "signal":
                    return int(said)
                self.is_to_end = True
        except (EOFError, OSError):
            self.is_lost = True
        return LOST if self.is_lost else None


class Ranks:
    """All ranks in the eyes of rank 0, until `close`."""

    def __init__(self, rank: Rank) -> None:
        """Raises: ConfigError or ConnectionError."""
        self.rank = rank
        self.agents: list[Agent] = []
        self._store = rank.store()  # lives as long as the ranks
        self._token = secrets.token_bytes(32)
        self._server = socket.create_server((rank.own_address, 0), backlog=rank.ranks)
        self._groups = 0

    def gather(self) -> list[Hello]:
        """Wait for all agents; what each said of itself. Raises: ConfigError or ConnectionError."""
        self._store.set(MEETING, f"{self._server.getsockname()[1]} {self._token.hex()}")
        until = time.monotonic() + MEETING_SECONDS
        missing = {*range(1, self.rank.ranks)}
        while missing:
            if (connection := self._caller(LOOK_SECONDS)) is not None:
                with suppress(EOFError, OSError):  # it has ended: it does not come
                    agent = Agent(connection, _greeting(connection))
                    if agent.hello.number not in missing:
                        raise ConfigError(
                            f"{agent.hello} comes twice: start each RANK from 0 to "
                            f"{self.rank.ranks - 1} once"
                        )
                    missing.remove(agent.hello.number)
                    self.agents.append(agent)
            if time.monotonic() > until:
                numbers = ", ".join(str(number) for number in sorted(missing))
                raise ConnectionError(
                    f"of {self.rank.ranks} ranks, {numbers} did not come within "
                    f"{MEETING_SECONDS:.0f} s: are they started, and does MASTER_ADDR "
                    f"{self.rank.address} lead them here?"
                )
        self.agents.sort(key=lambda agent: agent.hello.number)
        return [agent.hello for agent in self.agents]

    def new_meeting(self) -> RankMeeting:
        """How the workers of one training find each other."""
        self._groups += 1
        return RankMeeting(rank=self.rank, group=f"training {self._groups}")

    def check(self) -> None:
        """Raises: ConnectionError where a rank is gone, KeyboardInterrupt where one is to end."""
        for agent in self.agents:
            if agent.heard() == LOST:
                raise ConnectionError(f"{agent.hello} is gone")
        if self.are_to_end():
            raise KeyboardInterrupt

    def are_to_end(self) -> bool:
        """Whether a signal to end has reached another rank, which is said once."""
        told = any(agent.is_to_end for agent in self.agents)
        for agent in self.agents:
            agent.is_to_end = False
        return told

    def worker(self, agent: Agent, start: Start) -> tuple[RemoteProcess, Connection]:
        """Have an agent start a worker; its process, and the connection with it.

        Where the agent is gone, the connection is one that has closed.
        """
        process = RemoteProcess(agent)
        with suppress(OSError):
            agent.connection.send(start)
        while process.exitcode is None:
            wait([self._server, agent.connection])
            if (connection := self._caller(0)) is not None:
                return process, connection
        gone, here = SPAWN.Pipe()
        gone.close()
        return process, here

    def close(self) -> None:
        """Let all other ranks go."""
        for agent in self.agents:
            with suppress(OSError):
                agent.connection.send("over")
            agent.connection.close()
        self._server.close()

    def _caller(self, seconds: float) -> Connection | None:
        """A connection that is made within these seconds by one who shows the token."""
        if not wait([self._server], seconds):
            return None
        made = self._server.accept()[0]
        with suppress(OSError):
            shown = _first_bytes(made, len(self._token))
            if hmac.compare_digest(shown, self._token):
                return _connection(made)
        made.close()
        return None


def _first_bytes(made: socket.socket, count: int) -> bytes:
    """What a caller sends first: so many bytes, or fewer if they take longer than a greeting.

    Raises: OSError.
    """
    until = time.monotonic() + GREETING_SECONDS
    shown = b""
    while len(shown) < count and (left := until - time.monotonic()) > 0:
        made.settimeout(left)
        if not (more := made.recv(count - len(shown))):
            break
        shown += more
    return shown


def _greeting(connection: Connection) -> Hello:
    """An agent's first message. Raises: EOFError, OSError or, for other code, ConfigError."""
    try:
        hello: Hello = connection.recv()
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"a rank greets as another version of gim_bench does ({first_line(error)}): install "
            f"the same version on all machines"
        ) from None
    return hello


# -- in the eyes of a trainer ----------------------------------------------------------------------


class CrewOfRanks(Crew):
    """Workers of which rank k starts number k."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks

    def threads_of_each(self, workers: int) -> int:
        """Threads of a worker: those asked for, else as many on all machines as fit on this one."""
        here = 1 if threads_asked_for() else self._ranks.rank.here
        return max(1, torch.get_num_threads() // here)

    @contextmanager
    def meeting(self) -> Iterator[RankMeeting]:
        yield self._ranks.new_meeting()

    def hire(
        self, title: str, serve: Callable[[Any], None], post: Callable[..., Any], *, threads: int
    ) -> None:
        if not self.workers:
            super().hire(f"{title}, rank 0,", serve, post, threads=threads)
            return
        agent = self._ranks.agents[len(self.workers) - 1]
        self.hire_of(agent, title, serve, post, threads=threads)

    def hire_of(
        self,
        agent: Agent,
        title: str,
        serve: Callable[[Any], None],
        post: Callable[..., Any],
        *,
        threads: int,
    ) -> None:
        """`hire` a worker from an agent."""
        process, connection = self._ranks.worker(agent, Start(serve, post, threads))
        title = f"{title}, {agent.hello},"
        self.workers.append(Employed(title=title, process=process, connection=connection))

    def heed_signals(self) -> None:
        """A signal to another rank counts as one to this process."""
        if self._ranks.are_to_end():
            signal.raise_signal(signal.SIGTERM)


# -- in the process of an agent --------------------------------------------------------------------


def attend(rank: Rank, hello: Hello) -> None:
    """Start workers for rank 0, until it needs no more. Raises: ConnectionError."""
    call = _line_to_rank_0(rank)
    try:
        parent = call()
        parent.send(hello)
        with _noted() as signals:
            order: Start | str = ""
            while order != "over":
                order = _next(parent, signals)
                while isinstance(order, Start):  # else "end", of a worker that has ended by itself
                    order = _see_through(order, call(), parent, signals)
    except (EOFError, OSError) as error:
        raise ConnectionError(f"rank 0 at {rank.address} is gone") from error
    except (ImportError, AttributeError) as error:  # of what rank 0 sent
        raise ConnectionError(
            f"rank {rank.number} lacks what rank 0 has ({first_line(error)}): install the same "
            f"packages on all machines"
        ) from error


def _line_to_rank_0(rank: Rank) -> Callable[[], Connection]:
    """A function that connects to rank 0. Raises: ConfigError or ConnectionError."""
    store = rank.store()
    until = time.monotonic() + MEETING_SECONDS
    try:
        while not store.check([MEETING]):
            if time.monotonic() > until:
                raise ConnectionError(
                    f"rank 0 did not come within {MEETING_SECONDS:.0f} s: is it started, and does "
                    f"MASTER_ADDR {rank.address} lead to it?"
                )
            time.sleep(LOOK_SECONDS)
        port, token = store.get(MEETING).decode().split()
    except RuntimeError as error:  # of a store that has ended with rank 0
        raise ConnectionError(f"rank 0 at {rank.address} is gone before it began") from error
    # The store does not say where to connect: others may have written into it.
    address = LOOPBACK if rank.alone else rank.address
    return partial(_connected, address, int(port), bytes.fromhex(token))


def _connected(address: str, port: int, token: bytes) -> Connection:
    made = socket.create_connection((address, port))
    made.sendall(token)
    return _connection(made)


def _next(parent: Connection, signals: list[int]) -> Start | str:
    """The next order of rank 0, which hears of signals to this process."""
    while not wait([parent], LISTENING_SECONDS):
        _pass_on(signals, parent)
    order: Start | str = parent.recv()
    return order


def _see_through(
    start: Start, own: Connection, parent: Connection, signals: list[int]
) -> Start | str:
    """Run a worker, whose connection with rank 0 is `own`, to its end or to an order that ends it.

    Returns the order; empty where the worker has ended by itself.
    """
    post = start.post(parent=own)
    process = SPAWN.Process(target=start.serve, args=(post,), daemon=True)
    with deaf_to_interrupts(), asking_for(start.threads):
        process.start()
    own.close()
    order: Start | str = ""
    try:
        while process.exitcode is None:
            ready = wait([parent, process.sentinel], LISTENING_SECONDS)
            _pass_on(signals, parent)
            if parent in ready:
                order = parent.recv()
                process.kill()
                process.join()
        if order != "over":
            parent.send(process.exitcode)
    finally:
        end(process, at_once=True)
    return order


def _pass_on(signals: list[int], parent: Connection) -> None:
    while signals:
        signals.pop()
        parent.send("signal")


@contextmanager
def _noted() -> Iterator[list[int]]:
    """Within the block, signals to end are put into a list; those that are ignored stay so."""
    heard: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        heard.append(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _connection(made: socket.socket) -> Connection:
    """The socket as a connection that sends at once, and misses a machine that is gone."""
    made.settimeout(None)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # macOS lacks the first
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Connection(made.detach())
