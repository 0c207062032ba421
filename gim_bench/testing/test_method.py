"""Conformance tests of a method. A `case` is a method on an encoder, with a flow and a target."""

from collections.abc import Iterator, Mapping

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from gim_bench import seeding
from gim_bench.contract import Batch, Encoder, GradientFlow
from gim_bench.encoders.tiles import TiledEncoder
from gim_bench.errors import ConfigError
from gim_bench.methods.stack import module_name
from gim_bench.settings.base import Precision
from gim_bench.settings.schema import Recompute, Schedule
from gim_bench.testing.cases import Case, Tiny, rewinding
from gim_bench.training.trainer import Trainer


def trainer_of(
    tiny: Tiny,
    *,
    schedule: Schedule = Schedule.INTERLEAVED,
    precision: Precision = Precision.FP32,  # autocast is off: float64 stays float64
) -> Trainer:
    return Trainer(
        tiny.learner,
        learning_rate=1e-3,
        schedule=schedule,
        precision=precision,
        device=torch.device("cpu"),
    )


def loss_values(tiny: Tiny, batch: Batch) -> dict[str, float]:
    """The loss of every unit; dropout is the same in every call."""
    with seeding.weights_from("testing"):
        return {unit: loss.item() for unit, loss in tiny.learner.losses(batch)}


def taught(
    tiny: Tiny, batch: Batch, *, only: str | None = None
) -> dict[str, Float[Tensor, "..."] | None]:
    """Losses of units and gradients of parameters, by name; dropout is the same in every call."""
    losses = {}
    with seeding.weights_from("testing"):
        for unit, loss in tiny.learner.losses(batch, only=only):
            loss.backward()
            losses[f"loss of {unit}"] = loss.detach()
    return {**losses, **gradients_of(tiny)}


def gradients_of(tiny: Tiny) -> dict[str, Float[Tensor, "..."] | None]:
    return {f"gradient of {name}": p.grad for name, p in tiny.learner.named_parameters()}


def assert_same(
    found: Mapping[str, Float[Tensor, "..."] | None],
    expected: Mapping[str, Float[Tensor, "..."] | None],
) -> None:
    """Values agree to nine digits, because sums may be taken in another order.

    A value that cancels, such as the gradient of a bias before batch norm, is compared with the
    largest value of all.
    """
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values() if value is not None)
    for name, value in found.items():
        assert (value is None) == (expected[name] is None), name
        if value is not None:
            torch.testing.assert_close(
                value, expected[name], rtol=1e-9, atol=1e-10 * largest, msg=name
            )


def state_of(tiny: Tiny) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tiny.learner.state_dict().items()}


def skip_untrained(case: Case) -> None:
    if not case.trains:
        pytest.skip("nothing is trained")


def encoder_of(tiny: Tiny) -> Encoder:
    """The learner's encoder; the test is skipped where that is not made of modules."""
    if not isinstance(tiny.learner.encoder, Encoder):
        pytest.skip("the learner has no encoder made of modules")
    return tiny.learner.encoder


# -- losses and what they train ------------------------------------------------------------------


def test_a_few_steps_on_one_batch_lower_every_loss(case: Case) -> None:
    """Adam on each unit in turn, the others at rest, on the same examples and negatives."""
    tiny, batch = case.build(), case.batch()
    rewind = rewinding(tiny.learner)
    for unit, parameters in tiny.learner.units().items():
        adam = torch.optim.Adam(parameters, lr=1e-3)
        trace = []
        for _ in range(5):
            rewind()
            loss = next(loss for name, loss in tiny.learner.losses(batch) if name == unit)
            trace.append(loss.item())
            adam.zero_grad()
            loss.backward()
            adam.step()
        assert trace[-1] < trace[0], (unit, trace)


def test_without_any_weight_a_loss_is_the_uninformed_one(case: Case) -> None:
    """Where the method names one: with all weights at 0, no unit knows anything."""
    learner = case.build().learner
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()
    found = {unit: loss.item() for unit, loss in learner.losses(case.batch())}
    for unit, uninformed in learner.uninformed_losses().items():
        assert found[unit] == pytest.approx(uninformed), unit


