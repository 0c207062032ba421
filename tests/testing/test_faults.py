"""Every conformance test finds a fault that is planted in a toy method or a toy encoder."""

from dataclasses import replace
from types import FunctionType

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from baselines.fixed_features import FixedFeatures, fixed_traits
from gim_bench.contract import GradientFlow, Modality, Split
from gim_bench.registry import method as registered
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import Recompute, Schedule
from gim_bench.testing import test_encoder, test_method, test_traits
from gim_bench.testing.cases import EncoderCase
from tests.toys import Agreeing, ToyEncoder, distance, toy_case

GreedySupervised = registered("greedy_supervised")
BOTH = {"norm": True, "dropout": True}


def passes(test, **given) -> bool:
    """Whether the test passes; that it is skipped is an error."""
    try:
        test(**given)
    except pytest.skip.Exception as reason:
        raise AssertionError(f"{test.__name__} is skipped: {reason}") from None
    except Exception:
        return False
    return True


def all_tests(module) -> set[FunctionType]:
    return {value for name, value in vars(module).items() if name.startswith("test_")}


# -- faulty methods --------------------------------------------------------------------------------


class Climbing(Agreeing):
    """Its gradient has the wrong sign."""

    def loss(self, head, views, batch):
        loss = super().loss(head, views, batch)
        return 2 * loss.detach() - loss


class Renamed(Agreeing):
    """Its losses have names of their own."""

    def losses(self, batch, *, only=None):
        return ((f"loss of {unit}", loss) for unit, loss in super().losses(batch, only=only))


class BorrowedHead(Agreeing):
    """Its second loss decays the head of the first module."""

    def loss(self, head, views, batch):
        return super().loss(head, views, batch) + self.heads["module_1"].weight.square().mean()


class WrongFlow(Agreeing):
    """Has one unit for all modules, whatever it is asked for."""

    def __init__(self, ingredients):
        super().__init__(replace(ingredients, gradient_flow=GradientFlow.END_TO_END))


class Unconnected(Agreeing):
    """Trains its heads alone."""

    def loss(self, head, views, batch):
        detached = [replace(view, c=view.c.detach()) for view in views]
        return super().loss(head, detached, batch)


class LeftOut(Agreeing):
    """No unit has the heads."""

    def units(self):
        return {
            unit: list(stage.parameters())
            for unit, stage in zip(super().units(), self.encoder.stages, strict=True)
        }


class Remembering(Agreeing):
    """Its losses depend on what went backward before."""

    def loss(self, head, views, batch):
        loss = super().loss(head, views, batch)
        first = next(self.encoder.stages[0].parameters())
        updated = first.grad is not None or bool((first != self.first).any())
        return loss * (2 if updated else 1)

    def __init__(self, ingredients):
        super().__init__(ingredients)
        self.register_buffer("first", next(self.encoder.stages[0].parameters()).detach().clone())


class Undeclared(Agreeing):
    """Takes two views and declares one."""

    traits = replace(Agreeing.traits, views=1)


class Approximate(Agreeing):
    """Saves memory at the cost of a millionth."""

    def loss(self, head, views, batch):
        loss = super().loss(head, views, batch)
        return loss if self.recompute is Recompute.NOTHING else (1 + 1e-6) * loss


class AllAlways(Agreeing):
    """Yields all losses where one is asked for."""

    def losses(self, batch, *, only=None):
        return super().losses(batch)


class OneKept(Agreeing):
    """Hands on the first view in place of all."""

    def outputs(self, batch, *, unit):
        found = super().outputs(batch, unit=unit)
        return replace(found, further=(found.inputs,))


class Unseeded(Agreeing):
    """Draws from the clock."""

    def loss(self, head, views, batch):
        clock = torch.Generator()
        clock.seed()
        return super().loss(head, views, batch) + torch.rand((), generator=clock)


class Seedless(Agreeing):
    """Is the same for every seed."""

    def __init__(self, ingredients):
        super().__init__(ingredients)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.1)
        nn.init.eye_(self.heads["module_1"].weight)


class HalfPrecision(Agreeing):
    """Leaves its losses in bf16 where autocast computes in it."""

    def loss(self, head, views, batch):
        one, other = (head(self.encoder.steps(v.c, module=v.module)) for v in views)
        return (one - other).square().mean().to(one.dtype)


class OtherNames(Agreeing):
    def features(self, inputs):
        return {f"layer {name}": feature for name, feature in super().features(inputs).items()}


class Wider(Agreeing):
    def features(self, inputs):
        return {m: feature.repeat(1, 1, 2) for m, feature in super().features(inputs).items()}


class WithGraph(Agreeing):
    """Its features can be trained."""

    def features(self, inputs):
        return {m: f * self.heads[m].weight.mean() for m, f in super().features(inputs).items()}


