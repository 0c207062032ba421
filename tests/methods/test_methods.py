"""What tells the methods apart."""

import math

import pytest
import torch
from torch import nn

from gim_bench import registry
from gim_bench.contract import Batch, GradientFlow, Learner, Modality, Split
from gim_bench.encoders.pixelcnn import PixelCNN
from gim_bench.errors import ConfigError
from gim_bench.objectives.info_nce import InfoNCEHead
from gim_bench.testing.cases import CLASS, IMAGES, PHONE, SPEAKER, TARGETS, TINY
from tests.conftest import INFO_NCE, build_tiny, tiny_setup

SPEECH = Modality.SPEECH
BOTH = frozenset(Modality)
CONVOLUTIONS = [f"module_{m}" for m in range(1, 6)]
GRU = "module_6"


def cpc_with(**options) -> Learner:
    return build_tiny("cpc", **options).learner


def encodings_of(learner: Learner, batch: Batch) -> list[torch.Tensor]:
    """Every module's encodings as a grid, without a graph."""
    found, activations = [], learner.encoder.prepare(batch.inputs)
    with torch.no_grad():
        for stage in learner.encoder.stages:
            activations = stage(activations)
            found.append(learner.encoder.pool(activations, batch_size=len(batch.inputs)))
    return found


def asked_of_heads(learner: Learner, batch: Batch) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By unit, the (z, c) that its InfoNCE head was given."""
    found = {}
    for unit, head in learner.heads.items():
        for part in head.modules():
            if isinstance(part, InfoNCEHead):
                part.register_forward_pre_hook(
                    lambda _, given, unit=unit: found.__setitem__(unit, given)
                )
    list(learner.losses(batch))
    return found


# -- what they declare ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "objective", "flow", "split"),
    [
        ("gim", "info_nce", GradientFlow.ISOLATED, Split.UNLABELLED),
        ("gim_no_bptt", "info_nce", GradientFlow.ISOLATED, Split.UNLABELLED),
        ("gim_no_ar", "info_nce", GradientFlow.ISOLATED, Split.UNLABELLED),
        ("cpc", "info_nce", GradientFlow.END_TO_END, Split.UNLABELLED),
        ("greedy_supervised", "cross_entropy", GradientFlow.ISOLATED, Split.TRAIN),
        ("supervised", "cross_entropy", GradientFlow.END_TO_END, Split.TRAIN),
        ("random_init", "none", GradientFlow.NONE, None),
        ("mfcc", "none", GradientFlow.NONE, None),
    ],
)
def test_a_method_is_an_objective_times_a_gradient_flow(name, objective, flow, split):
    traits = registry.method(name).traits
    named = "none" if traits.objective is None else traits.objective.name
    assert (named, traits.gradient_flow, traits.trains_on) == (objective, flow, split)


@pytest.mark.parametrize("name", ["gim", "cpc", "supervised", "greedy_supervised", "random_init"])
def test_what_the_paper_compares_takes_images_and_speech_and_ablates_nothing(name):
    traits = registry.method(name).traits
    assert traits.modalities == BOTH
    assert traits.ablation is None


@pytest.mark.parametrize(
    ("name", "ablation"),
    [
        ("gim_no_bptt", "no backpropagation through time in the GRU"),
        ("gim_no_ar", "no GRU"),
        ("mfcc", "fixed features in place of the encoder"),
    ],
)
def test_what_differs_in_its_encoder_takes_speech_alone_and_says_how(name, ablation):
    traits = registry.method(name).traits
    assert traits.modalities == {SPEECH}
    assert traits.ablation == ablation


# -- InfoNCE -------------------------------------------------------------------------------------


def test_an_untrained_gim_is_near_chance_in_every_module(tiny, tiny_batch):
    """ln 17 with 16 negatives; first weights of this size tell little apart."""
    losses = [loss.item() for _, loss in tiny("gim").learner.losses(tiny_batch)]
    assert losses == pytest.approx([math.log(17)] * 3, abs=0.1)


@pytest.mark.parametrize("name", ["gim", "gim_no_bptt"])
def test_an_untrained_gim_on_speech_is_near_chance_in_every_module(name, tiny, tiny_speech):
    """ln 11 with 10 negatives."""
    learner = tiny(name, modality=SPEECH).learner
    losses = [loss.item() for _, loss in learner.losses(tiny_speech)]
    assert losses == pytest.approx([math.log(11)] * 6, abs=0.1)


def test_gim_s_convolutions_predict_their_own_encodings(tiny, tiny_speech):
    learner = tiny("gim", modality=SPEECH).learner
    asked = asked_of_heads(learner, tiny_speech)
    for unit, own in zip(CONVOLUTIONS, encodings_of(learner, tiny_speech), strict=False):
        z, c = asked[unit]
        assert z is c
        assert torch.equal(z, own)
        assert z.requires_grad


@pytest.mark.parametrize("name", ["gim", "gim_no_bptt"])
def test_gim_s_gru_predicts_the_encodings_that_it_is_given_which_it_cannot_change(
    name, tiny, tiny_speech
):
    """Eq. 6: c is the GRU's, z the fifth convolution's behind the gradient block."""
    learner = tiny(name, modality=SPEECH).learner
    z, c = asked_of_heads(learner, tiny_speech)[GRU]
    *_, fifth, gru = encodings_of(learner, tiny_speech)
    assert torch.equal(z, fifth)
    assert not z.requires_grad
    torch.testing.assert_close(c, gru)
    assert c.requires_grad


def test_gim_without_its_autoregressor_ends_with_the_fifth_convolution_predicting_itself(
    tiny, tiny_speech
):
    learner = tiny("gim_no_ar", modality=SPEECH).learner
    assert list(learner.units()) == list(learner.features(tiny_speech.inputs)) == CONVOLUTIONS
    z, c = asked_of_heads(learner, tiny_speech)[CONVOLUTIONS[-1]]
    assert z is c


def test_the_negatives_of_a_module_do_not_depend_on_those_of_others(tiny, tiny_batch):
    """Alone, a module has the loss that it has among the others; modules draw differently."""
    together = dict(tiny("gim").learner.losses(tiny_batch))
    for unit, loss in together.items():
        ((_, alone),) = tiny("gim").learner.losses(tiny_batch, only=unit)
        assert alone.item() == loss.item()
    streams = tiny("gim").learner.streams.values()
    assert len({stream.initial_seed() for stream in streams}) == len(together)


def test_stopping_bptt_changes_no_loss_and_the_gradients_of_the_gru_alone(tiny, tiny_speech):
    """With the same heads and negatives; what reaches the head of the GRU is unchanged too."""
    gim, cut = (tiny(name, modality=SPEECH) for name in ("gim", "gim_no_bptt"))
    cut.learner.load_state_dict(gim.learner.state_dict())
    for own, other in zip(cut.generators, gim.generators, strict=True):
        own.set_state(other.get_state())
    losses = [dict(built.learner.losses(tiny_speech)) for built in (gim, cut)]
    for unit in losses[0]:
        torch.testing.assert_close(losses[0][unit], losses[1][unit])
        losses[0][unit].backward()
        losses[1][unit].backward()
    changed = {
        name
        for (name, one), other in zip(
            gim.learner.named_parameters(), cut.learner.parameters(), strict=True
        )
        if not torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-9)
    }
    assert changed
    assert all(name.startswith("encoder.stages.5.") for name in changed), changed


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
    z = encodings_of(cpc, tiny_batch)[-1]
    assert z.shape[0] == IMAGES
    cpc.heads["module_3"]["info_nce"].generator.set_state(state)
    assert loss.item() == cpc.heads["module_3"]["info_nce"](z, z).item()


def test_the_number_of_the_autoregressor_s_layers_is_an_option():
    cpc = cpc_with(autoregressor_layers=2)
    assert len(cpc.heads["module_3"]["autoregressor"].layers) == 2


def test_cpc_on_speech_takes_the_encoder_s_gru_and_no_autoregressor_of_its_own():
    cpc = cpc_with(modality=SPEECH)
    assert list(cpc.units()) == [GRU]
    assert isinstance(cpc.heads[GRU]["autoregressor"], nn.Identity)


@pytest.mark.parametrize("autoregressor", ["pixelcnn", "none"])
def test_cpc_on_speech_refuses_an_autoregressor_for_images(autoregressor):
    cpc = registry.method("cpc")
    options = cpc.Options(autoregressor=autoregressor)
    with pytest.raises(ConfigError, match=f"{autoregressor}.*is for images"):
        cpc.check(options, setup=tiny_setup(SPEECH))
    cpc.check(options, setup=tiny_setup(Modality.IMAGE))


def test_cpc_on_speech_predicts_the_fifth_convolution_from_the_gru(tiny_speech):
    """And trains both: what it predicts gets gradient too."""
    cpc = cpc_with(modality=SPEECH)
    z, c = asked_of_heads(cpc, tiny_speech)[GRU]
    *_, fifth, gru = encodings_of(cpc, tiny_speech)
    assert torch.equal(z, fifth)
    assert torch.equal(c, gru)
    assert z.requires_grad
    assert c.requires_grad


def test_cpc_on_speech_trains_every_module_by_its_one_loss(tiny_speech):
    cpc = cpc_with(modality=SPEECH)
    ((_, loss),) = cpc.losses(tiny_speech)
    loss.backward()
    for stage in cpc.encoder.stages:
        assert all(p.grad.any() for p in stage.parameters())


@pytest.mark.parametrize("name", ["gim", "cpc"])
def test_the_gru_s_head_has_a_matrix_from_contexts_to_encodings_for_every_k(name, tiny):
    head = tiny(name, modality=SPEECH).learner.heads[GRU]
    (weight,) = (part.predictors.weight for part in head.modules() if isinstance(part, InfoNCEHead))
    steps, settings = INFO_NCE[SPEECH].prediction_steps, TINY[SPEECH].options
    assert weight.shape == (steps * settings.width, settings.context)


# -- cross-entropy -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["supervised", "greedy_supervised"])
@pytest.mark.parametrize("modality", Modality)
def test_a_supervised_method_predicts_a_whole_example_from_the_mean_of_its_top_features(
    name, modality, tiny, tiny_batch, tiny_speech
):
    inputs = (tiny_batch if modality is Modality.IMAGE else tiny_speech).inputs
    learner = tiny(name, modality=modality, target=TARGETS[modality][0]).learner
    features = learner.features(inputs)
    top = list(features)[-1]
    expected = learner.heads[top].classifier(features[top].mean(dim=1, keepdim=True))
    torch.testing.assert_close(learner.predict(features), expected.detach())


@pytest.mark.parametrize("name", ["supervised", "greedy_supervised"])
def test_a_supervised_method_predicts_phones_from_the_top_features_of_every_step(
    name, tiny, tiny_speech
):
    learner = tiny(name, modality=SPEECH, target=PHONE).learner
    features = learner.features(tiny_speech.inputs)
    expected = learner.heads[GRU].classifier(features[GRU])
    torch.testing.assert_close(learner.predict(features), expected.detach())


@pytest.mark.parametrize("name", ["supervised", "greedy_supervised"])
@pytest.mark.parametrize("target", [SPEAKER, PHONE], ids=lambda target: target.name)
def test_a_supervised_loss_is_the_cross_entropy_of_the_features_that_the_probe_reads(
    name, target, tiny, tiny_speech
):
    learner = tiny(name, modality=SPEECH, target=target).learner
    features = learner.features(tiny_speech.inputs)
    labels = tiny_speech.labels[target.name]
    for unit, loss in learner.losses(tiny_speech):
        read = features[unit] if target.per_step else features[unit].mean(dim=1, keepdim=True)
        scores = learner.heads[unit].classifier(read).log_softmax(dim=2).flatten(0, 1)
        known = labels.flatten() != -1
        picked = scores[known].gather(1, labels.flatten()[known].unsqueeze(1))
        assert loss.item() == pytest.approx(-picked.mean().item(), rel=1e-4)


@pytest.mark.parametrize("name", ["gim", "cpc", "random_init"])
def test_methods_without_a_classifier_predict_nothing(name, tiny, tiny_batch):
    learner = tiny(name).learner
    assert learner.predict(learner.features(tiny_batch.inputs)) is None


@pytest.mark.parametrize("name", ["supervised", "greedy_supervised"])
@pytest.mark.parametrize("labels", [{}, {"speaker": torch.arange(IMAGES)}], ids=["none", "others"])
def test_a_supervised_method_refuses_examples_without_labels_of_its_target(
    name, labels, tiny, tiny_batch
):
    unlabelled = Batch(inputs=tiny_batch.inputs, labels=labels)
    with pytest.raises(AssertionError, match="unlabelled"):
        list(tiny(name, target=CLASS).learner.losses(unlabelled))


# -- nothing learnt --------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", Modality)
def test_random_init_stays_as_it_was(modality, tiny, tiny_batch, tiny_speech):
    learner = tiny("random_init", modality=modality).learner
    before = {n: w.clone() for n, w in learner.state_dict().items()}
    assert list(learner.losses(tiny_batch if modality is Modality.IMAGE else tiny_speech)) == []
    assert all(torch.equal(w, before[n]) for n, w in learner.state_dict().items())
