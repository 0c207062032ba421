"""What every registered method must keep to; a new method is tested here without an edit.

A `case` is a method on a modality that it declares, and for methods that use labels on a target.
"""

import pytest
import torch

from gim_bench.contract import Batch, Encoder, GradientFlow, Modality, Split
from gim_bench.methods.stack import module_name
from gim_bench.settings.schema import Precision, Recompute, Schedule
from gim_bench.training.trainer import Trainer
from tests.conftest import STEPS, Case, Tiny, build_tiny, cases, methods_for

CPU = torch.device("cpu")


def trainer(tiny: Tiny, **settings) -> Trainer:
    defaults = {
        "learning_rate": 1e-3,
        "schedule": Schedule.INTERLEAVED,
        "precision": Precision.FP32,
        "device": CPU,
    }
    return Trainer(tiny.learner, **(defaults | settings))


def loss_values(tiny: Tiny, batch: Batch) -> dict[str, float]:
    return {unit: loss.item() for unit, loss in tiny.learner.losses(batch)}


def gradients(tiny: Tiny) -> dict[str, torch.Tensor | None]:
    return {name: p.grad for name, p in tiny.learner.named_parameters()}


def with_labels(batch: Batch, labels) -> Batch:
    return Batch(inputs=batch.inputs, labels=labels)


def skip_untrained(tiny: Tiny) -> None:
    if tiny.learner.traits.gradient_flow is GradientFlow.NONE:
        pytest.skip("nothing is trained")


def encoder_of(tiny: Tiny) -> Encoder:
    """The learner's encoder, for what holds of methods on the shared one."""
    if not isinstance(tiny.learner.encoder, Encoder):
        pytest.skip("has no encoder made of modules")
    return tiny.learner.encoder


# -- losses and what they train ------------------------------------------------------------------


def test_a_few_steps_on_one_batch_lower_every_loss(case: Case):
    """Adam on each unit in turn, the others at rest, on the same examples and negatives."""
    built, batch = case.build(), case.batch()
    task = built.generator.get_state()
    for unit, parameters in built.learner.units().items():
        adam = torch.optim.Adam(parameters, lr=1e-3)
        trace = []
        for _ in range(8):
            built.generator.set_state(task)
            loss = dict(built.learner.losses(batch))[unit]
            trace.append(loss.item())
            adam.zero_grad()
            loss.backward()
            adam.step()
        assert trace[-1] < trace[0], (unit, trace)


def test_losses_are_named_after_the_units_in_forward_order(case):
    learner = case.build().learner
    assert [name for name, _ in learner.losses(case.batch())] == list(learner.units())


def test_a_loss_reaches_no_parameter_outside_its_unit(case):
    """With isolated flow, ∂loss_m/∂θ_n = 0 for n ≠ m; heads and all else included."""
    learner = case.build().learner
    for unit, loss in learner.losses(case.batch()):
        own = {id(p) for p in learner.units()[unit]}
        outside = {name: p for name, p in learner.named_parameters() if id(p) not in own}
        if not outside:
            continue
        found = torch.autograd.grad(loss, list(outside.values()), allow_unused=True)
        leaks = [name for name, g in zip(outside, found, strict=True) if g is not None and g.any()]
        assert not leaks, f"{unit} trains {leaks}"


def test_isolated_flow_has_a_unit_for_every_module_and_end_to_end_flow_one(case):
    built = case.build()
    skip_untrained(built)
    modules = len(encoder_of(built).stages)
    units = {
        GradientFlow.ISOLATED: [module_name(m) for m in range(modules)],
        GradientFlow.END_TO_END: [module_name(modules - 1)],
    }
    assert list(built.learner.units()) == units[built.learner.traits.gradient_flow]


