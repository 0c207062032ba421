"""Measures of an encoder in training: closed forms, and a training that does not notice them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from gim_bench.contract import GradientFlow, Modality
from gim_bench.objectives.info_nce import INFO_NCE, InfoNCEHead, InfoNCESettings
from gim_bench.objectives.local_infomax import LocalInfoMaxSettings
from gim_bench.progress import Silence
from gim_bench.settings.schema import Precision, Schedule
from gim_bench.system import interrupts
from gim_bench.system.interrupts import Interrupted
from gim_bench.training.checkpoints import Checkpoints
from gim_bench.training.inside import cosine, effective_rank, linear_cka, look_inside
from gim_bench.training.loop import fit
from gim_bench.training.trainer import Trainer
from tests.conftest import cases
from tests.tiny_suite import CPU
from tests.toys import Agreeing, Drawing, toy_batches, toy_case

STEPS = 6  # two epochs


def normal(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def rotation(d):
    q, _ = torch.linalg.qr(normal(d, d, seed=9))
    return q


# -- the measures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [3, 50])
def test_encodings_that_are_all_alike_have_rank_1(rows):
    assert effective_rank(normal(1, 8).expand(rows, 8)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("repeated", [1, 5])
@pytest.mark.parametrize("d", [2, 7])
def test_orthonormal_encodings_have_as_many_ranks_as_dimensions(d, repeated):
    assert effective_rank(rotation(d).repeat(repeated, 1)) == pytest.approx(d, rel=1e-9)


def test_two_singular_values_give_the_exponential_of_their_shares_entropy():
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(expected)


def test_the_rank_is_that_of_the_singular_values():
    z = normal(40, 6) @ torch.diag(torch.tensor([5, 3, 2, 1, 0.5, 0.1], dtype=torch.float64))
    shares = np.linalg.svd(z.numpy(), compute_uv=False)
    shares /= shares.sum()
    assert effective_rank(z) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-9)
    assert effective_rank(z.T) == pytest.approx(effective_rank(z), rel=1e-9)


def test_the_rank_of_zeros_is_not_defined():
    assert math.isnan(effective_rank(torch.zeros(4, 3)))


def test_a_rotated_scaled_and_shifted_feature_has_a_cka_of_1():
    x = normal(30, 5)
    assert linear_cka(x, 3 * x @ rotation(5) + 7) == pytest.approx(1, abs=1e-12)


def test_features_that_do_not_vary_together_have_a_cka_of_0():
    one, other = torch.tensor([[1.0], [-1.0], [0], [0]]), torch.tensor([[0], [0], [1.0], [-1.0]])
    assert linear_cka(one, other) == pytest.approx(0, abs=1e-12)


def test_cka_is_the_likeness_of_the_matrices_of_inner_products():
    """The definition by HSIC of centred kernels, with another number of channels each."""
    x, y = normal(20, 4), normal(20, 7, seed=1) + normal(20, 4).repeat(1, 2)[:, :7]
    centre = torch.eye(20, dtype=torch.float64) - 1 / 20
    k, m = (centre @ each @ each.T @ centre for each in (x, y))
    expected = (k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt()
    assert linear_cka(x, y) == pytest.approx(expected.item(), rel=1e-10)
    assert linear_cka(y, x) == pytest.approx(expected.item(), rel=1e-10)


def test_a_cosine_covers_all_weights_and_takes_what_is_not_reached_as_0():
    one = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]]), None]
    assert cosine(one, one) == pytest.approx(1)
    assert cosine(one, [torch.tensor([-3.0, 0.0]), torch.tensor([[-4.0]]), None]) == -1
    assert cosine(one, [torch.tensor([1.0, 0.0]), None, torch.ones(1)]) == pytest.approx(
        3 / 5 / math.sqrt(2)
    )
    assert math.isnan(cosine(one, [None, None, None]))


# -- of a learner ----------------------------------------------------------------------------------


def trainer_of(case, *, schedule=Schedule.INTERLEAVED):
    return Trainer(
        case.build(dtype=torch.float32).learner,
        learning_rate=1e-2,
        schedule=schedule,
        precision=Precision.FP32,
        device=CPU,
    )


def looked(case, **asked):
    trainer = trainer_of(case)
    return look_inside(trainer, toy_batches(views=case.method.traits.views).fixed(4), **asked)


@pytest.mark.parametrize("method", ["gim", Agreeing, "greedy_supervised"])
@pytest.mark.parametrize("dropout", [False, True])
def test_the_top_module_s_own_gradient_is_the_end_to_end_one_and_a_lower_module_s_is_not(
    method, dropout
):
    found = looked(toy_case(method, modules=3, dropout=dropout, norm=True))
    assert found["gradient_cosine/module_3"] == pytest.approx(1, abs=1e-6)
    for lower in ("module_1", "module_2"):
        assert -1 <= found[f"gradient_cosine/{lower}"] < 0.999


@pytest.mark.parametrize("method", ["gim", "cpc", "supervised", Agreeing])
def test_all_gradients_of_an_end_to_end_method_are_end_to_end(method):
    found = looked(toy_case(method, gradient_flow=GradientFlow.END_TO_END, modules=3))
    cosines = [value for name, value in found.items() if name.startswith("gradient_cosine")]
    assert cosines == [pytest.approx(1, abs=1e-6)] * 3


def test_the_end_to_end_gradient_is_that_of_the_twin_with_the_same_weights():
    """Of GIM's module 1, against the learner with end-to-end flow, computed by hand."""
    case = toy_case("gim", modules=2)
    isolated = case.build(dtype=torch.float32).learner
    joined = toy_case("gim", modules=2, gradient_flow=GradientFlow.END_TO_END)
    twin = joined.build(dtype=torch.float32).learner
    twin.load_state_dict(isolated.state_dict(), strict=False)
    batch = toy_batches().fixed(4)
    gradients = []
    for learner, unit in ((isolated, "module_1"), (twin, "module_2")):
        for name in list(learner.units()):
            learner.streams[name].manual_seed(0)
            ((found, loss),) = learner.losses(batch, only=name)
            if found == unit:
                theta = list(learner.encoder.stages[0].parameters())
                gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, theta)]))
    expected = torch.cosine_similarity(*gradients, dim=0).item()
    assert looked(case)["gradient_cosine/module_1"] == pytest.approx(expected, abs=1e-6)


