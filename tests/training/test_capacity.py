"""The largest batch: by made-up predicates, and by learners that refuse what is too large."""

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gim_bench.contract import Batch
from gim_bench.settings.schema import Precision, Schedule
from gim_bench.training.capacity import (
    STEPS,
    largest,
    largest_batch,
    repeated,
    resolution,
    take_steps,
)
from gim_bench.training.trainer import Trainer
from tests.tiny_suite import CPU, Scripted

GPU = torch.device("cuda")


# -- the search ------------------------------------------------------------------------------------


@given(limit=st.integers(0, 10**6), start=st.integers(1, 512), up_to=st.integers(1, 10**5))
def test_what_is_found_fits_and_a_sixteenth_more_does_not(limit, start, up_to):
    found = largest(lambda size: size <= limit, start=start, up_to=up_to)
    assert found <= min(limit, up_to)
    assert found == up_to or found + max(1, found // 16) > limit


@given(limit=st.integers(0, 10**6), start=st.integers(1, 512), up_to=st.integers(1, 10**5))
def test_no_size_is_tried_twice_or_beyond_the_bounds(limit, start, up_to):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= limit

    largest(fits, start=start, up_to=up_to)
    assert len(set(tried)) == len(tried) <= 40
    assert all(1 <= size <= up_to for size in tried)


def test_sizes_are_doubled_then_the_gap_is_halved():
    """By hand: 150 fits, to within 9."""
    tried = []
    found = largest(lambda size: tried.append(size) or size <= 150, start=16, up_to=4096)
    assert tried == [16, 32, 64, 128, 256, 192, 160, 144, 152]
    assert (found, resolution(found)) == (144, 9)


def test_a_start_that_does_not_fit_is_halved():
    assert largest(lambda size: size <= 3, start=16, up_to=64) == 3
    assert largest(lambda size: False, start=16, up_to=64) == 0


# -- on a GPU --------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    """A CUDA that only says how much memory is free; the calls that it gets."""
    calls = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70, 80))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: calls.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty_cache"))
    return calls


def refusing(limit, error=torch.OutOfMemoryError):
    """Takes batches of at most so many."""

    def attempt(size):
        if size > limit:
            raise error(f"no room for {size}\nin a second line")

    return attempt


@pytest.mark.usefixtures("gpu")
def test_the_largest_batch_is_found_and_how_is_said():
    found = largest_batch(refusing(70), start=16, up_to=4096, device=GPU)
    assert found.batch == 68
    for words in (
        "2 optimiser steps of a new learner on batches of 16, 32, 64, 128, 96, 80, 72, 68;",
        "fits 68, to within 4; 70 of 80 bytes were free",
    ):
        assert words in found.note


@pytest.mark.usefixtures("gpu")
def test_a_limit_that_was_reached_is_said():
    found = largest_batch(refusing(10**6), start=16, up_to=100, device=GPU)
    assert found.batch == 100
    assert "fits 100, the limit that the suite sets" in found.note


@pytest.mark.usefixtures("gpu")
def test_a_batch_that_fails_for_another_reason_leaves_the_largest_one_unknown():
    """An index of a kernel may overflow before memory is full; the row's other figures stay."""
    found = largest_batch(refusing(40, RuntimeError), start=16, up_to=4096, device=GPU)
    assert found.batch is None
    assert found.note == (
        "not found: 32 fitted; a batch of 64 failed otherwise: RuntimeError: no room for 64"
    )


@pytest.mark.usefixtures("gpu")
def test_cudnn_without_an_engine_for_a_larger_batch_has_no_room_to_work_in():
    """For the first batch it may have no engine at all."""

    def without_engine(_):
        return RuntimeError("GET was unable to find an engine to execute this computation")

    found = largest_batch(refusing(40, without_engine), start=32, up_to=4096, device=GPU)
    assert found.batch == 40
    found = largest_batch(refusing(8, without_engine), start=32, up_to=4096, device=GPU)
    assert found.note.startswith("not found: a batch of 32 failed otherwise: RuntimeError: GET was")


@pytest.mark.usefixtures("gpu")
def test_where_nothing_fits_there_is_no_largest_batch():
    found = largest_batch(refusing(0), start=16, up_to=4096, device=GPU)
    assert found == (None, "not found: not even a batch of 1 fits")


def test_on_a_cpu_nothing_is_tried():
    found = largest_batch(refusing(0, AssertionError), start=1, up_to=2, device=CPU)
    assert found.batch is None
    assert found.note.startswith("not measured: on a CPU nothing is refused")


@pytest.mark.usefixtures("gpu")
def test_nothing_of_a_try_is_left_when_the_cache_is_emptied(monkeypatch):
    """Though an error holds on to the functions that it passed, and they to their tensors."""
    held, left = [], []
    monkeypatch.setattr(
        torch.cuda, "empty_cache", lambda: left.append([ref() for ref in held if ref() is not None])
    )

    def attempt(size):
        tensors = [torch.empty(size)]
        tensors.append(tensors)  # a cycle, as autograd may leave one
        held.append(weakref.ref(tensors[0]))
        refusing(20)(size)

    gc.disable()
    try:
        largest_batch(attempt, start=16, up_to=32, device=GPU)
    finally:
        gc.enable()
    assert len(held) == 6  # 16, 32, 24, 20, 22, 21
    assert left == [[]] * 7


def test_a_size_counts_once_the_gpu_has_done_all_of_its_work(gpu):
    largest_batch(refusing(16), start=16, up_to=16, device=GPU)
    assert gpu == ["empty_cache", "synchronize", "empty_cache"]


# -- what is tried ---------------------------------------------------------------------------------


def test_a_batch_is_repeated_until_there_are_so_many():
    batch = Batch(inputs=torch.arange(3.0)[:, None], labels={"class": torch.tensor([7, 8, 9])})
    found = repeated(batch, 7)
    assert found.inputs[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert found.labels["class"].tolist() == [7, 8, 9, 7, 8, 9, 7]
    assert repeated(batch, 2).labels["class"].tolist() == [7, 8]


class Noting(Scripted):
    """Notes which unit is asked for, and that the optimiser has its moments from the first on."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def losses(self, batch, *, only=None):
        self.asked.append(only)
        yield from ((u, loss) for u, loss in super().losses(batch) if only in (None, u))


@pytest.mark.parametrize(
    ("schedule", "asked"),
    [
        (Schedule.JOINT, [None] * STEPS),
        (Schedule.SEQUENTIAL, ["module_1"] * STEPS + ["module_2"] * STEPS),
    ],
)
def test_every_stage_of_training_takes_its_steps(schedule, asked):
    learner = Noting()
    trainer = Trainer(
        learner, learning_rate=0.1, schedule=schedule, precision=Precision.FP32, device=CPU
    )
    take_steps(trainer, Batch(inputs=torch.zeros(1, 1), labels={}))
    assert learner.asked == asked
    moments = [bool(optimiser.state) for optimiser in trainer.optimisers.values()]
    assert moments == [schedule is Schedule.JOINT] * 2  # in sequence they are let go