class InTrainMode(Agreeing):
    """Drops out in features, too."""

    def features(self, inputs):
        return {
            m: F.dropout(f, training=self.training) for m, f in super().features(inputs).items()
        }


class LeftInEvalMode(Agreeing):
    """Does not go back to the modes that it was in."""

    def features(self, inputs):
        self.eval()
        return super().features(inputs)


class Drawing(Agreeing):
    """Moves its generator in features."""

    def features(self, inputs):
        torch.rand(1, generator=self.streams["module_1"])
        return super().features(inputs)


class Whitened(Agreeing):
    """Its features have the mean 0 over the batch."""

    def features(self, inputs):
        return {m: f - f.mean(dim=0) for m, f in super().features(inputs).items()}


class WithoutEncoder(Agreeing):
    """Keeps no encoder of modules, and does not say so."""

    def __init__(self, ingredients):
        super().__init__(ingredients)
        self.encoder = nn.Identity()


class WrongChance(GreedySupervised):
    """Names another loss than that of equal scores."""

    def uninformed_losses(self):
        return {unit: loss + 0.1 for unit, loss in super().uninformed_losses().items()}


class OneScore(GreedySupervised):
    def predict(self, features):
        return super().predict(features)[:, :, :1]


class NothingDeclared(Agreeing):
    """Trains, and declares that it does not."""

    traits = replace(Agreeing.traits, trains_on=None)


class NoUnits(Agreeing):
    def units(self):
        return {}


class FirstViewTwice(Agreeing):
    def loss(self, head, views, batch):
        one = head(self.encoder.steps(views[0].c, module=views[0].module))
        return distance(one, torch.ones_like(one))


class Cheating(Agreeing):
    """Learns from labels that it does not declare."""

    def loss(self, head, views, batch):
        labels = batch.labels.get("class", torch.zeros(1))
        return super().loss(head, views, batch) * (1 + labels.double().mean())


class Indifferent(GreedySupervised):
    """Learns the same from any labels."""

    def loss(self, head, views, batch):
        labels = {name: torch.zeros_like(each) for name, each in batch.labels.items()}
        return super().loss(head, views, replace(batch, labels=labels))


class Centred(FixedFeatures):
    """Pixels without the mean of the examples that it was fitted to: sound."""

    traits = fixed_traits(Modality.IMAGE, trains_on=Split.UNLABELLED)

    def __init__(self, ingredients):
        super().__init__(ingredients)
        self.encoder.register_buffer("mean", torch.zeros(ingredients.shape))

    def fit_without_gradients(self, batches):
        for batch in batches:
            self.encoder.mean.copy_(batch.inputs.mean(0))

    def features(self, inputs):
        return {"module_1": (inputs - self.encoder.mean).flatten(1).unsqueeze(1)}


class FittedAtRandom(Centred):
    """Its fit differs from run to run."""

    def fit_without_gradients(self, batches):
        self.encoder.mean.normal_()


class FittedToLabels(Centred):
    """Its fit differs with the labels."""

    def fit_without_gradients(self, batches):
        for batch in batches:
            self.encoder.mean.fill_(sum(float(x.sum()) for x in batch.labels.values()))


class FittedElsewhere(Centred):
    """Keeps its fit outside the encoder."""

    mean = 0.0

    def fit_without_gradients(self, batches):
        for batch in batches:
            self.mean = batch.inputs.mean(0)

    def features(self, inputs):
        return {"module_1": (inputs - self.mean).flatten(1).unsqueeze(1)}


class NeverFitted(Centred):
    """Declares a split, and takes nothing from it."""

    def fit_without_gradients(self, batches):
        return


class Unfitted(FixedFeatures):
    """Pixels: sound."""

    traits = fixed_traits(Modality.IMAGE)

    def features(self, inputs):
        return {"module_1": inputs.flatten(1).unsqueeze(1)}


class FittedInSecret(Unfitted):
    """Is fitted, and declares no split."""

    mean = 0.0
    fit_without_gradients = FittedElsewhere.fit_without_gradients
    features = FittedElsewhere.features


