"""A cell that ran again against its record: bit for bit, or within the tolerance of a check."""

from dataclasses import replace

import pytest

from gim_bench.check.outcome import Outcome
from gim_bench.records.record import Status
from gim_bench.site.again import CannotJudgeError, verified
from tests.site.made import ELSEWHERE, seeds, sent, submission_of

THREE = [60.0, 60.5, 59.5]


def judged(claims, again, *, root):
    """The verification of the first claim."""
    submission = submission_of(claims, root=root / "ann")
    return verified(submission, claim=submission.records[0], again=again, seed=0)


def number(verification, name="accuracy"):
    return next(each for each in verification.numbers if each.metric == name)


def test_the_same_numbers_on_the_same_machine_hold_bit_for_bit(tmp_path):
    found = judged([sent()], sent(), root=tmp_path)
    assert (found.outcome, found.exact) == (Outcome.PASSES, True)
    assert [each.metric for each in found.numbers] == ["accuracy", "accuracy/module_1", "loss"]
    assert found.line.endswith("3 numbers hold bit for bit")


@pytest.mark.parametrize("metric", ["accuracy", "accuracy/module_1", "loss"])
def test_the_last_bit_counts_on_the_same_machine(metric, tmp_path):
    claim = sent()
    moved = replace(claim, metrics={**claim.metrics, metric: claim.metrics[metric] + 1e-9})
    found = judged([moved], sent(), root=tmp_path)
    assert found.outcome is Outcome.WORSE
    assert f"{metric} is {claim.metrics[metric]!r}, the record says" in found.line


def test_time_and_memory_are_not_compared(tmp_path):
    slow = replace(sent(), metrics={**sent().metrics, "train/seconds": 99.0})
    assert judged([sent()], slow, root=tmp_path).outcome is Outcome.PASSES


def test_a_difference_within_the_spread_of_seeds_holds_on_another_machine(tmp_path):
    again = sent(accuracy=60.4, facts=ELSEWHERE)
    found = judged(seeds(THREE), again, root=tmp_path)
    assert (found.outcome, found.exact) == (Outcome.PASSES, False)
    assert number(found).tolerated >= 1.0  # the floor of check
    assert found.line.endswith("3 numbers hold within the tolerance of check")


@pytest.mark.parametrize("claims", [[90.0, 60.5, 59.5], [90.0, 90.5, 89.5]])
def test_neither_one_raised_claim_nor_all_raised_claims_hold(claims, tmp_path):
    """The first is far from the other claims, the second from what is found."""
    found = judged(seeds(claims), sent(accuracy=60.0, facts=ELSEWHERE), root=tmp_path)
    assert found.outcome is Outcome.WORSE
    assert number(found).tolerated < 11


def test_two_seeds_of_another_machine_cannot_be_judged(tmp_path):
    with pytest.raises(CannotJudgeError, match="needs three seeds with every number, and has 2"):
        judged(seeds(THREE[:2]), sent(facts=ELSEWHERE), root=tmp_path)


def test_a_metric_that_some_seeds_lack_has_no_spread(tmp_path):
    first, *others = seeds(THREE)
    lacking = [replace(r, metrics={"accuracy": 60.0, "loss": 2.0}) for r in others]
    with pytest.raises(CannotJudgeError, match="three seeds with every number, and has 1"):
        judged([first, *lacking], sent(facts=ELSEWHERE), root=tmp_path)


@pytest.mark.parametrize(
    ("again", "reason"),
    [
        (sent(status=Status.FAILED, error="no room"), "did not finish here: no room"),
        (sent(config={"method": {"name": "gim"}, "training": {"epochs": 7}}), "settings differ: "),
        (sent(metrics={"accuracy": 60.0, "loss": 2.0}), "the record has accuracy/module_1, and"),
    ],
)
def test_another_experiment_shows_nothing(again, reason, tmp_path):
    with pytest.raises(CannotJudgeError, match=reason):
        judged([sent()], again, root=tmp_path)


def test_other_data_shows_nothing(tmp_path):
    again = sent()
    again = replace(again, provenance={**again.provenance, "data_sha256": "f" * 64})
    with pytest.raises(CannotJudgeError, match="data or results version differ"):
        judged([sent()], again, root=tmp_path)
