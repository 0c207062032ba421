"""Whole commands that are killed, that run beside each other, and whose disk is full.

They take minutes, and stand apart from the other tests for that: `tox -e endurance`.
"""

import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import time
from contextlib import closing, contextmanager, suppress

import psutil
import pytest

from gim_bench.records.claims import CLAIM
from gim_bench.records.folder import RECORD
from gim_bench.records.record import Status
from tests.endurance.commands import begin, finish, fork, records, results
from tests.tiny_suite import TOML

pytestmark = pytest.mark.slow

# -- killed ----------------------------------------------------------------------------------------

# GIM_BENCH_WHOLE_QUICKSTART=1 takes quickstart as it is, which needs half an hour.
WHOLE = "GIM_BENCH_WHOLE_QUICKSTART" in os.environ
LESS = () if WHOLE else (
    "--set", "training.epochs=3", "--set", "dataset.unlabelled_images=640",
    "--set", "dataset.train_images=400", "--set", "dataset.test_images=400",
    "--method", "gim", "--method", "supervised", "--method", "random_init",
)  # fmt: skip
QUICKSTART = (
    "run", "--suite", "quickstart", "--no-tracking", "--checkpoint-every", "0.5", *LESS
)  # fmt: skip
KILLS = 20


def finished(folder):
    """The bytes of every record that says "done"."""
    paths = (folder / "runs").rglob(RECORD)
    found = {path: path.read_bytes() for path in paths}
    return {path: text for path, text in found.items() if json.loads(text)["status"] == "done"}


def has_claimed(folder, process):
    """Whether the process is at a cell."""
    with suppress(OSError, ValueError):  # a claim that is let go, or that is being written
        claims = [json.loads(path.read_text()) for path in (folder / "runs").rglob(CLAIM)]
        return process.pid in {claim["pid"] for claim in claims}
    return False


def test_a_quickstart_that_is_killed_twenty_times_ends_as_one_that_never_was(tmp_path):
    """Every cell is finished once, whatever was under way when the process was gone.

    Every fourth process is killed as it starts, before its libraries are imported or after, the
    others while they are at a cell. The last ones may find nothing left to do.
    """
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    began = time.monotonic()
    code, err = finish(fork(whole, *QUICKSTART))
    assert code == 0, err
    took = time.monotonic() - began
    draw = random.Random(0)
    done = {}
    for kill in range(KILLS):
        process = (fork if kill % 4 else begin)(killed, *QUICKSTART)
        while kill % 4 and process.poll() is None and not has_claimed(killed, process):
            time.sleep(0.02)
        with suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0, took / 3))
        process.kill()
        process.communicate()
        now = finished(killed)
        assert {path: now.get(path) for path in done} == done
        done = now
    code, err = finish(begin(killed, *QUICKSTART))
    assert code == 0, err
    assert {path: finished(killed)[path] for path in done} == done
    assert results(killed, "quickstart") == results(whole, "quickstart")
    litter = [path for path in (killed / "runs").rglob("*") if "checkpoint" in path.name]
    assert litter == []


WORKERS = (
    "run",
    "--suite",
    "./tiny.toml",
    "--seeds",
    "3",
    "--set",
    "training.epochs=40",
    "--no-tracking",
)


def workers_of(process):
    return [
        each
        for each in psutil.Process(process.pid).children()
        if "spawn_main" in " ".join(each.cmdline())
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The results of that command where nobody stops it."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.toml").write_text(TOML)
    code, err = finish(fork(folder, *WORKERS, "--workers", "1"))
    assert code == 0, err
    return results(folder, "tiny")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_with_workers_that_is_stopped_or_killed_resumes_and_leaves_no_process(
    number, whole, tmp_path
):
    (tmp_path / "tiny.toml").write_text(TOML)
    process = begin(tmp_path, *WORKERS, "--workers", "2")
    while len({json.loads(p.read_text())["pid"] for p in tmp_path.rglob(CLAIM)}) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    crew = workers_of(process)
    assert len(crew) == 2
    process.send_signal(number)
    code, err = finish(process)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130), err
    _, alive = psutil.wait_procs(crew, timeout=60)
    assert not alive
    assert len(finished(tmp_path)) < 6
    code, err = finish(fork(tmp_path, *WORKERS, "--workers", "2"))
    assert code == 0, err
    assert results(tmp_path, "tiny") == whole


