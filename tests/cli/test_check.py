"""`check` compares the records of a suite with its reference."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gim_bench.records import provenance
from gim_bench.records.folder import RunsFolder
from tests.check.cells import COMMITTED
from tests.cli import commands
from tests.cli.commands import PLAIN
from tests.cli.conftest import prepare

WITH_UNTRAINED = ("check", "--suite", "./tiny.toml", "--against", "reference.json")
CHECK = (*WITH_UNTRAINED, "--set", "methods=['gim']")


@pytest.fixture(scope="module")
def referenced_once(tmp_path_factory):
    """The folder of the suite, run with three seeds from a clean checkout, and its reference."""
    folder = tmp_path_factory.mktemp("referenced")
    with pytest.MonkeyPatch.context() as patch:
        prepare(folder, patch)
        patch.setattr(provenance, "git_state", lambda: COMMITTED)
        assert commands.gim_bench(*PLAIN, "--seeds", "3").code == 0
        answer = commands.gim_bench(*CHECK, "--update", "--reason", "the tests")
    wrote, seen = answer.err.splitlines()
    assert (answer.code, wrote) == (0, "wrote reference.json")
    assert seen.startswith("not known whether an untrained encoder would pass as gim: ")
    return folder


@pytest.fixture
def referenced(referenced_once, gim_bench, monkeypatch, tmp_path):
    """The records of three seeds and their reference in the current folder."""
    monkeypatch.setattr(provenance, "git_state", lambda: COMMITTED)
    shutil.copytree(referenced_once, tmp_path, dirs_exist_ok=True)


def test_code_that_has_not_changed_passes_the_check(referenced, gim_bench):
    answer = gim_bench(*CHECK)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("Check of tiny: passes")


def test_numbers_that_no_training_is_needed_for_make_no_reference(referenced, gim_bench):
    """A few steps of a tiny encoder are as good as none."""
    answer = gim_bench(*WITH_UNTRAINED, "--update", "--reason", "x")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "these records make no reference: an untrained encoder would pass: gim" in answer.err


def test_a_worse_loss_is_exit_code_1_and_stands_in_the_file_that_was_named(
    referenced, gim_bench, tmp_path
):
    path = tmp_path / "reference.json"
    kept = json.loads(path.read_text())
    kept["methods"]["gim"]["metrics"]["loss"] = {"0": 0.1, "1": 0.1, "2": 0.1}
    path.write_text(json.dumps(kept))
    answer = gim_bench(*CHECK, "--format", "junit", "--output", "junit.xml")
    assert (answer.code, answer.out, answer.err) == (1, "", "wrote junit.xml\n")
    page = (tmp_path / "junit.xml").read_text()
    assert 'failures="2"' in page  # bit for bit, and by intervals
    assert 'name="loss, bit for bit"' in page


def test_means_for_a_service_of_histories_take_the_place_of_the_verdict(referenced, gim_bench):
    answer = gim_bench(*CHECK, "--format", "bencher")
    assert (answer.code, answer.err) == (0, "")
    assert "accuracy" in json.loads(answer.out)["tiny/gim"]


def test_a_check_is_added_to_a_history(referenced, gim_bench, tmp_path):
    for checks in (1, 2):
        answer = gim_bench(*CHECK, "--history", "history.jsonl")
        assert (answer.code, answer.err) == (0, "appended 2 line(s) to history.jsonl\n")
        kept = (tmp_path / "history.jsonl").read_text().splitlines()
        assert [json.loads(line)["method"] for line in kept] == ["gim", "random_init"] * checks


def test_a_history_that_cannot_be_written_leaves_the_verdict(referenced, gim_bench):
    answer = gim_bench(*CHECK, "--history", "tiny.toml/a")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    kept = json.loads(Path("reference.json").read_text())
    kept["methods"]["gim"]["metrics"]["loss"] = {"0": 0.1, "1": 0.1, "2": 0.1}
    Path("reference.json").write_text(json.dumps(kept))
    answer = gim_bench(*CHECK, "--history", "tiny.toml/a")
    assert (answer.code, answer.out.startswith("Check of tiny: worse")) == (1, True)
    assert answer.err.startswith("error: cannot append to the history tiny.toml/a")


def test_cells_of_older_code_cannot_be_judged(referenced, gim_bench, monkeypatch):
    """What was run before an edit is not run again, and says nothing of the edit."""
    monkeypatch.setattr(provenance, "git_state", lambda: {**COMMITTED, "git_commit": "b" * 40})
    assert gim_bench(*PLAIN, "--seeds", "3").code == 0
    answer = gim_bench(*CHECK)
    assert answer.code == 3
    assert "run with --rerun, or into a fresh --runs-dir" in answer.out


def test_a_suite_that_was_not_run_cannot_be_judged(referenced, gim_bench):
    answer = gim_bench(*CHECK, "--runs-dir", "elsewhere")
    assert answer.code == 3
    assert "no cell of gim" in answer.out


def test_other_settings_than_the_references_cannot_be_judged(referenced, gim_bench):
    longer = ("--set", "training.epochs=2")
    assert gim_bench(*PLAIN, "--seeds", "3", *longer).code == 0
    answer = gim_bench(*CHECK, *longer)
    assert answer.code == 3
    assert "training.epochs 2, not 1" in answer.out
    assert answer.err.startswith("left out: 6 record(s) with other settings")


# case 4
def test_a_check_judges_the_records_of_the_data_of_its_reference(referenced, gim_bench, tmp_path):
    runs, digits = RunsFolder(tmp_path / "runs"), "f0" * 6
    newer = {"data_sha256": "f0" * 32, "finished_at": "2999-01-01T00:00:00+00:00"}
    for number, record in enumerate(runs.records("tiny")):
        runs.save(replace(record, key=f"{number:064}", provenance={**record.provenance, **newer}))
    answer = gim_bench(*CHECK)
    assert (answer.code, answer.out.splitlines()[0][:21]) == (0, "Check of tiny: passes")
    assert f"of other data, sha256 {digits}…: --data {digits} shows them" in answer.err
    other = gim_bench(*CHECK, "--data", digits)
    assert other.code == 3
    assert "the data is another" in other.out


# case 9
def test_a_check_that_cannot_read_is_not_worse(referenced, gim_bench, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error", "runs")

    monkeypatch.setattr(RunsFolder, "read", fail)
    answer = gim_bench(*CHECK)
    assert (answer.code, answer.out) == (3, "")
    assert answer.err == "error: cannot judge: [Errno 5] Input/output error: 'runs'\n"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--update",), "a new reference needs a reason"),
        (("--reason", "x"), "--reason is for a new reference"),
        (("--update", "--reason", "x", "--history", "h"), "--history is for a check of records"),
        (("--update", "--reason", "x", "--format", "md"), "--format is for a check of records"),
        (("--update", "--reason", "x", "--output", "o"), "--output is for a check of records"),
        (("--bisect", "HEAD", "--history", "h"), "--history is for a check of records"),
        (("--bisect", "HEAD", "--format", "json"), "--format is for a check of records"),
        (("--bisect", "HEAD", "--output", "v.json"), "--output is for a check of records"),
        (("--bisect", "HEAD", "--data", "abc"), "--data is for a check of records"),
        (("--bisect", "HEAD", "--runs-dir", "r"), "--runs-dir is for a check of records"),
        (("--history", "tiny.toml/a"), "cannot append to the history tiny.toml/a"),
        (("--format", "xml"), "no format 'xml'"),
        (("--against", "none.json"), "cannot read the reference none.json"),
        (("--against", "tiny.toml"), "tiny.toml: the file: invalid JSON"),
        (("--update", "--reason", "x", "--against", "tiny.toml/a"), "cannot write tiny.toml/a"),
    ],
)
def test_wrong_use_of_check_is_one_line(options, complaint, referenced, gim_bench):
    answer = gim_bench(*CHECK, *options)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith(f"error: {complaint}")
