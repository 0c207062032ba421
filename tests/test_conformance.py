"""What every registered method must keep to; a new method is tested here without an edit."""

import pytest
import torch

from gim_bench.config import Precision, Schedule
from gim_bench.contract import Batch, GradientFlow, Split
from gim_bench.methods.stack import module_name
from gim_bench.training import Trainer
from tests.conftest import CLASSES, IMAGES, Tiny

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


def skip_untrained(tiny: Tiny) -> None:
    if tiny.learner.traits.gradient_flow is GradientFlow.NONE:
        pytest.skip("nothing is trained")


# -- losses and what they train ------------------------------------------------------------------


def test_a_few_steps_on_one_batch_lower_every_loss(method_name, tiny, tiny_batch):
    """Adam steps on the same images with the same negatives."""
    built = tiny(method_name)
    task = built.negatives.get_state()
    before = loss_values(built, tiny_batch)
    adam = trainer(built)
    for _ in range(8):
        built.negatives.set_state(task)
        adam.step(tiny_batch)
    built.negatives.set_state(task)
    after = loss_values(built, tiny_batch)
    assert after.keys() == before.keys()
    assert all(after[unit] < before[unit] for unit in before), (before, after)


def test_losses_are_named_after_the_units_in_forward_order(method_name, tiny, tiny_batch):
    learner = tiny(method_name).learner
    assert [name for name, _ in learner.losses(tiny_batch)] == list(learner.units())


def test_a_loss_reaches_no_parameter_outside_its_unit(method_name, tiny, tiny_batch):
    """With isolated flow, ∂loss_m/∂θ_n = 0 for n ≠ m; heads and all else included."""
    learner = tiny(method_name).learner
    for unit, loss in learner.losses(tiny_batch):
        own = {id(p) for p in learner.units()[unit]}
        outside = {name: p for name, p in learner.named_parameters() if id(p) not in own}
        if not outside:
            continue
        found = torch.autograd.grad(loss, list(outside.values()), allow_unused=True)
        leaks = [name for name, g in zip(outside, found, strict=True) if g is not None and g.any()]
        assert not leaks, f"{unit} trains {leaks}"


def test_isolated_flow_has_a_unit_for_every_module_and_end_to_end_flow_one(method_name, tiny):
    learner = tiny(method_name).learner
    modules = len(learner.encoder.stages)
    units = {
        GradientFlow.ISOLATED: [module_name(m) for m in range(modules)],
        GradientFlow.END_TO_END: [module_name(modules - 1)],
        GradientFlow.NONE: [],
    }
    assert list(learner.units()) == units[learner.traits.gradient_flow]


def test_every_module_of_the_encoder_is_trained_by_exactly_one_loss(method_name, tiny, tiny_batch):
    built = tiny(method_name)
    skip_untrained(built)
    reached_by: dict[str, list[str]] = {name: [] for name, _ in built.learner.named_parameters()}
    for unit, loss in built.learner.losses(tiny_batch):
        built.learner.zero_grad(set_to_none=True)
        loss.backward()
        for name, gradient in gradients(built).items():
            if gradient is not None and gradient.any():
                reached_by[name].append(unit)
    of_encoder = {n: units for n, units in reached_by.items() if n.startswith("encoder.")}
    assert of_encoder
    assert all(len(units) == 1 for units in of_encoder.values()), of_encoder


def test_the_units_cover_the_trained_parameters_without_overlap(method_name, tiny, tiny_batch):
    built = tiny(method_name)
    in_units = [id(p) for parameters in built.learner.units().values() for p in parameters]
    assert len(in_units) == len(set(in_units)), "a parameter is in two units, or twice in one"
    before = {n: p.detach().clone() for n, p in built.learner.named_parameters()}
    trainer(built).step(tiny_batch)
    parameters = dict(built.learner.named_parameters())
    moved = {n for n, p in parameters.items() if not torch.equal(p, before[n])}
    covered = {n for n, p in parameters.items() if id(p) in set(in_units)}
    assert moved <= covered
    if built.learner.traits.gradient_flow is not GradientFlow.NONE:
        assert covered == set(parameters), "a parameter that no unit trains"


def test_interleaved_and_joint_backward_give_equal_gradients(method_name, tiny, tiny_batch):
    interleaved, joint = tiny(method_name), tiny(method_name)
    skip_untrained(interleaved)
    for _, loss in interleaved.learner.losses(tiny_batch):
        loss.backward()
    torch.stack([loss for _, loss in joint.learner.losses(tiny_batch)]).sum().backward()
    for name, gradient in gradients(interleaved).items():
        torch.testing.assert_close(gradient, gradients(joint)[name], rtol=0, atol=0)


def test_both_schedules_train_the_same_weights(method_name, tiny, tiny_batch):
    interleaved, joint = tiny(method_name), tiny(method_name)
    skip_untrained(interleaved)
    one = trainer(interleaved, schedule=Schedule.INTERLEAVED)
    other = trainer(joint, schedule=Schedule.JOINT)
    for _ in range(3):
        assert one.step(tiny_batch) == other.step(tiny_batch)
    for name, weights in interleaved.learner.state_dict().items():
        assert torch.equal(weights, joint.learner.state_dict()[name]), name


