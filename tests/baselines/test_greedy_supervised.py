"""Greedy supervised training with DGL's auxiliary networks: conformance, and the default."""

import pytest

from baselines.greedy_supervised import GreedySupervised
from gim_bench.contract import Modality
from gim_bench.errors import ConfigError
from gim_bench.objectives.auxiliary import Auxiliary
from gim_bench.objectives.cross_entropy import CrossEntropyHead
from gim_bench.settings.base import Settings
from gim_bench.testing.cases import CLASS, TINY, Case
from gim_bench.testing.test_method import *  # noqa: F403 - pytest runs the tests by their names
from gim_bench.testing.test_traits import *  # noqa: F403
from tests.conftest import tiny_setup


def case_of(auxiliary: Auxiliary) -> Case:
    return Case(
        name=f"greedy_supervised_{auxiliary}",
        method=GreedySupervised,
        options=GreedySupervised.Options(auxiliary=auxiliary),
        objective=Settings(),
        gradient_flow=GreedySupervised.traits.gradient_flow,
        target=CLASS,
        on=TINY[Modality.IMAGE],
    )


CASES = [case_of(Auxiliary.MLP_SR), case_of(Auxiliary.CNN)]

# Losses of the modules in single precision, seed 0, at the commit before auxiliary networks.
BEFORE = [1.1089987754821777, 1.1491624116897583, 1.115035057067871]


def test_without_an_auxiliary_network_losses_are_those_of_before_there_were_any(tiny, tiny_batch):
    learner = tiny("greedy_supervised").learner
    assert all(isinstance(head, CrossEntropyHead) for head in learner.heads.values())
    assert [loss.item() for _, loss in learner.losses(tiny_batch)] == pytest.approx(
        BEFORE, rel=1e-6
    )


@pytest.mark.parametrize("auxiliary", [Auxiliary.MLP, Auxiliary.MLP_SR, Auxiliary.CNN], ids=str)
def test_an_auxiliary_network_has_no_scores_for_the_probe_s_features(auxiliary):
    case = case_of(auxiliary)
    learner = case.build().learner
    assert learner.predict(learner.features(case.batch().inputs)) is None


def test_an_auxiliary_network_is_refused_on_speech():
    options = GreedySupervised.Options(auxiliary=Auxiliary.CNN)
    with pytest.raises(ConfigError, match=r"a network over images.*leave out auxiliary"):
        GreedySupervised.check(options, setup=tiny_setup(Modality.SPEECH))
    GreedySupervised.check(GreedySupervised.Options(), setup=tiny_setup(Modality.SPEECH))
