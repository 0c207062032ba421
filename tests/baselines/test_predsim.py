"""PredSim on VGG8b: conformance with isolated and end-to-end flow, its halves, its own head."""

import pytest
import torch

from baselines.predsim import PredSim, grid_of
from gim_bench.contract import Modality
from gim_bench.encoders.vgg8b import VGG8b
from gim_bench.errors import ConfigError
from gim_bench.settings.suites import parse
from gim_bench.testing.cases import TINY, Case, encoder_case, method_cases
from gim_bench.testing.test_method import *  # noqa: F403 - pytest runs the tests by their names
from gim_bench.testing.test_traits import *  # noqa: F403

ON_VGG8B = encoder_case(VGG8b, options={"width": 4, "hidden": 6})
TOP = "module_7"


def cases_of(*, on=ON_VGG8B, **options) -> list[Case]:
    return method_cases(PredSim, name="predsim", encoders=[on], options=options, objective={})


CASES = cases_of()
ISOLATED, END_TO_END = CASES


def losses_of(case: Case) -> dict[str, float]:
    learner = case.build().learner.eval()
    return {unit: loss.item() for unit, loss in learner.losses(case.batch())}


# -- units ---------------------------------------------------------------------------------------


def test_every_convolution_and_the_hidden_layer_have_a_loss():
    assert list(losses_of(ISOLATED)) == [f"module_{m}" for m in range(1, 8)]


def test_the_end_to_end_twin_has_the_loss_of_the_top_module_alone():
    """The same loss of the same weights, and gradients in all modules."""
    learner = END_TO_END.build().learner.eval()
    ((unit, loss),) = learner.losses(END_TO_END.batch())
    loss.backward()
    assert unit == TOP
    assert list(learner.heads) == [TOP]
    assert all(p.grad is not None for p in learner.encoder.parameters())


def test_a_loss_reads_encodings_before_dropout_of_its_module():
    """The first loss is the same with any dropout, as the heads are those of the same seed."""
    first = []
    for dropout in (0.0, 0.9):
        on = encoder_case(VGG8b, options={"width": 4, "hidden": 6, "dropout": dropout})
        case, _ = cases_of(on=on)
        unit, loss = next(iter(case.build().learner.train().losses(case.batch())))
        assert unit == "module_1"
        first.append(loss.item())
    assert first[0] == first[1]


# -- halves --------------------------------------------------------------------------------------


def test_predsim_is_the_weighted_sum_of_its_halves():
    """On equal weights: those of the halves are taken over."""
    whole = ISOLATED.build().learner.eval()
    total = {unit: loss.item() for unit, loss in whole.losses(ISOLATED.batch())}
    summed = dict.fromkeys(total, 0.0)
    for half in ({"similarity": 0.0}, {"prediction": 0.0}):
        learner = cases_of(**half)[0].build().learner.eval()
        learner.load_state_dict({name: whole.state_dict()[name] for name in learner.state_dict()})
        for unit, loss in learner.losses(ISOLATED.batch()):
            summed[unit] += loss.item()
    assert summed == pytest.approx(total)


def test_an_uninformed_loss_is_named_for_pred_alone():
    names = {}
    for half, options in {"pred": {"similarity": 0.0}, "sim": {"prediction": 0.0}}.items():
        names[half] = list(cases_of(**options)[0].build().learner.uninformed_losses())
    assert names == {"pred": [f"module_{m}" for m in range(1, 8)], "sim": []}
    assert not ISOLATED.build().learner.uninformed_losses()


def test_a_method_without_any_loss_is_refused():
    with pytest.raises(ConfigError, match="leave no loss: set one of them above 0"):
        parse(PredSim.Options, {"similarity": 0.0, "prediction": 0.0}, origin="test")


# -- its own head --------------------------------------------------------------------------------


def test_the_own_head_is_the_classifier_of_the_hidden_layer():
    learner = ISOLATED.build().learner.eval()
    torch.nn.init.normal_(learner.heads[TOP].classifier.weight)
    features = learner.features(ISOLATED.batch().inputs)
    maps = features[TOP][:, 0, :, None, None]
    expected = learner.heads[TOP].logits(maps)
    assert torch.equal(learner.predict(features)[:, 0], expected)


def test_sim_has_no_head_of_its_own():
    learner = cases_of(prediction=0.0)[0].build().learner
    assert learner.predict(learner.features(ISOLATED.batch().inputs)) is None


def test_a_classifier_that_reads_more_than_the_probe_does_predicts_nothing():
    """On the suite's ResNet, the classifier reads a grid of patches."""
    case, _ = cases_of(on=TINY[Modality.IMAGE])
    learner = case.build().learner
    assert learner.heads["module_3"].sides != (1, 1)
    assert learner.predict(learner.features(case.batch().inputs)) is None


def test_the_size_of_a_grid_is_found_without_random_numbers_and_leaves_the_encoder_as_it_is():
    """The encoder is run once, which in train mode would draw for dropout and move batch norm."""
    on = encoder_case(VGG8b, options={"width": 4, "hidden": 6, "dropout": 0.5})
    encoder = on.build().float().train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    drawn = torch.get_rng_state()
    sizes = [grid_of(encoder, module, shape=on.shape) for module in range(len(encoder.stages))]
    assert sizes[-1] == (1, 1)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(module.training for module in encoder.modules())
    after = encoder.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
