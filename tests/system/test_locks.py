"""One process at a time: the tests hold a lock in one process and ask for it in another."""

import errno
import subprocess
import sys

import pytest

from gim_bench.system.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from gim_bench.system.locks import locked
with locked(Path(sys.argv[1]), timeout_seconds=0):
    print("held", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_that_another_process_holds_cannot_be_had(holder, tmp_path):
    with (
        pytest.raises(TimeoutError, match=r"another process has held the lock .*lock for 0\.1 s"),
        locked(tmp_path / "lock", timeout_seconds=0.1),
    ):
        pytest.fail("two processes in the block")


def test_a_process_that_dies_lets_go(holder, tmp_path):
    holder.kill()
    holder.wait()
    with locked(tmp_path / "lock", timeout_seconds=0.1):
        pass


def test_a_lock_is_had_again_after_the_block_also_after_one_that_failed(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock", timeout_seconds=0.1):
            raise ZeroDivisionError


@pytest.mark.skipif(sys.platform == "win32", reason="fcntl is of Unix")
def test_a_file_system_without_locks_is_an_error_and_no_lock_of_another_kind(tmp_path, monkeypatch):
    """A marker file in place of a lock would outlive its process."""

    def no_locks(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with (
        pytest.raises(OSError, match=r"the file system has no locks.*shared\.lock"),
        locked(tmp_path / "shared.lock", timeout_seconds=0.1),
    ):
        pytest.fail("the block was entered without a lock")


def test_what_cannot_be_locked_is_an_error_of_its_own(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(OSError, match="file"),
        locked(tmp_path / "file" / "lock", timeout_seconds=0.1),
    ):
        pytest.fail("the block was entered without a lock")
