"""Features of long recordings, which are read piece by piece: they are those of the whole."""

import pytest
import torch

from gim_bench.encoders.conv_gru import Convolution
from gim_bench.methods import stack
from tests.large import LENGTH, NO_PADDING, speech_learner

STEPS = LENGTH // 160


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return torch.randn(1, STEPS * 160)


@pytest.mark.parametrize("paddings", [NO_PADDING, (2, 2, 2, 2, 1), (7, 9, 5, 3, 2)])
@pytest.mark.parametrize("size", [3, STEPS - 1])
def test_pieces_have_the_features_of_the_whole(inputs, size, paddings, monkeypatch):
    """Of every module, the GRU among them, whose state goes on from piece to piece."""
    monkeypatch.setattr(stack, "LONG_STEPS", size)
    learner = speech_learner(paddings=paddings)
    whole = learner.features(inputs)
    pieces = list(learner.features_in_pieces(inputs))
    assert len(pieces) == -(-STEPS // size)
    assert whole.keys() == pieces[0].keys()
    for module, expected in whole.items():
        found = torch.cat([piece[module] for piece in pieces], dim=1)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-6
        assert expected.std() > 1e-3
        assert not found.requires_grad


def test_no_convolution_is_given_more_than_a_piece_and_its_halo(inputs, monkeypatch):
    monkeypatch.setattr(stack, "LONG_STEPS", 9)
    learner = speech_learner()
    given = []
    for convolution in learner.modules():
        if isinstance(convolution, Convolution):
            convolution.register_forward_pre_hook(lambda _, x: given.append(x[0].shape[2]))
    for _ in learner.features_in_pieces(inputs):
        pass
    assert max(given) <= (9 + 2 * 4) * 160 < inputs.shape[1]


def test_several_long_recordings_are_read_as_wholes(inputs, monkeypatch):
    """Who reads pieces takes them for consecutive steps of one recording."""
    monkeypatch.setattr(stack, "LONG_STEPS", 9)
    learner = speech_learner()
    both = torch.cat([inputs, inputs.flip(1)])
    (found,) = learner.features_in_pieces(both)
    assert {len(values[0]) for values in found.values()} == {STEPS}


def test_recordings_of_up_to_a_minute_are_read_as_one():
    learner = speech_learner()
    inputs = torch.randn(1, 3_200)
    (found,) = learner.features_in_pieces(inputs)
    expected = learner.features(inputs)
    assert all(torch.equal(found[module], expected[module]) for module in expected)
