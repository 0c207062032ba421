"""Worker processes that start in milliseconds: forks of a process that has imported everything."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver

import pytest

from gim_bench.hardware.threads import asking_for
from gim_bench.training import workers

FORKED = multiprocessing.get_context("forkserver")
# A process of one thread may be forked; PyTorch starts none as it is imported. The first step of an
# optimiser imports torch._dynamo, for seconds.
FORKED.set_forkserver_preload(
    ["gim_bench.cells.run", "gim_bench.testing.cases", "baselines", "torch._dynamo"]
)


def start() -> None:
    """Start the process that is forked, in which every library has one thread."""
    with asking_for(1):
        forkserver.ensure_running()


@contextmanager
def forked_workers() -> Iterator[None]:
    """Within the block, the workers of trainings are forked."""
    start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "SPAWN", FORKED)
        yield


@contextmanager
def spawned_workers() -> Iterator[None]:
    """Within the block, the workers of trainings are started as users' are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "SPAWN", multiprocessing.get_context("spawn"))
        yield
