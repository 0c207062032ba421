"""Streams of random numbers: independent, alike on every machine, and nobody else's business."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gim_bench import seeding

names = st.lists(st.one_of(st.text(max_size=8), st.integers(-5, 2**40)), min_size=1, max_size=4)


def test_seeds_are_the_ones_that_records_were_made_with():
    """A change here moves every number that was ever measured: raise RESULTS_VERSION with it."""
    assert seeding.derive("encoder", 0) == 556_311_573_716_083_405
    assert seeding.derive("data", "photos", 3, 17) == 8_165_978_497_184_097_120


def test_the_first_draws_of_a_stream_are_golden():
    draws = torch.randint(1000, (5,), generator=seeding.generator("negatives", "gim", 0))
    assert draws.tolist() == [21, 452, 216, 311, 763]


@given(a=names, b=names)
@settings(max_examples=100)
def test_different_names_give_different_seeds(a, b):
    assert (seeding.derive(*a) == seeding.derive(*b)) == (a == b)


@given(stream=names)
@settings(max_examples=50)
def test_a_seed_fits_into_63_bits(stream):
    assert 0 <= seeding.derive(*stream) < 2**63


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (("data", "photos", 1), ("data", "photos", 2)),
        (("data", 1), ("data", "1")),
        (("ab", "c"), ("a", "bc")),
        (("a", "b"), ("b", "a")),
        (("a",), ("a", "")),
    ],
)
def test_neighbouring_names_give_unrelated_streams(a, b):
    """Draws of two streams agree no more often than chance has it."""
    first = torch.randint(100, (4000,), generator=seeding.generator(*a))
    second = torch.randint(100, (4000,), generator=seeding.generator(*b))
    assert (first == second).float().mean() < 0.02


def test_drawing_from_one_stream_leaves_another_alone():
    alone = torch.rand(4, generator=seeding.generator("b"))
    a, b = seeding.generator("a"), seeding.generator("b")
    torch.rand(100, generator=a)
    assert torch.equal(torch.rand(4, generator=b), alone)


def test_a_generator_neither_reads_nor_moves_the_global_one():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    drawn = torch.rand(3, generator=seeding.generator("x"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(torch.rand(3, generator=seeding.generator("x")), drawn)


def test_weights_depend_on_their_stream_alone():
    torch.manual_seed(1)
    with seeding.weights_from("encoder", 0):
        first = torch.nn.Linear(3, 3)
    torch.manual_seed(2)
    torch.rand(10)
    with seeding.weights_from("encoder", 0):
        second = torch.nn.Linear(3, 3)
    with seeding.weights_from("encoder", 1):
        other = torch.nn.Linear(3, 3)
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, other.weight)


def test_the_global_generator_is_put_back():
    before = torch.get_rng_state()
    with seeding.weights_from("encoder", 0):
        torch.nn.Linear(3, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_is_put_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="shape"), seeding.weights_from("encoder", 0):
        torch.rand(3).view(2)
    assert torch.equal(torch.get_rng_state(), before)
