"""InfoNCE against closed forms, a slow loop and symmetries; the head against what Eq. 4 asks."""

import math

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from gim_bench import seeding
from gim_bench.config import InfoNCESettings
from gim_bench.objectives.info_nce import InfoNCEHead, info_nce
from tests.oracles.info_nce import slow_info_nce

ANCHORS, CANDIDATES, NEGATIVES, DIM = 6, 10, 4, 5


class RecordingHead(InfoNCEHead):
    """A head that keeps the negatives it drew, one tensor for each k."""

    def __init__(self, dim: int, *, seed: int = 0, **settings: int) -> None:
        draw = seeding.generator("tests", "negatives", seed)
        with seeding.weights_from("tests", "head"):
            super().__init__(dim, settings=InfoNCESettings(**settings), generator=draw)
        self.drawn: list[Tensor] = []

    def _draw(self, *sizes: int, device: torch.device) -> Tensor:
        self.drawn.append(super()._draw(*sizes, device=device))
        return self.drawn[-1]


def normal(*shape: int, stream: int = 0) -> Tensor:
    draw = seeding.generator("tests", "normal", stream)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def indices(*shape: int, stream: int = 0) -> Tensor:
    draw = seeding.generator("tests", "indices", stream)
    return torch.randint(CANDIDATES, shape, generator=draw)


# -- the function ------------------------------------------------------------------------------


@pytest.mark.parametrize("negatives", [1, 10, 16, 255])
def test_equal_scores_give_log_of_candidates(negatives):
    """With identical encodings, InfoNCE equals log(1 + negatives)."""
    loss = info_nce(
        normal(ANCHORS, DIM),
        torch.ones(CANDIDATES, DIM, dtype=torch.float64),
        positives=indices(ANCHORS),
        negatives=indices(ANCHORS, negatives),
    )
    assert loss.item() == pytest.approx(math.log(1 + negatives), rel=1e-12)


def test_a_prediction_of_zero_gives_log_of_candidates():
    loss = info_nce(
        torch.zeros(ANCHORS, DIM, dtype=torch.float64),
        normal(CANDIDATES, DIM),
        positives=indices(ANCHORS),
        negatives=indices(ANCHORS, NEGATIVES),
    )
    assert loss.item() == pytest.approx(math.log(1 + NEGATIVES), rel=1e-12)