def test_the_bound_on_information_is_what_a_loss_is_below_chance():
    case = toy_case("gim", modules=2)
    drawn = case.objective.model_copy(update={"negatives_from": "targets"})
    trainer = trainer_of(replace(case, objective=drawn))
    batch = toy_batches().fixed(4)
    with torch.no_grad():
        for head in trainer.learner.heads.values():
            head.predictors.weight.zero_()
    found = look_inside(trainer, batch)
    assert found["information_bound/module_1"] == pytest.approx(0, abs=1e-6)
    for _ in range(30):
        trainer.learner.streams["module_1"].manual_seed(0)
        losses = trainer.step(batch)
    trainer.learner.streams["module_1"].manual_seed(0)
    (_, loss) = next(trainer.learner.losses(batch))
    bound = look_inside(trainer, batch)["information_bound/module_1"]
    assert bound == pytest.approx(math.log(1 + 4) - loss.item(), abs=1e-6)
    assert losses


def test_what_tells_positives_from_rows_that_are_no_target_bounds_no_information():
    """Encodings that say their row and contexts that say nothing have no information in common.

    Training's negatives, from all rows, lie below chance by 0.9 nats all the same.
    """
    rows, settings = 7, InfoNCESettings(prediction_steps=5, negatives=16, skip_rows=1)
    head = InfoNCEHead(z_dim=rows, c_dim=1, settings=settings, generator=torch.Generator())
    z = torch.eye(rows).reshape(1, rows, 1, rows).expand(40, rows, rows, rows)
    c = torch.ones(40, rows, rows, 1)
    is_target = torch.tensor([[row >= 1 + k for row in range(rows)] for k in range(1, 6)])
    weight = torch.where(is_target, 0.0, -30.0).reshape(head.predictors.weight.shape)
    with torch.no_grad():
        head.predictors.weight.copy_(weight)
        assert head.uninformed_loss - head(z, c) > 0.8
        head.settings = settings.model_copy(update=INFO_NCE.bounds_information)
        assert head(z, c).item() == pytest.approx(head.uninformed_loss, abs=1e-5)


