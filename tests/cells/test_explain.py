"""Why a cell would be run: every part of its key, and what else may have happened to it."""

import json
import os
import time
from dataclasses import replace

import pytest

from gim_bench.cells import explain as module
from gim_bench.cells.explain import why
from gim_bench.cells.run import run_cell
from gim_bench.records.claims import CLAIM
from gim_bench.records.record import Status
from gim_bench.system.processes import Owner
from tests.tiny_suite import tiny_bench, tiny_cell, tiny_suite


@pytest.fixture
def cell(suite):
    return tiny_cell(suite, "random_init")


@pytest.fixture
def record(cell, suite, runs):
    return run_cell(cell, tiny_bench(suite), runs=runs)


def test_a_cell_without_a_record(cell, runs):
    assert why(cell, runs) == "runs: it has no record yet"


def test_a_cell_that_is_done(cell, record, runs):
    finished = record.provenance["finished_at"]
    assert why(cell, runs) == f"done: nothing has changed since {finished}"
    assert why(cell, runs, rerun=True) == f"runs: --rerun (it finished {finished})"


def test_a_setting(record, runs, tmp_path):
    suite = tiny_suite(tmp_path, "training.epochs=3", "probe.steps=5")
    assert why(tiny_cell(suite, "random_init"), runs) == (
        "runs: probe.steps is 5, was 4, training.epochs is 3, was 1"
    )


def test_many_settings_are_counted(record, runs, tmp_path):
    changed = ("epochs=3", "batch_size=10", "learning_rate=0.5", "held_out=0.5", "precision=bf16")
    suite = tiny_suite(tmp_path, *(f"training.{setting}" for setting in changed))
    assert why(tiny_cell(suite, "random_init"), runs).endswith(", and 1 more")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (['dataset={name="random_images", size=26}'], "dataset.name is random_images, was photos"),
        (
            ["training.optimiser.kind=sgd", "training.optimiser.momentum=0.5"],
            "training.optimiser.kind is sgd, was adam",
        ),
    ],
    ids=["data set", "optimiser"],
)
def test_settings_of_another_kind_are_not_listed_beside_the_kind(
    overrides, reason, record, runs, tmp_path
):
    suite = tiny_suite(tmp_path, *overrides)
    assert why(tiny_cell(suite, "random_init"), runs) == f"runs: {reason}"


def test_the_data(record, suite, runs):
    other = tiny_cell(suite, "random_init", data_sha256="ab" * 32)
    assert why(other, runs) == "runs: the data's sha256 is abababab…, was 00000000…"


def test_another_seed_has_no_record_yet(record, suite, runs):
    assert why(tiny_cell(suite, "random_init", seed=1), runs) == "runs: it has no record yet"


def test_the_results_version(cell, record, runs, monkeypatch):
    monkeypatch.setattr("gim_bench.settings.schema.RESULTS_VERSION", 99)
    monkeypatch.setattr(module, "RESULTS_VERSION", 99)
    was = record.provenance["results_version"]
    assert why(replace(cell), runs) == f"runs: the results version is 99, was {was}"


def test_a_failure(cell, record, runs):
    runs.save(replace(record, status=Status.FAILED, error="it rained"))
    assert why(cell, runs) == "runs: it failed before: it rained"


def test_an_interruption_and_a_process_at_work(cell, record, runs):
    runs.save(replace(record, status=Status.RUNNING))
    assert why(cell, runs) == "runs: it was interrupted"
    with runs.claimed(cell.suite, "random_init", seed=cell.seed, key=cell.key) as claim:
        assert why(cell, runs) == (
            f"waits: process {claim.owner.pid} on {claim.owner.host} is at it"
        )


@pytest.mark.parametrize(
    ("seconds", "answer"),
    [(60, "waits: process 1 on far is at it"), (300, "runs: it was interrupted")],
)
def test_a_process_of_another_machine_is_at_it_until_it_is_silent(
    seconds, answer, cell, record, runs
):
    runs.save(replace(record, status=Status.RUNNING))
    claim = runs.folder_of(record) / CLAIM
    owner = Owner(host="far", machine="far away", pid=1, started=0.0)
    claim.write_text(json.dumps(owner.as_dict()))
    os.utime(claim, (time.time() - seconds,) * 2)
    assert why(cell, runs) == answer


@pytest.mark.parametrize("file", ["record.json", "encoder.safetensors"])
def test_an_alteration(file, cell, record, runs):
    path = runs.folder_of(record) / file
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    assert why(cell, runs).startswith("runs: its record, encoder or predictions were altered")
