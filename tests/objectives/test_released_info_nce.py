"""InfoNCE with the released code's draws: against loops, group by group, and uniform."""

import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from torch import Tensor

from gim_bench import seeding
from gim_bench.objectives.info_nce import InfoNCEHead, InfoNCESettings
from tests.oracles.released_info_nce import released_on_images, released_on_speech

IMAGES = {"prediction_steps": 3, "skip_rows": 1, "negatives": 4, "negatives_from": "targets"}
SPEECH = {
    "prediction_steps": 3,
    "skip_rows": 0,
    "negatives": 4,
    "negatives_from": "permutations",
    "targets_in_window": True,
    "anchor_rows": 6,
}


class Recording(InfoNCEHead):
    """A head that keeps its windows, and what it drew from."""

    def __init__(self, z_dim: int, c_dim: int | None = None, *, seed: int = 0, **settings) -> None:
        with seeding.weights_from("tests", "head"):
            super().__init__(
                z_dim=z_dim,
                c_dim=c_dim or z_dim,
                settings=InfoNCESettings(**settings),
                generator=seeding.generator("tests", "released", seed),
            )
        self.windows: list[tuple[Tensor, Tensor]] = []
        self.permuted: list[Tensor] = []
        self.drawn: list[Tensor] = []

    @property
    def weights(self) -> list[Tensor]:
        """W_1 … W_K."""
        return list(self.predictors.weight.detach().chunk(self.settings.prediction_steps))

    def _permutations(self, places, *, device):
        self.permuted.append(super()._permutations(places, device=device))
        return self.permuted[-1]

    def _places(self, z, c):
        predicting, (targets, *draws) = super()._places(z, c)
        encodings, contexts = z.detach().flatten(0, 2), c.detach().flatten(0, 2)
        self.windows.append((encodings[targets], contexts[predicting]))
        self.drawn += [encodings[drawn] for drawn in draws]
        return predicting, [targets, *draws]


def normal(*shape: int, stream: int = 0) -> Tensor:
    draw = seeding.generator("tests", "normal", stream)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def numbered(examples: int, rows: int, columns: int = 1) -> Tensor:
    """A grid whose encodings say which place they are of, [example row column 1]."""
    return torch.arange(float(examples * rows * columns)).view(examples, rows, columns, 1)


def places_of(drawn: Tensor, candidates: Tensor) -> Tensor:
    """The place among the candidates that each encoding was drawn from."""
    same = (drawn.unsqueeze(-2) == candidates.flatten(0, 2)).all(dim=-1)
    assert (same.sum(dim=-1) == 1).all(), "not a candidate"
    return same.long().argmax(dim=-1)


# -- against the loops -----------------------------------------------------------------------------


@pytest.mark.parametrize("skip_rows", [0, 1])
def test_negatives_from_targets_give_the_released_loss_on_images(skip_rows):
    head = Recording(3, 2, **IMAGES | {"skip_rows": skip_rows}).double()
    z, c = normal(2, 6, 2, 3), normal(2, 6, 2, 2, stream=1)
    loss = head(z, c)
    draws = [places_of(x, z[:, skip_rows + k :]) for k, x in enumerate(head.drawn, start=1)]
    expected = released_on_images(z, c, weights=head.weights, draws=draws, skip_rows=skip_rows)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("rows", [6, 7, 20])
def test_permutations_and_targets_in_the_window_give_the_released_loss_on_speech(rows):
    """A layer as long as the window has no window."""
    head = Recording(3, 2, **SPEECH).double()
    z, c = normal(2, rows, 1, 3), normal(2, rows, 1, 2, stream=1)
    loss = head(z, c)
    ((targets, _),) = head.windows
    (first,) = (row for row in range(rows - 5) if torch.equal(z[:, row : row + 6], targets))
    (permutations,) = head.permuted
    expected = released_on_speech(
        z, c, weights=head.weights, permutations=permutations.unbind(1), first=first, window=6
    )
    assert loss.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("settings", [IMAGES, SPEECH, IMAGES | {"negatives_within": 2}], ids=str)
