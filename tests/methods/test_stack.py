"""Stacks: how a gradient flow cuts an encoder into units."""

import weakref
from types import SimpleNamespace

import jaxtyping
import pytest
import torch

from gim_bench.contract import Batch, GradientFlow, Modality
from gim_bench.methods.compiling import compile_layers
from gim_bench.methods.stack import Unit, module_name, partition
from gim_bench.settings.base import Precision
from gim_bench.settings.schema import Schedule
from gim_bench.training.trainer import Trainer
from tests.tiny_suite import CPU
from tests.toys import OF_ANY_ENCODER, toy_case


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
        stage.register_forward_hook(lambda *_, m=m: ran.append(m))
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


@pytest.mark.parametrize(
    "recompute",
    OF_ANY_ENCODER,
    ids=str,
)
@pytest.mark.parametrize("flow", [GradientFlow.ISOLATED, GradientFlow.END_TO_END], ids=str)
def test_activations_at_the_top_are_let_go_before_the_way_back(flow, recompute, tiny, tiny_batch):
    """No unit above reads them, and their means are all that the loss needs."""
    learner = tiny("gim", gradient_flow=flow, recompute=recompute).learner
    tops = []
    top_module = len(learner.encoder.stages) - 1
    *_, last = learner._operations(top_module, top_module)
    last.register_forward_hook(lambda operation, given, top: tops.append(weakref.ref(top)))
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

# PyTorch itself looks for gradients of what it compiles.
tracing = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


def test_compiling_goes_layer_by_layer_and_leaves_names_alone(tiny, monkeypatch):
    compiled = compilations(monkeypatch)
    plain, other = (tiny("gim", compiled=wanted).learner for wanted in (False, True))
    assert compiled == [(name, None) for name in LAYERS]
    assert list(plain.state_dict()) == list(other.state_dict())


LAYERS = ["Conv2d", "Bottleneck", "Bottleneck", "Bottleneck"]


def compilations(monkeypatch):
    """(class, mode) of each layer that is asked to be compiled, and is not."""
    found = []
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda self, *, mode, dynamic: found.append((type(self).__name__, mode)),
    )
    return found


def test_with_cuda_graphs_every_layer_is_compiled_to_be_replayed(tiny, monkeypatch):
    compiled = compilations(monkeypatch)
    tiny("gim", compiled=True, cuda_graphs=True)
    assert compiled == [(name, "reduce-overhead") for name in LAYERS]


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are traced and run as they are, without a compiler, and all calls of them."""
    found, calls = [], []
    compiled = torch.nn.Module.compile

    def backend(graph, inputs):
        found.append((graph, inputs))
        return lambda *given: calls.append(graph) or graph(*given)

    def traced(layer, *, mode, dynamic):
        compiled(layer, backend=backend, dynamic=dynamic)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # checks cannot be traced
    torch.compiler.reset()
    yield SimpleNamespace(found=found, calls=calls)
    torch.compiler.reset()


@tracing
@pytest.mark.parametrize("schedule", [Schedule.INTERLEAVED, Schedule.JOINT, Schedule.SEQUENTIAL])
@pytest.mark.parametrize("recompute", OF_ANY_ENCODER, ids=str)
def test_compiled_layers_train_as_they_are_written(schedule, recompute, tiny, tiny_batch, graphs):
    plain, other = (
        tiny("gim", recompute=recompute, compiled=compiled).learner for compiled in (False, True)
    )
    losses, others = (trained(learner, tiny_batch, schedule) for learner in (plain, other))
    assert graphs.calls
    torch.testing.assert_close(losses, others)
    torch.testing.assert_close(plain.state_dict(), other.state_dict())


def trained(learner, batch, schedule):
    """Losses of two steps of each stage."""
    trainer = Trainer(
        learner, learning_rate=1e-3, schedule=schedule, precision=Precision.FP32, device=CPU
    )
    return [trainer.step(batch, only=unit) for unit in trainer.stages() for _ in range(2)]


@tracing
def test_no_size_of_a_compiled_layer_is_symbolic(tiny, tiny_batch, graphs):
    """Layers share their code. PyTorch takes a size for symbolic once it has seen two values."""
    learner = tiny("gim", compiled=True).learner
    list(learner.losses(tiny_batch))
    sizes = [
        size
        for _, inputs in graphs.found
        for each in inputs
        for size in getattr(each, "shape", [each])
    ]
    assert len(graphs.found) > 1
    assert {type(size) for size in sizes} == {int}


@tracing
def test_features_are_read_by_layers_as_they_are_written(tiny, tiny_batch, graphs):
    """Recordings and last batches have sizes of their own, each of which would be compiled."""
    learner = tiny("gim", compiled=True).learner
    learner.features(tiny_batch.inputs)
    assert not graphs.found
    list(learner.losses(tiny_batch))
    assert graphs.found


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_each_pass_through_the_layers_begins_graphs_anew(
    cuda_graphs, tiny, tiny_batch, monkeypatch
):
    """In the middle of a pass activations go from one unit to the next: nothing may reuse them."""
    compilations(monkeypatch)
    begun = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(None))
    learner = tiny("gim", compiled=True, cuda_graphs=cuda_graphs).learner
    passes = [
        lambda: list(learner.losses(tiny_batch)),
        lambda: list(learner.losses(tiny_batch, only="module_2")),
        lambda: learner.outputs(tiny_batch, unit="module_1"),
    ]
    for number, run in enumerate(passes, start=1):
        run()
        assert len(begun) == (number if cuda_graphs else 0)


def test_layers_of_many_shapes_are_all_compiled():
    """By default PyTorch leaves code as it is written from its ninth shape on."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    class Layer(torch.nn.Linear):
        def compile(self, *, mode, dynamic):
            super().compile(backend=backend, dynamic=dynamic)

        def forward(self, x):  # PyTorch's own is not compiled by itself
            return super().forward(x).relu()

    layers = [Layer(width, width) for width in range(2, 14)]
    torch.compiler.reset()
    compile_layers(layers, cuda_graphs=False)
    for layer in layers:
        layer(torch.zeros(layer.in_features, layer.in_features))
    assert len(found) == len(layers)
