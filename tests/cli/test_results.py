"""Records of several data sets or versions of results in one folder: named, chosen, never mixed."""

import errno
import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from gim_bench import RESULTS_VERSION
from gim_bench.cli.results import deliver
from gim_bench.errors import ConfigError
from gim_bench.records.folder import RunsFolder
from gim_bench.records.statistics import origin_of
from tests.cli.commands import PLAIN, REPORT

OTHER = "f0" * 32


@pytest.fixture
def runs(finished, tmp_path):
    return RunsFolder(tmp_path / "runs")


@pytest.fixture
def ours(runs):
    """The first digits of the sha256 of the data of the records that were run."""
    return origin_of(runs.records("tiny")[0]).data_sha256[:12]


def add(runs, *, accuracy=93.21, method="gim", **provenance):
    """Records like the finished ones, but of another origin, with this accuracy."""
    for record in runs.records("tiny"):
        if record.method == method:
            changed = {**record.provenance, **provenance}
            key = "e" * 64
            runs.save(replace(record, key=key, metrics={"accuracy": accuracy}, provenance=changed))


NEWER = {"data_sha256": OTHER, "finished_at": "2999-01-01T00:00:00+00:00"}
OLDER = {"data_sha256": OTHER, "finished_at": "1999-01-01T00:00:00+00:00"}


# case 4
def test_a_report_shows_the_data_that_finished_last_and_names_the_other(runs, ours, gim_bench):
    add(runs, data_dir="/data/other", **NEWER)
    answer = gim_bench(*REPORT)
    assert f"Data: photos in /data/other, sha256 {OTHER[:12]}" in answer.out
    line = f"eft out: 2 record(s) of other data, sha256 {ours}…: --data {ours} shows them"
    assert f"- L{line}" in answer.out
    assert f"l{line}" in answer.err
    assert "93.2" in answer.out
    assert "no record of random_init" in answer.out  # of this data


# case 4
def test_the_data_of_a_report_can_be_chosen(runs, ours, gim_bench):
    add(runs, data_dir="/data/other", **NEWER)
    answer = gim_bench(*REPORT, "--data", ours)
    assert "93.2" not in answer.out
    digits = OTHER[:12]
    line = f"1 record(s) of other data in /data/other, sha256 {digits}…: --data {digits} shows them"
    assert line in answer.out
    assert "93.2" in gim_bench(*REPORT, "--data", digits).out


# case 4
def test_data_for_programs_is_of_one_origin_too(runs, ours, gim_bench):
    add(runs, **OLDER)
    cells = json.loads(gim_bench(*REPORT, "--format", "json").out)
    assert {cell["provenance"]["data_sha256"][:12] for cell in cells} == {ours}
    (cell,) = json.loads(gim_bench(*REPORT, "--format", "json", "--data", "F0F0").out)
    assert cell["provenance"]["data_sha256"] == OTHER


# case 4
def test_records_of_another_version_of_results_are_named_and_not_mixed_in(runs, gim_bench):
    add(runs, results_version=3, finished_at=OLDER["finished_at"])
    answer = gim_bench(*REPORT)
    assert "93.2" not in answer.out
    line = f"1 record(s) of results version 3, where these are of {RESULTS_VERSION}: their numbers"
    assert line in answer.out


@pytest.mark.parametrize(("named", "count"), [("abc", "no"), ("", "several")])
def test_data_that_is_not_there_or_not_the_only_one_is_refused(named, count, runs, ours, gim_bench):
    add(runs, **NEWER)
    answer = gim_bench(*REPORT, "--data", named)
    assert (answer.code, answer.out) == (2, "")
    assert f"error: {count} data of these records begin with '{named}' (--data)" in answer.err
    assert all(digits in answer.err for digits in (ours, OTHER[:12]))


# case 4
def test_a_run_on_the_other_data_leaves_the_records_of_the_first(runs, gim_bench):
    add(runs, **NEWER)
    assert "2 of 2 cells are done already" in gim_bench(*PLAIN).err


# -- where a text goes -----------------------------------------------------------------------------


def test_a_text_with_names_that_are_no_text_is_written(tmp_path):
    deliver("runs\udcff", output=tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text() == "runs\\udcff\n"


def test_a_text_for_which_there_is_no_room_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    older, link = tmp_path / "report.md", tmp_path / "link.md"
    older.write_text("older")
    link.symlink_to(older)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError, match=r"cannot write .*No space left"):
        deliver("newer", output=link)
    assert older.read_text() == "older"
    monkeypatch.undo()
    deliver("newer", output=link)
    assert (older.read_text(), link.is_symlink()) == ("newer\n", True)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    report = tmp_path / "report.md"
    for mode in (0o600, 0o640, 0o664):
        report.touch()
        report.chmod(mode)
        before = report.stat()
        deliver("text", output=report)
        assert (report.stat().st_mode, report.read_text()) == (before.st_mode, "text\n")
        assert report.stat().st_ino != before.st_ino


def test_a_file_of_two_names_stays_one_file(tmp_path):
    report, other = tmp_path / "report.md", tmp_path / "other.md"
    report.touch()
    other.hardlink_to(report)
    deliver("text", output=report)
    assert other.read_text() == "text\n"


def test_a_file_that_may_not_be_written_is_not_replaced(tmp_path, monkeypatch):
    """The administrator, who may write all files, writes it in place."""
    report = tmp_path / "report.md"
    report.touch()
    report.chmod(0o444)
    before = report.stat()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != report)
    with suppress(ConfigError):
        deliver("text", output=report)
    assert (report.stat().st_ino, report.stat().st_mode) == (before.st_ino, before.st_mode)
    assert list(tmp_path.iterdir()) == [report]


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV])
def test_a_mounted_file_is_written_in_place(number, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    report = tmp_path / "report.md"
    report.write_text("older")
    monkeypatch.setattr(Path, "replace", fail)
    if number == errno.EBUSY:
        deliver("text", output=report)
    else:
        with pytest.raises(ConfigError, match="cannot write"):
            deliver("text", output=report)
    assert report.read_text() == ("text\n" if number == errno.EBUSY else "older")
    assert list(tmp_path.iterdir()) == [report]


def test_a_long_name_is_written_and_a_longer_one_and_a_loop_of_links_are_refused(tmp_path):
    deliver("text", output=tmp_path / ("r" * 250))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["text\n"]
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (loop, tmp_path / ("r" * 256)):
        with pytest.raises(ConfigError, match="cannot write"):
            deliver("text", output=path)
    assert loop.is_symlink()


def test_a_text_goes_into_a_pipe_and_to_a_device(tmp_path):
    """A device of the system may lead to a file, whose place is not taken."""
    file = (tmp_path / "file").open("wb+")
    reader, writer = os.pipe()
    for descriptor in (file.fileno(), writer):
        deliver("text", output=Path(f"/dev/fd/{descriptor}"))
    assert (os.read(reader, 100), (tmp_path / "file").read_text()) == (b"text\n", "text\n")
    assert os.fstat(file.fileno()).st_nlink == 1
    os.close(reader)
    os.close(writer)
    file.close()
