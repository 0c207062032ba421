"""Worker processes that share the cells of a table."""

import os
import signal
from dataclasses import replace

import psutil
import pytest
import torch

from gim_bench.cells import workers
from gim_bench.cells.resolve import configs
from gim_bench.cells.run import run_cell
from gim_bench.cells.workers import Share, is_small, run_by_workers, share_out
from gim_bench.hardware import threads
from gim_bench.progress import Silence
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from gim_bench.settings.suites import load_suite
from tests.tiny_suite import CPU, tiny_bench, tiny_cell, tiny_suite

GIB = 2**30
LARGE = ("encoder.width=64", "encoder.blocks=[3,4]")


@pytest.fixture
def machine(monkeypatch):
    """A machine of eight cores and 64 GiB, where nobody asks for threads."""
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.setattr(workers, "available_bytes", lambda: 64 * GIB)
    return monkeypatch


def cells_of(folder, *overrides, seeds):
    suite = tiny_suite(folder, *overrides)
    return [tiny_cell(suite, "gim", seed=seed) for seed in range(seeds)]


def shared(cells, *, workers=None, device=CPU, alone=False):
    return share_out(cells, device=device, workers=workers, alone=alone)


# -- shares ----------------------------------------------------------------------------------------


def test_an_encoder_of_a_few_channels_is_small_and_the_papers_is_not(tmp_path):
    tiny, papers = (cells_of(tmp_path, *o, seeds=1)[0].config for o in ((), LARGE))
    assert (is_small(tiny), is_small(papers)) == (True, False)


def test_every_encoder_of_the_shipped_suites_is_small_or_not():
    """Encoders are sketched without memory for their weights."""
    answers = {
        name: {is_small(c) for c in configs(load_suite(name), methods=(), device=CPU).values()}
        for name in ("quickstart", "quickstart-audio", "family", "stl10", "librispeech")
    }
    assert answers == {
        "quickstart": {True}, "quickstart-audio": {True}, "family": {True},
        "stl10": {False}, "librispeech": {False},
    }  # fmt: skip


def test_small_cells_have_a_worker_of_one_thread_for_each_core(machine, tmp_path):
    assert shared(cells_of(tmp_path, seeds=20)) == Share(workers=8, threads=1)


def test_there_are_no_more_workers_than_cells(machine, tmp_path):
    assert shared(cells_of(tmp_path, seeds=3)) == Share(workers=3, threads=1)


def test_a_small_cell_alone_has_one_thread_on_any_machine(machine, tmp_path):
    assert shared(cells_of(tmp_path, seeds=1)) == Share(workers=1, threads=1)
    machine.setattr(workers, "cores", lambda: 64)
    assert shared(cells_of(tmp_path, seeds=1)) == Share(workers=1, threads=1)


def test_memory_limits_the_workers(machine, tmp_path):
    machine.setattr(workers, "available_bytes", lambda: 5 * GIB)
    assert shared(cells_of(tmp_path, seeds=20)).workers == 2


def test_large_cells_have_all_cores_one_after_another(machine, tmp_path):
    assert shared(cells_of(tmp_path, *LARGE, seeds=4)) == Share(workers=1, threads=8)


def test_workers_that_are_asked_for_share_the_cores(machine, tmp_path):
    assert shared(cells_of(tmp_path, *LARGE, seeds=4), workers=3) == Share(workers=3, threads=2)


def test_threads_that_are_asked_for_are_given_and_leave_fewer_workers(machine, tmp_path):
    machine.setenv(threads.VARIABLE, "4")
    assert shared(cells_of(tmp_path, seeds=20)) == Share(workers=2, threads=4)
    assert shared(cells_of(tmp_path, *LARGE, seeds=20)) == Share(workers=1, threads=4)


def test_cells_that_must_be_alone_have_one_worker(machine, tmp_path):
    assert shared(cells_of(tmp_path, seeds=20), alone=True).workers == 1


def test_without_cells_there_is_one_worker(machine):
    assert shared([]) == Share(workers=1, threads=1)