def test_the_bound_is_of_negatives_that_can_be_positives_whatever_training_draws():
    trainer = trainer_of(toy_case("gim", modules=2))
    batch = toy_batches().fixed(4)
    trainer.step(batch)
    found = look_inside(trainer, batch)["information_bound/module_1"]
    head = trainer.learner.heads["module_1"]
    assert head.settings.negatives_from == "all"  # and is again after a look
    head.settings = head.settings.model_copy(update={"negatives_from": "targets"})
    trainer.learner.streams["module_1"].manual_seed(0)
    (_, loss) = next(trainer.learner.losses(batch))
    assert found == pytest.approx(math.log(1 + 4) - loss.item(), abs=1e-6)


def test_running_statistics_of_batch_norm_do_not_count():
    """Else an encoder that does not change would show another rank after training."""
    case = toy_case("gim", norm=True)
    trainer, other = trainer_of(case), trainer_of(case)
    for module in other.learner.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.fill_(3.0)
            module.running_var.fill_(7.0)
    batch = toy_batches().fixed(4)
    assert look_inside(trainer, batch) == look_inside(other, batch)


@pytest.mark.parametrize("method", ["gim", "cpc"])
def test_recurrent_layers_are_in_training_mode_when_gradients_pass_them(method, monkeypatch):
    """cuDNN refuses the way back through a layer whose way forward was in eval mode."""
    case = next(c for c in cases() if c.name == method and c.on.modality is Modality.SPEECH)
    modes, forward = [], nn.GRU.forward

    def noted(layer, *given):
        modes.append(layer.training)
        return forward(layer, *given)

    monkeypatch.setattr(nn.GRU, "forward", noted)
    trainer = trainer_of(case)
    look_inside(trainer, case.batch(dtype=torch.float32))
    assert modes
    assert all(modes)


def test_gradients_are_compared_in_the_precision_of_training(monkeypatch):
    """By itself a GPU rounds the factors of convolutions to TF32."""
    rounded, grad = [], torch.autograd.grad

    def noted(*given, **how):
        rounded.append(torch.backends.cudnn.allow_tf32)
        return grad(*given, **how)

    monkeypatch.setattr(torch.autograd, "grad", noted)
    looked(toy_case("gim"))
    assert rounded
    assert not any(rounded)


@pytest.mark.parametrize("method", ["supervised", Agreeing])
def test_only_info_nce_bounds_information(method):
    assert not [name for name in looked(toy_case(method)) if "information" in name]


def test_places_of_one_image_are_no_independent_candidates():
    """Deep InfoMax's log(candidates) - loss exceeds what identity alone can tell."""
    case = replace(toy_case("deep_infomax", modules=2), objective=LocalInfoMaxSettings(mi_units=4))
    assert not [name for name in looked(case) if "information" in name]


def test_ranks_and_likenesses_are_of_every_module_and_every_pair():
    found = looked(toy_case("gim", modules=3))
    assert {name for name in found if name.startswith(("effective", "cka"))} == {
        *(f"effective_rank/module_{m}" for m in (1, 2, 3)),
        "cka/module_1/module_2",
        "cka/module_1/module_3",
        "cka/module_2/module_3",
    }
    assert all(1 <= found[f"effective_rank/module_{m}"] <= 4 for m in (1, 2, 3))