def test_every_weight_of_the_encoder_is_trained_by_exactly_one_loss(case):
    built = case.build()
    skip_untrained(built)
    reached_by: dict[str, list[str]] = {name: [] for name, _ in built.learner.named_parameters()}
    for unit, loss in built.learner.losses(case.batch()):
        built.learner.zero_grad(set_to_none=True)
        loss.backward()
        for name, gradient in gradients(built).items():
            if gradient is not None and gradient.any():
                reached_by[name].append(unit)
    of_encoder = {n: units for n, units in reached_by.items() if n.startswith("encoder.")}
    assert of_encoder
    assert all(len(units) == 1 for units in of_encoder.values()), of_encoder


def test_the_units_cover_the_trained_parameters_without_overlap(case):
    built = case.build()
    in_units = [id(p) for parameters in built.learner.units().values() for p in parameters]
    assert len(in_units) == len(set(in_units)), "a parameter is in two units, or twice in one"
    before = {n: p.detach().clone() for n, p in built.learner.named_parameters()}
    trainer(built).step(case.batch())
    parameters = dict(built.learner.named_parameters())
    moved = {n for n, p in parameters.items() if not torch.equal(p, before[n])}
    covered = {n for n, p in parameters.items() if id(p) in set(in_units)}
    assert moved <= covered
    if built.learner.traits.gradient_flow is not GradientFlow.NONE:
        assert covered == set(parameters), "a parameter that no unit trains"


def test_interleaved_and_joint_backward_give_equal_gradients(case):
    interleaved, joint = case.build(), case.build()
    skip_untrained(interleaved)
    for _, loss in interleaved.learner.losses(case.batch()):
        loss.backward()
    torch.stack([loss for _, loss in joint.learner.losses(case.batch())]).sum().backward()
    for name, gradient in gradients(interleaved).items():
        torch.testing.assert_close(gradient, gradients(joint)[name], rtol=0, atol=0)


def test_both_schedules_train_the_same_weights(case):
    interleaved, joint = case.build(), case.build()
    skip_untrained(interleaved)
    one = trainer(interleaved, schedule=Schedule.INTERLEAVED)
    other = trainer(joint, schedule=Schedule.JOINT)
    for _ in range(3):
        assert one.step(case.batch()) == other.step(case.batch())
    for name, weights in interleaved.learner.state_dict().items():
        assert torch.equal(weights, joint.learner.state_dict()[name]), name


@pytest.mark.parametrize("recompute", [Recompute.LAYERS, Recompute.PIECES], ids=str)
def test_what_is_computed_again_gives_the_same_losses_and_gradients(case, recompute):
    """To the last digits: sums over a batch are taken in another order."""
    kept, again = case.build(), case.build(recompute=recompute)
    skip_untrained(kept)
    for built in (kept, again):
        for _, loss in built.learner.losses(case.batch()):
            loss.backward()
    for name, gradient in gradients(again).items():
        torch.testing.assert_close(gradient, gradients(kept)[name], rtol=1e-3, atol=1e-6)
    kept, again = case.build(), case.build(recompute=recompute)
    expected, found = loss_values(kept, case.batch()), loss_values(again, case.batch())
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("recompute", Recompute, ids=str)
def test_a_unit_trained_alone_has_the_loss_and_the_gradients_that_it_has_among_the_others(
    case, recompute
):
    """And gives no other unit a gradient."""
    skip_untrained(case.build())
    among = case.build()
    for unit, loss in _with_the_same_negatives(among, case.batch()):
        loss.backward()
        alone = case.build(recompute=recompute)
        ((name, its_own),) = alone.learner.losses(case.batch(), only=unit)
        assert name == unit
        assert its_own.item() == pytest.approx(loss.item(), rel=1e-5)
        its_own.backward()
        owned = {id(p) for p in alone.learner.units()[unit]}
        for parameter, p in alone.learner.named_parameters():
            if id(p) in owned:
                torch.testing.assert_close(
                    p.grad, gradients(among)[parameter], rtol=1e-3, atol=1e-6
                )
            else:
                assert p.grad is None, f"{unit} alone trains {parameter}"


