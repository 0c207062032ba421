"""A buffer between two processes that share no memory and do not wait for each other."""

import time
from functools import partial

import pytest
import torch

from gim_bench.contract import Batch
from gim_bench.settings.schema import BufferPolicy, BufferSettings
from gim_bench.system.children import NeighbourGoneError
from gim_bench.training.pipeline.network_buffer import (
    BufferSeat,
    NetworkBufferInlet,
    NetworkBufferOutlet,
)
from tests.forked import start
from tests.training.distant_pair import CPU, heard, pair

LAST = 99  # step of the worker below
LEAST_USED, FRESHEST = BufferPolicy


@pytest.fixture(scope="module", autouse=True)
def forked():
    start()


def buffered(seat, *, policy=LEAST_USED):
    seat = BufferSeat(
        meeting=seat.meeting,
        number=seat.number,
        peer=seat.peer,
        buffer=BufferSettings(size=2, policy=policy),
        last_step=LAST,
    )
    end = NetworkBufferInlet(seat, device=CPU) if seat.number else NetworkBufferOutlet(seat)
    end.open()
    return end


def batch(value, **labels):
    """Two views, of which the first has its channels last in memory."""
    first = torch.full((2, 3, 4, 4), float(value)).contiguous(memory_format=torch.channels_last)
    further = torch.full((2, 3), -float(value), dtype=torch.bfloat16)
    return Batch(inputs=first, further=(further,), labels=labels, encoded_by="module_1")


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never comes"
        time.sleep(0.01)


def put_as_told(outlet, pipe):
    """Put a batch of each version that the pipe names; tell whether there is room when it asks."""
    while (said := pipe.recv()) != "close":
        if said == "room?":
            pipe.send(outlet.has_room())
        else:
            outlet.put(batch(said, phone=torch.tensor([said])), version=said)
            pipe.send("put")
    outlet.close()
    pipe.send(outlet.bytes_trained_on)


def take_as_told(inlet, pipe):
    while pipe.recv() != "close":
        found, use = inlet.take()
        first, further = found.views
        assert first.is_contiguous(memory_format=torch.channels_last)
        assert first.unique().item() == -further.unique().item() == found.labels["phone"].item()
        assert (further.dtype, found.encoded_by) == (torch.bfloat16, "module_1")
        pipe.send((use.version, use.number, use.made))
    inlet.close()
    pipe.send(inlet.seconds_waited)


class Pair:
    """Both processes, as the test's own process orders them about."""

    def __init__(self, pipes):
        self.below, self.above = pipes
        assert [heard(pipe) for pipe in pipes] == ["joined", "joined"]

    def put(self, version):
        self.below.send(version)
        assert heard(self.below) == "put"

    def take(self):
        self.above.send("take")
        return heard(self.above)

    def has_room(self):
        self.below.send("room?")
        return heard(self.below)

    def close(self):
        self.below.send("close")
        self.above.send("close")
        return heard(self.below), heard(self.above)


BYTES = 2 * 3 * 16 * 4 + 2 * 3 * 2  # of a batch's views


def test_batches_arrive_as_they_were_put_and_are_used_again():
    with pair(put_as_told, take_as_told, end_of=buffered) as pipes:
        both = Pair(pipes)
        both.put(7)
        assert [both.take() for _ in range(3)] == [(7, 0, 1)] * 3
        both.put(8)
        until(lambda: both.take() == (8, 1, 2))
        assert both.take() in {(7, 0, 2), (8, 1, 2)}
        sent, _ = both.close()
        assert sent == 2 * BYTES


def test_the_first_batch_is_waited_for():
    with pair(put_as_told, take_as_told, end_of=buffered) as pipes:
        both = Pair(pipes)
        both.above.send("take")
        assert not both.above.poll(0.5)
        both.put(0)
        assert heard(both.above) == (0, 0, 1)
        _, waited = both.close()
        assert waited >= 0.1


def test_nobody_waits_and_the_newest_batch_arrives_whatever_is_dropped_on_the_way():
    with pair(put_as_told, take_as_told, end_of=partial(buffered, policy=FRESHEST)) as pipes:
        both = Pair(pipes)
        for version in range(60):
            both.put(version)
        until(lambda: both.take() == (59, 59, 60))
        sent, _ = both.close()
        assert 0 < sent <= 60 * BYTES


@pytest.mark.parametrize(("policy", "unused"), [(LEAST_USED, 2), (FRESHEST, 1)])
def test_a_worker_that_has_trained_is_asked_for_what_the_buffer_has_room_for(policy, unused):
    """And for one more, which waits on its side."""
    with pair(put_as_told, take_as_told, end_of=partial(buffered, policy=policy)) as pipes:
        both = Pair(pipes)
        for _ in range(unused + 1):
            until(both.has_room)
            both.put(LAST + 1)
        time.sleep(1.0)
        assert not both.has_room()
        assert both.take() == (LAST + 1, 0, unused)
        until(both.has_room)
        both.close()


def test_batches_of_a_worker_that_trains_push_unused_ones_out():
    with pair(put_as_told, take_as_told, end_of=buffered) as pipes:
        both = Pair(pipes)
        for version in range(5):
            until(both.has_room)
            both.put(version)
        until(both.has_room)
        time.sleep(1.0)  # the last one may be under way
        assert [both.take()[1] for _ in range(2)] == [3, 4]
        both.close()


def go_on_until_the_end(end, pipe):
    """Take or put batches for as long as the neighbour is there."""
    try:
        while True:
            if isinstance(end, NetworkBufferInlet):
                end.take()
            else:
                end.put(batch(0, phone=torch.tensor([0])), version=0)
            pipe.send("there")
            time.sleep(0.01)
    except NeighbourGoneError as error:
        pipe.send(type(error.__cause__).__name__)
    time.sleep(60)


@pytest.mark.parametrize("who", ["below", "above"])
def test_a_neighbour_that_has_ended_is_missed_at_the_next_batch(who):
    """Above even so where a batch is left that could be used again."""
    works = [put_as_told, take_as_told]
    works[who == "below"] = go_on_until_the_end
    with pair(*works, end_of=buffered) as pipes:
        assert [heard(pipe) for pipe in pipes] == ["joined", "joined"]
        gone, left = pipes if who == "below" else reversed(pipes)
        if who == "below":
            gone.send(0)
            assert heard(gone) == "put"
        assert heard(left) == "there"
        gone.close()  # the process ends with an error
        until(lambda: heard(left) != "there")
