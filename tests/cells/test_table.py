"""A suite's cells, when other processes are at some of them."""

import threading
import time
from dataclasses import replace

import pytest
from pydantic import create_model

from gim_bench import registry
from gim_bench.cells import table
from gim_bench.cells.explain import why
from gim_bench.cells.run import run_cell
from gim_bench.cells.table import found, run_table
from gim_bench.records.claims import Claim
from gim_bench.records.record import Status
from gim_bench.settings.base import Settings
from tests.listener import Listener
from tests.tiny_suite import Observed, tiny_bench, tiny_cell


@pytest.fixture
def two(suite):
    return [tiny_cell(suite, "gim"), tiny_cell(suite, "random_init")]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(table, "WAIT_SECONDS", 0.01)


TRIED = {"learning_rate": 0.1, "weight_decay": 0.0, "validation_accuracy": 1.0}
SWEEPS = {
    "module_2": {
        "trials": 1,
        "decades_within_one_point": 0.0,
        **{role: {**TRIED, "test_accuracy": 1.0} for role in ("best", "paper")},
    }
}


class Counting:
    """Runs cells and remembers which."""

    def __init__(self):
        self.names = []

    def __call__(self, cell, bench, *, runs):
        self.names.append(cell.config.method.name)
        return run_cell(cell, bench, runs=runs)


def claim_of(cell, runs):
    return runs.claimed(cell.suite, cell.config.method.name, seed=cell.seed, key=cell.key)


def test_cells_are_run_in_their_order_and_once(two, suite, runs):
    run, bench = Counting(), tiny_bench(suite)
    for _ in range(2):
        records = list(run_table(two, bench, runs=runs, run=run))
        assert [record.status for record in records] == [Status.DONE] * 2
    assert run.names == ["gim", "random_init"]


def test_with_rerun_finished_cells_are_run_too(two, suite, runs):
    run, bench = Counting(), tiny_bench(suite)
    list(run_table(two, bench, runs=runs, run=run))
    list(run_table(two, bench, runs=runs, run=run, rerun=True))
    assert run.names == ["gim", "random_init"] * 2


def test_a_sweep_meanwhile_is_no_run_that_makes_do(two, suite, runs):
    """A cell that is to run again, and was swept while the ones before it ran."""
    run, bench = Counting(), tiny_bench(suite)
    gim, other = two
    list(run_table(two, bench, runs=runs, run=run))

    def swept(cell, bench, *, runs):
        if cell is gim:
            runs.save_sweeps(replace(found(other, runs), sweeps=SWEEPS))
        return run(cell, bench, runs=runs)

    list(run_table(two, bench, runs=runs, run=swept, rerun=True))
    assert run.names == ["gim", "random_init"] * 2


def test_a_cell_whose_encoder_was_altered_runs_again_with_a_line(two, suite, runs):
    listener, run = Listener(), Counting()
    (record,) = run_table(two[:1], tiny_bench(suite), runs=runs, run=run)
    (runs.folder_of(record) / "encoder.safetensors").write_bytes(b"")
    (again,) = run_table(two[:1], tiny_bench(suite, progress=listener), runs=runs, run=run)
    assert run.names == ["gim", "gim"]
    assert again.files == record.files
    (line,) = (line for line in listener.lines if "runs again" in line)
    assert line.endswith("altered or cut off since they were written")


@pytest.fixture
def stronger(monkeypatch):
    """A plug-in changes the default of a setting that is in no key at its default."""
    monkeypatch.setattr(registry, "methods", lambda: {"observed": "tests.tiny_suite:Observed"})

    def default(strength):
        options = create_model("Options", __base__=Settings, strength=(int, strength))
        monkeypatch.setattr(Observed, "Options", options)

    return default


