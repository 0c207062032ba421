"""InfoNCE against closed forms, a slow loop and symmetries; the head against what Eq. 4 asks."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from gim_bench import seeding
from gim_bench.hardware import devices
from gim_bench.objectives.info_nce import InfoNCEHead, InfoNCESettings, info_nce
from tests.oracles.info_nce import expected_info_nce, slow_info_nce

ANCHORS, NEGATIVES = 6, 4


class RecordingHead(InfoNCEHead):
    """A head that keeps its anchors and the encodings that it drew for them, call by call."""

    def __init__(self, z_dim: int, c_dim: int | None = None, *, seed: int = 0, **settings) -> None:
        draw = seeding.generator("tests", "negatives", seed)
        with seeding.weights_from("tests", "head"):
            super().__init__(
                z_dim=z_dim,
                c_dim=c_dim or z_dim,
                settings=InfoNCESettings(**settings),
                generator=draw,
            )
        self.anchors: list[Tensor] = []
        self.drawn: list[Tensor] = []

    @property
    def weights(self) -> list[Tensor]:
        """W_1 … W_K."""
        return list(self.predictors.weight.detach().chunk(self.settings.prediction_steps))

    def _places(self, z: Tensor, c: Tensor) -> tuple[Tensor, list[Tensor]]:
        predicting, scored = super()._places(z, c)
        self.anchors.append(c.detach().flatten(0, 2)[predicting])
        self.drawn.append(z.detach().flatten(0, 2)[scored[1]])
        return predicting, scored


class ScriptedHead(RecordingHead):
    """A head whose negatives are the places that it is told, [example i column negative]."""

    places: Tensor

    def _places(self, z: Tensor, c: Tensor) -> tuple[Tensor, list[Tensor]]:
        predicting, (targets, _) = super()._places(z, c)
        return predicting, [targets, self.places]


def normal(*shape: int, stream: int = 0) -> Tensor:
    draw = seeding.generator("tests", "normal", stream)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def numbered(examples: int, rows: int, columns: int) -> Tensor:
    """A grid whose encodings say which place they are of, [example row column 1]."""
    return torch.arange(float(examples * rows * columns)).view(examples, rows, columns, 1)


def places_of(drawn: Tensor, z: Tensor) -> Tensor:
    """Which place each of these encodings was drawn from."""
    same = (drawn.unsqueeze(-2) == z.flatten(0, 2)).all(dim=-1)
    assert (same.sum(dim=-1) == 1).all(), "not an encoding of the batch"
    return same.long().argmax(dim=-1)


def first_row_of(anchors: Tensor, c: Tensor) -> int:
    """The row of c where these anchors, rows of c below each other, begin."""
    (first,) = (
        row
        for row in range(c.shape[1] - anchors.shape[1] + 1)
        if torch.equal(c[:, row : row + anchors.shape[1]], anchors)
    )
    return first


# -- the function ------------------------------------------------------------------------------


def mean_loss(positives: Tensor, negatives: Tensor) -> Tensor:
    """Over anchors, with the scores of an anchor's negatives in the last dimension."""
    return info_nce(torch.cat([positives.unsqueeze(-1), negatives], dim=-1)).mean()


@pytest.mark.parametrize("score", [-300.0, 0.0, 7.5])
@pytest.mark.parametrize("negatives", [1, 10, 16, 255])
def test_equal_scores_give_log_of_candidates(negatives, score):
    """With identical encodings, InfoNCE equals log(1 + negatives)."""
    positives = torch.full((ANCHORS,), score, dtype=torch.float64)
    loss = mean_loss(positives, positives.unsqueeze(1).expand(ANCHORS, negatives))
    assert loss.item() == pytest.approx(math.log(1 + negatives), rel=1e-12)


def test_the_loss_equals_the_formula_written_out():
    """Eq. 4 with its exponentials and without care for their range."""
    positives, negatives = normal(ANCHORS), normal(ANCHORS, NEGATIVES, stream=1)
    expected = 0.0
    for positive, others in zip(positives.tolist(), negatives.tolist(), strict=True):
        candidates = math.exp(positive) + sum(math.exp(other) for other in others)
        expected -= math.log(math.exp(positive) / candidates) / ANCHORS
    assert mean_loss(positives, negatives).item() == pytest.approx(expected, rel=1e-12)


