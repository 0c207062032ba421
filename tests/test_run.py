"""One cell, from its configuration to its record, on a suite that takes a fraction of a second."""

import csv
import json
import tomllib

import pytest
import torch
from safetensors.torch import load_file

from gim_bench import metrics, registry, seeding
from gim_bench.contract import Dataset, Examples, Split, Status
from gim_bench.errors import DataError
from gim_bench.nn.resnet import ResNetEncoder
from gim_bench.run import Bench, build, planned_steps, run_cell
from gim_bench.store import RunsFolder
from tests.tiny_suite import CPU, MISBEHAVING, tiny_bench, tiny_cell, tiny_suite

PROBES = ("accuracy", "ridge_accuracy", "knn_accuracy")


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return tiny_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def bench(suite):
    return tiny_bench(suite)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return RunsFolder(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def done(suite, bench, runs):
    """The finished records of four methods, by name; two of them train on labelled images."""
    names = ("gim", "cpc", "supervised", "random_init")
    return {name: run_cell(tiny_cell(suite, name), bench, runs=runs) for name in names}


@pytest.fixture
def misbehaving(monkeypatch):
    table = {**registry.methods(), **MISBEHAVING}
    monkeypatch.setattr(registry, "methods", lambda: table)


def probe_names(modules=2):
    places = ["", *(f"/module_{m + 1}" for m in range(modules))]
    return {f"{name}{place}" for name in PROBES for place in places} | {"probe/seconds"}


TRAINING = {
    "train/seconds",
    "train/steps",
    "train/samples",
    "train/samples_per_second",
    "train/parameters",
    "memory/host_peak_bytes",
}


# -- the record ------------------------------------------------------------------------------------


def test_every_cell_is_done_and_its_record_is_on_disk(done, runs):
    for record in done.values():
        assert (record.status, record.error) == (Status.DONE, None)
        assert runs.find("tiny", record.method, seed=0, key=record.key) == _as_read(record)


def _as_read(record):
    """The record with lists for tuples, as JSON gives it back."""
    from dataclasses import replace

    plain = json.loads(json.dumps(record.as_dict()))
    names = ("metrics", "config", "provenance", "losses", "probe_curves")
    return replace(record, **{name: plain[name] for name in names})


def test_the_metrics_are_the_declared_ones(done):
    losses = {"loss/module_1", "loss/module_2", "loss"}
    assert set(done["gim"].metrics) == probe_names() | TRAINING | losses
    assert set(done["random_init"].metrics) == probe_names()
    end_to_end = {"loss/module_2", "loss"}
    assert set(done["cpc"].metrics) == probe_names() | TRAINING | end_to_end
    own_head = {"accuracy/own_head"}
    assert set(done["supervised"].metrics) == probe_names() | TRAINING | end_to_end | own_head


def test_every_metric_has_a_unit_and_a_direction(done):
    for record in done.values():
        for name in record.metrics:
            assert metrics.describe(name).unit


def test_accuracies_are_percentages_of_all_test_images(done):
    """16 test images, in batches of 20: every accuracy is a multiple of 1/16."""
    for record in done.values():
        for name, value in record.metrics.items():
            if "accuracy" in name:
                assert 0 <= value <= 100
                assert (value * 16 / 100) == pytest.approx(round(value * 16 / 100))


def test_the_bare_names_are_the_top_modules(done):
    found = done["gim"].metrics
    assert all(found[name] == found[f"{name}/module_2"] for name in (*PROBES, "loss"))


def test_losses_are_those_of_the_last_epoch(done):
    for name in ("gim", "supervised"):
        record = done[name]
        last = dict(record.losses[-1])
        assert last.pop("epoch") == len(record.losses) == 1
        assert {f"loss/{unit}": loss for unit, loss in last.items()}.items() <= (
            record.metrics.items()
        )


def test_a_record_says_where_it_comes_from(done):
    found = done["gim"].provenance
    assert found["data_sha256"] == "0" * 64
    assert found["precision"] == "fp32"
    assert found["started_at"] <= found["finished_at"]
    assert found["memory"]["gpu"] == "not measured: the cell ran on the CPU"
    assert done["gim"].protocol == "for the tests alone"
    assert done["gim"].config["training"]["schedule"] == "interleaved"


def test_the_probes_curve_has_every_rate_of_every_module(done):
    for record in done.values():
        assert set(record.probe_curves) == {"module_1", "module_2"}
        for curve in record.probe_curves.values():
            assert [rate for rate, _ in curve] == [1e-3, 1e-1]


# -- the folder ------------------------------------------------------------------------------------


def test_the_folder_holds_what_it_should(done, runs):
    for record in done.values():
        folder = runs.folder_of(record)
        assert {path.name for path in folder.iterdir()} == {
            "record.json",
            "config.toml",
            "losses.csv",
            "encoder.safetensors",
        }
        assert json.loads((folder / "record.json").read_text())["status"] == "done"
        config = tomllib.loads((folder / "config.toml").read_text())
        assert config["method"]["name"] == record.method
        with (folder / "losses.csv").open() as file:
            assert len(list(csv.DictReader(file))) == len(record.losses)


def test_the_saved_encoder_gives_the_features_that_were_probed(suite, bench, runs, done):
    """Loaded into a fresh encoder, it scores the same by ridge and neighbours as the record."""
    from gim_bench.probe import extract, probe

    record, cell = done["gim"], tiny_cell(suite, "gim", seed=0)
    learner = build(tiny_cell(suite, "gim", seed=7), bench)
    learner.encoder.load_state_dict(load_file(runs.folder_of(record) / "encoder.safetensors"))
    train, test = (
        extract(
            learner,
            bench.batches(cell, split),
            precision=cell.config.training.precision,
            title="",
            progress=bench.progress,
        )
        for split in (Split.TRAIN, Split.TEST)
    )
    found = probe(
        train,
        test,
        settings=cell.config.probe,
        classes=16,
        stream=cell.stream,
        title="",
        progress=bench.progress,
    )
    assert found.metrics.items() <= record.metrics.items()


def test_the_saved_encoder_is_the_trained_one(done, runs):
    trained, first = (
        load_file(runs.folder_of(done[name]) / "encoder.safetensors")
        for name in ("gim", "random_init")
    )
    assert trained.keys() == first.keys()
    assert all(not torch.equal(trained[name], first[name]) for name in trained if "weight" in name)


# -- first weights ---------------------------------------------------------------------------------


def encoder_weights(suite, bench, method, *, seed):
    return build(tiny_cell(suite, method, seed=seed), bench).encoder.state_dict()


def same(one, other):
    assert one.keys() == other.keys()
    return [torch.equal(one[name], other[name]) for name in one]


def test_every_method_starts_from_the_encoder_that_random_init_reports(
    method_name, suite, bench, done, runs
):
    reported = load_file(runs.folder_of(done["random_init"]) / "encoder.safetensors")
    assert all(same(encoder_weights(suite, bench, method_name, seed=0), reported))


def test_another_seed_is_another_encoder(suite, bench):
    weights = [encoder_weights(suite, bench, "random_init", seed=seed) for seed in (0, 1)]
    assert not any(same(*({n: w for n, w in x.items() if "weight" in n} for x in weights)))


def test_the_first_weights_do_not_depend_on_what_ran_before(suite, bench):
    before = encoder_weights(suite, bench, "gim", seed=0)
    torch.rand(5)
    assert all(same(encoder_weights(suite, bench, "gim", seed=0), before))


def test_the_encoder_comes_from_the_seeds_own_stream(suite, bench):
    with seeding.weights_from("encoder", 0):
        expected = ResNetEncoder(suite.encoder, in_channels=1).state_dict()
    assert all(same(encoder_weights(suite, bench, "gim", seed=0), expected))


@pytest.fixture
def twins(monkeypatch):
    """The same class under two names."""
    table = dict.fromkeys(("one", "two"), "tests.tiny_suite:Observed")
    monkeypatch.setattr(registry, "methods", lambda: table)


@pytest.mark.usefixtures("twins")
@pytest.mark.parametrize(
    ("method", "seed", "alike"), [("one", 0, True), ("two", 0, False), ("one", 1, False)]
)
def test_heads_and_negatives_depend_on_method_and_seed(method, seed, alike, suite, bench):
    first = build(tiny_cell(suite, "one", seed=0), bench)
    other = build(tiny_cell(suite, method, seed=seed), bench)
    heads = [
        {n: w for n, w in learner.heads.state_dict().items() if "weight" in n}
        for learner in (first, other)
    ]
    assert heads[0]
    assert all(equal == alike for equal in same(*heads))
    seeds = [learner.ingredients.negatives.initial_seed() for learner in (first, other)]
    assert (seeds[0] == seeds[1]) == alike


# -- repeating -------------------------------------------------------------------------------------


def test_the_same_cell_gives_the_same_numbers_bit_for_bit(suite, bench, done, tmp_path):
    again = run_cell(tiny_cell(suite, "gim"), bench, runs=RunsFolder(tmp_path))
    first = done["gim"]
    assert again.key == first.key
    assert again.losses == first.losses
    assert again.probe_curves == first.probe_curves
    timeless = {n for n in first.metrics if "second" not in n and "memory" not in n}
    assert {n: again.metrics[n] for n in timeless} == {n: first.metrics[n] for n in timeless}


def test_another_seed_gives_other_losses_and_another_record(suite, bench, done, tmp_path):
    other = run_cell(tiny_cell(suite, "gim", seed=1), bench, runs=RunsFolder(tmp_path))
    assert other.losses != done["gim"].losses
    assert (other.seed, other.key != done["gim"].key) == (1, True)


@pytest.mark.parametrize("split", [Split.UNLABELLED, Split.TRAIN])
def test_every_method_sees_the_same_batches(split, suite, bench):
    first, second = (
        list(bench.batches(tiny_cell(suite, name), split).epoch(1)) for name in ("gim", "cpc")
    )
    assert len(first) == len(second) > 0
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, second, strict=True))


