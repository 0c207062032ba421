"""The hinge loss against closed forms and loops with the paper's learning rule; who is given."""

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from gim_bench import seeding
from gim_bench.errors import ConfigError
from gim_bench.objectives.hinge import HingeHead, hinge
from gim_bench.objectives.info_nce import InfoNCEHead, InfoNCESettings
from gim_bench.objectives.prediction import PredictionSettings
from tests.oracles.hinge import slow_hinge


class RecordingHead(HingeHead):
    """A head that keeps the signs, and whose encodings each example was given, call by call."""

    def __init__(self, z_dim: int, c_dim: int | None = None, *, seed: int = 0, **settings) -> None:
        with seeding.weights_from("tests", "head"):
            super().__init__(
                z_dim=z_dim,
                c_dim=c_dim or z_dim,
                settings=PredictionSettings(**settings),
                generator=seeding.generator("tests", "hinge", seed),
            )
        self.signs: list[Tensor] = []
        self.given: list[list[int]] = []

    def _signs(self, examples: int, *, like: Tensor) -> Tensor:
        self.signs.append(super()._signs(examples, like=like))
        return self.signs[-1]

    def _given(self, y: Tensor) -> Tensor:
        found = super()._given(y)
        self.given.append(found.tolist())
        return found


def normal(*shape: int, stream: int = 0) -> Tensor:
    draw = seeding.generator("tests", "normal", stream)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


# -- the function ----------------------------------------------------------------------------------


def test_scores_of_zero_cost_one_whatever_the_sign():
    assert hinge(torch.zeros(4, 3), torch.tensor([1.0, -1.0, 1.0, -1.0])).item() == 1.0


@pytest.mark.parametrize("y", [1.0, -1.0])
@pytest.mark.parametrize(
    ("signed", "loss"), [(-3.0, 4.0), (0.0, 1.0), (0.75, 0.25), (1.0, 0.0), (50.0, 0.0)]
)
def test_a_score_costs_what_it_lacks_to_the_margin_on_the_side_of_y(signed, loss, y):
    assert hinge(torch.full((1, 5), y * signed), torch.tensor([y])).item() == loss


@pytest.mark.parametrize("signed", [1.0, 2.0])
def test_a_score_beyond_the_margin_has_no_gradient(signed):
    scores = torch.full((1, 5), -signed, requires_grad=True)
    hinge(scores, torch.tensor([-1.0])).backward()
    assert not scores.grad.any()


# -- the head --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "skip_rows"), [(1, 0), (3, 1), (2, 2)])
def test_loss_and_gradients_are_those_of_the_learning_rule(steps, skip_rows):
    """To 1e-10 in float64, with a loss on both sides of the margin."""
    head = RecordingHead(3, 4, prediction_steps=steps, skip_rows=skip_rows).double()
    z, c = normal(6, 6, 2, 3).requires_grad_(), normal(6, 6, 2, 4, stream=1).requires_grad_()
    loss = head(z, c)
    loss.backward()
    slow = slow_hinge(
        z.detach(),
        c.detach(),
        weights=list(head.predictors.weight.detach().chunk(steps)),
        given=head.given,
        skip=skip_rows,
    )
    assert {-1.0, 1.0} == set(head.signs[0].tolist())
    assert loss.item() == pytest.approx(slow.loss, rel=1e-10)
    expected = {"z": slow.z, "c": slow.c, "weights": torch.cat(slow.weights)}
    found = {"z": z.grad, "c": c.grad, "weights": head.predictors.weight.grad}
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_head_without_weights_has_the_uninformed_loss():
    head = RecordingHead(4)
    nn.init.zeros_(head.predictors.weight)
    assert head(normal(3, 7, 7, 4).float(), normal(3, 7, 7, 4).float()).item() == 1.0
    assert head.uninformed_loss == 1.0


def test_a_head_that_knows_every_image_reaches_a_loss_of_zero():
    """Each image is one encoding everywhere, and the score is 1 of the own and -1 of another."""
    images = torch.eye(4).view(4, 1, 1, 4).expand(4, 5, 2, 4)
    head = RecordingHead(4, prediction_steps=2, skip_rows=0)
    head.predictors.weight = nn.Parameter((2 * torch.eye(4) - 1).repeat(2, 1))
    assert [head(images, images).item() for _ in range(5)] == [0.0] * 5


def test_signs_are_of_an_example_for_all_steps_and_equally_likely():
    head = RecordingHead(1, prediction_steps=3, skip_rows=0)
    z = normal(40, 5, 1, 1).float()
    for _ in range(25):
        head(z, z)
    assert (len(head.signs), len(head.given)) == (25, 75)
    signs = torch.cat(head.signs)
    assert stats.binomtest(int((signs > 0).sum()), len(signs)).pvalue > 1e-3
    for call, y in enumerate(head.signs):
        for given in head.given[3 * call : 3 * call + 3]:
            own = torch.tensor(given) == torch.arange(40)
            assert torch.equal(own, y > 0), "a negative of the same image, or a false positive"


def test_a_negative_is_any_other_example_with_equal_chances_drawn_anew_for_each_step():
    head = RecordingHead(1, prediction_steps=5, skip_rows=0)
    z = normal(6, 7, 1, 1).float()
    for _ in range(200):
        head(z, z)
    first = [given[0] for given in head.given if given[0] != 0]
    counts = torch.tensor(first).bincount(minlength=6)[1:]
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    assert head.given[0] != head.given[1]


def test_a_batch_of_one_example_is_refused():
    with pytest.raises(ConfigError, match="no other example to draw a negative from"):
        RecordingHead(2)(torch.zeros(1, 7, 7, 2), torch.zeros(1, 7, 7, 2))


def test_the_same_generator_seed_gives_the_same_loss_bit_for_bit():
    z = normal(4, 7, 7, 4).float()
    first, second, other = (RecordingHead(4, seed=seed)(z, z).item() for seed in (5, 5, 6))
    assert first == second != other


def test_predictors_are_those_of_info_nce():
    """The same matrices, drawn alike, so that rows of both begin with equal scores."""
    hinged = RecordingHead(4, 3)
    with seeding.weights_from("tests", "head"):
        contrastive = InfoNCEHead(
            z_dim=4, c_dim=3, settings=InfoNCESettings(), generator=torch.Generator()
        )
    assert torch.equal(hinged.predictors.weight, contrastive.predictors.weight)


def test_a_window_of_anchors_limits_what_predicts():
    head = RecordingHead(2, anchor_rows=3, prediction_steps=2, skip_rows=0).double()
    z, c = normal(4, 20, 1, 2), normal(4, 20, 1, 2, stream=1).requires_grad_()
    head(z, c).backward()
    reached = c.grad.abs().sum(dim=(0, 2, 3)) > 0
    assert reached.sum() == 3
    assert reached.nonzero().flatten().diff().tolist() == [1, 1]


def test_scores_are_in_fp32_under_autocast(monkeypatch):
    z = (5 + 0.25 * normal(8, 5, 5, 32)).bfloat16()
    head = RecordingHead(32, prediction_steps=3)
    found = []
    with monkeypatch.context() as patch, torch.autocast("cpu", dtype=torch.bfloat16):
        patch.setattr(
            "gim_bench.objectives.hinge.hinge",
            lambda scores, y: found.append(scores) or hinge(scores, y),
        )
        loss = head(z, z)
    assert len(found) == 3
    for scores in found:
        assert scores.dtype is loss.dtype is torch.float32
        assert not torch.equal(scores, scores.bfloat16().float())
