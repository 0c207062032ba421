"""What a parent hears of its workers, and of those that have ended."""

import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from gim_bench.errors import DataError, WorkerError
from gim_bench.hardware.ranks import Rank
from gim_bench.training import workers
from gim_bench.training.agents import _line_to_rank_0
from gim_bench.training.workers import Crew, at_post, send_state, tell


class Place:
    """The place of a worker that does one thing."""

    def __init__(self, what, *, parent):
        self.what, self.parent = what, parent


def serve(place):
    if place.what == "dies":
        raise SystemExit(3)
    if place.what == "reports and fails":
        at_post(place.parent, lambda: reports_and_fails(place.parent))
    time.sleep(60)


def reports_and_fails(parent):
    tell(parent, "losses", {}, True)
    send_state(parent, {"weights": torch.zeros(3)})
    raise DataError("the tile is damaged")


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("dies", WorkerError, "process 2 ended with exit code 3"),
        # Before it fails it sends a state: bytes that are no message, and none at their end.
        ("reports and fails", DataError, "the tile is damaged"),
    ],
)
def test_the_end_of_a_worker_is_noticed_while_another_one_is_heard(what, error, words, monkeypatch):
    """At once, and not when that one ends; as of one that dies while others are being hired."""
    monkeypatch.setattr(workers, "LAST_WORDS_SECONDS", 0.1)
    crew = Crew()
    try:
        crew.hire("process 1", serve, partial(Place, "waits"), threads=1)
        crew.hire("process 2", serve, partial(Place, what), threads=1)
        crew.workers[1].process.join()
        with pytest.raises(error, match=words):
            crew.hear(crew.workers[0], "ready")
        assert crew.workers[0].process.is_alive()
    finally:
        crew.end()


def test_a_store_that_ends_with_rank_0_is_no_traceback(monkeypatch):
    def gone(_):
        raise RuntimeError("Connection reset by peer")

    monkeypatch.setattr(Rank, "store", lambda _: SimpleNamespace(check=gone))
    rank = Rank(
        number=1, ranks=2, local=0, here=1, address="10.0.0.1", port=1, attempt="", has_store=True
    )
    with pytest.raises(ConnectionError, match=r"rank 0 at 10\.0\.0\.1 is gone before it began"):
        _line_to_rank_0(rank)
