"""Processor time of `report`, and of `run` with nothing to do, over a thousand finished cells.

The records are made up: accuracies, losses, curves, weights and predictions are drawn anew for each
cell. Seconds are those of the command's own process, a third of which goes into importing PyTorch.
"""

import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gim_bench.cells.cell import Cell
from gim_bench.cells.outcome import begun
from gim_bench.cli.main import app
from gim_bench.cli.workload import workload_of
from gim_bench.records.folder import RunsFolder
from gim_bench.records.predictions import Predictions
from gim_bench.records.record import Record, Status
from gim_bench.settings.suites import load_suite

SUITE = "quickstart"  # ten rows
SEEDS = 100
CLASSES, IMAGES, ITEMS = 10, 3000, 150  # of the suite's test set
MODULES = ("module_1", "module_2", "module_3")
EPOCHS = 5
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
WEIGHTS = 31_000
COSTS = {"train/seconds": 500.0, "train/steps": 1500, "train/samples": 24_000, "train/labels": 0}
GROUP = f"ten rows, {SEEDS} finished seeds each: processor time of processes of their own"


def seconds_of_processes() -> float:
    """Processor time of all processes that this one has waited for."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def save_made_up(cell: Cell, runs: RunsFolder, *, like: Record) -> None:
    """Write a finished record with weights and predictions, with the provenance of `like`."""
    draw = np.random.default_rng(int(cell.key[:8], 16))
    places = np.arange(IMAGES)
    labels = places % CLASSES
    names = [f"{kind}accuracy{of}" for of in ("", *(f"/{m}" for m in MODULES))
             for kind in ("", "ridge_", "knn_")]  # fmt: skip
    predicted = {
        name: np.where(draw.random(IMAGES) < 0.4, labels, draw.integers(CLASSES, size=IMAGES))
        for name in names
    }
    record = replace(
        like,
        method=cell.config.method.name,
        seed=cell.seed,
        key=cell.key,
        status=Status.DONE,
        config=cell.config.as_dict(),
        metrics=COSTS | {n: 100 * float((p == labels).mean()) for n, p in predicted.items()},
        losses=[{"epoch": e} | {m: draw.random() for m in MODULES} for e in range(1, EPOCHS + 1)],
        probe_curves={m: [(p, 100 * draw.random()) for p in PENALTIES] for m in MODULES},
    )
    predictions = Predictions(
        labels={"class": labels}, items={"class": places % ITEMS}, predicted=predicted
    )
    weights = {"weights": torch.from_numpy(draw.random(WEIGHTS, dtype=np.float32))}
    files = runs.save_encoder(record, weights, name="encoder")
    record = replace(record, files=files | runs.save_predictions(record, predictions))
    runs.put_encoders(record)
    runs.save(record)


@pytest.fixture(scope="module")
def seeds(tried_only) -> int:
    return 2 if tried_only else SEEDS


@pytest.fixture(scope="module")
def folder(seeds, tmp_path_factory) -> Path:
    """A folder of runs in which all cells of the suite are done."""
    found = tmp_path_factory.mktemp("runs")
    work = workload_of(
        load_suite(SUITE), methods=(), seeds=seeds, device="cpu", data_dir=None, runs_dir=found
    )
    like = begun(work.cells[0], work.bench)
    for cell in work.cells:
        save_made_up(cell, work.runs, like=like)
    return found


@pytest.fixture
def start(tried_only) -> Callable[..., str]:
    """Runs a command in a process of its own; where nothing is timed, in this process."""

    def started(*arguments: str) -> str:
        if tried_only:
            answer = CliRunner().invoke(app, arguments, catch_exceptions=False)
            assert answer.exit_code == 0
            return answer.stdout
        command = [sys.executable, "-m", "gim_bench", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603

    return started


@pytest.mark.benchmark(group=GROUP, timer=seconds_of_processes)
def test_report(benchmark, start, folder, seeds):
    arguments = ("report", "--suite", SUITE, "--runs-dir", str(folder))
    text = benchmark.pedantic(start, args=arguments, rounds=3)
    assert f"({seeds} seeds)" in text


@pytest.mark.benchmark(group=GROUP, timer=seconds_of_processes)
def test_run_with_nothing_to_do(benchmark, start, folder, seeds):
    arguments = ("run", "--suite", SUITE, "--seeds", str(seeds))
    folders = ("--runs-dir", str(folder), "--no-tracking", "--device", "cpu", "--quiet")
    text = benchmark.pedantic(start, args=(*arguments, *folders), rounds=3)
    assert f"({seeds} seeds)" in text
