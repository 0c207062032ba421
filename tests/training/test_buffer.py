"""The buffer between two workers that do not wait, both ends in this process."""

from multiprocessing import Lock, Pipe

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from gim_bench.contract import Batch
from gim_bench.settings.schema import BufferPolicy
from gim_bench.system.children import NeighbourGoneError
from gim_bench.training.pipeline.buffer import BufferInlet, BufferOutlet, Link, Slots
from tests.training.plain_buffer import PlainBuffer

LEAST_USED, FRESHEST = BufferPolicy


@pytest.fixture
def ends(request):
    """The upper end of the worker below, and the lower end of the worker above."""
    slots, lock = Slots(size=2, policy=getattr(request, "param", LEAST_USED)), Lock()
    below, above = (Link(connection=end, slots=slots, lock=lock) for end in Pipe())
    yield BufferOutlet(below), BufferInlet(above, device=torch.device("cpu"))
    below.close()
    above.close()


def batch(value, **labels):
    views = [torch.full((2, 3), float(value)), torch.full((2, 3), -float(value))]
    return Batch(inputs=views[0], further=(views[1],), labels=labels, encoded_by="module_1")


@settings(max_examples=150, deadline=None)
@given(
    size=some.integers(1, 4),
    policy=some.sampled_from(BufferPolicy),
    puts=some.lists(some.booleans(), max_size=40),
)
def test_slots_are_filled_and_used_as_in_a_plain_list(size, policy, puts):
    slots, plain = Slots(size=size, policy=policy), PlainBuffer(size, policy)
    lying = {}
    for version, is_put in enumerate([True, *puts]):
        if is_put:
            number = plain.put(version)
            lying[slots.put(number=number, version=version)] = number
        else:
            slot, use = slots.take()
            assert use == plain.take()
            assert lying[slot] == use.number
        assert slots.have_room() == plain.has_room()


def test_the_least_used_are_used_in_turn():
    slots = Slots(size=3, policy=LEAST_USED)
    for version in range(3):
        slots.put(number=version, version=version)
    taken = [slots.take()[1] for _ in range(4)]
    assert [use.number for use in taken] == [0, 1, 2, 0]
    assert [use.staleness for use in taken] == [2, 1, 0, 2]
    slots.put(number=3, version=3)  # in the place of number 0, which was used most
    assert slots.take()[1].number == 3


def test_the_freshest_is_used_again_until_there_is_a_newer_one():
    slots = Slots(size=2, policy=FRESHEST)
    taken = []
    for version in range(3):
        slots.put(number=version, version=version)
        taken += [slots.take()[1].number, slots.take()[1].number]
    assert taken == [0, 0, 1, 1, 2, 2]


def test_a_worker_that_does_not_train_any_more_makes_nothing_stale():
    slots = Slots(size=2, policy=LEAST_USED)
    slots.put(number=7, version=7)
    slots.put(number=8, version=7)
    use = slots.take()[1]
    assert (use.version, use.staleness) == (7, 0)


def test_a_batch_arrives_as_it_was_put(ends):
    outlet, inlet = ends
    phones = torch.tensor([[3, -1], [0, 1]])
    outlet.put(batch(5, phone=phones), version=0)
    found, use = inlet.take()
    assert [view.unique().item() for view in found.views] == [5.0, -5.0]
    assert torch.equal(found.labels["phone"], phones)
    assert found.encoded_by == "module_1"
    assert (use.made, use.number) == (1, 0)


def test_neither_end_waits_for_the_other(ends):
    """In one process, where waiting would last for ever."""
    outlet, inlet = ends
    for value in range(100):
        outlet.put(batch(value), version=value)
    found = [inlet.take()[0].inputs.unique().item() for _ in range(100)]
    assert found == [98.0, 99.0] * 50


def test_a_batch_in_use_does_not_change_with_its_slot(ends):
    outlet, inlet = ends
    outlet.put(batch(1), version=0)
    found, _ = inlet.take()
    for value in (2, 3, 4):
        outlet.put(batch(value), version=value)
    assert found.inputs.unique().item() == 1.0


@pytest.mark.parametrize(("ends", "unused"), [(LEAST_USED, 2), (FRESHEST, 1)], indirect=["ends"])
def test_there_is_room_until_a_batch_would_be_dropped_unused(ends, unused):
    """Of the freshest the newest alone can be used: one that is unused is enough."""
    outlet, inlet = ends
    for value in range(unused):
        assert outlet.has_room()
        outlet.put(batch(value), version=value)
    assert not outlet.has_room()
    inlet.take()
    assert outlet.has_room()
    outlet.put(batch(unused), version=unused)
    assert not outlet.has_room()


def test_a_worker_below_that_is_gone_before_its_first_batch_is_missed(ends):
    outlet, inlet = ends
    outlet._link.close()
    with pytest.raises(NeighbourGoneError):
        inlet.take()