def test_gpus_are_shared_out_unless_one_is_named(machine, tmp_path):
    machine.setattr(torch.cuda, "device_count", lambda: 4)
    cells = cells_of(tmp_path, seeds=20)
    assert shared(cells, device=torch.device("cuda")).workers == 4
    assert shared(cells, device=torch.device("cuda:1")).workers == 1
    assert workers._device_of(5, torch.device("cuda")) == "cuda:1"
    assert workers._device_of(5, torch.device("cuda:3")) == "cuda:3"


def test_a_share_is_said_in_words():
    assert str(Share(workers=1, threads=2)) == "1 worker of 2 threads"
    assert str(Share(workers=8, threads=1)) == "8 workers of 1 thread"


# -- processes -------------------------------------------------------------------------------------

TWO = Share(workers=2, threads=1)


def run(table, *, suite, runs, rerun=False, share=TWO):
    logs = [Silence()] * share.workers
    return run_by_workers(table, tiny_bench(suite), runs=runs, share=share, rerun=rerun, logs=logs)


def results(records):
    """What does not depend on the machine's moods."""
    return {
        record.seed: (
            record.losses,
            {name: x for name, x in record.metrics.items() if "accuracy" in name or "loss" in name},
        )
        for record in records
    }


@pytest.fixture
def table(suite):
    return [tiny_cell(suite, "gim", seed=seed) for seed in range(4)]


@pytest.mark.slow
def test_workers_give_the_numbers_of_one_process(suite, runs, table, tmp_path):
    there = list(run(table, suite=suite, runs=runs))
    threads_before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        bench, folder = tiny_bench(suite), RunsFolder(tmp_path / "here")
        here = [run_cell(cell, bench, runs=folder) for cell in table]
    finally:
        torch.set_num_threads(threads_before)
    assert results(there) == results(here)
    assert {record.provenance["threads"] for record in there} == {1}
    assert [record.provenance["workers"] for record in there] == [2] * 4
    assert "workers" not in here[0].provenance


@pytest.mark.slow
def test_every_cell_runs_once_and_again_if_asked(suite, runs, table):
    first = {record.seed: record for record in run(table, suite=suite, runs=runs)}
    again = {record.seed: record for record in run(table, suite=suite, runs=runs)}
    anew = {record.seed: record for record in run(table, suite=suite, runs=runs, rerun=True)}
    assert sorted(first) == [0, 1, 2, 3]
    assert again == first
    times = [{s: r.provenance["finished_at"] for s, r in each.items()} for each in (first, anew)]
    assert all(times[0][seed] <= times[1][seed] for seed in first)
    assert anew != first


@pytest.mark.slow
def test_cells_of_workers_that_are_killed_run_here(suite, runs, table):
    """Both workers are killed as soon as one cell has ended."""
    records = []
    for record in run(table, suite=suite, runs=runs):
        records.append(record)
        if len(records) == 1:
            for child in psutil.Process().children():
                if "spawn_main" in " ".join(child.cmdline()):
                    os.kill(child.pid, signal.SIGKILL)
    assert sorted(record.seed for record in records) == [0, 1, 2, 3]
    assert {record.status for record in records} == {Status.DONE}


@pytest.mark.slow
def test_no_worker_is_left_when_the_reader_of_records_stops(suite, runs, table):
    records = run(table, suite=suite, runs=runs)
    next(records)
    records.close()
    assert not [c for c in psutil.Process().children() if "spawn_main" in " ".join(c.cmdline())]


@pytest.mark.slow
def test_a_cell_that_fails_by_a_worker_has_a_record_that_says_why(suite, runs, table):
    broken = replace(
        table[1],
        data_sha256="1" * 64,
        config=table[1].config.model_copy(
            update={"training": table[1].config.training.model_copy(update={"learning_rate": 1e30})}
        ),
    )
    records = list(run([table[0], broken], suite=suite, runs=runs))
    assert [record.status for record in sorted(records, key=lambda r: r.seed)] == [
        Status.DONE,
        Status.FAILED,
    ]