def test_a_perfect_prediction_approaches_zero():
    candidates = torch.eye(CANDIDATES, dtype=torch.float64)
    positives = torch.arange(ANCHORS)
    negatives = (positives[:, None] + torch.arange(1, NEGATIVES + 1)) % CANDIDATES
    losses = [
        info_nce(
            scale * candidates[positives], candidates, positives=positives, negatives=negatives
        ).item()
        for scale in (0.0, 1.0, 10.0, 50.0)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-12


def test_a_confident_mistake_costs_its_margin_and_stays_finite():
    """The stable form grows with the scores' gap, where log(softmax + 1e-11) stops at 25.3."""
    loss = info_nce(
        torch.tensor([[1000.0]]),
        torch.tensor([[0.0], [1.0]]),
        positives=torch.tensor([0]),
        negatives=torch.tensor([[1]]),
    )
    assert loss.item() == pytest.approx(1000.0)


def test_a_negative_that_is_the_positive_counts_as_a_candidate():
    """Negatives may include the positive (appendix A.1): then even a sure guess costs ln 2."""
    loss = info_nce(
        torch.tensor([[100.0]]),
        torch.tensor([[1.0], [-1.0]]),
        positives=torch.tensor([0]),
        negatives=torch.tensor([[0, 1]]),
    )
    assert loss.item() == pytest.approx(math.log(2))


def test_the_mean_over_anchors_is_the_mean_of_their_own_losses():
    predictions, candidates = normal(ANCHORS, DIM), normal(CANDIDATES, DIM, stream=1)
    positives, negatives = indices(ANCHORS), indices(ANCHORS, NEGATIVES, stream=1)
    each = [
        info_nce(
            predictions[[a]], candidates, positives=positives[[a]], negatives=negatives[[a]]
        ).item()
        for a in range(ANCHORS)
    ]
    whole = info_nce(predictions, candidates, positives=positives, negatives=negatives)
    assert whole.item() == pytest.approx(sum(each) / ANCHORS, rel=1e-12)


@given(stream=st.integers(0, 2**30))
@settings(deadline=None, max_examples=20)
def test_the_order_of_the_negatives_does_not_matter(stream):
    predictions, candidates = normal(ANCHORS, DIM, stream=stream), normal(CANDIDATES, DIM)
    positives, negatives = indices(ANCHORS), indices(ANCHORS, NEGATIVES, stream=stream)
    order = torch.randperm(NEGATIVES, generator=seeding.generator("order", stream))
    one, other = (
        info_nce(predictions, candidates, positives=positives, negatives=n)
        for n in (negatives, negatives[:, order])
    )
    assert one.item() == pytest.approx(other.item(), rel=1e-12)


@given(stream=st.integers(0, 2**30), offset=st.floats(-50, 50))
@settings(deadline=None, max_examples=20)
def test_a_common_offset_of_all_scores_does_not_matter(stream, offset):
    """Adding a constant channel to every candidate adds the same to every score of an anchor."""
    predictions, candidates = normal(ANCHORS, DIM, stream=stream), normal(CANDIDATES, DIM)
    positives, negatives = indices(ANCHORS), indices(ANCHORS, NEGATIVES, stream=stream)
    plain = info_nce(predictions, candidates, positives=positives, negatives=negatives)
    predictions = torch.cat([predictions, torch.full((ANCHORS, 1), offset).double()], dim=1)
    candidates = torch.cat([candidates, torch.ones(CANDIDATES, 1).double()], dim=1)
    offset_ = info_nce(predictions, candidates, positives=positives, negatives=negatives)
    assert offset_.item() == pytest.approx(plain.item(), rel=1e-9)


def test_the_gradient_is_that_of_finite_differences():
    positives, negatives = indices(ANCHORS), indices(ANCHORS, NEGATIVES, stream=1)
    assert torch.autograd.gradcheck(
        lambda p, c: info_nce(p, c, positives=positives, negatives=negatives),
        (normal(ANCHORS, DIM).requires_grad_(), normal(CANDIDATES, DIM).requires_grad_()),
    )


def test_scores_in_bf16_are_normalised_in_fp32():
    """Softmax over 17 candidates loses its differences in bf16; the loss is fp32."""
    loss = info_nce(
        normal(ANCHORS, DIM).bfloat16(),
        normal(CANDIDATES, DIM).bfloat16(),
        positives=indices(ANCHORS),
        negatives=indices(ANCHORS, NEGATIVES),
    )
    assert loss.dtype is torch.float32


@pytest.mark.parametrize("candidates", [100, 1000])
def test_few_drawn_of_many_candidates_score_as_all_of_them_would(candidates):
    """However the scores are computed, in fp32 the loss and both gradients equal those in fp64."""
    positives = torch.randint(candidates, (20,), generator=seeding.generator("tests", "few"))
    negatives = torch.randint(candidates, (20, 3), generator=seeding.generator("tests", "many"))
    found = []
    for dtype in (torch.float32, torch.float64):
        p = normal(20, DIM).to(dtype).requires_grad_()
        c = normal(candidates, DIM, stream=1).to(dtype).requires_grad_()
        loss = info_nce(p, c, positives=positives, negatives=negatives)
        loss.backward()
        found.append([value.double() for value in (loss.detach(), p.grad, c.grad)])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


# -- the head ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "skip_rows"), [(1, 0), (1, 1), (3, 0), (2, 1), (1, 3)])
def test_the_head_equals_the_slow_loop(steps, skip_rows):
    head = RecordingHead(3, prediction_steps=steps, skip_rows=skip_rows, negatives=5).double()
    z, c = normal(2, 5, 4, 3), normal(2, 5, 4, 3, stream=1)
    loss = head(z, c)
    slow = slow_info_nce(
        z,
        c,
        weights=[predictor.weight.detach() for predictor in head.predictors],
        negatives=head.drawn,
        skip_rows=skip_rows,
    )
    assert loss.item() == pytest.approx(slow, rel=1e-10)


@pytest.mark.parametrize("skip_rows", [0, 1, 2])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_positive_of_step_k_is_skip_rows_plus_k_rows_below_the_anchor(k, skip_rows):
    """Every place has an encoding of its own, and W_k foretells the place that many rows down.

    A sure guess then costs ln(1 + how often the positive is among its negatives), and nothing
    else; a target one row off would cost the scale of the scores.
    """
    images, rows, columns = 2, 6, 3
    places = torch.arange(images * rows * columns).view(images, rows, columns)
    z = torch.eye(places.numel()).view(images, rows, columns, -1)
    head = RecordingHead(places.numel(), prediction_steps=k, skip_rows=skip_rows, negatives=16)
    for step, predictor in enumerate(head.predictors, start=1):
        shift = torch.zeros(places.numel(), places.numel())
        down = skip_rows + step
        shift[places[:, down:].flatten(), places[:, :-down].flatten()] = 200.0
        predictor.weight = nn.Parameter(shift)
    loss = head(z, z)
    expected = []
    for step, drawn in enumerate(head.drawn, start=1):
        positive = rearrange(
            places[:, skip_rows + step :], "image row column -> (image row column)"
        )
        hits = (drawn == positive[:, None]).sum(dim=1)
        expected.append(torch.log(1.0 + hits).mean())
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


def test_identical_encodings_give_the_chance_level_of_the_paper():
    """ln 17 with 16 negatives, whatever the weights."""
    head = RecordingHead(8)
    loss = head(torch.ones(4, 7, 7, 8), torch.ones(4, 7, 7, 8))
    assert loss.item() == pytest.approx(math.log(17), rel=1e-6)


def test_every_step_has_a_matrix_of_its_own_and_no_bias():
    head = RecordingHead(8, prediction_steps=5)
    assert [tuple(p.shape) for p in head.parameters()] == [(8, 8)] * 5


@pytest.mark.parametrize(
    ("dim", "parameters"), [(256, 327_680), (512, 1_310_720), (1024, 5_242_880)]
)
def test_a_loss_head_has_the_parameters_of_the_released_code(dim, parameters):
    with torch.device("meta"):
        head = InfoNCEHead(dim, settings=InfoNCESettings(), generator=torch.Generator())
    assert sum(p.numel() for p in head.parameters()) == parameters


def test_negatives_are_uniform_over_all_encodings_of_the_batch():
    """A chi-square test over every place of every image: top rows and own image included."""
    head = RecordingHead(2, prediction_steps=1, skip_rows=0, negatives=100)
    z = torch.zeros(8, 7, 7, 2)
    for _ in range(3):
        head(z, z)
    counts = torch.cat(head.drawn).flatten().bincount(minlength=8 * 7 * 7)
    assert len(counts) == 8 * 7 * 7
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_an_anchor_s_own_image_is_no_likelier_than_another():
    head = RecordingHead(2, prediction_steps=1, skip_rows=0, negatives=200)
    z = torch.zeros(8, 7, 7, 2)
    head(z, z)
    (drawn,) = head.drawn
    image_of_anchor = torch.arange(8).repeat_interleave(6 * 7)
    own = (drawn // 49 == image_of_anchor[:, None]).double().mean().item()
    assert own == pytest.approx(1 / 8, abs=0.005)


def test_anchors_steps_and_calls_draw_negatives_of_their_own():
    head = RecordingHead(2, prediction_steps=2, skip_rows=0, negatives=16)
    z = torch.zeros(4, 5, 5, 2)
    head(z, z)
    head(z, z)
    first_k1, first_k2, second_k1, _ = head.drawn
    assert not torch.equal(first_k1[0], first_k1[1])
    assert not torch.equal(first_k1[: len(first_k2)], first_k2)
    assert not torch.equal(first_k1, second_k1)


def test_the_same_generator_seed_gives_the_same_loss_bit_for_bit():
    z = normal(3, 7, 7, 4).float()
    torch.manual_seed(1)
    first = [RecordingHead(4, seed=5)(z, z).item()]
    torch.manual_seed(2)
    second = [RecordingHead(4, seed=5)(z, z).item()]
    assert first == second
    assert RecordingHead(4, seed=6)(z, z).item() not in first


def test_negatives_leave_the_global_generator_alone():
    head = RecordingHead(4)
    before = torch.get_rng_state()
    head(torch.zeros(2, 7, 7, 4), torch.zeros(2, 7, 7, 4))
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_reach_predictors_contexts_and_candidates():
    head = RecordingHead(4)
    z = normal(2, 7, 7, 4).float().requires_grad_()
    c = normal(2, 7, 7, 4, stream=1).float().requires_grad_()
    head(z, c).backward()
    assert all(p.grad.abs().sum() > 0 for p in head.parameters())
    assert z.grad.abs().sum() > 0
    assert (c.grad[:, :5].abs().sum(dim=-1) > 0).all()
    assert (c.grad[:, 5:] == 0).all(), "the two lowest rows have nothing below them to predict"
