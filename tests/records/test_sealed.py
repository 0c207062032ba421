"""Files in a record's place that are no regular files."""

import os
import signal

import pytest

from gim_bench.records.folder import RECORD, RunsFolder
from gim_bench.records.sealed import read_record


@pytest.fixture
def two_seconds():
    """A test that waits longer for a file fails."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits for a writer"))
    signal.alarm(2)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, os.mkdir, lambda path: path.symlink_to("nowhere")],
    ids=["a named pipe", "a folder", "a link that leads nowhere"],
)
def test_what_is_no_file_counts_as_a_damaged_record(make, tmp_path, two_seconds):
    path = RunsFolder(tmp_path).folder("tiny", "gim", seed=0, key="0" * 64) / RECORD
    path.parent.mkdir(parents=True)
    make(path)
    runs = RunsFolder(tmp_path)
    assert read_record(path) is None
    assert runs.read("tiny") == ([], [path])
    assert runs.suites() == ["tiny"]
    assert runs.is_damaged("tiny", "gim", seed=0, key="0" * 64)
