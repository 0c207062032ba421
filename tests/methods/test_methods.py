"""What tells the methods of the vision benchmark apart."""

import math

import pytest
import torch

from gim_bench import registry, seeding
from gim_bench.config import InfoNCESettings
from gim_bench.contract import Batch, GradientFlow, Ingredients, Split
from gim_bench.nn.pixelcnn import PixelCNN
from gim_bench.nn.resnet import ResNetEncoder
from tests.conftest import CLASSES, IMAGES, TINY_ENCODER


def cpc_with(**options):
    method = registry.method("cpc")
    with seeding.weights_from("tests", "cpc"):
        encoder = ResNetEncoder(TINY_ENCODER, in_channels=1)
        return method(
            Ingredients(
                encoder=encoder,
                classes=CLASSES,
                info_nce=InfoNCESettings(),
                options=method.Options(**options),
                negatives=seeding.generator("tests", "cpc"),
            )
        )


@pytest.mark.parametrize(
    ("name", "objective", "flow", "split"),
    [
        ("gim", "info_nce", GradientFlow.ISOLATED, Split.UNLABELLED),
        ("cpc", "info_nce", GradientFlow.END_TO_END, Split.UNLABELLED),
        ("greedy_supervised", "cross_entropy", GradientFlow.ISOLATED, Split.TRAIN),
        ("supervised", "cross_entropy", GradientFlow.END_TO_END, Split.TRAIN),
        ("random_init", "none", GradientFlow.NONE, None),
    ],
)
def test_a_method_is_an_objective_times_a_gradient_flow(name, objective, flow, split):
    traits = registry.method(name).traits
    assert (traits.objective, traits.gradient_flow, traits.trains_on) == (objective, flow, split)


def test_an_untrained_gim_is_near_chance_in_every_module(tiny, tiny_batch):
    """ln 17 with 16 negatives; first weights of this size tell little apart."""
    losses = [loss.item() for _, loss in tiny("gim").learner.losses(tiny_batch)]
    assert losses == pytest.approx([math.log(17)] * 3, abs=0.1)


def test_cpc_has_its_autoregressor_on_top_and_one_loss():
    cpc = cpc_with()
    assert isinstance(cpc.heads["module_3"]["autoregressor"], PixelCNN)
    assert len(cpc.heads["module_3"]["autoregressor"].layers) == 4
    assert list(cpc.units()) == ["module_3"]


def test_a_suite_may_turn_cpc_s_autoregressor_off(tiny_batch):
    """Then the context is z itself, as in GIM."""
    cpc = cpc_with(autoregressor="none")
    state = cpc.heads["module_3"]["info_nce"].generator.get_state()
    ((_, loss),) = cpc.losses(tiny_batch)
    activations = cpc.encoder.prepare(tiny_batch.inputs)
    for stage in cpc.encoder.stages:
        activations = stage(activations)
    z = cpc.encoder.pool(activations, batch_size=IMAGES)
    cpc.heads["module_3"]["info_nce"].generator.set_state(state)
    assert loss.item() == cpc.heads["module_3"]["info_nce"](z, z).item()


def test_the_number_of_the_autoregressor_s_layers_is_an_option():
    cpc = cpc_with(autoregressor_layers=2)
    assert len(cpc.heads["module_3"]["autoregressor"].layers) == 2


@pytest.mark.parametrize("name", ["supervised", "greedy_supervised"])
def test_a_supervised_method_predicts_with_its_top_classifier(name, tiny, tiny_batch):
    learner = tiny(name).learner
    top = learner.features(tiny_batch.inputs)["module_3"]
    expected = learner.heads["module_3"].classifier(top)
    torch.testing.assert_close(learner.predict(tiny_batch.inputs), expected.detach())


@pytest.mark.parametrize("name", ["gim", "cpc", "random_init"])
def test_methods_without_a_classifier_predict_nothing(name, tiny, tiny_batch):
    assert tiny(name).learner.predict(tiny_batch.inputs) is None


@pytest.mark.parametrize("name", ["supervised", "greedy_supervised"])
def test_a_supervised_method_refuses_images_without_labels(name, tiny, tiny_batch):
    unlabelled = Batch(inputs=tiny_batch.inputs, labels=None)
    with pytest.raises(AssertionError, match="unlabelled"):
        list(tiny(name).learner.losses(unlabelled))


def test_random_init_stays_as_it_was(tiny, tiny_batch):
    learner = tiny("random_init").learner
    before = {n: w.clone() for n, w in learner.state_dict().items()}
    assert list(learner.losses(tiny_batch)) == []
    assert all(torch.equal(w, before[n]) for n, w in learner.state_dict().items())