def _with_the_same_negatives(built: Tiny, batch: Batch):
    """The losses of all units, for each of which the negatives are drawn from the same state."""
    state = built.generator.get_state()
    losses = built.learner.losses(batch)
    while True:
        built.generator.set_state(state)
        found = next(losses, None)
        if found is None:
            return
        yield found


def test_the_outputs_of_a_unit_train_those_above_it_as_the_batch_itself_does(case):
    """What is kept of a frozen module stands in for it, for every unit above."""
    units = list(case.build().learner.units())
    for m, below in enumerate(units):
        for unit in units[m + 1 :]:
            plain, kept = case.build(), case.build()
            batch = case.batch()
            encoded = kept.learner.outputs(batch, unit=below)
            assert (encoded.encoded_by, encoded.labels) == (below, batch.labels)
            assert len(encoded.views) == len(batch.views)
            assert not any(view.requires_grad for view in encoded.views)
            ((_, loss),) = plain.learner.losses(batch, only=unit)
            ((_, same),) = kept.learner.losses(encoded, only=unit)
            torch.testing.assert_close(same, loss, rtol=1e-5, atol=1e-6)


def test_the_same_seed_gives_the_same_losses_bit_for_bit(case):
    """Whatever state the global generator is in; and another seed gives others."""

    def trace(*, seed: int, global_seed: int) -> list[dict[str, float]]:
        torch.manual_seed(global_seed)
        adam = trainer(case.build(seed=seed))
        if not adam.optimisers:
            pytest.skip("nothing is trained")
        return [{u: loss.item() for u, loss in adam.step(case.batch()).items()} for _ in range(3)]

    first = trace(seed=0, global_seed=1)
    assert trace(seed=0, global_seed=2) == first
    assert trace(seed=1, global_seed=1) != first


def test_losses_are_finite_single_precision_in_bf16_too(case):
    built = case.build()
    skip_untrained(built)
    for loss in trainer(built, precision=Precision.BF16).step(case.batch()).values():
        assert loss.dtype is torch.float32
        assert loss.isfinite()


# -- features and predictions --------------------------------------------------------------------


def steps_of(case: Case) -> int:
    """Places of an example that features are about: an image has one."""
    return 1 if case.modality is Modality.IMAGE else STEPS


def test_features_are_of_every_example_and_step_under_the_names_of_modules(case):
    batch = case.batch()
    features = case.build().learner.features(batch.inputs)
    assert features
    assert list(features) == [module_name(m) for m in range(len(features))]
    for feature in features.values():
        assert feature.shape[:2] == (len(batch.inputs), steps_of(case))
        assert feature.isfinite().all()


def test_features_of_an_encoder_are_those_of_its_modules(case):
    """One entry for each module, lowest first: [example, step, dims[m]]."""
    built = case.build()
    dims = encoder_of(built).dims
    features = built.learner.features(case.batch().inputs)
    assert [f.shape[2] for f in features.values()] == list(dims)


def test_features_are_frozen_and_leave_no_graph(case):
    learner = case.build().learner
    assert torch.is_grad_enabled()
    for feature in learner.features(case.batch().inputs.requires_grad_()).values():
        assert not feature.requires_grad
        assert feature.grad_fn is None
    assert torch.is_grad_enabled()


def test_features_move_neither_inputs_nor_weights_nor_generators(case):
    built, inputs = case.build(), case.batch().inputs
    weights = {n: w.clone() for n, w in built.learner.state_dict().items()}
    draws, global_draws = built.generator.get_state(), torch.get_rng_state()
    first = built.learner.features(inputs)
    second = built.learner.features(inputs)
    assert all(torch.equal(first[m], second[m]) for m in first)
    assert torch.equal(inputs, case.batch().inputs)
    assert all(torch.equal(w, weights[n]) for n, w in built.learner.state_dict().items())
    assert torch.equal(built.generator.get_state(), draws)
    assert torch.equal(torch.get_rng_state(), global_draws)


