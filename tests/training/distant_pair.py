"""Two processes that share no memory, connected as two workers of a pipeline are."""

import traceback
from contextlib import contextmanager, suppress

import torch
from torch.distributed import TCPStore

from gim_bench.hardware.process_group import connected
from gim_bench.hardware.ranks import Rank, RankMeeting
from gim_bench.training.pipeline.network import NetworkInlet, NetworkOutlet, Seat
from tests.forked import FORKED

CPU = torch.device("cpu")


def lossless(seat):
    return NetworkInlet(seat, device=CPU) if seat.number else NetworkOutlet(seat)


@contextmanager
def pair(below, above, *, end_of=lossless):
    """Processes that run `below(outlet, pipe)` and `above(inlet, pipe)`; yields their pipes."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    rank = Rank(number=0, ranks=2, local=0, here=2, address="127.0.0.1", port=store.port,
                attempt="0", has_store=True)  # fmt: skip
    meeting = RankMeeting(rank=rank, group="pair")
    pipes, processes = [], []
    for number, work in enumerate((below, above)):
        here, there = FORKED.Pipe()
        seat = Seat(meeting=meeting, number=number, peer=1 - number)
        process = FORKED.Process(target=_run, args=(work, seat, there, end_of))
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    try:
        yield pipes
    finally:
        for process in processes:
            process.kill()
            process.join()


def _run(work, seat, pipe, end_of):
    try:
        with connected(seat.meeting, number=seat.number, processes=2, device=CPU):
            end = end_of(seat)
            pipe.send("joined")
            work(end, pipe)
            if end_of is lossless:
                end.wait_until_sent()
    except Exception:
        with suppress(OSError):
            pipe.send(traceback.format_exc())
        raise


def heard(pipe):
    assert pipe.poll(60), "the other process says nothing"
    return pipe.recv()