# -- budget ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "method", "steps"),
    [
        # 48 unlabelled and 32 labelled images in batches of 20: 2 and 1 steps in an epoch.
        ("epochs", "gim", 3 * 2),
        ("epochs", "supervised", 3 * 1),
        ("steps", "gim", 3 * 2),
        ("steps", "supervised", 3 * 2),
        ("steps", "random_init", 0),
        ("epochs", "random_init", 0),
    ],
)
def test_a_budget_in_epochs_or_in_steps(budget, method, steps, bench, tmp_path):
    suite = tiny_suite(tmp_path, "training.epochs=3", f"training.budget={budget}")
    assert planned_steps(tiny_cell(suite, method), bench) == steps


def test_the_planned_steps_are_taken(bench, tmp_path):
    suite = tiny_suite(tmp_path, "training.epochs=3", "training.budget=steps")
    record = run_cell(tiny_cell(suite, "supervised"), bench, runs=RunsFolder(tmp_path))
    assert record.metrics["train/steps"] == 6
    assert record.metrics["train/samples"] == 6 * 20
    assert [row["epoch"] for row in record.losses] == [1, 2, 3, 4, 5, 6]
    assert record.metrics["loss"] == record.losses[-1]["module_2"] != record.losses[0]["module_2"]


def test_no_epochs_at_all_leave_the_first_weights(bench, tmp_path):
    suite = tiny_suite(tmp_path, "training.epochs=0")
    runs = RunsFolder(tmp_path)
    gim, untrained = (
        run_cell(tiny_cell(suite, name), bench, runs=runs) for name in ("gim", "random_init")
    )
    assert set(gim.metrics) == probe_names()
    assert gim.metrics["accuracy"] == untrained.metrics["accuracy"]