def test_a_unit_that_is_trained_alone_shows_its_own_modules_only():
    found = looked(toy_case("gim", modules=3), only="module_2")
    assert {name.rpartition("/")[2] for name in found} == {"module_2"}
    assert set(found) == {name for name in looked(toy_case("gim", modules=3)) if name in found}


# -- in training -----------------------------------------------------------------------------------


def fitted(case, *, observed, schedule=Schedule.INTERLEAVED, checkpoints=None):
    """The training of two epochs, and the weights that it leads to."""
    trainer = trainer_of(case, schedule=schedule)
    batches = toy_batches(views=case.method.traits.views)
    fixed = batches.fixed(4)
    trained = fit(
        trainer,
        batches,
        steps=STEPS,
        title="training",
        progress=Silence(),
        checkpoints=checkpoints,
        observe=(lambda unit: look_inside(trainer, fixed, only=unit)) if observed else None,
    )
    return trained, trainer.learner.state_dict()


@pytest.mark.parametrize("schedule", Schedule)
@pytest.mark.parametrize("method", ["gim", "cpc", Agreeing, Drawing, "supervised"])
def test_training_does_not_notice_that_it_is_observed(method, schedule):
    """Losses and weights are the same to the bit, with dropout and batch norm."""
    case = toy_case(method, norm=True, dropout=True)
    found = []
    for observed in (False, True):
        torch.manual_seed(5)
        found.append(fitted(case, observed=observed, schedule=schedule))
    (plain, weights), (seen, same_weights) = found
    assert plain.losses == seen.losses
    assert all(torch.equal(value, same_weights[name]) for name, value in weights.items())
    assert plain.inside == []
    assert [row["epoch"] for row in seen.inside] == [0, 1, 2]


def test_one_after_the_other_each_module_is_observed_while_it_is_trained():
    """Module 1 stands still while module 2 is trained: its curve is that of its own epochs."""
    case = toy_case("gim")
    together, _ = fitted(case, observed=True)
    in_turn, _ = fitted(case, observed=True, schedule=Schedule.SEQUENTIAL)
    ranks = [row["effective_rank/module_1"] for row in in_turn.inside]
    assert len(set(ranks)) == 3
    assert set(in_turn.inside[0]) == set(together.inside[0])


def test_curves_of_a_resumed_training_are_those_of_one_that_was_never_interrupted(
    tmp_path, monkeypatch
):
    case = toy_case("gim", dropout=True)
    torch.manual_seed(5)
    whole, _ = fitted(case, observed=True)

    class StopsOnce:
        """A signal that arrives during the fifth step."""

        calls = 0

        def __call__(self):
            StopsOnce.calls += 1
            return StopsOnce.calls == 6

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    def checkpoints():
        return Checkpoints(tmp_path, made_by="tests", every_seconds=0, progress=Silence())

    monkeypatch.setattr(interrupts, "noted", StopsOnce)
    torch.manual_seed(5)
    with pytest.raises(Interrupted):
        fitted(case, observed=True, checkpoints=checkpoints())
    torch.manual_seed(6)
    resumed, _ = fitted(case, observed=True, checkpoints=checkpoints())
    assert 0 < resumed.resumed_at < STEPS
    assert resumed.inside == whole.inside


def test_the_fixed_batch_is_always_the_same_and_of_items_that_epochs_visit():
    one, other = toy_batches(), toy_batches()
    next(other.epoch(1))
    assert torch.equal(one.fixed(3).inputs, other.fixed(3).inputs)
    assert not torch.equal(one.fixed(4).inputs, next(one.epoch(1)).inputs)
    held = toy_batches()
    held.held_out = 0.5
    assert len(held.fixed(100).inputs) == 13 - round(13 * 0.5)
