"""The file of a verification says whether a submission is listed."""

import json
from dataclasses import replace

import pytest

from gim_bench.seals import sealed
from gim_bench.site.again import verified
from gim_bench.site.verification import VERIFIED, save_verification, standing_of
from tests.site.made import seeds, sent, submission_of

SEED = 7  # of the draw


@pytest.fixture
def submission(tmp_path):
    return submission_of(seeds([60, 61, 62]), root=tmp_path / "ann")


def again(claim, **found):
    """The record of the same cell, as it ran again."""
    return replace(claim, metrics={**claim.metrics, **found})


def verify(submission, **found):
    (claim,) = submission.drawn(seed=SEED)
    cell = verified(submission, claim=claim, again=again(claim, **found), seed=SEED)
    save_verification(submission, [cell])


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
    (claim,) = submission.drawn(seed=SEED)
    cell = f"gim seed {claim.seed}"
    assert f"{cell} ran again on 20" in reason
    assert standing_of(submission).of_row("gim").startswith(f"seed {claim.seed}: bit for bit, 20")
    assert standing_of(submission).of_row("cpc") == f"no cell of this row; {cell} did"
    assert json.loads((submission.folder / VERIFIED).read_text())["cells"][0]["seed"] == SEED


def test_a_submission_whose_numbers_do_not_hold_is_refused(submission):
    verify(submission, accuracy=50)
    listed, reason, _ = standing_of(submission)
    assert not listed
    assert reason.startswith("refused: gim seed")
    assert "accuracy is 50" in reason


def test_every_cell_that_ran_again_has_to_hold(submission):
    first, second = submission.drawn(seed=SEED, count=2)

    def of(claim, **found):
        return verified(submission, claim=claim, again=again(claim, **found), seed=SEED)

    save_verification(submission, [of(first), of(second)])
    standing = standing_of(submission)
    assert standing.reason.startswith(f"2 of 3 cells ran again: gim seed {first.seed} ran")
    seeds = ", ".join(str(seed) for seed in sorted((first.seed, second.seed)))
    assert standing.of_row("gim").startswith(f"seed {seeds}: bit for bit, 20")
    others = f"gim seed {first.seed}, gim seed {second.seed} did"
    assert standing.of_row("cpc") == f"no cell of this row; {others}"
    save_verification(submission, [of(first), of(second, accuracy=50)])
    reason = standing_of(submission).reason
    assert reason.startswith(f"refused: gim seed {second.seed} ran again")


def test_cells_that_their_seed_does_not_draw_are_not_listed(submission):
    """Whoever sends records cannot choose the cell that ran again."""
    verifications = {seed: stored(submission, seed) for seed in range(10)}
    drawn = {cell.cell_seed for cell in verifications.values()}
    assert len(drawn) > 1
    for seed, cell in verifications.items():
        save_verification(submission, [replace(cell, seed=SEED)])
        own = cell.cell_seed == verifications[SEED].cell_seed
        listed, reason, _ = standing_of(submission)
        assert listed == own, seed
        assert own or reason.startswith("the verification is not of the cells and numbers that")
    save_verification(submission, [verifications[SEED]] * 2)
    assert not standing_of(submission).listed


def stored(submission, seed):
    """What a draw by that seed has found."""
    (claim,) = submission.drawn(seed=seed)
    return verified(submission, claim=claim, again=claim, seed=seed)


def test_claims_that_are_not_the_numbers_of_the_records_are_not_listed(submission):
    cell = stored(submission, SEED)
    numbers = [replace(number, claimed=61.5, found=61.5) for number in cell.numbers]
    save_verification(submission, [replace(cell, numbers=numbers)])
    listed, reason, _ = standing_of(submission)
    assert not listed
    assert reason.startswith("the verification is not of the cells and numbers that")


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