FAULTY_METHODS = {
    test_method.test_a_few_steps_on_one_batch_lower_every_loss: [Climbing],
    test_method.test_without_any_weight_a_loss_is_the_uninformed_one: [WrongChance],
    test_method.test_losses_are_named_after_the_units_in_forward_order: [Renamed],
    test_method.test_a_loss_reaches_no_parameter_outside_its_unit: [BorrowedHead],
    test_method.test_isolated_flow_has_a_unit_for_every_module_and_end_to_end_flow_one: [WrongFlow],
    test_method.test_every_weight_of_the_encoder_is_trained_by_exactly_one_loss: [Unconnected],
    test_method.test_the_units_cover_the_trained_parameters_without_overlap: [LeftOut],
    test_method.test_interleaved_and_joint_backward_give_equal_gradients: [Remembering],
    test_method.test_both_schedules_train_the_same_weights: [Remembering],
    test_method.test_every_schedule_trains_every_unit_on_batches_of_the_declared_views: [
        Undeclared,
        Renamed,
    ],
    test_method.test_what_is_computed_again_gives_the_same_losses_and_gradients: [Approximate],
    test_method.test_a_unit_trained_alone_learns_as_it_does_among_the_others: [
        AllAlways,
        Approximate,
    ],
    test_method.test_the_outputs_of_a_unit_train_the_units_above_as_the_batch_itself_does: [
        OneKept
    ],
    test_method.test_the_same_seed_gives_the_same_losses_bit_for_bit: [Unseeded, Seedless],
    test_method.test_losses_are_finite_single_precision_in_bf16_too: [HalfPrecision],
    test_method.test_features_are_of_every_example_and_step_under_the_names_of_modules: [
        OtherNames
    ],
    test_method.test_features_of_an_encoder_are_those_of_its_modules: [Wider],
    test_method.test_features_are_frozen_and_leave_no_graph: [WithGraph],
    test_method.test_features_and_predictions_are_those_of_eval_mode_and_move_nothing: [
        InTrainMode,
        LeftInEvalMode,
        Drawing,
    ],
    test_method.test_features_of_an_example_do_not_depend_on_the_others_in_its_batch: [Whitened],
    test_method.test_what_has_no_encoder_of_modules_declares_an_ablation: [WithoutEncoder],
    test_method.test_predictions_are_scores_for_every_class_or_none: [OneScore],
    test_traits.test_fitting_without_gradients_is_the_same_in_every_run_and_reads_no_label: [
        FittedAtRandom,
        FittedToLabels,
    ],
    test_traits.test_what_is_fitted_is_kept_with_the_encoder: [FittedElsewhere, NeverFitted],
    test_traits.test_a_method_that_visits_no_split_is_not_fitted: [FittedInSecret],
    test_traits.test_declared_traits_agree_with_each_other: [NothingDeclared],
    test_traits.test_a_method_has_losses_unless_it_declares_that_it_trains_nothing: [NoUnits],
    test_traits.test_every_declared_view_changes_a_loss: [FirstViewTwice],
    test_traits.test_a_method_that_declares_no_labels_uses_none: [Cheating],
    test_traits.test_a_method_that_declares_labels_learns_from_those_of_its_target_alone: [
        Indifferent
    ],
}

# Methods without a fault, of which the faulty ones are made.
SOUND = (GreedySupervised, Centred, Unfitted, Agreeing)

# The further argument of a test.
FURTHER = {
    test_method.test_every_schedule_trains_every_unit_on_batches_of_the_declared_views: {
        "schedule": Schedule.SEQUENTIAL
    },
    test_method.test_what_is_computed_again_gives_the_same_losses_and_gradients: {
        "recompute": Recompute.PIECES
    },
    test_method.test_a_unit_trained_alone_learns_as_it_does_among_the_others: {
        "recompute": Recompute.PIECES
    },
}


def test_every_conformance_test_of_methods_has_a_fault_to_find():
    assert all_tests(test_method) | all_tests(test_traits) == FAULTY_METHODS.keys()


@pytest.mark.parametrize(
    ("test", "faulty"),
    [(test, faulty) for test, found in FAULTY_METHODS.items() for faulty in found],
    ids=lambda each: each.__name__,
)
def test_a_faulty_method_is_found(test, faulty):
    sound = next(kind for kind in SOUND if issubclass(faulty, kind))
    assert passes(test, case=toy_case(sound), **FURTHER.get(test, {}))
    assert not passes(test, case=toy_case(faulty), **FURTHER.get(test, {}))


# -- faulty encoders -------------------------------------------------------------------------------


class Unnamed(ToyEncoder):
    """Its settings are no settings of an encoder."""

    Options = Settings


class OneDim(ToyEncoder):
    """Declares the channels of one module."""

    def __init__(self, options, *, shape):
        super().__init__(options, shape=shape)
        self.dims = self.dims[:1]


class Stem(ToyEncoder):
    """Has weights that are in no module."""

    def __init__(self, options, *, shape):
        super().__init__(options, shape=shape)
        self.scale = nn.Parameter(torch.ones(()))

    def prepare(self, inputs):
        return super().prepare(self.scale * inputs)


