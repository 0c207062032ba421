"""Worker processes that share the cells of a table."""

from dataclasses import replace

import pytest
import torch

from gim_bench.cells.run import run_cell
from gim_bench.cells.shares import Share
from gim_bench.cells.workers import run_by_workers
from gim_bench.progress import Silence
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from tests.cells.crews import workers_of_a_cell
from tests.forked import forked_workers, spawned_workers
from tests.tiny_suite import tiny_bench, tiny_cell

TWO = Share(workers=2, threads=1)


class Lines(Silence):
    """Progress that keeps the lines that stay."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def run(table, *, suite, runs, rerun=False, share=TWO, progress=None):
    logs = [Silence()] * share.workers
    bench = tiny_bench(suite, progress=progress)
    return run_by_workers(table, bench, runs=runs, share=share, rerun=rerun, logs=logs)


def results(records):
    """What does not depend on the machine's moods."""
    return {
        record.seed: (
            record.losses,
            {name: x for name, x in record.metrics.items() if "accuracy" in name or "loss" in name},
        )
        for record in records
    }


@pytest.fixture(scope="module", autouse=True)
def forked():
    """Most tests need no workers that import everything anew."""
    with forked_workers():
        yield


@pytest.fixture
def table(suite):
    return [tiny_cell(suite, "gim", seed=seed) for seed in range(4)]


@pytest.mark.slow
def test_workers_give_the_numbers_of_one_process(suite, runs, table, tmp_path):
    with spawned_workers():
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
    """Both workers are killed as soon as one cell has ended, and a line says so of each."""
    records, progress = [], Lines()
    with spawned_workers():
        for record in run(table, suite=suite, runs=runs, progress=progress):
            records.append(record)
            if len(records) == 1:
                for worker in workers_of_a_cell():
                    worker.kill()
    assert sorted(record.seed for record in records) == [0, 1, 2, 3]
    assert {record.status for record in records} == {Status.DONE}
    killed = "was killed by SIGKILL (exit code -9); the others take its work over"
    assert {f"worker 1 {killed}", f"worker 2 {killed}"} <= set(progress.lines)


@pytest.mark.slow
def test_no_worker_is_left_when_the_reader_of_records_stops(suite, runs, table):
    records = run(table, suite=suite, runs=runs)
    next(records)
    records.close()
    assert not workers_of_a_cell()


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