# -- failing ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("misbehaving")
def test_an_error_nobody_foresaw_is_a_failed_record_with_a_log(suite, bench, tmp_path):
    runs = RunsFolder(tmp_path)
    record = run_cell(tiny_cell(suite, "broken"), bench, runs=runs)
    log = runs.folder_of(record) / "error.log"
    assert record.status is Status.FAILED
    assert record.error == f"RuntimeError: the forward pass fell over (traceback in {log})"
    assert "Traceback" in log.read_text()
    assert "in a second line" in log.read_text()
    assert runs.records("tiny")[0].error == record.error
    assert "finished_at" in record.provenance


@pytest.mark.usefixtures("misbehaving")
def test_a_diverging_cell_fails_in_one_line_without_a_log(suite, bench, tmp_path):
    runs = RunsFolder(tmp_path)
    record = run_cell(tiny_cell(suite, "diverging"), bench, runs=runs)
    assert record.status is Status.FAILED
    assert record.error.startswith("the loss of module_2 is nan")
    assert not (runs.folder_of(record) / "error.log").exists()


@pytest.mark.usefixtures("misbehaving")
def test_the_cell_after_a_failed_one_gives_what_it_always_gives(suite, bench, done, tmp_path):
    runs = RunsFolder(tmp_path)
    run_cell(tiny_cell(suite, "broken"), bench, runs=runs)
    assert run_cell(tiny_cell(suite, "gim"), bench, runs=runs).losses == done["gim"].losses


