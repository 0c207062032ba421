"""Every registered method and encoder keeps to the contract; a new one is tested without an edit.

The tests are those that the package ships for anybody's methods and encoders.
"""

import pytest
import torch

from gim_bench.contract import Encoder, Modality
from gim_bench.testing.cases import Case
from gim_bench.testing.test_encoder import *  # noqa: F403 - pytest runs the tests by their names
from gim_bench.testing.test_method import *  # noqa: F403
from gim_bench.testing.test_traits import *  # noqa: F403
from tests.conftest import build_tiny, cases, methods_for


def test_every_method_starts_from_the_encoder_of_random_init(case: Case):
    """Feature by feature; an ablation may leave modules out of the encoder, from the top."""
    learner = case.build(seed=3, dtype=torch.float32).learner
    if not isinstance(learner.encoder, Encoder):
        pytest.skip("the learner has no encoder made of modules")
    inputs = case.batch(dtype=torch.float32).inputs
    ours = learner.features(inputs)
    untrained = build_tiny("random_init", seed=3, modality=case.modality).learner.features(inputs)
    assert list(ours) == list(untrained)[: len(ours)]
    if learner.traits.ablation is None:
        assert len(ours) == len(untrained)
    assert all(torch.equal(ours[m], untrained[m]) for m in ours)


@pytest.mark.parametrize("modality", Modality)
def test_both_modalities_are_covered_and_have_random_init_to_compare_with(modality):
    assert {"gim", "cpc", "supervised", "random_init"} <= set(methods_for(modality))


def test_methods_that_use_labels_are_tested_on_every_target():
    supervised = [str(case) for case in cases() if case.name == "supervised"]
    assert supervised == [
        "supervised-images-class",
        "supervised-speech-speaker",
        "supervised-speech-phone",
    ]


def test_methods_of_either_flow_are_tested_with_both():
    gim = [str(case) for case in cases() if case.name == "gim" and case.modality is Modality.IMAGE]
    assert gim == ["gim-images-class", "gim-images-class-end_to_end"]