def test_a_cell_whose_key_stands_for_other_settings_now_runs_again(suite, runs, stronger):
    """Its record says which: another default is another experiment under the same key."""
    run, bench = Counting(), tiny_bench(suite)
    stronger(1)
    before = tiny_cell(suite, "observed")
    list(run_table([before], bench, runs=runs, run=run))
    stronger(2)
    after = tiny_cell(suite, "observed")
    assert after.key == before.key
    assert why(after, runs) == "runs: method.options.strength is 2, was 1"
    (record,) = run_table([after], bench, runs=runs, run=run)
    assert run.names == ["observed"] * 2
    assert record.config["method"]["options"] == {"strength": 2}
    assert why(after, runs).startswith("done: ")
    assert list(run_table([after], bench, runs=runs, run=run)) == [found(after, runs)]
    assert run.names == ["observed"] * 2


def test_a_cell_that_another_process_is_at_comes_last_and_is_not_run_again(two, suite, runs):
    """Even with --rerun, for which the other's run will do."""
    gim, _ = two
    listener, run = Listener(), Counting()
    bench = tiny_bench(suite, progress=listener)

    def other():
        with claim_of(gim, runs):
            claimed.set()
            while "random_init" not in run.names:
                time.sleep(0.01)
            run_cell(gim, tiny_bench(suite), runs=runs)

    claimed, process = threading.Event(), threading.Thread(target=other)
    process.start()
    claimed.wait()
    records = list(run_table(two, bench, runs=runs, run=run, rerun=True))
    process.join()
    assert [record.method for record in records] == ["random_init", "gim"]
    assert run.names == ["random_init"]
    assert any("gim seed 0: process" in line and "is at it" in line for line in listener.lines)


def test_a_cell_that_was_left_unfinished_by_another_process_is_taken_over(two, suite, runs):
    gim, _ = two
    run = Counting()

    def other():
        with claim_of(gim, runs):
            claimed.set()
            while not run.names:
                time.sleep(0.01)

    claimed, process = threading.Event(), threading.Thread(target=other)
    process.start()
    claimed.wait()
    records = list(run_table(two, tiny_bench(suite), runs=runs, run=run))
    process.join()
    assert [record.method for record in records] == ["random_init", "gim"]
    assert run.names == ["random_init", "gim"]


def test_a_failure_of_before_is_tried_again_and_one_of_meanwhile_is_not(two, suite, runs):
    run, (gim, other) = Counting(), two
    broken = tiny_bench(suite)
    broken.split = None
    assert run_cell(gim, broken, runs=runs).status is Status.FAILED

    def failing(cell, bench, *, runs):
        record = run(cell, bench, runs=runs)
        if cell is gim:
            run_cell(other, broken, runs=runs)  # by somebody else
        return record

    records = list(run_table(two, tiny_bench(suite), runs=runs, run=failing))
    assert [record.status for record in records] == [Status.DONE, Status.FAILED]
    assert run.names == ["gim"]


def test_a_process_whose_cell_was_taken_over_takes_the_other_s_record(
    two, suite, runs, monkeypatch
):
    """It slept for minutes, and is stopped on waking up."""
    gim, _ = two
    listener = Listener()

    def taken_over(cell, bench, *, runs):
        run_cell(cell, bench, runs=runs)  # by the other
        raise KeyboardInterrupt

    monkeypatch.setattr("gim_bench.records.claims.Claim.is_lost", True)
    bench = tiny_bench(suite, progress=listener)
    (record,) = run_table([gim], bench, runs=runs, run=taken_over)
    assert record.status is Status.DONE
    assert any("taken over by another process" in line for line in listener.lines)


def test_it_may_be_stopped_as_late_as_while_it_lets_the_cell_go(two, suite, runs, monkeypatch):
    """Then, too, the suite goes on."""

    def stopped(claim):
        claim._lost.set()
        let_go(claim)
        raise KeyboardInterrupt

    let_go = Claim.let_go
    monkeypatch.setattr(Claim, "let_go", stopped)
    run = Counting()
    records = list(run_table(two, tiny_bench(suite), runs=runs, run=run))
    assert [record.method for record in records] == ["gim", "random_init"]
    assert run.names == ["gim", "random_init"]


def test_an_interruption_of_one_s_own_passes_through(two, suite, runs):
    def interrupted(cell, bench, *, runs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_table(two, tiny_bench(suite), runs=runs, run=interrupted))