def test_a_perfect_prediction_approaches_zero():
    negatives = torch.zeros(ANCHORS, NEGATIVES, dtype=torch.float64)
    losses = [mean_loss(negatives[:, 0] + score, negatives).item() for score in (0, 1, 10, 50)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-12


@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_a_confident_mistake_costs_its_margin_and_stays_finite(scale):
    """The stable form grows with the scores' gap, where log(softmax + 1e-11) stops at 25.3."""
    positives = torch.zeros(1, requires_grad=True)
    loss = mean_loss(positives, torch.tensor([[scale, -scale]]))
    loss.backward()
    assert loss.item() == pytest.approx(scale)
    assert positives.grad.item() == -1.0


def test_a_negative_that_is_the_positive_counts_as_a_candidate():
    """Negatives may include the positive (appendix A.1): then even a sure guess costs ln 2."""
    loss = mean_loss(torch.tensor([100.0]), torch.tensor([[100.0, -100.0]]))
    assert loss.item() == pytest.approx(math.log(2))


def test_the_mean_over_anchors_is_the_mean_of_their_own_losses():
    """However the anchors are laid out."""
    positives, negatives = normal(2, 3), normal(2, 3, NEGATIVES, stream=1)
    each = [
        mean_loss(positives[place], negatives[place]).item()
        for place in product(range(2), range(3))
    ]
    assert mean_loss(positives, negatives).item() == pytest.approx(sum(each) / 6, rel=1e-12)


@given(stream=st.integers(0, 2**30))
@settings(max_examples=20)
def test_the_order_of_the_negatives_does_not_matter(stream):
    positives, negatives = normal(ANCHORS), normal(ANCHORS, NEGATIVES, stream=stream)
    order = torch.randperm(NEGATIVES, generator=seeding.generator("order", stream))
    shuffled = mean_loss(positives, negatives[:, order]).item()
    assert shuffled == pytest.approx(mean_loss(positives, negatives).item(), rel=1e-12)


@given(stream=st.integers(0, 2**30), offset=st.floats(-50, 50))
@settings(max_examples=20)
def test_a_common_offset_of_all_scores_does_not_matter(stream, offset):
    positives, negatives = normal(ANCHORS), normal(ANCHORS, NEGATIVES, stream=stream)
    moved = mean_loss(positives + offset, negatives + offset).item()
    assert moved == pytest.approx(mean_loss(positives, negatives).item(), rel=1e-9)


def test_the_gradient_is_that_of_finite_differences():
    assert torch.autograd.gradcheck(
        mean_loss,
        (normal(ANCHORS).requires_grad_(), normal(ANCHORS, NEGATIVES, stream=1).requires_grad_()),
    )


def test_scores_in_bf16_are_normalised_in_fp32():
    """Softmax over 17 candidates loses its differences in bf16; the loss is fp32."""
    positives, negatives = normal(ANCHORS).bfloat16(), normal(ANCHORS, NEGATIVES).bfloat16()
    loss = mean_loss(positives, negatives)
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(
        mean_loss(positives.double(), negatives.double()).item(), rel=1e-6
    )


# -- the head: what it predicts ----------------------------------------------------------------


@pytest.mark.parametrize("anchor_rows", [None, 1, 2, 4])
@pytest.mark.parametrize(("steps", "skip_rows"), [(1, 0), (1, 1), (3, 0), (2, 1), (1, 3)])
def test_the_head_equals_the_slow_loop(steps, skip_rows, anchor_rows):
    """Also where c has other channels than z, and where only a window of rows predicts."""
    head = RecordingHead(
        3, 2, prediction_steps=steps, skip_rows=skip_rows, negatives=5, anchor_rows=anchor_rows
    ).double()
    z, c = normal(2, 8, 2, 3), normal(2, 8, 2, 2, stream=1)
    loss = head(z, c)
    windowed = anchor_rows is not None and anchor_rows + skip_rows + steps < 8
    slow = slow_info_nce(
        z,
        c,
        weights=head.weights,
        negatives=[places_of(head.drawn[0], z)] * steps,
        skip_rows=skip_rows,
        first_row=first_row_of(head.anchors[0], c),
        anchor_rows=anchor_rows if windowed else None,
    )
    assert loss.item() == pytest.approx(slow, rel=1e-10)


@pytest.mark.parametrize("skip_rows", [0, 1, 2])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_positive_of_step_k_is_skip_rows_plus_k_rows_below_the_anchor(steps, skip_rows):
    """Every place has an encoding of its own, and W_k foretells the place that many rows down.

    A sure guess then costs ln(1 + how often the positive is among its negatives), and nothing
    else; a target one row off would cost the scale of the scores.
    """
    examples, rows, columns = 2, 6, 3
    places = torch.arange(examples * rows * columns).view(examples, rows, columns)
    z = torch.eye(places.numel()).view(examples, rows, columns, -1)
    head = RecordingHead(places.numel(), prediction_steps=steps, skip_rows=skip_rows, negatives=16)
    shifts = []
    for k in range(1, steps + 1):
        shift = torch.zeros(places.numel(), places.numel())
        down = skip_rows + k
        shift[places[:, down:].flatten(), places[:, :-down].flatten()] = 200.0
        shifts.append(shift)
    head.predictors.weight = nn.Parameter(torch.cat(shifts))
    loss = head(z, z)
    drawn = places_of(head.drawn[0], z)
    expected = []
    for k in range(1, steps + 1):
        positive = places[:, skip_rows + k :]
        hits = (drawn[:, : positive.shape[1]] == positive.unsqueeze(-1)).sum(dim=-1)
        expected.append(torch.log(1.0 + hits).mean())
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


def test_identical_encodings_give_the_chance_level_of_the_paper():
    """ln 17 with 16 negatives, whatever the weights."""
    head = RecordingHead(8)
    loss = head(torch.ones(4, 7, 7, 8), torch.ones(4, 7, 7, 8))
    assert loss.item() == pytest.approx(math.log(17), rel=1e-6)


def test_every_step_has_a_matrix_from_c_to_z_and_no_bias():
    head = RecordingHead(8, 6, prediction_steps=5)
    assert [tuple(p.shape) for p in head.parameters()] == [(5 * 8, 6)]


def test_the_stacked_matrices_begin_as_matrices_of_their_own_would():
    """Uniform up to 1/√channels of c: what nn.Linear gives each W_k, however many there are."""
    weight = RecordingHead(64, 25, prediction_steps=12).predictors.weight
    assert stats.kstest(weight.detach().flatten(), stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("dim", "parameters"), [(256, 327_680), (512, 1_310_720), (1024, 5_242_880)]
)
def test_a_loss_head_has_the_parameters_of_the_released_code(dim, parameters):
    with torch.device("meta"):
        head = InfoNCEHead(
            z_dim=dim, c_dim=dim, settings=InfoNCESettings(), generator=torch.Generator()
        )
    assert sum(p.numel() for p in head.parameters()) == parameters


@pytest.mark.parametrize("anchor_rows", [None, 2])
def test_the_head_s_gradients_are_those_of_finite_differences(anchor_rows):
    """With respect to encodings, contexts and matrices, the negatives among the encodings."""
    head = RecordingHead(
        2, 3, prediction_steps=2, skip_rows=1, negatives=3, anchor_rows=anchor_rows
    ).double()
    task = head.generator.get_state()

    def loss(z: Tensor, c: Tensor, weight: Tensor) -> Tensor:
        head.generator.set_state(task)
        return torch.func.functional_call(head, {"predictors.weight": weight}, (z, c))

    inputs = normal(2, 7, 1, 2), normal(2, 7, 1, 3, stream=1), normal(4, 3, stream=2)
    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in inputs])


