"""Tasks of Ray that run a command each, and are tried again where a worker or its node dies."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gim_bench.errors import ConfigError, first_line, one_line
from gim_bench.system.interrupts import ENDINGS

ANSWER_SECONDS = 10.0
LOOK_SECONDS = 2.0  # between two looks at the tasks
FAREWELL_SECONDS = 60.0  # in which commands write their checkpoints
AUTO = "auto"
WRONG_USE = 2
# Exit codes of a command that another try does not help: done, a cell failed, wrong use.
ENDED = (0, 1, WRONG_USE)
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
# A cluster of this machine alone listens on the loopback address, and tells nobody of its use.
OF_THIS_MACHINE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A command, where it runs, and what it asks the cluster for."""

    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str]  # beside that of the node
    log: Path
    cpus: int
    gpus: int
    memory_bytes: int | None
    retries: int


@contextmanager
def cluster(address: str | None) -> Iterator[str]:
    """A connection with a Ray cluster, or with a new one of this machine; yields what it is.

    Raises: ConfigError where Ray is not installed, or no cluster answers.
    """
    if address is None:
        os.environ.update(OF_THIS_MACHINE)
    elif address != AUTO:
        _knock(address)
    try:
        import ray
    except ImportError:
        raise ConfigError("Ray is not installed: pip install 'gim-bench[ray]'") from None
    before = {number: signal.getsignal(number) for number in ENDINGS}
    try:
        ray.init(address=address, include_dashboard=None if address else False, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"no Ray cluster at {address or 'this machine'} ({one_line(first_line(error))}): start "
            f"one with `ray start --head`, or correct `address` in the launcher options"
        ) from None
    finally:  # Ray brings a handler of its own
        for number, handler in before.items():
            signal.signal(number, handler)
    try:
        yield f"Ray at {address}" if address else "Ray on this machine"
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself would try for many minutes. Raises: ConfigError where nothing answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except ValueError:
        raise ConfigError(
            f"address = {address!r} in the launcher options is none of Ray: use "
            f'"host:port" or "{AUTO}"'
        ) from None
    except OSError as error:
        raise ConfigError(
            f"no Ray cluster answers at {address} ({error.strerror or first_line(error)}): start "
            f"one with `ray start --head`, or correct `address` in the launcher options"
        ) from None


def run(tasks: Sequence[Task]) -> Iterator[str]:
    """Run the tasks; yields an empty line at every look, and a line for each task that gave up.

    A task is tried again where its command was killed, or its worker or node died. A command that
    refuses its own arguments gave up, too; which cells failed, records say. An interruption ends
    all commands, which have time to write checkpoints.
    """
    import ray

    # Nodes need not find this package before the command does.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

    def started(task: Task) -> Any:
        asked: dict[str, Any] = {"num_cpus": task.cpus, "num_gpus": task.gpus}
        if task.memory_bytes is not None:
            asked["memory"] = task.memory_bytes
        remote = ray.remote(max_retries=task.retries, retry_exceptions=True, **asked)(work)
        return remote.remote(
            [*task.command], str(task.folder), dict(task.environment), str(task.log)
        )

    pending = [started(task) for task in tasks]
    try:
        while pending:
            ended, pending = ray.wait(pending, timeout=LOOK_SECONDS)
            for each in ended:
                try:
                    if (code := ray.get(each)) == WRONG_USE:
                        yield f"a worker gave up: its command ended with exit code {code}"
                except ray.exceptions.RayError as error:
                    reason = getattr(error, "cause", None) or error  # else the line names a task
                    yield f"a worker gave up: {one_line(first_line(reason))}"
            yield ""
    finally:
        for each in pending:
            ray.cancel(each)
        if pending:
            ray.wait(pending, num_returns=len(pending), timeout=FAREWELL_SECONDS)


def work(command: list[str], folder: str, environment: dict[str, str], log: str) -> int:
    """Run the command in a task; returns its exit code. Raises: RuntimeError if it was ended."""
    with Path(log).open("ab") as file:
        process = subprocess.Popen(  # noqa: S603 - without a shell
            command,
            cwd=folder,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - this process has no other threads of ours
        )
        try:
            code = process.wait()
        finally:  # a task that is cancelled
            process.terminate()
            process.wait(FAREWELL_SECONDS)
    if code not in ENDED:
        raise RuntimeError(f"the command ended with exit code {code}: its log is {log}")
    return code


def _end_with_parent() -> None:
    """On Linux, this process gets SIGTERM when the task's process ends, however that ends."""
    import ctypes

    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
