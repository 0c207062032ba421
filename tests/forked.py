"""Processes that start in milliseconds: forks of a process that has imported everything."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

from gim_bench.__main__ import main as gim_bench
from gim_bench.cells import crew
from gim_bench.hardware.threads import asking_for
from gim_bench.training import workers

FORKED = multiprocessing.get_context("forkserver")
# A process of one thread may be forked; PyTorch starts none as it is imported. The first step of an
# optimiser imports torch._dynamo, for seconds.
FORKED.set_forkserver_preload(
    [
        "gim_bench.cli.main",
        "gim_bench.cells.run",
        "gim_bench.testing.cases",
        "baselines",
        "mlflow",
        "torch._dynamo",
    ]
)
STREAMS = ("out", "err")


def start() -> None:
    """Start the process that is forked, in which every library has one thread."""
    with asking_for(1):
        forkserver.ensure_running()


@contextmanager
def forked_workers() -> Iterator[None]:
    """Within the block, the workers of trainings and of tables are forked."""
    start()
    with _workers_by(FORKED):
        yield


@contextmanager
def spawned_workers() -> Iterator[None]:
    """Within the block, the workers of trainings and of tables are started as users' are."""
    with _workers_by(multiprocessing.get_context("spawn")):
        yield


@contextmanager
def _workers_by(context: BaseContext) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (workers, crew):
            patch.setattr(module, "SPAWN", context)
        yield


class Command:
    """A whole command in a forked process, for tests that take it for a `subprocess.Popen`."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        variables: Mapping[str, str],
        main: Callable[[], None] = gim_bench,
    ) -> None:
        """Runs `main` in that folder, with these variables and no others."""
        start()
        self._said = tempfile.TemporaryDirectory()
        for name in STREAMS:
            Path(self._said.name, name).touch()
        given = (main, str(folder), dict(variables), arguments, self._said.name)
        self._process = FORKED.Process(target=_run, args=given)
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises: TimeoutExpired."""
        self._process.join(timeout)
        if (code := self.returncode) is None:
            raise subprocess.TimeoutExpired("gim_bench", timeout)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Standard output and standard error, once it has ended. Raises: TimeoutExpired."""
        self.wait(timeout)
        with self._said as folder:
            out, err = (Path(folder, name).read_text() for name in STREAMS)
        return out, err


def _run(
    main: Callable[[], None],
    folder: str,
    variables: dict[str, str],
    arguments: Sequence[str],
    said: str,
) -> None:
    """What `python -m` does with a module; what it says goes to files in the folder `said`."""
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.path[:0] = [folder, *variables.get("PYTHONPATH", "").split(os.pathsep)]
    for number, name in enumerate(STREAMS, start=1):
        os.dup2(os.open(Path(said, name), os.O_WRONLY), number)
    sys.argv = [main.__module__, *arguments]
    main()
