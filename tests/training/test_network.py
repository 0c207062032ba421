"""Batches between two workers that share no memory, each end in a process of its own."""

import time
from dataclasses import replace

import pytest
import torch

from gim_bench.contract import Batch
from gim_bench.system.children import NeighbourGoneError
from gim_bench.training.pipeline.network import NetworkInlet
from gim_bench.training.pipeline.ring import Kind, Parcel
from tests.forked import start
from tests.training.distant_pair import heard, pair


@pytest.fixture(scope="module", autouse=True)
def forked():
    start()


def parcel(*views, step=0, labels=None, kind=Kind.TRAIN):
    first, *further = views
    batch = Batch(inputs=first, labels=labels or {}, further=tuple(further), encoded_by="module_1")
    return Parcel(kind=kind, batch=batch, step=step)


def views_of(dtype):
    """A dense view whose channels come last, and one whose values are not dense in memory."""
    values = torch.arange(96, dtype=dtype).view(2, 3, 4, 4)
    dense = values.contiguous(memory_format=torch.channels_last).unflatten(0, (1, 2))
    return dense, -values[:, :, ::2].unflatten(0, (1, 2))


LABELS = {"phone": torch.tensor([[3, -1]])}


def send_views(outlet, pipe):
    for step, dtype in enumerate((torch.float32, torch.bfloat16)):
        outlet.send(parcel(*views_of(dtype), step=step, labels=LABELS))
    outlet.send(replace(parcel(torch.ones(4)), kind=Kind.VALIDATE))
    outlet.wait_until_read()
    pipe.send(outlet.bytes_trained_on)


def check_views(inlet, pipe):
    for step, dtype in enumerate((torch.float32, torch.bfloat16)):
        found = inlet.receive()
        assert (found.kind, found.step, found.batch.encoded_by) == (Kind.TRAIN, step, "module_1")
        for view, sent in zip(found.batch.views, views_of(dtype), strict=True):
            assert torch.equal(view, sent)
            assert view.dtype == sent.dtype
            assert view.stride() == torch.empty_like(sent).stride()
        assert torch.equal(found.batch.labels["phone"], LABELS["phone"])
        inlet.release()
    assert inlet.receive().kind is Kind.VALIDATE
    inlet.release()
    pipe.send("as sent")


def test_batches_arrive_as_they_were_sent():
    """Values, number format and the order in memory, which decides the last bits of sums."""
    with pair(send_views, check_views) as (below, above):
        assert (heard(below), heard(above)) == ("joined", "joined")
        assert heard(above) == "as sent"
        assert heard(below) == 2 * (96 + 48) * 4 - (96 + 48) * 2  # held-out batches do not count


def send_three(outlet, pipe):
    for number in range(3):
        outlet.send(parcel(torch.full((4,), float(number))))
        pipe.send(number)
    outlet.send(Parcel(kind=Kind.END))
    outlet.wait_until_read()
    pipe.send(outlet.seconds_waited)


def take_when_told(inlet, pipe):
    while (found := inlet.receive()).kind is not Kind.END:
        pipe.send(found.batch.inputs.tolist())
        assert pipe.recv() == "go on"
        inlet.release()


def test_the_sender_waits_until_the_receiver_is_done_with_the_batch_before():
    with pair(send_three, take_when_told) as (below, above):
        assert (heard(below), heard(above)) == ("joined", "joined")
        assert heard(below) == 0
        for number in range(3):
            assert heard(above) == [float(number)] * 4
            assert not below.poll(0.3)
            above.send("go on")
            if number < 2:
                assert heard(below) == number + 1
        assert heard(below) >= 0.5


def wait_for_ever(end, pipe):
    pipe.recv()


def meet_the_end(end, pipe):
    try:
        if isinstance(end, NetworkInlet):
            end.receive()
        else:
            for _ in range(3):
                end.send(parcel(torch.ones(4)))
    except NeighbourGoneError as error:
        pipe.send(type(error.__cause__).__name__)
    time.sleep(60)


@pytest.mark.parametrize("who", ["below", "above"])
def test_a_neighbour_that_has_ended_has_a_name(who):
    works = (wait_for_ever, meet_the_end) if who == "below" else (meet_the_end, wait_for_ever)
    with pair(*works) as pipes:
        assert [heard(pipe) for pipe in pipes] == ["joined", "joined"]
        pipes[who == "above"].close()  # the process ends with an error
        assert heard(pipes[who == "below"]) == "RuntimeError"
