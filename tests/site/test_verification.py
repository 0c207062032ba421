"""The file of a verification says whether a submission is listed."""

import json

import pytest

from gim_bench.seals import sealed
from gim_bench.site.again import verified
from gim_bench.site.verification import VERIFIED, save_verification, standing_of
from tests.site.made import seeds, sent, submission_of


@pytest.fixture
def submission(tmp_path):
    return submission_of(seeds([60, 61, 62]), root=tmp_path / "ann")


def verify(submission, **found):
    claim = submission.records[0]
    again = sent(**({"accuracy": 60, "loss": 2.0} | found))
    save_verification(submission, [verified(submission, claim=claim, again=again, seed=7)])


def test_a_submission_waits_for_its_verification(submission):
    listed, reason, _ = standing_of(submission)
    assert not listed
    assert reason == (
        f"waits for python -m gim_bench verify --submission {submission.root.parent.name}/ann "
        f"--suite quickstart"
    )


def test_a_submission_whose_numbers_hold_is_listed(submission):
    verify(submission)
    listed, reason, _ = standing_of(submission)
    assert listed
    assert "gim seed 0 ran again on 20" in reason
    assert standing_of(submission).of_row("gim").startswith("seed 0: bit for bit, 20")
    assert standing_of(submission).of_row("cpc") == "no cell of this row; gim seed 0 did"
    assert json.loads((submission.folder / VERIFIED).read_text())["cells"][0]["seed"] == 7


def test_a_submission_whose_numbers_do_not_hold_is_refused(submission):
    verify(submission, accuracy=50)
    listed, reason, _ = standing_of(submission)
    assert not listed
    assert reason.startswith("refused: gim seed 0 ran again on")
    assert "accuracy is 50" in reason


def test_every_cell_that_ran_again_has_to_hold(submission):
    def of(number, **found):
        again = sent(
            **({"seed": number, "accuracy": 60 + number, "loss": 2 + number / 100} | found)
        )
        return verified(submission, claim=submission.records[number], again=again, seed=7)

    save_verification(submission, [of(0), of(2)])
    assert standing_of(submission).reason.startswith("2 of 3 cells ran again: gim seed 0 ran")
    assert standing_of(submission).of_row("gim").startswith("seed 0, 2: bit for bit, 20")
    assert (
        standing_of(submission).of_row("cpc") == "no cell of this row; gim seed 0, gim seed 2 did"
    )
    save_verification(submission, [of(0), of(2, accuracy=50)])
    assert standing_of(submission).reason.startswith("refused: gim seed 2 ran again")


def test_a_file_without_a_cell_does_not_count(submission):
    path = submission.folder / VERIFIED
    path.write_text(json.dumps(sealed({"format": 2, "cells": []})))
    assert standing_of(submission).reason.startswith("the verification was altered")


def test_a_verification_that_was_altered_does_not_count(submission):
    verify(submission, accuracy=50)
    path = submission.folder / VERIFIED
    path.write_text(path.read_text().replace('"found": 50', '"found": 60'))
    assert standing_of(submission).reason.startswith("the verification was altered")


def test_a_sealed_file_with_other_fields_does_not_count(submission):
    (submission.folder / VERIFIED).write_text(json.dumps(sealed({"submission": "x"})))
    assert standing_of(submission).reason.startswith("the verification was altered")


def test_records_that_change_after_the_verification_are_no_longer_listed(submission, tmp_path):
    verify(submission)
    later = submission_of([sent(seed=3)], root=tmp_path / "ann")
    assert standing_of(later).reason.startswith("the records changed since they were verified")
