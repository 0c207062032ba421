"""A cell whose method is fitted without gradients: its time, its encoder, and reading it again."""

import pytest
import torch

from gim_bench.cells import phases
from gim_bench.cells.build import build, models_of, planned_steps
from gim_bench.cells.run import run_cell
from gim_bench.contract import Split
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from tests.tiny_suite import tiny_bench, tiny_cell, tiny_suite


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return tiny_suite(tmp_path_factory.mktemp("suite"), "method.kmeans_patches.centroids=16")


@pytest.fixture(scope="module")
def bench(suite):
    return tiny_bench(suite)


@pytest.fixture(scope="module")
def cell(suite):
    return tiny_cell(suite, "kmeans_patches")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return RunsFolder(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def record(cell, bench, runs):
    found = run_cell(cell, bench, runs=runs)
    assert (found.status, found.error) == (Status.DONE, None)
    return found


def test_no_step_is_planned_or_taken(cell, bench, record):
    assert planned_steps(cell, bench) == 0
    assert not {"train/steps", "train/samples", "train/parameters"} & record.metrics.keys()
    assert record.losses == []
    assert record.isolation == {}


def test_fitting_is_timed_and_its_memory_measured(record):
    assert record.metrics["train/seconds"] > 0
    assert record.metrics["memory/host_peak_bytes"] > 0


def test_a_method_that_visits_no_split_has_no_time_of_training(suite, bench, runs):
    record = run_cell(tiny_cell(suite, "image_statistics"), bench, runs=runs)
    assert record.status is Status.DONE
    assert "train/seconds" not in record.metrics


def test_the_saved_encoder_gives_an_unfitted_learner_the_features_that_were_probed(
    cell, bench, record, runs
):
    fitted, other = (build(cell, bench, target=bench.targets[0]) for _ in range(2))
    fitted.fit_without_gradients(bench.batches(cell, Split.UNLABELLED).epoch(1))
    other.encoder.load_state_dict(runs.read_encoder(record, name="encoder"))
    inputs = next(bench.batches(cell, Split.TEST).in_order()).inputs
    expected = fitted.features(inputs)["module_1"]
    assert expected.any()
    assert torch.equal(other.features(inputs)["module_1"], expected)


def test_the_method_is_fitted_to_augmented_images_of_the_split_that_it_names(
    cell, bench, monkeypatch, tmp_path
):
    given = []
    learner = build(cell, bench, target=bench.targets[0])
    monkeypatch.setattr(learner, "fit_without_gradients", given.extend)
    (model,) = models_of(cell, bench)
    phases._train(cell, model, learner, bench, folder=tmp_path, watch=None)
    expected = list(bench.batches(cell, Split.UNLABELLED).epoch(1))
    assert len(given) == len(expected) == 2
    for batch, other in zip(given, expected, strict=True):
        assert torch.equal(batch.inputs, other.inputs)
