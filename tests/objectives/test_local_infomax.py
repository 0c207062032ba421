"""Deep InfoMax's local objective against closed forms, slow loops and symmetries."""

import math

import pytest
import torch
from torch import Tensor, nn

from gim_bench import seeding
from gim_bench.errors import ConfigError
from gim_bench.objectives.local_infomax import (
    LocalInfoMaxHead,
    LocalInfoMaxSettings,
    MINetwork,
    local_infomax,
)
from tests.oracles.local_infomax import places_of, slow_local_infomax, slow_mi_network

EXAMPLES, GLOBALS, PLACES = 3, 2, 4


def normal(*shape: int, stream: int = 0) -> Tensor:
    draw = seeding.generator("tests", "normal", stream)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def a_head(
    *, local_dim: int = 3, global_dim: int = 2, units: int = 5, seed: int = 0
) -> LocalInfoMaxHead:
    """A head in float64 whose norms have gains and biases of their own."""
    with seeding.weights_from("tests", "head", seed):
        head = LocalInfoMaxHead(
            local_dim=local_dim,
            global_dim=global_dim,
            settings=LocalInfoMaxSettings(mi_units=units),
        ).double()
        for module in head.modules():
            if isinstance(module, nn.BatchNorm1d | nn.LayerNorm):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return head


def slow_loss(head: LocalInfoMaxHead, local: Tensor, summary: Tensor) -> Tensor:
    features = [
        slow_mi_network(places_of(grid), dict(network.named_parameters()))
        for grid, network in ((local, head.local_network), (summary, head.global_network))
    ]
    return slow_local_infomax(*features)


def product(globals_: Tensor, places: Tensor) -> Tensor:
    """Scores [n global m place] of features [example … u]."""
    return torch.einsum("ngu,mpu->ngmp", globals_, places)


# -- the loss of scores --------------------------------------------------------------------------


@pytest.mark.parametrize("score", [-300.0, 0.0, 7.5])
@pytest.mark.parametrize(("examples", "places"), [(2, 1), (3, 4), (8, 49)])
def test_equal_scores_give_log_of_the_candidates(examples, places, score):
    """One positive, and all locations of all other images: no other location of the same image."""
    scores = torch.full((examples, GLOBALS, examples, places), score, dtype=torch.float64)
    candidates = 1 + (examples - 1) * places
    assert local_infomax(scores).item() == pytest.approx(math.log(candidates), rel=1e-12)


def test_two_images_of_one_location_give_the_logistic_loss_of_the_margin():
    scores = normal(2, 1, 2, 1)
    margins = [scores[0, 0, 0, 0] - scores[0, 0, 1, 0], scores[1, 0, 1, 0] - scores[1, 0, 0, 0]]
    expected = sum(math.log(1 + math.exp(-margin)) for margin in margins) / 2
    assert local_infomax(scores).item() == pytest.approx(expected, rel=1e-12)


def test_other_locations_of_the_same_image_are_no_candidates_of_a_location():
    """However high the score of one location, the losses of the others are as they were."""
    scores = normal(EXAMPLES, 1, EXAMPLES, 2)
    scores[:, :, :, 1] = -1e6  # the second location is no candidate anywhere
    first_alone = local_infomax(scores[..., :1]).item()
    for n in range(EXAMPLES):
        scores[n, :, n, 1] = 1e6  # and a sure positive of its own image
    assert local_infomax(scores).item() == pytest.approx(first_alone / 2, rel=1e-12)