def test_gradients_reach_contexts_that_predict_and_all_encodings():
    """The two top rows of z are never a target: they are trained as negatives alone."""
    head = RecordingHead(4)
    z = normal(2, 7, 7, 4).float().requires_grad_()
    c = normal(2, 7, 7, 4, stream=1).float().requires_grad_()
    head(z, c).backward()
    assert head.predictors.weight.grad.all()
    assert (z.grad.abs().sum(dim=-1) > 0).all()
    assert (c.grad[:, :5].abs().sum(dim=-1) > 0).all()
    assert (c.grad[:, 5:] == 0).all(), "the two lowest rows have nothing below them to predict"


def test_huge_scores_leave_loss_and_gradients_finite():
    head = RecordingHead(4)
    z = (1e8 * normal(2, 7, 7, 4)).float().requires_grad_()
    loss = head(z, z)
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()
    assert head.predictors.weight.grad.isfinite().all()


# -- the head: negatives -----------------------------------------------------------------------


@pytest.mark.parametrize("anchor_rows", [None, 2])
def test_negatives_are_uniform_over_all_encodings_of_the_batch(anchor_rows):
    """A chi-square test over every place of every example: rows that predict nothing, rows
    outside of the window of anchors and the anchor's own example included.
    """
    head = RecordingHead(1, prediction_steps=1, skip_rows=0, negatives=100, anchor_rows=anchor_rows)
    z = numbered(8, 7, 7)
    for _ in range(3):
        head(z, z)
    counts = torch.cat(head.drawn, dim=1).long().flatten().bincount(minlength=8 * 7 * 7)
    assert len(counts) == 8 * 7 * 7
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_an_anchor_s_own_example_is_no_likelier_than_another():
    head = RecordingHead(1, prediction_steps=1, skip_rows=0, negatives=200)
    z = numbered(8, 7, 7)
    head(z, z)
    example_of_negative = head.drawn[0].long() // 49
    own = example_of_negative == torch.arange(8).view(8, 1, 1, 1, 1)
    assert own.double().mean().item() == pytest.approx(1 / 8, abs=0.005)


