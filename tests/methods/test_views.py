"""Several augmented views, heads that look at lower grids, and gradient flow as a setting."""

from dataclasses import replace

import pytest
import torch

from gim_bench.contract import GradientFlow
from gim_bench.progress import Silence
from gim_bench.settings.schema import Precision, Schedule
from gim_bench.testing.cases import encodings_of
from gim_bench.training.audit import audit, contradictions
from gim_bench.training.capacity import repeated
from gim_bench.training.kept_outputs import Keeper
from gim_bench.training.loop import fit
from gim_bench.training.trainer import Trainer
from tests.conftest import build_tiny
from tests.tiny_suite import CPU
from tests.toys import BATCH_SIZE, OF_ANY_ENCODER, Agreeing, distance, toy_batches, toy_case

FLOWS = [GradientFlow.ISOLATED, GradientFlow.END_TO_END]
ISOLATED, END_TO_END = FLOWS


def trainer_of(tiny, *, schedule=Schedule.INTERLEAVED) -> Trainer:
    return Trainer(
        tiny.learner, learning_rate=1e-2, schedule=schedule, precision=Precision.FP32, device=CPU
    )


def fitted(tiny, *, views, steps, schedule=Schedule.INTERLEAVED, keeper=None):
    return fit(
        trainer_of(tiny, schedule=schedule),
        toy_batches(views=views),
        steps=steps,
        title="training",
        progress=Silence(),
        keeper=keeper,
    )


class Noting(Agreeing):
    """Notes the encodings of every view that its losses are made of, by unit."""

    def losses(self, batch, *, only=None):
        self.noted = {}
        return super().losses(batch, only=only)

    def loss(self, head, views, batch):
        (unit,) = (name for name, each in self.heads.items() if each is head)
        self.noted[unit] = views
        return super().loss(head, views, batch)


class LowerGrids(Noting):
    """Looks at the grids of the lower modules of its units."""

    sees_lower_grids = True


class OneView(Agreeing):
    """Agrees with a constant in place of a second view."""

    traits = replace(Agreeing.traits, views=1)

    def loss(self, head, views, batch):
        (view,) = views
        projected = head(self.encoder.steps(view.c, module=view.module))
        return distance(projected, torch.ones_like(projected))


# -- losses of two views ---------------------------------------------------------------------------