def test_losses_are_named_after_the_units_in_forward_order(case: Case) -> None:
    learner = case.build().learner
    assert [name for name, _ in learner.losses(case.batch())] == list(learner.units())


def test_a_loss_reaches_no_parameter_outside_its_unit(case: Case) -> None:
    """With isolated flow, ∂loss_m/∂θ_n = 0 for n ≠ m; heads and all else included."""
    learner = case.build().learner
    for unit, loss in learner.losses(case.batch()):
        own = {id(p) for p in learner.units()[unit]}
        outside = {
            name: p
            for name, p in learner.named_parameters()
            if p.requires_grad and id(p) not in own
        }
        if not outside:
            continue
        found = torch.autograd.grad(loss, list(outside.values()), allow_unused=True)
        leaks = [name for name, g in zip(outside, found, strict=True) if g is not None and g.any()]
        assert not leaks, f"{unit} trains {leaks}"


def test_isolated_flow_has_a_unit_for_every_module_and_end_to_end_flow_one(case: Case) -> None:
    skip_untrained(case)
    tiny = case.build()
    modules = len(encoder_of(tiny).stages)
    units = {
        GradientFlow.ISOLATED: [module_name(m) for m in range(modules)],
        GradientFlow.END_TO_END: [module_name(modules - 1)],
    }
    assert list(tiny.learner.units()) == units[case.gradient_flow]


def test_every_weight_of_the_encoder_is_trained_by_exactly_one_loss(case: Case) -> None:
    skip_untrained(case)
    learner = case.build().learner
    reached_by: dict[str, list[str]] = {name: [] for name, _ in learner.named_parameters()}
    for unit, loss in learner.losses(case.batch()):
        learner.zero_grad(set_to_none=True)
        loss.backward()
        for name, parameter in learner.named_parameters():
            if parameter.grad is not None and parameter.grad.any():
                reached_by[name].append(unit)
    of_encoder = {n: units for n, units in reached_by.items() if n.startswith("encoder.")}
    assert of_encoder
    assert all(len(units) == 1 for units in of_encoder.values()), of_encoder


def test_the_units_cover_the_trained_parameters_without_overlap(case: Case) -> None:
    tiny = case.build()
    in_units = [id(p) for parameters in tiny.learner.units().values() for p in parameters]
    assert len(in_units) == len(set(in_units)), "a parameter is in two units, or twice in one"
    parameters = {n: p for n, p in tiny.learner.named_parameters() if p.requires_grad}
    before = state_of(tiny)
    trainer_of(tiny).step(case.batch())
    moved = {n for n, p in parameters.items() if not torch.equal(p, before[n])}
    covered = {n for n, p in parameters.items() if id(p) in set(in_units)}
    assert moved <= covered
    if case.trains:
        assert covered == set(parameters), "a parameter that no unit trains"


# -- schedules and recomputing -------------------------------------------------------------------


def test_interleaved_and_joint_backward_give_equal_gradients(case: Case) -> None:
    skip_untrained(case)
    joint, batch = case.build(), case.batch()
    with seeding.weights_from("testing"):
        losses = [loss for _, loss in joint.learner.losses(batch)]
    torch.stack(losses).sum().backward()
    interleaved = case.build()
    taught(interleaved, batch)
    assert_same(gradients_of(joint), gradients_of(interleaved))


def test_both_schedules_train_the_same_weights(case: Case) -> None:
    skip_untrained(case)
    found = []
    for schedule in (Schedule.INTERLEAVED, Schedule.JOINT):
        tiny = case.build()
        trainer = trainer_of(tiny, schedule=schedule)
        with seeding.weights_from("testing"):
            for _ in range(2):
                trainer.step(case.batch())
        found.append(state_of(tiny))
    interleaved, joint = found
    assert_same(joint, interleaved)