def test_anchors_and_calls_draw_negatives_of_their_own():
    head = RecordingHead(1, prediction_steps=2, skip_rows=0, negatives=16)
    z = numbered(4, 5, 5)
    head(z, z)
    head(z, z)
    first, second = head.drawn
    by_anchor = first.flatten(0, 2).squeeze(-1)
    assert len(by_anchor.unique(dim=0)) == len(by_anchor) == 4 * 4 * 5
    assert not torch.equal(first, second)


def test_negatives_shared_by_all_k_give_the_expectation_that_draws_of_their_own_give():
    """Exactly: the mean over all that may be drawn for the anchors, each once, is the same.

    Three rows and K = 2: the top row predicts both rows below, with the same two negatives.
    """
    head = ScriptedHead(2, prediction_steps=2, skip_rows=0, negatives=2).double()
    z, c = normal(1, 3, 1, 2), normal(1, 3, 1, 2, stream=1)
    losses = []
    for places in product(range(3), repeat=2 * 2):  # for each of two anchors two negatives
        head.places = torch.tensor(places).view(1, 2, 1, 2)
        losses.append(head(z, c).item())
    exact = expected_info_nce(z, c, weights=head.weights, negatives=2, skip_rows=0)
    assert sum(losses) / len(losses) == pytest.approx(exact, rel=1e-10)


def test_the_mean_loss_over_many_calls_is_the_expectation():
    """Within four standard errors of its own."""
    head = RecordingHead(2, prediction_steps=3, skip_rows=0, negatives=2).double()
    z, c = 2 * normal(2, 4, 1, 2), 2 * normal(2, 4, 1, 2, stream=1)
    with torch.no_grad():
        losses = torch.stack([head(z, c) for _ in range(2000)])
    exact = expected_info_nce(z, c, weights=head.weights, negatives=2, skip_rows=0)
    standard_error = losses.std().item() / len(losses) ** 0.5
    assert losses.mean().item() == pytest.approx(exact, abs=4 * standard_error)
    assert standard_error < exact / 100


def test_the_same_generator_seed_gives_the_same_loss_bit_for_bit():
    z = normal(3, 7, 7, 4).float()
    torch.manual_seed(1)
    first = [RecordingHead(4, seed=5, anchor_rows=1)(z, z).item()]
    torch.manual_seed(2)
    second = [RecordingHead(4, seed=5, anchor_rows=1)(z, z).item()]
    assert first == second
    assert RecordingHead(4, seed=6, anchor_rows=1)(z, z).item() not in first


