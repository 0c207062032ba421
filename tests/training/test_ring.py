"""The ring of shared buffers between two workers of a pipeline, both ends in this process."""

import threading
from multiprocessing import Pipe

import pytest
import torch

from gim_bench.contract import Batch
from gim_bench.training.pipeline.ring import BUFFERS, Kind, Lower, Parcel, Upper

CPU = torch.device("cpu")


@pytest.fixture
def ring():
    """The upper end of the worker below, and the lower end of the worker above."""
    below, above = Pipe()
    yield Upper(below), Lower(above, device=CPU)
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
    upper, lower = ring
    images = numbers(2, 3, 4, 4, dtype=dtype).contiguous(memory_format=torch.channels_last)
    views = [images.unflatten(0, (1, 2)), -images.unflatten(0, (1, 2))]
    labels = {"phone": torch.tensor([[3, -1]])}
    upper.send(parcel(*views, step=7, labels=labels))
    found = lower.receive()
    assert (found.kind, found.step, found.batch.encoded_by) == (Kind.TRAIN, 7, "module_1")
    for view, sent in zip(found.batch.views, views, strict=True):
        assert torch.equal(view, sent)
        assert (view.dtype, view.stride()) == (sent.dtype, sent.stride())
    assert torch.equal(found.batch.labels["phone"], labels["phone"])


def test_a_batch_without_a_share_of_memory_keeps_its_values_while_others_are_sent(ring):
    """What is sent into the other buffers leaves it alone, and so does the sender's own tensor."""
    upper, lower = ring
    own = numbers(2, 3)
    upper.send(parcel(own))
    held = lower.receive()
    own.zero_()
    for number in range(BUFFERS - 1):
        upper.send(parcel(torch.full((2, 3), float(number))))
    assert torch.equal(held.batch.inputs, numbers(2, 3))


def test_the_sender_waits_where_all_buffers_are_full_until_one_is_released(ring):
    upper, lower = ring
    for number in range(BUFFERS):
        upper.send(parcel(torch.full((4,), float(number))))
    sent = threading.Event()

    def send_another():
        upper.send(parcel(torch.full((4,), float(BUFFERS))))
        sent.set()

    sender = threading.Thread(target=send_another, daemon=True)
    sender.start()
    first = lower.receive()
    assert not sent.wait(0.3)
    assert first.batch.inputs.tolist() == [0.0] * 4
    lower.release()
    assert sent.wait(60)
    rest = []
    for _ in range(BUFFERS):
        rest.append(lower.receive().batch.inputs[0].item())
        lower.release()
    assert rest == [float(number + 1) for number in range(BUFFERS)]
    assert upper.seconds_waited >= 0.3


def test_buffers_are_made_once_and_anew_for_another_shape(ring):
    upper, lower = ring
    places = []
    for shape in [(4,)] * (2 * BUFFERS) + [(6,)] * BUFFERS:
        upper.send(parcel(numbers(*shape)))
        found = lower.receive().batch.inputs
        assert torch.equal(found, numbers(*shape))
        places.append(found.data_ptr())
        lower.release()
    assert places[:BUFFERS] == places[BUFFERS : 2 * BUFFERS]
    assert upper.bytes_sent == 4 * (4 * 2 * BUFFERS + 6 * BUFFERS)


def test_an_end_of_an_epoch_takes_no_buffer(ring):
    upper, lower = ring
    for _ in range(BUFFERS + 1):
        upper.send(Parcel(kind=Kind.EPOCH_OVER))
        assert lower.receive().kind is Kind.EPOCH_OVER
        lower.release()


def test_the_sender_stays_until_everything_is_read(ring):
    upper, lower = ring
    upper.send(parcel(numbers(4)))
    upper.send(Parcel(kind=Kind.END))
    gone = threading.Event()

    def stay():
        upper.wait_until_read()
        gone.set()

    threading.Thread(target=stay, daemon=True).start()
    assert not gone.wait(0.2)
    lower.receive()
    lower.release()
    assert gone.wait(60)


def test_where_nobody_is_below_any_more_the_reader_is_told(ring):
    upper, lower = ring
    upper._connection.close()
    with pytest.raises(EOFError):
        lower.receive()