@pytest.mark.usefixtures("misbehaving")
def test_an_interruption_passes_through_and_leaves_a_running_record(suite, bench, tmp_path):
    runs = RunsFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_cell(tiny_cell(suite, "interrupted"), bench, runs=runs)
    (record,) = runs.records("tiny")
    assert record.status is Status.RUNNING


# -- checking the data -----------------------------------------------------------------------------


class Invented(Dataset):
    """A data set of so many black images and classes."""

    def __init__(self, *, classes=2, size=26, **images):
        self.names = [str(c) for c in range(classes)]
        self.size, self.images = size, {"unlabelled": 40, "train": 40, "test": 4} | images

    def prepare(self): ...

    def verify(self): ...

    def fingerprint(self):
        return "0" * 64

    def classes(self):
        return self.names

    def split(self, split):
        import numpy as np

        count = self.images[split]
        pixels = np.zeros((count, 1, self.size, self.size), np.uint8)
        labels = np.zeros(count, np.int64)
        return Examples(images=pixels, labels=None if split is Split.UNLABELLED else labels)


@pytest.mark.parametrize(
    ("dataset", "complaint"),
    [
        ({"classes": 1}, "photos has 1 class(es): a probe needs at least two"),
        ({"unlabelled": 19}, "photos has 19 unlabelled images, fewer than one batch of 20: add "),
        ({"train": 7}, "photos has 7 train images, fewer than one batch of 20: add images, or "),
        ({"test": 0}, "photos has no test images: add some"),
        ({"size": 20}, "a crop of 24 pixels does not fit into the unlabelled images of photos"),
    ],
    ids=["one class", "few to train on", "few labelled", "none to test on", "small images"],
)
def test_data_that_cannot_carry_a_cell_is_refused_before_training(dataset, complaint, suite, bench):
    other = Bench(Invented(**dataset), device=CPU, progress=bench.progress)
    with pytest.raises(DataError) as error:
        other.check(tiny_cell(suite, "gim").config)
    assert str(error.value).startswith(complaint)
    assert "\n" not in str(error.value)


def test_data_that_just_suffices_is_accepted(suite, bench):
    enough = Invented(unlabelled=20, train=20, test=1, size=24)
    Bench(enough, device=CPU, progress=bench.progress).check(tiny_cell(suite, "gim").config)
