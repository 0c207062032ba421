"""Submissions: records of others are read whole, or refused with a line."""

import shutil
from dataclasses import replace

import pytest

from gim_bench.errors import ConfigError
from gim_bench.records.record import Status
from gim_bench.site.submissions import Refused, read_submission, submissions_in
from tests.site.made import MACHINE, seeds, sent, submission_of


@pytest.fixture
def ann(tmp_path):
    return tmp_path / "submissions" / "ann"


def test_finished_records_are_a_submission(ann):
    found = submission_of(seeds([60, 61]), root=ann)
    assert (found.name, [r.seed for r in found.records]) == ("ann/quickstart", [0, 1])
    assert submissions_in(ann.parent) == ([found], [])


def test_a_record_with_an_altered_number_is_refused_in_one_line(ann):
    found = submission_of(seeds([60, 61]), root=ann)
    path = found.path_of(found.records[1])
    path.write_text(path.read_text().replace('"accuracy": 61', '"accuracy": 71'))
    (refused,) = submissions_in(ann.parent)[1]
    assert refused.line == (
        f"refused: {path}: the record was altered or cut off since it was written, or is of "
        f"another version"
    )


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (sent(status=Status.FAILED, error="no room"), "the cell is failed: send finished cells"),
        (sent(metrics={"accuracy": float("inf")}), None),  # written as null, so left out
    ],
)
def test_only_finished_cells_are_taken(record, reason, ann):
    found = submission_of([record], root=ann)
    assert (found.reason if isinstance(found, Refused) else None) == reason


@pytest.mark.parametrize("facts", [{"results_version": 6}, {"data_sha256": "of other data"}])
def test_seeds_that_are_no_one_mean_are_refused(facts, ann):
    other = sent(seed=1, facts=MACHINE | facts)
    refused = submission_of([*seeds([60]), other], root=ann)
    assert refused.path.parent.name.startswith("seed-1-")
    assert refused.reason.startswith("the record is of other data, or of another results version,")


def test_a_record_in_the_folder_of_another_cell_is_refused(ann):
    found = submission_of(seeds([60]), root=ann)
    path = found.path_of(found.records[0])
    path.parent.rename(path.parent.with_name("seed-1-00000000"))
    assert read_submission(ann, suite="quickstart").reason == (
        "the record is of quickstart gim seed 0: keep its folder"
    )


@pytest.mark.parametrize("suite", ["[tiny]", "t*"])
def test_a_folder_with_the_characters_of_a_pattern_is_refused_beside_honest_ones(suite, ann):
    found = submission_of(seeds([60]), root=ann)
    shutil.copytree(ann / "quickstart", ann / suite)
    honest, (refused,) = submissions_in(ann.parent)
    assert honest == [found]
    assert refused.line.endswith("the record is of quickstart gim seed 0: keep its folder")


def test_a_link_that_leads_nowhere_is_refused_beside_honest_ones(ann):
    found = submission_of(seeds([60]), root=ann)
    folder = ann / "tiny" / "gim" / "seed-0-12345678"
    folder.mkdir(parents=True)
    (folder / "record.json").symlink_to(ann / "nowhere")
    honest, (refused,) = submissions_in(ann.parent)
    assert honest == [found]
    assert refused.line.startswith(f"refused: {folder / 'record.json'}: the record was altered")


def test_a_metric_beyond_all_floats_is_refused_beside_honest_ones(ann):
    found = submission_of(seeds([60]), root=ann)
    submission_of([sent(metrics={"accuracy": 10**400})], root=ann.with_name("ben"))
    honest, (refused,) = submissions_in(ann.parent)
    assert (honest, refused.who) == ([found], "ben")


def test_the_folder_of_a_person_has_a_plain_name(tmp_path):
    found = submission_of(seeds([60]), root=tmp_path / "ann's records")
    assert found.reason.startswith("the folder of a submission is named by letters")


def test_a_folder_without_records_is_one_line(ann):
    with pytest.raises(ConfigError, match="no record of suite 'quickstart' in"):
        read_submission(ann, suite="quickstart")
    with pytest.raises(ConfigError, match="no folder of submissions"):
        submissions_in(ann.parent)


def test_the_draw_depends_on_the_seed_and_on_every_record(ann):
    records = seeds([60] * 8)
    first = submission_of(records, root=ann)
    drawn = [first.drawn(seed=n)[0].seed for n in range(20)]
    assert drawn == [first.drawn(seed=n)[0].seed for n in range(20)]
    assert len(set(drawn)) > 4
    several = [record.seed for record in first.drawn(seed=0, count=3)]
    assert (len(set(several)), several[0]) == (3, drawn[0])
    assert len(first.drawn(seed=0, count=99)) == len(first.records)
    changed = [*records[:-1], replace(records[-1], metrics={"accuracy": 61.0})]
    second = submission_of(changed, root=ann)
    assert second.digest != first.digest
    assert [second.drawn(seed=n)[0].seed for n in range(20)] != drawn