class OtherRows(ToyEncoder):
    """Declares the rows of a quarter of the image."""

    @classmethod
    def rows(cls, options, *, shape):
        return [rows // 2 for rows in super().rows(options, shape=shape)]


class Autoregressive(ToyEncoder):
    """Its top module is declared to predict the one below, which has another grid."""

    autoregressive = True


class EveryPlace(ToyEncoder):
    """An image has a step for every place."""

    def steps(self, z, *, module):
        return z.flatten(1, 2)


class FromTheClock(ToyEncoder):
    """Its weights depend on no seed."""

    def __init__(self, options, *, shape):
        super().__init__(options, shape=shape)
        clock = torch.Generator()
        clock.seed()
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=clock)


class Forgetting(ToyEncoder):
    """Its running statistics are not kept with its weights."""

    def state_dict(self, *args, **settings):
        state = super().state_dict(*args, **settings)
        return {name: value for name, value in state.items() if "running" not in name}

    def load_state_dict(self, state):
        super().load_state_dict(state, strict=False)


class Idle(ToyEncoder):
    """The bias of its second module is never used."""

    def steps(self, z, *, module):
        self.stages[1][0].bias.grad = None
        self.stages[1][0].bias.requires_grad_(False)
        return super().steps(z, module=module)

    def prepare(self, inputs):
        self.stages[1][0].bias.requires_grad_(False)
        return super().prepare(inputs)


class Interleaved(ToyEncoder):
    """The patches of an image do not lie one after the other."""

    def prepare(self, inputs):
        return rearrange(inputs, "image c (r h) (s w) -> (r s image) c h w", r=2, s=2)

    def pool(self, activations, *, batch_size):
        return rearrange(activations, "(r s image) d h w -> image (r h) (s w) d", r=2, s=2)


class Independent(ToyEncoder):
    """Has batch norm, and does not say so."""

    @classmethod
    def examples_are_independent(cls, options):
        return True


class Dependent(ToyEncoder):
    """Declares that examples depend on each other, though nothing makes them."""

    @classmethod
    def examples_are_independent(cls, options):
        return False


class OfTheBatch(ToyEncoder):
    """Its batch norm takes the batch's own statistics in eval mode, too."""

    def __init__(self, options, *, shape):
        super().__init__(options, shape=shape)
        for stage in self.stages:
            stage[1] = nn.BatchNorm2d(4, track_running_stats=False)


class Overwriting(ToyEncoder):
    """Its second module begins with a ReLU in place."""

    def __init__(self, options, *, shape):
        super().__init__(options, shape=shape)
        self.stages[0][-1] = nn.Identity()
        self.stages[1].insert(0, nn.ReLU(inplace=True))


FAULTY_ENCODERS = {
    test_encoder.test_an_encoder_declares_a_modality_and_settings_with_a_kind: [Unnamed],
    test_encoder.test_an_encoder_has_modules_and_the_channels_of_each: [OneDim],
    test_encoder.test_all_parameters_are_in_the_modules: [Stem],
    test_encoder.test_encodings_are_grids_of_the_declared_rows_and_channels: [OtherRows],
    test_encoder.test_an_autoregressor_has_the_grid_of_the_module_that_it_predicts: [
        Autoregressive
    ],
    test_encoder.test_steps_are_places_of_labels_with_the_channels_of_the_module: [EveryPlace],
    test_encoder.test_first_weights_follow_from_the_seed: [FromTheClock],
    test_encoder.test_weights_that_were_saved_give_the_same_encodings: [Forgetting],
    test_encoder.test_gradients_reach_every_parameter: [Idle],
    test_encoder.test_prepared_examples_lie_one_after_the_other: [Interleaved],
    test_encoder.test_examples_depend_on_each_other_in_training_as_the_encoder_declares: [
        Independent,
        Dependent,
    ],
    test_encoder.test_in_eval_mode_pieces_of_a_batch_give_what_the_whole_gives: [OfTheBatch],
    test_encoder.test_no_module_writes_into_what_it_is_given: [Overwriting],
}


def encoder_case_of(encoder, **options) -> EncoderCase:
    return replace(toy_case(**options).on, encoder=encoder)


def test_every_conformance_test_of_encoders_has_a_fault_to_find():
    assert all_tests(test_encoder) == FAULTY_ENCODERS.keys()


@pytest.mark.parametrize(
    ("test", "faulty"),
    [(test, faulty) for test, found in FAULTY_ENCODERS.items() for faulty in found],
    ids=lambda each: each.__name__,
)
def test_a_faulty_encoder_is_found(test, faulty):
    options = {} if faulty is Dependent else BOTH
    if faulty is not Autoregressive:  # the sound one has none, which skips the test
        assert passes(test, encoder_case=encoder_case_of(ToyEncoder, **options))
    assert not passes(test, encoder_case=encoder_case_of(faulty, **options))