@pytest.mark.parametrize("schedule", Schedule, ids=str)
def test_every_schedule_trains_every_unit_on_batches_of_the_declared_views(
    case: Case, schedule: Schedule
) -> None:
    skip_untrained(case)
    tiny = case.build()
    trainer = trainer_of(tiny, schedule=schedule)
    losses: dict[str, Tensor] = {}
    for unit in trainer.stages():
        losses |= trainer.step(case.batch(), only=unit)
    assert list(losses) == list(tiny.learner.units())
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("recompute", [Recompute.LAYERS, Recompute.PIECES], ids=str)
def test_what_is_computed_again_gives_the_same_losses_and_gradients(
    case: Case, recompute: Recompute
) -> None:
    """In pieces without dropout, because each piece draws its own."""
    skip_untrained(case)
    kept, again = case.build(), recomputing(case, recompute)
    for tiny in (kept, again):
        tiny.learner.train(recompute is not Recompute.PIECES)
    assert_same(taught(again, case.batch()), taught(kept, case.batch()))


def recomputing(case: Case, recompute: Recompute) -> Tiny:
    """The learner that recomputes; the test is skipped where method or encoder refuse."""
    on = case.on
    if recompute is Recompute.PIECES and not on.encoder.examples_are_independent(on.options):
        pytest.skip("examples of the encoder depend on each other: pieces are refused")
    if recompute is Recompute.TILES and not issubclass(on.encoder, TiledEncoder):
        pytest.skip("tiles of the encoder are not those of the whole: tiles are refused")
    try:
        return case.build(recompute=recompute)
    except ConfigError as refusal:
        pytest.skip(str(refusal))


@pytest.mark.parametrize("recompute", Recompute, ids=str)
def test_a_unit_trained_alone_learns_as_it_does_among_the_others(
    case: Case, recompute: Recompute
) -> None:
    """In eval mode, where modules run alike whether or not they are trained."""
    skip_untrained(case)
    among = case.build()
    among.learner.eval()
    for unit, loss in with_the_same_draws(among, case.batch()):
        among.learner.zero_grad(set_to_none=True)
        loss.backward()
        alone = recomputing(case, recompute)
        alone.learner.eval()
        expected = {f"loss of {unit}": loss.detach(), **gradients_of(among)}
        assert_same(taught(alone, case.batch(), only=unit), expected)


def with_the_same_draws(tiny: Tiny, batch: Batch) -> Iterator[tuple[str, Float[Tensor, ""]]]:
    """The losses of all units, each of which draws its negatives from the same state."""
    rewind = rewinding(tiny.learner)
    losses = iter(tiny.learner.losses(batch))
    while True:
        rewind()
        found = next(losses, None)
        if found is None:
            return
        yield found


def test_the_outputs_of_a_unit_train_the_units_above_as_the_batch_itself_does(case: Case) -> None:
    """Kept outputs stand in for a frozen module, in every view."""
    units = list(case.build().learner.units())
    for m, below in enumerate(units):
        for unit in units[m + 1 :]:
            tiny, batch = case.build(), case.batch()
            try:
                encoded = tiny.learner.outputs(batch, unit=below)
            except ConfigError as refusal:
                pytest.skip(str(refusal))
            assert (encoded.encoded_by, encoded.labels) == (below, batch.labels)
            assert len(encoded.views) == len(batch.views)
            assert not any(view.requires_grad for view in encoded.views)
            plain = taught(case.build(), batch, only=unit)
            assert_same(taught(tiny, encoded, only=unit), plain)


# -- draws ---------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_losses_bit_for_bit(case: Case) -> None:
    """Earlier draws in the process change nothing, and another seed gives other losses."""
    skip_untrained(case)

    def trace(*, seed: int, before: int) -> list[dict[str, float]]:
        torch.manual_seed(before)
        trainer, batch = trainer_of(case.build(seed=seed)), case.batch()
        with seeding.weights_from("training", case.name, seed):  # as in a cell
            steps = [trainer.step(batch) for _ in range(2)]
        return [{unit: loss.item() for unit, loss in losses.items()} for losses in steps]

    with torch.random.fork_rng(devices=[]):
        first = trace(seed=0, before=1)
        assert trace(seed=0, before=2) == first
        assert trace(seed=1, before=1) != first


