"""Who is at a cell, with owners who live, die, and fall silent."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest

from gim_bench.records import claims
from gim_bench.records.claims import CLAIM, claimed, owner_of, seems_held
from gim_bench.system.interrupts import terminate_as_interrupt
from gim_bench.system.processes import Owner

HANGS_SECONDS = 300  # what has not come by then never does
ABROAD = Owner(host="far", machine="far away", pid=1, started=0.0)


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "suite" / ".lock"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "suite" / "gim" / "seed-0-1234"


def left_by(owner, folder, *, seconds_ago=0.0):
    """A claim of somebody who touched it last so long ago."""
    folder.mkdir(parents=True)
    (folder / CLAIM).write_text(json.dumps(owner.as_dict()))
    then = time.time() - seconds_ago
    os.utime(folder / CLAIM, (then, then))


def dead():
    """A process of this machine that has ended."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    return replace(Owner.here(), pid=process.pid)


def is_free(folder, lock):
    with claimed(folder, lock=lock) as claim:
        return claim is not None


def test_a_claim_is_held_within_the_block_and_gone_after_it(folder, lock):
    with claimed(folder, lock=lock) as claim:
        assert claim is not None
        assert owner_of(folder) == Owner.here()
        assert not is_free(folder, lock)
    assert owner_of(folder) is None
    assert is_free(folder, lock)


def test_a_claim_is_let_go_by_an_error(folder, lock):
    with pytest.raises(ZeroDivisionError), claimed(folder, lock=lock):
        _ = 1 / 0
    assert owner_of(folder) is None


def test_the_cell_of_a_process_that_has_died_is_free_at_once(folder, lock):
    left_by(dead(), folder)
    assert is_free(folder, lock)


@pytest.mark.parametrize("start", [{"ticks": 1}, {"started": 1.0, "ticks": None}])
def test_a_number_that_another_process_has_now_is_not_its_owner(start, folder, lock):
    left_by(replace(Owner.here(), **start), folder)
    assert is_free(folder, lock)


@pytest.mark.skipif(Owner.here().ticks is None, reason="the system counts no ticks since its boot")
@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
def test_a_clock_that_is_set_takes_no_cell_from_its_owner(seconds, folder, lock, monkeypatch):
    left_by(Owner.here(), folder)
    started = Owner.here().started
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: started + seconds)
    assert not is_free(folder, lock)


@pytest.mark.parametrize("error", [psutil.AccessDenied, psutil.NoSuchProcess])
@pytest.mark.parametrize(("seconds", "free"), [(60, False), (300, True)])
def test_an_owner_whom_proc_hides_counts_as_dead_after_its_silence(
    error, seconds, free, folder, monkeypatch
):
    """Mounted with hidepid=1, /proc refuses processes of other users; with 2, it lacks them."""

    def hide(pid):
        raise error(pid)

    def refuse(_, __):
        raise PermissionError

    left_by(Owner.here(), folder, seconds_ago=seconds)
    with monkeypatch.context() as patch:
        patch.setattr("gim_bench.system.processes.psutil.Process", hide)
        patch.setattr("os.kill", refuse)
        assert seems_held(folder) is not free


def test_a_claim_without_ticks_is_compared_by_the_clock(folder, lock):
    """As earlier versions have written it."""
    here = Owner.here().as_dict()
    del here["ticks"]
    left_by(Owner.here(), folder)
    (folder / CLAIM).write_text(json.dumps(here))
    assert not is_free(folder, lock)


@pytest.mark.parametrize(("seconds", "free"), [(60, False), (300, True)])
def test_an_owner_that_cannot_be_seen_counts_as_dead_after_its_silence(seconds, free, folder, lock):
    left_by(ABROAD, folder, seconds_ago=seconds)
    assert is_free(folder, lock) is free


NO_CLAIMS = {
    "a word for a number": '{"pid": "twelve"}',
    "a word for ticks": json.dumps(ABROAD.as_dict() | {"ticks": "twelve"}),
    "a number without end": json.dumps(ABROAD.as_dict() | {"pid": float("inf")}),
    "lists within lists": "[" * 100_000,
}


@pytest.mark.parametrize("content", NO_CLAIMS.values(), ids=NO_CLAIMS)
def test_what_is_no_claim_is_free_after_a_silence_too(content, folder, lock):
    left_by(ABROAD, folder, seconds_ago=300)
    (folder / CLAIM).write_text(content)
    assert not is_free(folder, lock)
    os.utime(folder / CLAIM, (1, 1))
    assert is_free(folder, lock)


def test_an_owner_touches_its_claim_again_and_again(folder, lock, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.01)
    with claimed(folder, lock=lock):
        os.utime(folder / CLAIM, (1, 1))
        deadline = time.monotonic() + HANGS_SECONDS
        while (folder / CLAIM).stat().st_mtime <= 1:
            assert time.monotonic() < deadline, "no touch came"
            time.sleep(0.01)


def test_who_was_taken_over_is_stopped_and_leaves_the_other_claim(folder, lock, monkeypatch):
    """As after a machine has slept; at once, whatever it waits for."""
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.01)
    began = time.monotonic()
    with claimed(folder, lock=lock) as claim:
        (folder / CLAIM).write_text(json.dumps(ABROAD.as_dict()))
        with pytest.raises(KeyboardInterrupt):
            time.sleep(HANGS_SECONDS)
        assert claim.is_lost
        assert time.monotonic() - began < HANGS_SECONDS  # the sleep was broken off
    assert owner_of(folder) == ABROAD


def test_so_it_is_in_the_background_of_a_script_which_has_it_ignore_ctrl_c(
    folder, lock, monkeypatch
):
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.01)
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminate_as_interrupt()
    try:
        with claimed(folder, lock=lock):
            (folder / CLAIM).write_text(json.dumps(ABROAD.as_dict()))
            with pytest.raises(KeyboardInterrupt):
                time.sleep(HANGS_SECONDS)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_of_many_at_once_one_gets_the_claim(folder, lock):
    """Threads stand for processes: only the file is between them."""
    left_by(dead(), folder)
    together, got = threading.Barrier(8), []

    def come():
        together.wait()
        with claimed(folder, lock=lock) as claim:
            got.append(claim is not None)
            together.wait()

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]
