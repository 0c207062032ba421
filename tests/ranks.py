"""Ranks of a command, all on this machine: this process is rank 0, the others are forked."""

import multiprocessing
import signal
from contextlib import contextmanager
from dataclasses import replace

import pytest
from torch.distributed import TCPStore

from gim_bench.cells.ranks import attended
from gim_bench.hardware.ranks import Rank
from gim_bench.system.interrupts import terminate_as_interrupt
from gim_bench.training import agents
from gim_bench.training.agents import Ranks
from tests.forked import FORKED

GONE = 1  # exit code of a rank that misses rank 0


@contextmanager
def ranks_started(count, *, data_dir=None):
    """All ranks and, by number, the processes of those that are agents, with that --data-dir."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    rank = Rank(number=0, ranks=count, local=0, here=count, address="127.0.0.1", port=store.port,
                attempt="0", has_store=True)  # fmt: skip
    processes = {
        number: FORKED.Process(target=be, args=(replace(rank, number=number), data_dir))
        for number in range(1, count)
    }
    for process in processes.values():
        process.start()
    ranks = Ranks(rank)
    try:
        ranks.gather()
        yield ranks, processes
    finally:
        ranks.close()
        for process in processes.values():
            process.join(60)
            process.kill()
            process.join()


def be(rank, data_dir=None):
    """Work as that rank with its own --data-dir, in a process that was forked for it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate_as_interrupt()
    with pytest.MonkeyPatch.context() as patch:
        # A worker that is forked starts in milliseconds.
        patch.setattr(agents, "SPAWN", multiprocessing.get_context("fork"))
        patch.setattr(agents, "LISTENING_SECONDS", 0.01)
        try:
            attended(rank, device="cpu", named=[], data_dir=data_dir)
        except ConnectionError:
            raise SystemExit(GONE) from None
