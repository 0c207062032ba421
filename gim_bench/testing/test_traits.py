"""Conformance tests of what a method declares, and of fitting without gradients."""

from dataclasses import replace

import pytest
import torch

from gim_bench.contract import GradientFlow, Split
from gim_bench.testing.cases import Case
from gim_bench.testing.test_method import assert_same, loss_values, skip_untrained

# -- what a method declares ----------------------------------------------------------------------


def test_declared_traits_agree_with_each_other(case: Case) -> None:
    traits = case.method.traits
    assert traits.modalities
    assert traits.views > 0
    assert traits.uses_labels == (traits.trains_on is Split.TRAIN)
    nothing = traits.gradient_flow is GradientFlow.NONE
    assert nothing == (traits.objective is None)
    assert traits.trains_on is not Split.TEST
    # Without gradients a method may be fitted to unlabelled examples, or to none.
    assert nothing or traits.trains_on is not None
    assert not (nothing and traits.uses_labels)
    assert not (nothing and traits.either_flow)


def test_a_method_has_losses_unless_it_declares_that_it_trains_nothing(case: Case) -> None:
    learner = case.build().learner
    assert case.trains == bool(list(learner.losses(case.batch()))) == bool(learner.units())


def test_every_declared_view_changes_a_loss(case: Case) -> None:
    skip_untrained(case)
    batch = case.batch()
    expected = loss_values(case.build(), batch)
    for number in range(case.method.traits.views):
        first, *further = (
            view.flip(-1) if other == number else view for other, view in enumerate(batch.views)
        )
        changed = replace(batch, inputs=first, further=tuple(further))
        assert loss_values(case.build(), changed) != expected, f"view {number + 1} is never used"


def test_a_method_that_declares_no_labels_uses_none(case: Case) -> None:
    """Losses are the same with and without labels."""
    if case.method.traits.uses_labels:
        pytest.skip("the method uses labels")
    unlabelled = replace(case.batch(), labels={})
    assert loss_values(case.build(), unlabelled) == loss_values(case.build(), case.batch())


def test_a_method_that_declares_labels_learns_from_those_of_its_target_alone(case: Case) -> None:
    if not case.method.traits.uses_labels:
        pytest.skip("the method uses no labels")
    batch = case.batch()
    expected = loss_values(case.build(), batch)
    own = {case.target.name: batch.labels[case.target.name]}
    assert loss_values(case.build(), replace(batch, labels=own)) == expected
    others = {name: labels.roll(1, 0) for name, labels in own.items()}
    assert loss_values(case.build(), replace(batch, labels=others)) != expected


# -- fitting without gradients -------------------------------------------------------------------


def skip_unfitted(case: Case) -> None:
    if case.trains or case.method.traits.trains_on is None:
        pytest.skip("nothing is fitted without gradients")


def test_fitting_without_gradients_is_the_same_in_every_run_and_reads_no_label(case: Case) -> None:
    skip_unfitted(case)
    fitted, again = case.build(), case.build()
    again.learner.fit_without_gradients([replace(case.batch(), labels={})])
    assert_same(again.learner.state_dict(), fitted.learner.state_dict())


def test_what_is_fitted_is_kept_with_the_encoder(case: Case) -> None:
    """Another learner has the same features once it has loaded the encoder."""
    skip_unfitted(case)
    fitted, other = case.build(), case.build(fitted=False)
    inputs = case.batch().inputs
    expected = fitted.learner.features(inputs)
    untouched = other.learner.features(inputs)
    assert any(not torch.equal(untouched[m], feature) for m, feature in expected.items())
    other.learner.encoder.load_state_dict(fitted.learner.encoder.state_dict())
    assert_same(other.learner.features(inputs), expected)


def test_a_method_that_visits_no_split_is_not_fitted(case: Case) -> None:
    if case.trains or case.method.traits.trains_on is not None:
        pytest.skip("the method visits a split")
    fitted, other = case.build(), case.build(fitted=False)
    inputs = case.batch().inputs
    assert_same(fitted.learner.features(inputs), other.learner.features(inputs))