def test_losses_are_finite_single_precision_in_bf16_too(case: Case) -> None:
    skip_untrained(case)
    trainer = trainer_of(case.build(dtype=torch.float32), precision=Precision.BF16)
    for loss in trainer.step(case.batch(dtype=torch.float32)).values():
        assert loss.dtype is torch.float32
        assert loss.isfinite()


# -- features and predictions --------------------------------------------------------------------


def test_features_are_of_every_example_and_step_under_the_names_of_modules(case: Case) -> None:
    batch = case.batch()
    features = case.build().learner.features(batch.inputs)
    assert features
    assert list(features) == [module_name(m) for m in range(len(features))]
    for feature in features.values():
        assert feature.shape[:2] == (len(batch.inputs), case.on.steps)
        assert feature.isfinite().all()


def test_features_of_an_encoder_are_those_of_its_modules(case: Case) -> None:
    """One entry for each module, lowest first: [example, step, dims[m]]."""
    tiny = case.build()
    dims = encoder_of(tiny).dims
    features = tiny.learner.features(case.batch().inputs)
    assert [feature.shape[2] for feature in features.values()] == list(dims)


def test_features_are_frozen_and_leave_no_graph(case: Case) -> None:
    learner = case.build().learner
    assert torch.is_grad_enabled()
    for feature in learner.features(case.batch().inputs.requires_grad_()).values():
        assert not feature.requires_grad
        assert feature.grad_fn is None
    assert torch.is_grad_enabled()


def test_features_and_predictions_are_those_of_eval_mode_and_move_nothing(case: Case) -> None:
    """Neither inputs, weights, running statistics and generators nor the mode of any module."""
    tiny, inputs = case.build(), case.batch().inputs
    learner = tiny.learner.eval()
    expected = learner.features(inputs)
    scores = learner.predict(expected)
    draws = [*learner.generators().values(), *tiny.generators, torch.default_generator]
    drawn, state = [generator.get_state() for generator in draws], state_of(tiny)
    for every in (10**6, 3):  # all in train mode; every third in eval mode
        for number, module in enumerate(learner.modules(), start=1):
            module.training = number % every > 0
        modes = [module.training for module in learner.modules()]
        found = learner.features(inputs)
        assert all(torch.equal(feature, expected[m]) for m, feature in found.items())
        again = learner.predict(found)
        assert (again is None) == (scores is None)
        assert again is None or scores is None or torch.equal(again, scores)
        assert [module.training for module in learner.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in learner.state_dict().items())
    assert all(torch.equal(g.get_state(), s) for g, s in zip(draws, drawn, strict=True))
    assert torch.equal(inputs, case.batch().inputs)


def test_features_of_an_example_do_not_depend_on_the_others_in_its_batch(case: Case) -> None:
    learner, inputs = case.build().learner, case.batch().inputs
    whole = {m: feature[3:4] for m, feature in learner.features(inputs).items()}
    alone = learner.features(inputs[3:4])
    inputs[:3] *= 30  # others that are much louder, or brighter
    among_others = {m: feature[3:4] for m, feature in learner.features(inputs).items()}
    assert_same(whole, alone)
    assert_same(among_others, alone)


def test_what_has_no_encoder_of_modules_declares_an_ablation(case: Case) -> None:
    learner = case.build().learner
    assert isinstance(learner.encoder, Encoder) or learner.traits.ablation


def test_predictions_are_scores_for_every_class_or_none(case: Case) -> None:
    """Scores of each step, where the target has labels for steps; else of the whole example."""
    batch = case.batch()
    learner = case.build().learner
    scores = learner.predict(learner.features(batch.inputs))
    if scores is not None:
        places = case.on.steps if case.target.per_step else 1
        assert scores.shape == (len(batch.inputs), places, len(case.target.classes))
        assert scores.grad_fn is None