def test_negatives_leave_the_global_generator_alone():
    head = RecordingHead(4, prediction_steps=2, anchor_rows=1)
    before = torch.get_rng_state()
    head(torch.zeros(2, 7, 7, 4), torch.zeros(2, 7, 7, 4))
    assert torch.equal(torch.get_rng_state(), before)


# -- the head: a window of anchors -------------------------------------------------------------


def windows(*, rows: int, calls: int, **settings) -> list[list[int]]:
    """The rows that predicted in each call, the same in both examples."""
    head = RecordingHead(1, negatives=1, **settings)
    z = numbered(2, rows, 1)
    for _ in range(calls):
        head(z, z)
    (found,) = {tuple(map(tuple, (a - a[:, :1]).flatten(1).tolist())) for a in head.anchors}
    assert found[0] == found[1] == tuple(range(len(found[0])))
    for anchors in head.anchors:
        assert (anchors[1] - anchors[0] == rows).all(), "examples have windows of their own"
    return [anchors[0].flatten().long().tolist() for anchors in head.anchors]


def test_anchors_are_one_window_of_rows_whose_place_is_uniform_over_all_that_fit():
    """Of 12 rows 4 predict, up to 3 rows below one that is skipped: 5 windows have all targets."""
    found = windows(rows=12, calls=400, anchor_rows=4, prediction_steps=3, skip_rows=1)
    first = torch.tensor([rows[0] for rows in found])
    assert all(rows == list(range(rows[0], rows[0] + 4)) for rows in found)
    counts = first.bincount()
    assert len(counts) == 12 - (4 + 1 + 3) + 1 == 5
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("anchor_rows", [8, 9, 12, 100, None])
def test_a_grid_not_taller_than_the_window_and_its_targets_predicts_from_all_rows(anchor_rows):
    """The lowest of the 10 that have a target one row below the skipped one."""
    found = windows(rows=12, calls=5, anchor_rows=anchor_rows, prediction_steps=3, skip_rows=1)
    assert found == [list(range(10))] * 5


def test_contexts_outside_of_the_window_get_no_gradient():
    head = RecordingHead(2, anchor_rows=3, prediction_steps=2, skip_rows=0).double()
    z, c = normal(2, 20, 1, 2), normal(2, 20, 1, 2, stream=1).requires_grad_()
    head(z, c).backward()
    first = first_row_of(head.anchors[0], c.detach())
    reached = c.grad.abs().sum(dim=(2, 3)) > 0
    assert reached.tolist() == [[first <= row < first + 3 for row in range(20)]] * 2


def test_bf16_training_is_not_led_by_the_mean_that_all_encodings_share():
    """The gradient of W_k in bf16 is that of fp32 on the same numbers, to a tenth."""
    z = (5 + 0.25 * normal(64, 5, 5, 32)).bfloat16()
    gradients = []
    for enabled in (False, True):
        head = RecordingHead(32, prediction_steps=3, negatives=16)
        nn.init.normal_(head.predictors.weight, std=1e-3, generator=seeding.generator("tests"))
        encodings = z if enabled else z.float()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            head(encodings, encodings).backward()
        gradients.append(head.predictors.weight.grad)
    exact, rounded = gradients
    assert (rounded - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("negatives_from", ["all", "targets", "permutations"])
def test_the_loss_is_the_same_where_nothing_works_in_pieces(negatives_from, monkeypatch):
    """As on a GPU: all examples at once, and gradients by autograd alone."""
    results = []
    for in_pieces in (True, False):
        monkeypatch.setattr(devices, "works_in_pieces", lambda device, found=in_pieces: found)
        head = RecordingHead(
            4, prediction_steps=2, negatives=3, anchor_rows=2, negatives_from=negatives_from
        ).double()
        z = normal(3, 8, 2, 4).requires_grad_()
        results.append([loss := head(z, z), *torch.autograd.grad(loss, [z, *head.parameters()])])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