# -- beside each other -----------------------------------------------------------------------------

TINY = ("run", "--suite", "./tiny.toml", "--seeds", "2", "--set", "training.epochs=20")


def test_of_eight_processes_each_cell_is_run_by_one_and_mlflow_has_each_once(tmp_path):
    (tmp_path / "tiny.toml").write_text(TOML)
    processes = [fork(tmp_path, *TINY) for _ in range(8)]
    answers = [finish(process) for process in processes]
    assert [code for code, _ in answers] == [0] * 8, [err for code, err in answers if code]
    said = "\n".join(err for _, err in answers).splitlines()
    for cell in ("gim seed 0", "gim seed 1", "random_init seed 0", "random_init seed 1"):
        ended = [line for line in said if line.startswith(f"{cell}: probes: 2 probes in")]
        assert len(ended) == 1, (cell, said)
    assert {r.status for r in records(tmp_path, "tiny").values()} == {Status.DONE}
    assert not list(tmp_path.rglob("claim.json"))
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        (experiments,) = database.execute(
            "SELECT count(*) FROM experiments WHERE name != 'Default'"
        ).fetchone()
        runs = database.execute("SELECT name FROM runs WHERE lifecycle_stage = 'active'").fetchall()
    assert experiments == 1
    names = [name for (name,) in runs]
    assert len(names) == len(set(names)) == 4 + 2, names  # cells, and a summary for each method


# -- a full disk -----------------------------------------------------------------------------------

DISK_BYTES = 8 * 2**20


@contextmanager
def small_disk(folder):
    """A file system of a few megabytes. Skips where none may be mounted."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("no file system may be mounted here; the test with a limit on files stays")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def leave(folder, free):
    """Fills the disk up to that many bytes; the file that does it."""
    ballast = folder / "ballast"
    status = os.statvfs(folder)
    ballast.write_bytes(b"\0" * (status.f_bavail * status.f_frsize - free))
    return ballast


FULL = ("run", "--suite", "./tiny.toml", "--checkpoint-every", "0", "--set", "training.epochs=5")
FRESH = (*FULL, "--no-tracking")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "tiny.toml").write_text(TOML)
    code, err = finish(fork(folder, *FRESH))
    assert code == 0, err
    return results(folder, "tiny")


def is_plain(err):
    """No traceback, and the last line says what to do or which cells failed."""
    return "Traceback" not in err and err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("free", [0, 16, 64, 200, 1000])
def test_a_full_disk_breaks_no_record_and_the_same_command_goes_on_with_room(
    free, undisturbed, tmp_path
):
    """Kilobytes: for nothing, the first record, a checkpoint, some of them, and MLflow's tables."""
    with small_disk(tmp_path):
        (tmp_path / "tiny.toml").write_text(TOML)
        (tmp_path / "cache").mkdir()
        ballast = leave(tmp_path, free * 1024)
        code, err = finish(fork(tmp_path, *FULL))
        if code:
            assert is_plain(err), err
        else:
            assert "not mirrored: " in err
        for path in (tmp_path / "runs").rglob(RECORD):
            assert json.loads(path.read_text())["status"] in {"done", "failed", "running"}
        ballast.unlink()
        code, err = finish(fork(tmp_path, *FULL))
        assert code == 0, err
        assert results(tmp_path, "tiny") == undisturbed


@pytest.mark.parametrize("kilobytes", [1, 3, 8, 16, 24])
def test_files_that_cannot_grow_break_no_record(kilobytes, undisturbed, tmp_path):
    """Where nothing can be mounted: in turn the lock, records, encoders, and checkpoints fail."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024,) * 2)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    (tmp_path / "tiny.toml").write_text(TOML)
    code, err = finish(begin(tmp_path, *FRESH, preexec_fn=limited))
    if code:
        assert is_plain(err), err
    else:
        assert "no checkpoint was written" in err
    code, err = finish(fork(tmp_path, *FRESH))
    assert code == 0, err
    assert results(tmp_path, "tiny") == undisturbed
