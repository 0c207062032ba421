"""The ring of shared buffers between two workers of a pipeline, both ends in this process."""

import threading
from dataclasses import replace
from functools import partial
from multiprocessing import Pipe

import pytest
import torch

from gim_bench.contract import Batch
from gim_bench.system.children import NeighbourGoneError
from gim_bench.training.pipeline.ring import BUFFERS, Inlet, Kind, Outlet, Parcel

CPU = torch.device("cpu")


@pytest.fixture
def ring():
    """The upper end of the worker below, and the lower end of the worker above."""
    below, above = Pipe()
    yield Outlet(below), Inlet(above, device=CPU)
    below.close()
    above.close()


def parcel(*views, step=0, labels=None):
    first, *further = views
    batch = Batch(inputs=first, labels=labels or {}, further=tuple(further), encoded_by="module_1")
    return Parcel(kind=Kind.TRAIN, batch=batch, step=step)


def numbers(*shape, dtype=torch.float32):
    return torch.arange(torch.Size(shape).numel(), dtype=dtype).view(shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_arrives_as_it_was_sent(ring, dtype):
    """Values, number format and the order in memory, which decides the last bits of sums."""
    outlet, inlet = ring
    images = numbers(2, 3, 4, 4, dtype=dtype).contiguous(memory_format=torch.channels_last)
    views = [images.unflatten(0, (1, 2)), -images.unflatten(0, (1, 2))]
    labels = {"phone": torch.tensor([[3, -1]])}
    outlet.send(parcel(*views, step=7, labels=labels))
    found = inlet.receive()
    assert (found.kind, found.step, found.batch.encoded_by) == (Kind.TRAIN, 7, "module_1")
    for view, sent in zip(found.batch.views, views, strict=True):
        assert torch.equal(view, sent)
        assert (view.dtype, view.stride()) == (sent.dtype, sent.stride())
    assert torch.equal(found.batch.labels["phone"], labels["phone"])


def test_a_batch_that_was_sent_does_not_change_with_the_sender_s_own(ring):
    outlet, inlet = ring
    own = numbers(2, 3)
    outlet.send(parcel(own))
    held = inlet.receive()
    own.zero_()
    assert torch.equal(held.batch.inputs, numbers(2, 3))


def test_the_sender_waits_where_all_buffers_are_full_until_one_is_released(ring):
    outlet, inlet = ring
    for number in range(BUFFERS):
        outlet.send(parcel(torch.full((4,), float(number))))
    sent = threading.Event()

    def send_another():
        outlet.send(parcel(torch.full((4,), float(BUFFERS))))
        sent.set()

    sender = threading.Thread(target=send_another, daemon=True)
    sender.start()
    first = inlet.receive()
    assert not sent.wait(0.3)
    assert first.batch.inputs.tolist() == [0.0] * 4
    inlet.release()
    assert sent.wait(60)
    rest = []
    for _ in range(BUFFERS):
        rest.append(inlet.receive().batch.inputs[0].item())
        inlet.release()
    assert rest == [float(number + 1) for number in range(BUFFERS)]
    assert outlet.seconds_waited >= 0.3


def test_buffers_are_made_once_and_anew_for_another_shape(ring):
    outlet, inlet = ring
    places = []
    for shape in [(4,)] * (2 * BUFFERS) + [(6,)] * BUFFERS:
        outlet.send(parcel(numbers(*shape)))
        found = inlet.receive().batch.inputs
        assert torch.equal(found, numbers(*shape))
        places.append(found.data_ptr())
        inlet.release()
    assert places[:BUFFERS] == places[BUFFERS : 2 * BUFFERS]
    assert outlet.bytes_trained_on == 4 * (4 * 2 * BUFFERS + 6 * BUFFERS)


def test_an_end_of_an_epoch_takes_no_buffer(ring):
    outlet, inlet = ring
    for _ in range(BUFFERS + 1):
        outlet.send(Parcel(kind=Kind.EPOCH_OVER))
        assert inlet.receive().kind is Kind.EPOCH_OVER
        inlet.release()


def test_the_sender_stays_until_everything_is_read(ring):
    outlet, inlet = ring
    outlet.send(parcel(numbers(4)))
    outlet.send(Parcel(kind=Kind.END))
    gone = threading.Event()

    def stay():
        outlet.wait_until_read()
        gone.set()

    threading.Thread(target=stay, daemon=True).start()
    assert not gone.wait(0.2)
    inlet.receive()
    inlet.release()
    assert gone.wait(60)


@pytest.mark.parametrize("who", ["below", "above"])
def test_a_neighbour_that_has_ended_has_a_name(who):
    ends = dict(zip(("below", "above"), Pipe(), strict=True))
    outlet, inlet = Outlet(ends["below"]), Inlet(ends["above"], device=CPU)
    ends[who].close()
    ask = inlet.receive if who == "below" else partial(outlet.send, parcel(numbers(4)))
    with pytest.raises(NeighbourGoneError):
        ask()


def test_held_out_batches_do_not_count_as_trained_on(ring):
    outlet, _ = ring
    outlet.send(replace(parcel(numbers(4)), kind=Kind.VALIDATE))
    assert outlet.bytes_trained_on == 0