def test_the_same_seed_gives_the_same_losses_bit_for_bit(method_name, tiny, tiny_batch):
    """Whatever state the global generator is in; and another seed gives others."""

    def trace(*, seed: int, global_seed: int) -> list[dict[str, float]]:
        torch.manual_seed(global_seed)
        adam = trainer(tiny(method_name, seed=seed))
        if not adam.optimisers:
            pytest.skip("nothing is trained")
        return [{u: loss.item() for u, loss in adam.step(tiny_batch).items()} for _ in range(3)]

    first = trace(seed=0, global_seed=1)
    assert trace(seed=0, global_seed=2) == first
    assert trace(seed=1, global_seed=1) != first


def test_losses_are_finite_single_precision_in_bf16_too(method_name, tiny, tiny_batch):
    losses = (
        trainer(tiny(method_name), precision=Precision.BF16).step(tiny_batch)
        if (tiny(method_name).learner.units())
        else {}
    )
    for loss in losses.values():
        assert loss.dtype is torch.float32
        assert loss.isfinite()


# -- features and predictions --------------------------------------------------------------------


def test_features_have_the_declared_shape(method_name, tiny, tiny_batch):
    """One entry for each module, lowest first: [image, dims[m]]."""
    learner = tiny(method_name).learner
    features = learner.features(tiny_batch.inputs)
    assert {name: tuple(f.shape) for name, f in features.items()} == {
        module_name(m): (IMAGES, dim) for m, dim in enumerate(learner.encoder.dims)
    }
    assert list(features) == [module_name(m) for m in range(len(features))]


def test_features_are_frozen_and_leave_no_graph(method_name, tiny, tiny_batch):
    learner = tiny(method_name).learner
    assert torch.is_grad_enabled()
    for feature in learner.features(tiny_batch.inputs.requires_grad_()).values():
        assert not feature.requires_grad
        assert feature.grad_fn is None
    assert torch.is_grad_enabled()


def test_features_move_neither_weights_nor_generators(method_name, tiny, tiny_batch):
    built = tiny(method_name)
    weights = {n: w.clone() for n, w in built.learner.state_dict().items()}
    draws, global_draws = built.negatives.get_state(), torch.get_rng_state()
    first = built.learner.features(tiny_batch.inputs)
    second = built.learner.features(tiny_batch.inputs)
    assert all(torch.equal(first[m], second[m]) for m in first)
    assert all(torch.equal(w, weights[n]) for n, w in built.learner.state_dict().items())
    assert torch.equal(built.negatives.get_state(), draws)
    assert torch.equal(torch.get_rng_state(), global_draws)


def test_features_of_an_image_do_not_depend_on_the_others_in_its_batch(
    method_name, tiny, tiny_batch
):
    learner = tiny(method_name).learner
    whole = learner.features(tiny_batch.inputs)
    alone = learner.features(tiny_batch.inputs[3:4])
    for module, feature in alone.items():
        torch.testing.assert_close(feature, whole[module][3:4], rtol=1e-4, atol=1e-6)


def test_every_method_starts_from_the_encoder_of_random_init(method_name, tiny, tiny_batch):
    ours = tiny(method_name, seed=3).learner.features(tiny_batch.inputs)
    untrained = tiny("random_init", seed=3).learner.features(tiny_batch.inputs)
    assert all(torch.equal(ours[m], untrained[m]) for m in untrained)


def test_predictions_are_scores_for_every_class_or_none(method_name, tiny, tiny_batch):
    scores = tiny(method_name).learner.predict(tiny_batch.inputs)
    if scores is not None:
        assert scores.shape == (IMAGES, CLASSES)
        assert scores.grad_fn is None


# -- what a method declares ----------------------------------------------------------------------


def test_declared_traits_agree_with_each_other(method_name, tiny):
    traits = tiny(method_name).learner.traits
    assert traits.uses_labels == (traits.trains_on is Split.TRAIN)
    nothing = traits.gradient_flow is GradientFlow.NONE
    assert nothing == (traits.objective == "none") == (traits.trains_on is None)
    assert traits.trains_on is not Split.TEST


def test_a_method_has_losses_unless_it_declares_that_it_trains_nothing(
    method_name, tiny, tiny_batch
):
    learner = tiny(method_name).learner
    nothing = learner.traits.gradient_flow is GradientFlow.NONE
    assert nothing == (not list(learner.losses(tiny_batch))) == (not learner.units())


def test_a_method_that_declares_no_labels_uses_none(method_name, tiny, tiny_batch):
    """Its losses on the images without labels are those with them."""
    if tiny(method_name).learner.traits.uses_labels:
        pytest.skip("uses labels")
    unlabelled = Batch(inputs=tiny_batch.inputs, labels=None)
    assert loss_values(tiny(method_name), unlabelled) == loss_values(tiny(method_name), tiny_batch)


def test_a_method_that_declares_labels_learns_from_them(method_name, tiny, tiny_batch):
    if not tiny(method_name).learner.traits.uses_labels:
        pytest.skip("uses no labels")
    others = Batch(inputs=tiny_batch.inputs, labels=tiny_batch.labels.roll(1))
    assert loss_values(tiny(method_name), others) != loss_values(tiny(method_name), tiny_batch)
