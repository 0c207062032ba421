"""Stacks: how a gradient flow cuts an encoder into units."""

import weakref

import pytest
import torch

from gim_bench.contract import Batch, GradientFlow, Modality
from gim_bench.methods.stack import Unit, module_name, partition
from gim_bench.settings.schema import Recompute
from tests.toys import toy_case


def test_isolated_flow_makes_every_module_a_unit():
    assert partition(3, GradientFlow.ISOLATED) == [Unit(0, 0), Unit(1, 1), Unit(2, 2)]


def test_end_to_end_flow_makes_one_unit_of_all_modules():
    assert partition(3, GradientFlow.END_TO_END) == [Unit(0, 2)]


def test_without_training_there_are_no_units():
    assert partition(3, GradientFlow.NONE) == []


def test_modules_are_counted_from_one_and_units_named_after_their_top_module():
    assert module_name(0) == "module_1"
    assert Unit(0, 2).name == "module_3"


def test_an_autoregressor_s_targets_have_the_channels_of_the_module_below(tiny):
    learner = tiny("gim", modality=Modality.SPEECH).learner
    assert list(learner.encoder.dims) == [4, 4, 4, 4, 4, 3]
    assert [learner.target_dim(module) for module in range(6)] == [4] * 6


def test_without_an_autoregressor_every_module_predicts_its_own_channels(tiny):
    learner = tiny("gim").learner
    assert [learner.target_dim(module) for module in range(3)] == list(learner.encoder.dims)


def test_a_module_s_forward_runs_only_when_its_loss_is_asked_for(tiny, tiny_batch):
    """Else interleaving would hold the activations of all modules at once."""
    learner = tiny("gim").learner
    ran = []
    for m, stage in enumerate(learner.encoder.stages):
        stage[-1].register_forward_hook(lambda *_, m=m: ran.append(m))
    for m, _ in enumerate(learner.losses(tiny_batch)):
        assert ran == list(range(m + 1))


def test_a_module_s_activations_are_freed_before_the_next_one_s_exist(tiny, tiny_batch):
    """What interleaving saves: after backward, the graph of a module is gone."""
    learner = tiny("gim").learner
    losses = learner.losses(tiny_batch)
    _, first = next(losses)
    first.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        first.backward()
    next(losses)[1].backward()


@pytest.mark.parametrize("recompute", Recompute, ids=str)
@pytest.mark.parametrize("flow", [GradientFlow.ISOLATED, GradientFlow.END_TO_END], ids=str)
def test_activations_at_the_top_are_let_go_before_the_way_back(flow, recompute, tiny, tiny_batch):
    """No unit above reads them, and their means are all that the loss needs."""
    learner = tiny("gim", gradient_flow=flow, recompute=recompute).learner
    tops = []
    learner.encoder.stages[-1][-1].register_forward_hook(
        lambda layer, given, top: tops.append(weakref.ref(top))
    )
    for _, loss in learner.losses(tiny_batch):
        assert not any(top() is not None for top in tops)
        loss.backward()
    assert tops


def test_frozen_modules_run_on_whole_examples():
    """Six images of four patches that see each other are cut into six pieces, not into eight."""
    case = toy_case(mixing=True)
    learner, batch = case.build().learner, case.batch()
    six = Batch(inputs=batch.inputs[:6], labels={})
    found = learner.outputs(six, unit="module_1").inputs.flatten(0, 1)
    whole = learner.encoder.stages[0](learner.encoder.prepare(six.inputs))
    torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("modality", Modality)
def test_what_a_module_computes_does_not_depend_on_the_flow(
    modality, tiny, tiny_batch, tiny_speech
):
    """Stopping gradients changes no value of the forward pass."""
    inputs = (tiny_batch if modality is Modality.IMAGE else tiny_speech).inputs
    isolated, end_to_end = (
        tiny(name, modality=modality).learner.features(inputs)
        for name in ("greedy_supervised", "supervised")
    )
    for module, feature in isolated.items():
        assert torch.equal(feature, end_to_end[module])


# -- compiled --------------------------------------------------------------------------------------


def test_compiling_goes_layer_by_layer_and_leaves_names_alone(tiny, monkeypatch):
    compiled = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__)
    )
    plain, other = (tiny("gim", compiled=wanted).learner for wanted in (False, True))
    assert compiled == ["Conv2d", "Bottleneck", "Bottleneck", "Bottleneck"]
    assert list(plain.state_dict()) == list(other.state_dict())
