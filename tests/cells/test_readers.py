"""Finished cells that one process reads under other protocols, or several."""

import os
import signal
import threading
import time

import psutil
import pytest
import torch

from gim_bench.cells.exchange import protocols_on
from gim_bench.cells.readers import Reading, read_all
from gim_bench.cells.run import run_cell
from gim_bench.cells.shares import Share
from gim_bench.probing.classifiers import fit_neighbours
from gim_bench.records.folder import RunsFolder
from gim_bench.records.protocols import results_of
from gim_bench.settings.protocols import protocols_of
from tests.forked import forked_workers
from tests.tiny_suite import CPU, tiny_bench, tiny_cell, tiny_suite

ONE, TWO = (Share(workers=number, threads=1) for number in (1, 2))


@pytest.fixture
def readings(tmp_path):
    """Three finished cells of random encoders, under two protocols."""
    suite = tiny_suite(tmp_path)
    runs = RunsFolder(tmp_path / "runs")
    cells = [tiny_cell(suite, "random_init", seed=seed) for seed in range(3)]
    protocols = protocols_of(suite, ["top", "knn"])
    return [
        Reading(
            cell=cell,
            record=run_cell(cell, tiny_bench(suite), runs=runs),
            protocols=protocols_on(cell.config, protocols, device=CPU),
        )
        for cell in cells
    ]


def read(readings, folder, *, share, rerun=False):
    suite = tiny_suite(folder)
    runs = RunsFolder(folder / "runs")
    return read_all(readings, tiny_bench(suite), runs=runs, share=share, rerun=rerun)


def metrics(readings, folder):
    """What has been read of each cell under each protocol."""
    runs = RunsFolder(folder / "runs")
    kept = [results_of(r.record, folder=runs.folder_of(r.record)) for r in readings]
    return [{name: result.metrics for name, result in each.items()} for each in kept]


@pytest.mark.slow
def test_two_workers_read_what_one_process_reads(readings, tmp_path):
    assert read(readings, tmp_path, share=ONE) == {}
    alone = metrics(readings, tmp_path)
    assert [sorted(each) for each in alone] == [["knn", "top"]] * 3
    assert read(readings, tmp_path, share=TWO, rerun=True) == {}
    assert metrics(readings, tmp_path) == alone


@pytest.mark.slow
@pytest.mark.parametrize("share", [ONE, TWO])
def test_a_cell_without_its_weights_is_named_and_the_others_are_read(readings, share, tmp_path):
    runs = RunsFolder(tmp_path / "runs")
    (runs.folder_of(readings[1].record) / "encoder.safetensors").unlink()
    with forked_workers():
        (key,) = errors = read(readings, tmp_path, share=share)
    assert key == readings[1].cell.key
    assert "encoder.safetensors" in errors[key]
    assert [sorted(each) for each in metrics(readings, tmp_path)] == [
        ["knn", "top"], [], ["knn", "top"],
    ]  # fmt: skip


@pytest.mark.slow
def test_a_cell_that_exhausts_memory_is_named_and_the_others_are_read(
    readings, tmp_path, monkeypatch
):
    fitted = []

    def fit(*args, **options):
        fitted.append(args)
        if len(fitted) in (2, 3):  # the second cell's, with the other protocol and alone
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 TiB")
        return fit_neighbours(*args, **options)

    monkeypatch.setattr("gim_bench.probing.exchange.fit_neighbours", fit)
    key = readings[1].cell.key
    assert read(readings, tmp_path, share=ONE) == {
        key: "does not fit: knn (CUDA out of memory. Tried to allocate 9 TiB)"
    }
    assert [sorted(each) for each in metrics(readings, tmp_path)] == [
        ["knn", "top"], ["top"], ["knn", "top"],
    ]  # fmt: skip


@pytest.mark.slow
def test_cells_of_readers_that_are_killed_are_read_here(readings, tmp_path):
    def kill():
        until = time.monotonic() + 60
        while time.monotonic() < until:
            children = psutil.Process().children()
            workers = [c for c in children if "spawn_main" in " ".join(c.cmdline())]
            if len(workers) == 2:
                for worker in workers:
                    os.kill(worker.pid, signal.SIGKILL)
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    assert read(readings, tmp_path, share=TWO) == {}
    killer.join()
    assert [sorted(each) for each in metrics(readings, tmp_path)] == [["knn", "top"]] * 3