def test_a_sure_global_approaches_zero():
    own = torch.eye(EXAMPLES, dtype=torch.float64)[:, None, :, None]
    scores = own.expand(EXAMPLES, GLOBALS, EXAMPLES, PLACES)
    losses = [local_infomax(scale * scores).item() for scale in (0, 1, 10, 50)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-12


def test_a_sure_mistake_costs_its_margin_and_stays_finite():
    own = torch.eye(2)[:, None, :, None]
    scores = (-1e30 * own).requires_grad_()
    loss = local_infomax(scores)
    loss.backward()
    assert loss.item() == pytest.approx(1e30)
    assert scores.grad.isfinite().all()


def test_a_common_offset_of_the_scores_of_a_global_does_not_matter():
    scores, offsets = normal(EXAMPLES, GLOBALS, EXAMPLES, PLACES), normal(EXAMPLES, GLOBALS, 1, 1)
    moved = local_infomax(scores + 20 * offsets).item()
    assert moved == pytest.approx(local_infomax(scores).item(), rel=1e-12)


def test_the_order_of_locations_and_of_images_does_not_matter():
    scores = normal(EXAMPLES, GLOBALS, EXAMPLES, PLACES)
    images, places = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    shuffled = scores[images][:, :, images][..., places]
    assert local_infomax(shuffled).item() == pytest.approx(local_infomax(scores).item(), rel=1e-12)


def test_the_loss_equals_the_slow_loop():
    globals_, places = normal(EXAMPLES, GLOBALS, 5), normal(EXAMPLES, PLACES, 5, stream=1)
    slow = slow_local_infomax(places.unbind(), globals_.unbind()).item()
    assert local_infomax(product(globals_, places)).item() == pytest.approx(slow, rel=1e-12)


def test_the_gradient_is_that_of_finite_differences():
    assert torch.autograd.gradcheck(local_infomax, normal(3, 2, 3, 2).requires_grad_())


def test_scores_in_bf16_are_normalised_in_fp32():
    scores = normal(EXAMPLES, GLOBALS, EXAMPLES, PLACES).bfloat16()
    loss = local_infomax(scores)
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(local_infomax(scores.double()).item(), rel=1e-6)


# -- the MI network ------------------------------------------------------------------------------


def test_an_mi_network_has_the_parameters_of_the_recipe():
    """192 channels to 1024 units: both convolutions, the shortcut, two norms, one bias."""
    count = sum(p.numel() for p in MINetwork(192, units=1024).parameters())
    assert count == 192 * 1024 + 2 * 1024 + 1024 * 1024 + 1024 + 192 * 1024 + 2 * 1024


def test_the_published_width_is_the_default():
    assert LocalInfoMaxSettings().mi_units == 1024


def test_the_shortcut_begins_as_the_identity_with_little_noise():
    weight = MINetwork(6, units=8).shortcut.weight.detach()
    noise = weight - torch.eye(8, 6)
    assert torch.equal(weight.diagonal(), torch.ones(6))
    assert 0 < noise.abs().max() <= 0.01


def test_a_network_that_is_too_narrow_for_the_identity_has_linear_s_own_first_weights():
    assert not MINetwork(8, units=6).shortcut.weight.diagonal().eq(1).any()


def test_features_have_mean_zero_and_variance_one_at_every_place():
    features = MINetwork(6, units=64)(normal(2, 3, 3, 6).float())
    assert features.shape == (2, 9, 64)
    torch.testing.assert_close(features.mean(-1), torch.zeros(2, 9), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        features.var(-1, unbiased=False), torch.ones(2, 9), rtol=1e-3, atol=0
    )


# -- the head ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [(2, 1), (2, 2), (1, 1)], ids=str)
def test_loss_and_gradients_equal_the_slow_loops(sides):
    """Loss, gradients of both grids and of all weights, to 1e-10."""
    head = a_head()
    grids = [
        normal(EXAMPLES, side, side, dim, stream=dim).requires_grad_()
        for side, dim in zip(sides, (3, 2), strict=True)
    ]
    wanted = [*grids, *head.parameters()]
    fast, slow = head(*grids), slow_loss(head, *grids)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-10, abs=1e-10)
    for ours, theirs in zip(
        torch.autograd.grad(fast, wanted), torch.autograd.grad(slow, wanted), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_the_uninformed_loss_is_known_from_the_last_batch_with_gradients_on():
    head = a_head()
    assert head.uninformed_loss is None
    head(normal(4, 3, 3, 3), normal(4, 1, 1, 2))
    assert head.uninformed_loss == pytest.approx(math.log(1 + 3 * 9))
    with torch.no_grad():
        head(normal(2, 3, 3, 3), normal(2, 1, 1, 2))  # a held-out batch
    assert head.uninformed_loss == pytest.approx(math.log(1 + 3 * 9))


def test_a_resumed_head_knows_the_uninformed_loss():
    head, resumed = a_head(), a_head(seed=1)
    head(normal(4, 3, 3, 3), normal(4, 1, 1, 2))
    resumed.load_state_dict(head.state_dict())
    assert resumed.uninformed_loss == head.uninformed_loss


def test_a_batch_of_one_image_is_refused():
    with pytest.raises(ConfigError, match=r"one image: raise training\.batch_size"):
        a_head()(normal(1, 2, 2, 3), normal(1, 1, 1, 2))


def test_scores_are_in_fp32_under_autocast(monkeypatch):
    """Scores in the hundreds have a spacing of 1 and more in bf16."""
    head = a_head(units=256).float()
    found = []
    with monkeypatch.context() as patch, torch.autocast("cpu", dtype=torch.bfloat16):
        patch.setattr(
            "gim_bench.objectives.local_infomax.local_infomax",
            lambda scores: found.append(scores) or local_infomax(scores),
        )
        loss = head(normal(3, 2, 2, 3).bfloat16(), normal(3, 1, 1, 2).bfloat16())
    (scores,) = found
    assert scores.dtype is loss.dtype is torch.float32
    assert not torch.equal(scores, scores.bfloat16().float())
