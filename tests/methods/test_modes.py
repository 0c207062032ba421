"""Modes, with batch norm and dropout: train mode for what is trained, eval mode for the rest."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from gim_bench import seeding
from gim_bench.contract import GradientFlow
from gim_bench.progress import Silence
from gim_bench.settings.schema import Precision, Recompute, Schedule
from gim_bench.testing import test_method as conformance
from gim_bench.testing.cases import IMAGES, rewinding
from gim_bench.training.audit import audit
from gim_bench.training.checkpoints import Checkpoints
from gim_bench.training.kept_outputs import Keeper, identity_of
from gim_bench.training.loop import fit
from gim_bench.training.trainer import Trainer
from tests.tiny_suite import CPU
from tests.toys import Agreeing, toy_batches, toy_case

BOTH = {"norm": True, "dropout": True}
FLOWS = (GradientFlow.ISOLATED, GradientFlow.END_TO_END)


def trainer_of(tiny, *, schedule=Schedule.INTERLEAVED, **which) -> Trainer:
    return Trainer(
        tiny.learner,
        learning_rate=1e-2,
        schedule=schedule,
        precision=Precision.FP32,
        device=CPU,
        **which,
    )


def fitted(trainer, batches=None, *, steps, drawing="training", progress=None, **how):
    """What `fit` returns; layers draw from the stream `drawing`."""
    with seeding.weights_from(drawing):
        return fit(
            trainer,
            batches or toy_batches(),
            steps=steps,
            title="training",
            progress=progress or Silence(),
            **how,
        )


def keeper(folder, *, epochs=2) -> Keeper:
    return Keeper(folder=folder / "kept", epochs=epochs, dtype=torch.float32, progress=Silence())


def state_of(learner) -> dict[str, torch.Tensor]:
    """Weights and running statistics."""
    return {name: value.clone() for name, value in learner.state_dict().items()}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def statistics_of(module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def mixed_modes(learner) -> list[bool]:
    """Gives every third module eval mode, and returns all modes."""
    for number, module in enumerate(learner.modules(), start=1):
        module.training = number % 3 > 0
    return modes_of(learner)


def modes_of(learner) -> list[bool]:
    return [module.training for module in learner.modules()]


# -- frozen modules --------------------------------------------------------------------------------


class Repeated:
    """A source of the same batch in every step."""

    batch_size, stream = IMAGES, ("repeated", 0)

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return 1

    def epoch(self, number):
        return iter([self.batch])

    def validation(self):
        return iter(())


@pytest.mark.parametrize(
    "which",
    [{}, {"only": "module_2"}, {"frozen": "module_1"}, {"keep": True}],
    ids=["sequential", "only", "on a base", "kept outputs"],
)
def test_a_frozen_module_gives_the_same_outputs_through_100_steps_of_the_module_above(
    which, tmp_path
):
    """Read from what the second module is given; running statistics stay, too."""
    which = dict(which)
    kept = {"keeper": keeper(tmp_path, epochs=100)} if which.pop("keep", False) else {}
    case = toy_case(**BOTH)
    tiny, batch = case.build(dtype=torch.float32), case.batch(dtype=torch.float32)
    first, second = tiny.learner.encoder.stages
    fitted(trainer_of(tiny), steps=5)  # running statistics are no longer those of a new module
    given, statistics = [], []

    def note(_, inputs):
        given.append(inputs[0].detach())
        statistics.append(statistics_of(first))

    second[0].register_forward_pre_hook(note)
    trainer = trainer_of(tiny, schedule=Schedule.SEQUENTIAL, **which)
    fitted(trainer, Repeated(batch), steps=100, **kept)
    assert len(given) == 100
    assert all(torch.equal(inputs, given[0]) for inputs in given)
    assert all(same(found, statistics[0]) for found in [*statistics, statistics_of(first)])
    with torch.no_grad():
        of_its_own = first.eval()(tiny.learner.encoder.prepare(batch.inputs))
    torch.testing.assert_close(given[0], of_its_own)


def test_outputs_that_were_kept_are_known_by_the_running_statistics_too():
    """Outputs of other running statistics are other outputs; those of the module above are not."""
    tiny = toy_case(**BOTH).build(dtype=torch.float32)
    trainer = trainer_of(tiny)
    first, second = (stage[1] for stage in tiny.learner.encoder.stages)
    identity = identity_of(trainer.weights_up_to("module_1"))
    second.running_mean += 1
    assert identity_of(trainer.weights_up_to("module_1")) == identity
    first.running_mean += 1
    assert identity_of(trainer.weights_up_to("module_1")) != identity


@pytest.mark.parametrize("method", ["gim", "greedy_supervised", Agreeing])
def test_outputs_are_those_of_eval_mode_and_move_nothing(method):
    """Neither running statistics and generators nor the mode of any module."""
    case = toy_case(method, **BOTH)
    learner = case.build().learner
    eval_learner = copy.deepcopy(learner).eval()
    modes, state, draws = mixed_modes(learner), state_of(learner), torch.get_rng_state()
    found = learner.outputs(case.batch(), unit="module_1")
    assert modes_of(learner) == modes
    assert same(state_of(learner), state)
    assert torch.equal(torch.get_rng_state(), draws)
    expected = eval_learner.outputs(case.batch(), unit="module_1")
    for ours, theirs in zip(found.views, expected.views, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("method", ["gim", "greedy_supervised", Agreeing])
def test_features_are_those_of_eval_mode_and_move_nothing(method):
    """The conformance test, on an encoder where it matters."""
    case = toy_case(method, **BOTH)
    conformance.test_features_and_predictions_are_those_of_eval_mode_and_move_nothing(case)
    conformance.test_features_of_an_example_do_not_depend_on_the_others_in_its_batch(case)


def test_a_classifier_with_dropout_predicts_in_eval_mode():
    case = toy_case("greedy_supervised", **BOTH)
    learner = case.build().learner
    head = learner.heads["module_2"]
    plain, head.classifier = head.classifier, nn.Sequential(nn.Dropout(0.5), head.classifier)
    features = learner.features(case.batch().inputs)
    modes = modes_of(learner)
    assert torch.equal(learner.predict(features), plain(features["module_2"]))
    assert modes_of(learner) == modes


# -- evaluation ------------------------------------------------------------------------------------


def test_held_out_losses_are_those_of_eval_mode_and_move_nothing():
    case = toy_case("greedy_supervised", **BOTH)
    tiny, batch = case.build(dtype=torch.float32), case.batch(dtype=torch.float32)
    eval_learner = copy.deepcopy(tiny.learner).eval()
    modes, state, draws = mixed_modes(tiny.learner), state_of(tiny.learner), torch.get_rng_state()
    found = trainer_of(tiny).evaluate([batch])
    assert modes_of(tiny.learner) == modes
    assert same(state_of(tiny.learner), state)
    assert torch.equal(torch.get_rng_state(), draws)
    assert found == {unit: loss.item() for unit, loss in eval_learner.losses(batch)}


def test_what_watches_the_features_between_epochs_leaves_training_as_it_is():
    case, states = toy_case(**BOTH), []
    for watched in (False, True):
        tiny = case.build(dtype=torch.float32)
        watch = partial(
            lambda learner, _: learner.features(case.batch().inputs.float()), tiny.learner
        )
        fitted(trainer_of(tiny), steps=7, **({"on_epoch": watch} if watched else {}))
        states.append(state_of(tiny.learner))
    assert same(*states)


# -- training --------------------------------------------------------------------------------------


def test_training_runs_in_train_mode_though_the_learner_comes_in_eval_mode():
    """Bit for bit as from train mode; running statistics move."""
    case, states = toy_case(**BOTH), []
    for mode in (True, False):
        tiny = case.build(dtype=torch.float32)
        tiny.learner.train(mode)
        fitted(trainer_of(tiny), steps=5)
        states.append(state_of(tiny.learner))
        assert all(modes_of(tiny.learner))
    assert same(*states)
    assert states[0]["encoder.stages.0.1.num_batches_tracked"] == 5


class Killing(Silence):
    """Ends the process, as far as one can see, in the step of that number over all stages."""

    class KilledError(BaseException):
        pass

    def __init__(self, step):
        self.left = step

    def advance(self, steps=1, **facts):
        self.left -= steps
        if self.left == 0:
            raise self.KilledError


@pytest.mark.parametrize(
    ("schedule", "step", "keep"),
    [
        (Schedule.INTERLEAVED, 4, False),
        (Schedule.JOINT, 4, False),
        (Schedule.SEQUENTIAL, 4, False),
        (Schedule.SEQUENTIAL, 10, False),
        (Schedule.SEQUENTIAL, 10, True),
    ],
    ids=str,
)
def test_resumed_training_with_dropout_and_batch_norm_is_bit_identical(
    schedule, step, keep, tmp_path
):
    """Though something else was drawn in the process that resumes; losses and weights."""
    case = toy_case(**BOTH)

    def train(name, **how):
        tiny = case.build(dtype=torch.float32)
        checkpoints = Checkpoints(
            tmp_path / name, made_by="tests", every_seconds=0, progress=Silence()
        )
        kept = {"keeper": keeper(tmp_path / f"{name} kept")} if keep else {}
        found = fitted(
            trainer_of(tiny, schedule=schedule), steps=7, checkpoints=checkpoints, **kept, **how
        )
        return found, state_of(tiny.learner)

    for name in ("whole kept", "again kept"):
        (tmp_path / name).mkdir()
    whole, expected = train("whole")
    with pytest.raises(Killing.KilledError):
        train("again", progress=Killing(step))
    resumed, state = train("again", drawing="something else")
    assert resumed.resumed_at is not None
    assert resumed.losses == whole.losses
    assert same(state, expected)


@pytest.mark.parametrize("flow", FLOWS, ids=str)
@pytest.mark.parametrize("schedule", [Schedule.INTERLEAVED, Schedule.JOINT], ids=str)
@pytest.mark.parametrize(("method", "views"), [("gim", 1), (Agreeing, 2)], ids=["gim", "two views"])
def test_recomputed_layers_leave_the_same_weights_and_running_statistics(
    method, views, schedule, flow
):
    """Bit for bit, with batch norm and dropout; losses too."""
    case, states, losses = toy_case(method, gradient_flow=flow, **BOTH), [], []
    for recompute in (Recompute.NOTHING, Recompute.LAYERS):
        tiny = case.build(recompute=recompute, dtype=torch.float32)
        trained = fitted(trainer_of(tiny, schedule=schedule), toy_batches(views=views), steps=4)
        losses.append(trained.losses)
        states.append(state_of(tiny.learner))
    assert losses[0] == losses[1]
    assert same(*states)
    assert states[0]["encoder.stages.1.1.num_batches_tracked"] == 4 * views


@pytest.mark.parametrize("flow", FLOWS, ids=str)
@pytest.mark.parametrize("recompute", [Recompute.LAYERS, Recompute.PIECES], ids=str)
def test_recomputing_draws_the_same_dropout(recompute, flow):
    """The gradient is the slope of the loss, whose dropout is the same in every forward pass."""
    case = toy_case(gradient_flow=flow, dropout=True)
    tiny, batch = case.build(recompute=recompute), case.batch()
    torch.manual_seed(0)  # a difference across the kink of a ReLU tells no slope
    rewind = rewinding(tiny.learner)

    def losses():
        rewind()
        return dict(tiny.learner.losses(batch))

    torch.stack(list(losses().values())).sum().backward()
    top = list(tiny.learner.units())[-1]
    for number, stage in enumerate(tiny.learner.encoder.stages, start=1):
        unit = f"module_{number}" if flow is GradientFlow.ISOLATED else top
        weights, place, size = stage[0].weight, (0, 0, 1, 1), 1e-6
        around = []
        with torch.no_grad():
            for step in (size, -2 * size):
                weights[place] += step
                around.append(losses()[unit].item())
            weights[place] += size
        slope = (around[0] - around[1]) / (2 * size)
        assert weights.grad[place].item() == pytest.approx(slope, rel=1e-5)


def test_dropout_is_drawn_anew_in_every_step():
    """So that the test above is about something."""
    case = toy_case("greedy_supervised", dropout=True)
    tiny, batch = case.build(), case.batch()
    first, second = ({u: loss.item() for u, loss in tiny.learner.losses(batch)} for _ in range(2))
    assert first != second


# -- the audit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", Schedule, ids=str)
@pytest.mark.parametrize("recompute", [Recompute.NOTHING, Recompute.LAYERS], ids=str)
def test_the_audit_leaves_running_statistics_generators_and_modes_alone(schedule, recompute):
    case = toy_case(**BOTH)
    tiny = case.build(recompute=recompute, dtype=torch.float32)
    trainer = trainer_of(tiny, schedule=schedule)
    modes, state = modes_of(tiny.learner), state_of(tiny.learner)
    draws = [each.get_state() for each in (torch.default_generator, *tiny.generators)]
    found = audit(trainer, case.batch(dtype=torch.float32), steps=1, kept_batches=2)
    assert found.flops
    assert modes_of(tiny.learner) == modes
    assert same(state_of(tiny.learner), state)
    after = [each.get_state() for each in (torch.default_generator, *tiny.generators)]
    assert all(map(torch.equal, after, draws))