def test_gradients_are_those_of_finite_differences(settings):
    head = InfoNCEHead(
        z_dim=2,
        c_dim=3,
        settings=InfoNCESettings(**settings),
        generator=seeding.generator("tests", "gradients"),
    ).double()
    start = head.generator.get_state()

    def loss(z: Tensor, c: Tensor, weight: Tensor) -> Tensor:
        head.generator.set_state(start)
        return torch.func.functional_call(head, {"predictors.weight": weight}, (z, c))

    inputs = normal(4, 8, 1, 2), normal(4, 8, 1, 3, stream=1), normal(6, 3, stream=2)
    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in inputs])


# -- within groups ---------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"prediction_steps": 2}, IMAGES, SPEECH], ids=str)
def test_the_loss_within_groups_is_the_mean_of_the_losses_of_groups_by_themselves(settings):
    """One generator goes on from group to group."""
    z, c = normal(6, 8, 1, 3), normal(6, 8, 1, 2, stream=1)
    grouped = Recording(3, 2, **settings, negatives_within=2).double()
    alone = Recording(3, 2, **settings).double()
    expected = [alone(z[i : i + 2], c[i : i + 2]).item() for i in (0, 2, 4)]
    assert len(set(expected)) == 3
    assert grouped(z, c).item() == pytest.approx(sum(expected) / 3, rel=1e-12)


def test_another_group_s_encodings_get_no_gradient_and_change_nothing():
    z = normal(4, 7, 7, 3)
    head = Recording(3, negatives_within=2).double()
    apart = z.clone().requires_grad_()
    parts = head._loss(apart[:2], apart[:2])
    (gradient,) = torch.autograd.grad(parts, apart)
    assert gradient[:2].any()
    assert not gradient[2:].any()


def test_a_group_as_large_as_the_batch_changes_nothing_bit_for_bit():
    z = normal(4, 7, 7, 3).float()
    whole, grouped = Recording(3), Recording(3, negatives_within=4)
    assert whole(z, z).item() == grouped(z, z).item()


# -- what is drawn ---------------------------------------------------------------------------------


def test_negatives_from_targets_are_uniform_over_the_rows_that_can_be_targets_of_the_step():
    """Of 6 rows with 1 skipped: rows 2 to 5 for k = 1, and rows 4 and 5 for k = 3."""
    head = Recording(1, **IMAGES | {"negatives": 500})
    z = numbered(3, 6, 2)
    head(z, z)
    for k, drawn in enumerate(head.drawn, start=1):
        counts = drawn.long().flatten().bincount(minlength=36).view(3, 6, 2)
        assert not counts[:, : 1 + k].any()
        assert stats.chisquare(counts[:, 1 + k :].flatten().numpy()).pvalue > 1e-3


def test_every_step_has_negatives_of_its_own_from_targets():
    head = Recording(1, **IMAGES)
    z = numbered(3, 6, 2)
    head(z, z)
    one, two, three = head.drawn
    assert not torch.equal(one[:, :2], three[:, :2])
    assert not torch.equal(two[:, :2], three[:, :2])


def test_every_negative_of_an_anchor_comes_from_a_permutation_of_all_places():
    head = Recording(1, **SPEECH)
    z = numbered(3, 20)
    head(z, z)
    (permutations,) = head.permuted
    assert permutations.shape == (60, 4)
    assert (permutations.sort(dim=0).values == torch.arange(60).unsqueeze(1)).all()
    assert len(permutations.unique(dim=1).T) == 4


def test_windows_with_their_targets_begin_uniformly_but_never_at_the_last_place():
    """Of 10 rows a window of 6 could begin at 5 places; the released code draws 4 of them."""
    head = Recording(1, **SPEECH)
    z = numbered(1, 10)
    for _ in range(400):
        head(z, z)
    counts = torch.stack([targets[0, 0, 0, 0].long() for targets, _ in head.windows]).bincount()
    assert len(counts) == 4
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("anchor_rows", [None, 3])
def test_a_window_without_room_for_its_targets_is_refused(anchor_rows):
    with pytest.raises(ValidationError, match=r"targets_in_window needs anchor_rows of 4 or more"):
        InfoNCESettings(**SPEECH | {"anchor_rows": anchor_rows})