@pytest.mark.parametrize("recompute", OF_ANY_ENCODER, ids=str)
@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_a_loss_is_given_the_encodings_of_every_view_in_their_order(flow, recompute):
    case = toy_case(Noting, gradient_flow=flow)
    learner, batch = case.build(recompute=recompute).learner, case.batch()
    list(learner.losses(batch))
    expected = [encodings_of(learner.encoder, view) for view in batch.views]
    assert list(learner.noted) == list(learner.units())
    for unit, views in learner.noted.items():
        module = int(unit.removeprefix("module_")) - 1
        assert [view.module for view in views] == [module, module]
        for view, grids in zip(views, expected, strict=True):
            torch.testing.assert_close(view.z, grids[module], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(view.c, grids[module], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recompute", OF_ANY_ENCODER, ids=str)
def test_a_unit_alone_is_given_every_view_from_the_batch_and_from_outputs_that_were_kept(
    recompute,
):
    case = toy_case(Noting)
    learner, batch = case.build(recompute=recompute).learner, case.batch()
    expected = [encodings_of(learner.encoder, view)[1] for view in batch.views]
    kept = learner.outputs(batch, unit="module_1")
    for given in (batch, kept):
        list(learner.losses(given, only="module_2"))
        for view, z in zip(learner.noted["module_2"], expected, strict=True):
            torch.testing.assert_close(view.z, z, rtol=1e-12, atol=1e-12)


def test_the_same_image_in_both_views_agrees_with_itself():
    case = toy_case(Agreeing)
    batch = case.batch()
    twice = replace(batch, further=(batch.inputs,))
    for _, loss in case.build().learner.losses(twice):
        assert loss.item() == pytest.approx(0, abs=1e-12)
    for _, loss in case.build().learner.losses(batch):
        assert loss.item() > 1e-9


@pytest.mark.parametrize("recompute", OF_ANY_ENCODER, ids=str)
def test_gradients_are_stopped_below_a_module_in_both_views(recompute):
    """What the second module is given has no graph, and its loss gives the first no gradient."""
    case = toy_case(Agreeing)
    learner, batch = case.build(recompute=recompute).learner, case.batch()
    given = []
    learner.encoder.stages[1][0].register_forward_pre_hook(lambda _, x: given.append(x[0]))
    losses = dict(learner.losses(batch))
    assert len(given) >= 2
    assert all(inputs.grad_fn is None for inputs in given)
    losses["module_2"].backward()
    assert all(p.grad is None for p in learner.encoder.stages[0].parameters())
    assert all(p.grad.any() for p in learner.encoder.stages[1].parameters())


# -- training on two views -------------------------------------------------------------------------


def test_training_on_kept_outputs_of_two_views_is_training_without_them(tmp_path):
    """Bit for bit in the epochs that are kept."""
    case, weights = toy_case(Agreeing), []
    for keep in (False, True):
        tiny = case.build(dtype=torch.float32)
        keeper = Keeper(folder=tmp_path / "kept", epochs=2, dtype=torch.float32, progress=Silence())
        fitted(
            tiny,
            views=2,
            steps=6,
            schedule=Schedule.SEQUENTIAL,
            keeper=keeper if keep else None,
        )
        weights.append(list(tiny.learner.state_dict().values()))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize(("method", "views"), [(Agreeing, 2), (OneView, 1)])
def test_examples_seen_are_those_that_went_through_the_encoder(method, views):
    """A pair of views is two examples."""
    tiny = toy_case(method).build(dtype=torch.float32)
    assert fitted(tiny, views=views, steps=5).samples == 5 * BATCH_SIZE * views


def test_every_view_of_a_batch_is_repeated():
    batch = toy_case(Agreeing).batch()
    found = repeated(batch, 11)
    assert len(found.views) == 2
    for view, repeats in zip(batch.views, found.views, strict=True):
        assert torch.equal(repeats, torch.cat([view, view])[:11])
    assert not torch.equal(*found.views)


@pytest.mark.parametrize("flow", FLOWS, ids=str)
@pytest.mark.parametrize("schedule", [Schedule.INTERLEAVED, Schedule.JOINT], ids=str)
def test_the_audit_counts_the_operations_of_both_views(schedule, flow):
    """Twice those of the method of one view."""
    one, two = (
        audit(
            trainer_of(case.build(dtype=torch.float32), schedule=schedule),
            case.batch(dtype=torch.float32),
            steps=3,
        ).flops
        for case in (toy_case(method, gradient_flow=flow) for method in (OneView, Agreeing))
    )
    assert two == 2 * one > 0


@pytest.mark.parametrize("kept", [0, 4])
def test_in_sequence_the_audit_counts_both_views_through_the_frozen_modules(kept):
    one, two = (
        audit(
            trainer_of(case.build(dtype=torch.float32), schedule=Schedule.SEQUENTIAL),
            case.batch(dtype=torch.float32),
            steps=3,
            kept_batches=kept,
        ).flops
        for case in (toy_case(OneView), toy_case(Agreeing))
    )
    assert two == 2 * one > 0


# -- lower grids -----------------------------------------------------------------------------------


@pytest.mark.parametrize("recompute", OF_ANY_ENCODER, ids=str)
def test_a_head_of_an_end_to_end_unit_sees_the_lower_grids_lowest_first(recompute):
    case = toy_case(LowerGrids, gradient_flow=END_TO_END, modules=3)
    learner, batch = case.build(recompute=recompute).learner, case.batch()
    list(learner.losses(batch))
    (views,) = learner.noted.values()
    for view, inputs in zip(views, batch.views, strict=True):
        *lower, top = encodings_of(learner.encoder, inputs)
        assert len(view.lower) == len(lower) == 2
        for ours, theirs in zip((*view.lower, view.z), (*lower, top), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recompute", OF_ANY_ENCODER, ids=str)
@pytest.mark.parametrize(
    ("method", "flow"), [(LowerGrids, ISOLATED), (Noting, END_TO_END)], ids=["isolated", "unasked"]
)
def test_a_head_of_an_isolated_unit_sees_none_and_neither_does_one_that_does_not_ask(
    method, flow, recompute
):
    case = toy_case(method, gradient_flow=flow)
    learner = case.build(recompute=recompute).learner
    list(learner.losses(case.batch()))
    assert all(view.lower == () for views in learner.noted.values() for view in views)


@pytest.mark.parametrize("recompute", OF_ANY_ENCODER, ids=str)
def test_gradients_flow_through_a_lower_grid_into_its_module_and_those_below(recompute):
    case = toy_case(LowerGrids, gradient_flow=END_TO_END, modules=3)
    learner = case.build(recompute=recompute).learner
    list(learner.losses(case.batch()))
    (views,) = learner.noted.values()
    sum(view.lower[1].square().sum() for view in views).backward()
    reached = [
        [p.grad is not None and bool(p.grad.any()) for p in stage.parameters()]
        for stage in learner.encoder.stages
    ]
    assert reached == [[True, True], [True, True], [False, False]]


# -- gradient flow as a setting --------------------------------------------------------------------


def test_gim_with_end_to_end_flow_has_one_unit_whose_loss_reaches_every_module(tiny_batch):
    tiny = build_tiny("gim", gradient_flow=END_TO_END)
    assert list(tiny.learner.units()) == ["module_3"]
    assert len(tiny.learner.units()["module_3"]) == len(list(tiny.learner.parameters()))
    found = audit(trainer_of(tiny), tiny_batch, steps=1).isolation
    assert list(found) == ["module_3"]
    assert all(norm > 0 for norm in found["module_3"].values())
    assert contradictions(found, flow=END_TO_END) == []
    assert contradictions(found, flow=ISOLATED) != []


def test_gim_with_end_to_end_flow_is_cpc_without_an_autoregressor(tiny_batch):
    """On images, with the same weights and negatives: loss and gradients."""
    gim = build_tiny("gim", gradient_flow=END_TO_END)
    cpc = build_tiny("cpc", autoregressor="none")
    weights = gim.learner.heads["module_3"].predictors.weight
    with torch.no_grad():
        cpc.learner.heads["module_3"]["info_nce"].predictors.weight.copy_(weights)
    for own, other in zip(cpc.generators, gim.generators, strict=True):
        own.set_state(other.get_state())
    (ours,) = (loss for _, loss in gim.learner.losses(tiny_batch))
    (theirs,) = (loss for _, loss in cpc.learner.losses(tiny_batch))
    assert ours.item() == theirs.item()
    ours.backward()
    theirs.backward()
    for one, other in zip(
        gim.learner.encoder.parameters(), cpc.learner.encoder.parameters(), strict=True
    ):
        assert torch.equal(one.grad, other.grad)


def test_gim_with_isolated_flow_has_a_unit_for_every_module(tiny_batch):
    tiny = build_tiny("gim", gradient_flow=ISOLATED)
    assert list(tiny.learner.units()) == ["module_1", "module_2", "module_3"]
    found = audit(trainer_of(tiny), tiny_batch, steps=1).isolation
    assert contradictions(found, flow=ISOLATED) == []