def test_features_of_an_example_do_not_depend_on_the_others_in_its_batch(case):
    learner, inputs = case.build().learner, case.batch().inputs
    whole = learner.features(inputs)
    alone = learner.features(inputs[3:4])
    inputs[:3] *= 30  # others that are much louder, or brighter
    among_others = learner.features(inputs)
    for module, feature in alone.items():
        torch.testing.assert_close(feature, whole[module][3:4], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(feature, among_others[module][3:4], rtol=1e-4, atol=1e-5)


def test_every_method_starts_from_the_encoder_of_random_init(case):
    """Feature by feature; an ablation may leave modules out of it, from the top."""
    built = case.build(seed=3)
    encoder_of(built)
    inputs = case.batch().inputs
    ours = built.learner.features(inputs)
    untrained = build_tiny("random_init", seed=3, modality=case.modality).learner.features(inputs)
    assert list(ours) == list(untrained)[: len(ours)]
    if built.learner.traits.ablation is None:
        assert len(ours) == len(untrained)
    assert all(torch.equal(ours[m], untrained[m]) for m in ours)


def test_what_has_no_encoder_of_modules_declares_an_ablation(case):
    learner = case.build().learner
    assert isinstance(learner.encoder, Encoder) or learner.traits.ablation


def test_predictions_are_scores_for_every_class_or_none(case):
    """Of each step, where the learnt target has labels for steps; else of the whole example."""
    batch = case.batch()
    learner = case.build().learner
    scores = learner.predict(learner.features(batch.inputs))
    if scores is not None:
        places = steps_of(case) if case.target.per_step else 1
        assert scores.shape == (len(batch.inputs), places, len(case.target.classes))
        assert scores.grad_fn is None


# -- what a method declares ----------------------------------------------------------------------


@pytest.mark.parametrize("modality", Modality)
def test_both_modalities_are_covered_and_have_random_init_to_compare_with(modality):
    assert {"gim", "cpc", "supervised", "random_init"} <= set(methods_for(modality))


def test_methods_that_use_labels_are_tested_on_every_target():
    supervised = [str(case) for case in cases() if case.method == "supervised"]
    assert supervised == [
        "supervised-images-class",
        "supervised-speech-speaker",
        "supervised-speech-phone",
    ]


def test_declared_traits_agree_with_each_other(case):
    traits = case.build().learner.traits
    assert traits.modalities
    assert traits.uses_labels == (traits.trains_on is Split.TRAIN)
    nothing = traits.gradient_flow is GradientFlow.NONE
    assert nothing == (traits.objective is None) == (traits.trains_on is None)
    assert traits.trains_on is not Split.TEST


def test_a_method_has_losses_unless_it_declares_that_it_trains_nothing(case):
    learner = case.build().learner
    nothing = learner.traits.gradient_flow is GradientFlow.NONE
    assert nothing == (not list(learner.losses(case.batch()))) == (not learner.units())


def test_a_method_that_declares_no_labels_uses_none(case):
    """Its losses on the examples without labels are those with them."""
    if case.build().learner.traits.uses_labels:
        pytest.skip("uses labels")
    unlabelled = with_labels(case.batch(), {})
    assert loss_values(case.build(), unlabelled) == loss_values(case.build(), case.batch())


def test_a_method_that_declares_labels_learns_from_those_of_its_target_alone(case):
    if not case.build().learner.traits.uses_labels:
        pytest.skip("uses no labels")
    batch = case.batch()
    with_all = loss_values(case.build(), batch)
    own = {case.target.name: batch.labels[case.target.name]}
    assert loss_values(case.build(), with_labels(batch, own)) == with_all
    others = {name: labels.roll(1, 0) for name, labels in own.items()}
    assert loss_values(case.build(), with_labels(batch, others)) != with_all
