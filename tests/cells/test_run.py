"""One cell, from its configuration to its record, on a suite that takes a fraction of a second."""

import csv
import json
import os
import signal
import time
import tomllib
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gim_bench import registry, seeding
from gim_bench.cells import bench as bench_module
from gim_bench.cells import outcome, phases, table
from gim_bench.cells.bench import Bench
from gim_bench.cells.build import build, models_of, planned_steps
from gim_bench.cells.phases import Finished, TrainingPhase
from gim_bench.cells.run import run_cell
from gim_bench.contract import Dataset, Images, Modality, Recordings, Split, Target, label_frames
from gim_bench.datasets.images.crops import in_gray
from gim_bench.datasets.speech.windows import tiles
from gim_bench.encoders.conv_gru import ConvGRUEncoder
from gim_bench.encoders.resnet import ResNetEncoder
from gim_bench.errors import DataError
from gim_bench.hardware.memory import Peaks
from gim_bench.methods.gim import GreedyInfoMax
from gim_bench.probing.probe import Probed, probe
from gim_bench.progress import Silence
from gim_bench.records import metrics
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from gim_bench.training import capacity
from gim_bench.training.audit import Audit, audit, flop_counter, leaks
from gim_bench.training.capacity import Capacity
from gim_bench.training.loop import Trained, fit
from tests.alarms import LIMIT_SECONDS, over_once
from tests.tiny_suite import (
    CPU,
    MISBEHAVING,
    SPEECH_TOML,
    TOML,
    Observed,
    noise_registered,
    tiny_bench,
    tiny_cell,
    tiny_suite,
)

PROBES = ("accuracy", "ridge_accuracy", "knn_accuracy")
SPEECH_PROBES = {
    "speaker": ("speaker_accuracy", "speaker_ridge_accuracy", "speaker_knn_accuracy"),
    "phone": ("phone_accuracy",),
}


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


@pytest.fixture(scope="module")
def speech_suite(tmp_path_factory):
    with noise_registered():
        yield tiny_suite(tmp_path_factory.mktemp("suite"), toml=SPEECH_TOML)


@pytest.fixture(scope="module")
def speech_bench(speech_suite):
    return tiny_bench(speech_suite)


SPEECH_METHODS = ("gim", "supervised", "greedy_supervised", "random_init", "gim_no_ar", "mfcc")


@pytest.fixture(scope="module")
def spoken(speech_suite, speech_bench, runs):
    """The finished records of methods on speech, by name; two of them train on labels."""
    return {
        name: run_cell(tiny_cell(speech_suite, name), speech_bench, runs=runs)
        for name in SPEECH_METHODS
    }


@pytest.fixture
def misbehaving(monkeypatch):
    table = {**registry.methods(), **MISBEHAVING}
    monkeypatch.setattr(registry, "methods", lambda: table)


def probe_names(modules=2, *, of=PROBES):
    places = ["", *(f"/module_{m + 1}" for m in range(modules))]
    return {f"{name}{place}" for name in of for place in places} | {
        "probe/seconds",
        "memory/probe_host_peak_bytes",
        "memory/probe_host_over_baseline_bytes",
    }


TRAINING = {
    "train/seconds",
    "train/steps",
    "train/samples",
    "train/samples_per_second",
    "train/step_per_calibration",
    "train/parameters",
    "train/labels",
    "train/flops",
    "memory/host_peak_bytes",
    "memory/host_over_baseline_bytes",
}


# -- the record ------------------------------------------------------------------------------------


def test_every_cell_is_done_and_its_record_is_on_disk(done, spoken, runs):
    for record in (*done.values(), *spoken.values()):
        assert (record.status, record.error) == (Status.DONE, None)
        assert runs.find(record.suite, record.method, seed=0, key=record.key) == _as_read(record)


def _as_read(record):
    """The record with lists for tuples, as JSON gives it back."""
    from dataclasses import replace

    plain = json.loads(json.dumps(record.as_dict()))
    names = ("metrics", "config", "provenance", "losses", "probe_curves", "isolation")
    return replace(record, **{name: plain[name] for name in names})


def test_the_metrics_are_the_declared_ones(done):
    losses = {"loss/module_1", "loss/module_2", "loss"}
    assert set(done["gim"].metrics) == probe_names() | TRAINING | losses
    assert set(done["random_init"].metrics) == probe_names()
    end_to_end = {"loss/module_2", "loss"}
    assert set(done["cpc"].metrics) == probe_names() | TRAINING | end_to_end
    own_head = {"accuracy/own_head"}
    assert set(done["supervised"].metrics) == probe_names() | TRAINING | end_to_end | own_head


def test_every_metric_has_a_unit_and_a_direction(done, spoken):
    for record in (*done.values(), *spoken.values()):
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
    assert set(found["memory"]) == {"training", "probe"}
    for phase in found["memory"].values():
        assert "; baseline " in phase["host"]
        assert phase["gpu"] == "not measured: the cell ran on the CPU"
    assert done["gim"].protocol == "for the tests alone"
    assert done["gim"].config["training"]["schedule"] == "interleaved"


def test_a_record_says_where_only_a_part_of_the_data_was_there(tmp_path, monkeypatch):
    suite = tiny_suite(tmp_path)
    bench = tiny_bench(suite)
    assert "data_incomplete" not in outcome.begun(tiny_cell(suite, "gim"), bench).provenance
    monkeypatch.setattr(bench.dataset, "incomplete", lambda: "1 of 2 photographs")
    found = outcome.begun(tiny_cell(suite, "gim"), bench).provenance
    assert found["data_incomplete"] == "1 of 2 photographs"


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
    record, cell = done["gim"], tiny_cell(suite, "gim", seed=0)
    learner = built(tiny_cell(suite, "gim", seed=7), bench)
    learner.encoder.load_state_dict(load_file(runs.folder_of(record) / "encoder.safetensors"))
    found = probe(
        learner,
        train=bench.batches(cell, Split.TRAIN),
        test=bench.batches(cell, Split.TEST),
        targets=bench.targets,
        settings=cell.config.probe,
        precision=cell.config.training.precision,
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


# -- speech ----------------------------------------------------------------------------------------


def speech_names(modules):
    """Of the probes of a cell on speech."""
    of = [name for names in SPEECH_PROBES.values() for name in names]
    return probe_names(modules, of=of)


def test_a_method_without_labels_trains_one_model_that_is_probed_for_all_targets(spoken):
    losses = {f"loss/module_{m}" for m in range(1, 7)} | {"loss"}
    assert set(spoken["gim"].metrics) == speech_names(6) | TRAINING | losses
    assert set(spoken["random_init"].metrics) == speech_names(6)
    assert spoken["gim"].metrics["train/steps"] == 3
    assert spoken["gim"].metrics["train/samples"] == 12


def test_a_supervised_method_trains_a_model_for_each_target(spoken):
    """Its losses and its own head bear the name of what they learn."""
    heads = {"speaker_accuracy/own_head", "phone_accuracy/own_head"}
    for method, modules in (("supervised", (6,)), ("greedy_supervised", range(1, 7))):
        losses = {
            f"{target}_loss{place}"
            for target in SPEECH_PROBES
            for place in ("", *(f"/module_{m}" for m in modules))
        }
        assert set(spoken[method].metrics) == speech_names(6) | TRAINING | losses | heads


def test_labels_are_counted_for_methods_that_learn_from_them(done, spoken):
    """32 labelled images; without labels it is 0, and absent where nothing is trained."""
    assert done["supervised"].metrics["train/labels"] == 32
    assert done["gim"].metrics["train/labels"] == spoken["gim"].metrics["train/labels"] == 0
    assert "train/labels" not in done["random_init"].metrics


def test_costs_of_a_cells_models_add_up_and_peaks_do_not(speech_suite, speech_bench, spoken):
    found = spoken["supervised"].metrics
    # 9 labelled recordings in batches of 4, once for each of two targets.
    assert found["train/steps"] == 2 * 2
    assert found["train/samples"] == 2 * 2 * 4
    assert found["train/samples_per_second"] == pytest.approx(16 / found["train/seconds"])
    assert found["train/labels"] == 9 + 7
    cell = tiny_cell(speech_suite, "supervised")
    learners = [build(cell, speech_bench, target=target) for target in speech_bench.targets]
    assert found["train/parameters"] == sum(
        weight.numel() for learner in learners for weight in learner.parameters()
    )


def finished(model, *, seconds, peak, **others):
    """What a made-up model leaves behind."""
    return Finished(
        model=model,
        top=["module_2"],
        training=TrainingPhase(
            trained=Trained(
                losses=[{"epoch": 1, "module_1": 5.0, "module_2": seconds}],
                seconds=seconds,
                steps=10,
                samples=40,
                parameters=100,
            ),
            peaks=Peaks(metrics={"memory/host_peak_bytes": peak} | others),
            audited=Audit(isolation={"module_2": {"module_1": seconds}}, flops=peak),
            calibration_seconds=seconds / 15,  # of 3 s and 1 s: 0.2 s and 0.0667 s
        ),
        probed=Probed(
            metrics={f"{model.prefix}accuracy": seconds},
            curves={f"{model.target.name}/module_1": [[0.1, seconds]]},
        ),
        probe_seconds=2 * seconds,
        probe_peaks=Peaks(metrics={"memory/probe_host_peak_bytes": peak + 1}),
        files={f"{model.prefix}encoder.safetensors": "0" * 64},
    )


def test_two_models_become_one_record(speech_suite, speech_bench, spoken):
    """By hand: times, steps and parameters are sums, the peak is the larger one."""
    speaker, phone = models_of(tiny_cell(speech_suite, "supervised"), speech_bench)
    record = outcome.done(
        spoken["supervised"],
        [finished(speaker, seconds=3.0, peak=70), finished(phone, seconds=1.0, peak=50)],
    )
    assert record.metrics == {
        "speaker_accuracy": 3.0,
        "phone_accuracy": 1.0,
        "speaker_loss": 3.0,
        "speaker_loss/module_1": 5.0,
        "speaker_loss/module_2": 3.0,
        "phone_loss": 1.0,
        "phone_loss/module_1": 5.0,
        "phone_loss/module_2": 1.0,
        "probe/seconds": 8.0,
        "train/seconds": 4.0,
        "train/steps": 20,
        "train/samples": 80,
        "train/samples_per_second": 20.0,
        "train/step_per_calibration": pytest.approx(1.5),  # 4 s / 20 by the mean of 1/5 and 1/15 s
        "train/parameters": 200,
        "train/labels": 9 + 7,  # two of the nine recordings have no phone label
        "train/flops": 120,
        "memory/host_peak_bytes": 70,
        "memory/probe_host_peak_bytes": 71,
    }
    assert record.isolation == {
        "speaker_module_2": {"module_1": 3.0},
        "phone_module_2": {"module_1": 1.0},
    }
    assert record.losses == [
        {
            "epoch": 1,
            "speaker_module_1": 5.0,
            "speaker_module_2": 3.0,
            "phone_module_1": 5.0,
            "phone_module_2": 1.0,
        }
    ]
    assert record.probe_curves == {
        "speaker/module_1": [[0.1, 3.0]],
        "phone/module_1": [[0.1, 1.0]],
    }


def test_accuracies_of_speech_are_percentages_of_all_windows_and_frames(speech_bench, spoken):
    """Whatever the batch size of 4 leaves over."""
    test = speech_bench.split(Split.TEST)
    labelled = int((test.frames["phone"] >= 0).sum())
    windows = sum(1 for length in test.lengths for _ in tiles(int(length), window=3200))
    for record in spoken.values():
        for name, value in record.metrics.items():
            if "accuracy" in name:
                hits = value / 100 * (labelled if name.startswith("phone") else windows)
                assert hits == pytest.approx(round(hits)), name
                assert 0 <= value <= 100


def test_the_models_of_a_cell_are_named_after_their_targets(speech_suite, speech_bench):
    models = models_of(tiny_cell(speech_suite, "supervised"), speech_bench)
    assert [(model.name, model.prefix) for model in models] == [
        ("supervised seed 0, speaker", "speaker_"),
        ("supervised seed 0, phone", "phone_"),
    ]
    (gim,) = models_of(tiny_cell(speech_suite, "gim"), speech_bench)
    assert (gim.name, gim.prefix, len(gim.probed)) == ("gim seed 0", "", 2)


def test_a_supervised_method_on_images_is_one_model_without_a_prefix(suite, bench):
    (model,) = models_of(tiny_cell(suite, "supervised"), bench)
    assert (model.name, model.prefix) == ("supervised seed 0", "")


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("gim", {"encoder"}),
        ("random_init", {"encoder"}),
        ("supervised", {"speaker_encoder", "phone_encoder"}),
    ],
)
def test_every_model_leaves_its_encoder(method, names, spoken, runs):
    paths = list(runs.folder_of(spoken[method]).glob("*.safetensors"))
    assert {path.stem for path in paths} == names
    encoders = [load_file(path) for path in paths]
    assert all(len(encoder) == 5 * 2 + 4 for encoder in encoders)
    if len(encoders) == 2:
        assert not any(same(*encoders))


def test_the_models_of_a_cell_start_from_the_same_encoder(speech_suite, speech_bench):
    cell = tiny_cell(speech_suite, "supervised")
    speaker, phone = (
        build(cell, speech_bench, target=target).encoder.state_dict()
        for target in speech_bench.targets
    )
    assert all(same(speaker, phone))


def test_the_losses_of_both_models_stand_in_one_row_an_epoch(spoken, runs):
    record = spoken["supervised"]
    assert [list(row) for row in record.losses] == [["epoch", "speaker_module_6", "phone_module_6"]]
    assert record.metrics["speaker_loss"] == record.losses[-1]["speaker_module_6"]
    assert record.metrics["phone_loss"] == record.losses[-1]["phone_module_6"]
    with (runs.folder_of(record) / "losses.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1


def test_the_probes_curves_of_speech_are_named_by_target_and_module(spoken):
    names = {f"{target}/module_{m}" for target in SPEECH_PROBES for m in range(1, 7)}
    for method in ("gim", "supervised"):
        assert set(spoken[method].probe_curves) == names


def test_without_the_autoregressor_the_fifth_module_is_the_top(spoken):
    found = spoken["gim_no_ar"].metrics
    assert set(found) == speech_names(5) | TRAINING | {f"loss/module_{m}" for m in range(1, 6)} | {
        "loss"
    }
    assert found["phone_accuracy"] == found["phone_accuracy/module_5"]


def test_without_phone_labels_there_is_the_speaker_alone(speech_suite, tmp_path):
    quiet = tiny_suite(tmp_path, "dataset.phones=false", toml=SPEECH_TOML)
    bench, runs = tiny_bench(quiet), RunsFolder(tmp_path)
    for method in ("gim", "supervised"):
        record = run_cell(tiny_cell(quiet, method), bench, runs=runs)
        assert record.status is Status.DONE
        assert "speaker_accuracy" in record.metrics
        assert not any("phone" in name for name in (*record.metrics, *record.probe_curves))
    # A single model keeps its cell's name, and its target's prefix.
    assert "speaker_loss" in record.metrics
    encoders = runs.folder_of(record).glob("*.safetensors")
    assert [path.stem for path in encoders] == ["speaker_encoder"]


def test_the_same_cell_of_speech_gives_the_same_numbers_bit_for_bit(
    speech_suite, speech_bench, spoken, tmp_path
):
    for method in ("gim", "supervised"):
        again = run_cell(tiny_cell(speech_suite, method), speech_bench, runs=RunsFolder(tmp_path))
        first = spoken[method]
        assert again.losses == first.losses
        assert again.probe_curves == first.probe_curves
        accuracies = [name for name in first.metrics if "accuracy" in name]
        assert all(again.metrics[name] == first.metrics[name] for name in accuracies)


def test_nothing_of_a_cells_first_model_is_kept_while_the_second_one_trains(
    speech_suite, speech_bench, tmp_path, monkeypatch
):
    """Or the second one's peak of memory would hold the weights of both."""
    seen, alive = weakref.WeakSet(), []

    def watched(trainer, *arguments, **options):
        alive.append(len(seen))
        for parameter in trainer.learner.parameters():
            seen.add(parameter)
        return fit(trainer, *arguments, **options)

    monkeypatch.setattr(phases, "fit", watched)
    run_cell(tiny_cell(speech_suite, "supervised"), speech_bench, runs=RunsFolder(tmp_path))
    assert alive == [0, 0]


# -- first weights ---------------------------------------------------------------------------------


def built(cell, bench):
    """The first learner of a cell."""
    return build(cell, bench, target=bench.targets[0])


def encoder_weights(suite, bench, method, *, seed):
    return built(tiny_cell(suite, method, seed=seed), bench).encoder.state_dict()


def same(one, other):
    assert one.keys() == other.keys()
    return [torch.equal(one[name], other[name]) for name in one]


def methods_for(modality):
    return sorted(
        name for name in registry.methods() if modality in registry.method(name).traits.modalities
    )


@pytest.mark.parametrize("method", methods_for(Modality.IMAGE))
def test_every_method_for_images_starts_from_the_encoder_that_random_init_reports(
    method, suite, bench, done, runs
):
    reported = load_file(runs.folder_of(done["random_init"]) / "encoder.safetensors")
    assert all(same(encoder_weights(suite, bench, method, seed=0), reported))


@pytest.mark.parametrize("method", methods_for(Modality.SPEECH))
def test_every_method_for_speech_starts_from_what_it_keeps_of_that_encoder(
    method, speech_suite, speech_bench, spoken, runs
):
    """An ablation leaves parts of it out; what it has is the same."""
    reported = load_file(runs.folder_of(spoken["random_init"]) / "encoder.safetensors")
    ours = encoder_weights(speech_suite, speech_bench, method, seed=0)
    assert all(same(ours, {name: reported[name] for name in ours}))
    assert (ours.keys() == reported.keys()) == (method not in {"gim_no_ar", "mfcc"})


def test_another_seed_is_another_encoder(suite, bench):
    weights = [encoder_weights(suite, bench, "random_init", seed=seed) for seed in (0, 1)]
    assert not any(same(*({n: w for n, w in x.items() if "weight" in n} for x in weights)))


def test_the_first_weights_do_not_depend_on_what_ran_before(suite, bench):
    before = encoder_weights(suite, bench, "gim", seed=0)
    torch.rand(5)
    assert all(same(encoder_weights(suite, bench, "gim", seed=0), before))


def test_the_encoder_comes_from_the_seeds_own_stream(suite, bench):
    with seeding.weights_from("encoder", 0):
        expected = ResNetEncoder(
            tiny_cell(suite, "gim").config.encoder, shape=(1, 24, 24)
        ).state_dict()
    assert all(same(encoder_weights(suite, bench, "gim", seed=0), expected))


def test_the_encoder_of_speech_comes_from_the_seeds_own_stream(speech_suite, speech_bench):
    with seeding.weights_from("encoder", 0):
        expected = ConvGRUEncoder(
            tiny_cell(speech_suite, "gim").config.encoder, shape=(3200,)
        ).state_dict()
    assert all(same(encoder_weights(speech_suite, speech_bench, "gim", seed=0), expected))


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
    first = built(tiny_cell(suite, "one", seed=0), bench)
    other = built(tiny_cell(suite, method, seed=seed), bench)
    heads = [
        {n: w for n, w in learner.heads.state_dict().items() if "weight" in n}
        for learner in (first, other)
    ]
    assert heads[0]
    assert all(equal == alike for equal in same(*heads))
    seeds = [learner.ingredients.generator.initial_seed() for learner in (first, other)]
    assert (seeds[0] == seeds[1]) == alike


def holding(megabytes, then):
    """`then`, after so much memory was written and freed."""

    def held(*arguments, **options):
        np.ones(megabytes * 10**6, dtype=np.uint8)
        return then(*arguments, **options)

    return held


def grown(before, after, name):
    """By how much the metric is larger in the second record."""
    return after.metrics[name] - before.metrics[name]


# -- the audit -------------------------------------------------------------------------------------


def test_gradients_of_every_cell_reach_what_its_method_declares(done, spoken):
    """Rows are the losses, named as they are in the record; columns are all modules."""
    for record in (*done.values(), *spoken.values()):
        assert leaks(record) == []
        losses = [set(row) - {"epoch"} for row in record.losses[-1:]]
        assert set(record.isolation) == (losses[0] if losses else set())
    assert list(spoken["supervised"].isolation) == ["speaker_module_6", "phone_module_6"]
    assert list(spoken["gim"].isolation["module_2"]) == [f"module_{m}" for m in range(1, 7)]


@pytest.mark.parametrize("method", ["gim", "supervised"])
def test_the_audit_moves_no_number(method, bench, tmp_path, monkeypatch):
    """Metrics, losses and weights are bit for bit those of a cell that is not audited."""
    cell = tiny_cell(tiny_suite(tmp_path), method)
    audited, bare = (RunsFolder(tmp_path / name) for name in ("audited", "bare"))
    first = run_cell(cell, bench, runs=audited)
    monkeypatch.setattr(phases, "audit", lambda *_, **__: Audit())
    second = run_cell(cell, bench, runs=bare)
    assert (first.losses, first.probe_curves) == (second.losses, second.probe_curves)
    moved = {name for name, value in first.metrics.items() if value != second.metrics.get(name)}
    assert all("second" in n or "memory" in n or "calib" in n or "flops" in n for n in moved)
    ours, theirs = (
        load_file(runs.folder_of(first) / "encoder.safetensors") for runs in (audited, bare)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_audit_is_no_part_of_training_s_peak_memory(suite, bench, tmp_path, monkeypatch):
    """Training's peak grows by less than half of what the audit holds."""
    cell = tiny_cell(suite, "gim")
    without = run_cell(cell, bench, runs=RunsFolder(tmp_path / "without"))
    monkeypatch.setattr(phases, "audit", holding(400, audit))
    beside = run_cell(cell, bench, runs=RunsFolder(tmp_path / "beside"))
    assert grown(without, beside, "memory/host_over_baseline_bytes") / 400e6 < 0.5


def test_outputs_that_are_kept_are_computed_once_in_the_count_of_operations(tmp_path):
    """Of 4 epochs' augmentations one is kept: module 1's forward runs 2 times in place of 8."""
    flops = []
    for kept in ((), ("training.kept_outputs.epochs=1",)):
        suite = tiny_suite(tmp_path, "training.epochs=4", *kept)
        record = run_cell(
            tiny_cell(suite, "gim_iterative"), tiny_bench(suite), runs=RunsFolder(tmp_path / "runs")
        )
        assert record.status is Status.DONE, record.error
        flops.append(record.metrics["train/flops"])
    cell, bench = tiny_cell(suite, "gim_iterative"), tiny_bench(suite)
    learner = built(cell, bench)
    with flop_counter() as counter:
        learner.outputs(next(bench.batches(cell, Split.UNLABELLED).epoch(1)), unit="module_1")
    assert flops[0] - flops[1] == (8 - 2) * counter.get_total_flops()


# -- repeating -------------------------------------------------------------------------------------


def test_the_same_cell_gives_the_same_numbers_bit_for_bit(suite, bench, done, tmp_path):
    again = run_cell(tiny_cell(suite, "gim"), bench, runs=RunsFolder(tmp_path))
    first = done["gim"]
    assert again.key == first.key
    assert again.losses == first.losses
    assert again.probe_curves == first.probe_curves
    timed = ("second", "memory", "calibration")
    timeless = {n for n in first.metrics if not any(word in n for word in timed)}
    assert {n: again.metrics[n] for n in timeless} == {n: first.metrics[n] for n in timeless}


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_the_same_cell_gives_the_same_numbers_with_two_threads(suite, bench, tmp_path):
    """Also where the other tests are run with one."""
    first, again = (
        run_cell(tiny_cell(suite, "gim"), bench, runs=RunsFolder(tmp_path / name))
        for name in ("first", "again")
    )
    assert first.provenance["threads"] == 2
    assert again.losses == first.losses
    assert again.probe_curves == first.probe_curves
    assert again.files == first.files


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


def test_an_image_split_is_converted_to_gray_once_for_all_cells_and_uses(suite, monkeypatch):
    """Not by the check, which answers at once; training and the probe share one array."""
    converted = []
    monkeypatch.setattr(
        bench_module, "in_gray", lambda images: converted.append(images) or in_gray(images)
    )
    bench = tiny_bench(suite)
    for name in ("supervised", "gim"):
        bench.check(tiny_cell(suite, name).config)
    assert converted == []
    gray = [
        bench.batches(tiny_cell(suite, name), Split.TRAIN, held_out=held_out).images
        for name, held_out in (("supervised", 0.2), ("supervised", 0.0), ("gim", 0.0))
    ]
    assert len(converted) == 1
    assert gray[0].shape == (32, 1, 26, 26)
    assert len({images.data_ptr() for images in gray}) == 1


def test_every_split_has_gray_images_of_its_own(suite, bench):
    cell = tiny_cell(suite, "gim")
    assert [len(bench.batches(cell, split).images) for split in Split] == [48, 32, 16]


def test_colour_images_are_the_data_sets_own(bench, tmp_path):
    statistics = ("augmentation.mean=[0.4,0.4,0.4]", "augmentation.std=[0.2,0.2,0.2]")
    suite = tiny_suite(tmp_path, "augmentation.grayscale=false", *statistics)
    images = bench.batches(tiny_cell(suite, "gim"), Split.TRAIN).images
    assert images.shape[1] == 3
    assert np.shares_memory(images.numpy(), bench.split(Split.TRAIN).images)


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
def test_an_error_that_cannot_be_printed_is_a_failed_record_that_can(bench, tmp_path):
    """And be read back, which no record with half a character can."""
    suite, runs = tiny_suite(tmp_path, 'methods=["unprintable"]'), RunsFolder(tmp_path / "runs")
    record = run_cell(tiny_cell(suite, "unprintable"), bench, runs=runs)
    assert record.error.startswith(r"RuntimeError: no file \x1b[31mcaf\udce9.jpg (traceback in ")
    assert [found.error for found in runs.records("tiny")] == [record.error]


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

    def __init__(self, *, classes=2, size=26, labelled=("train", "test"), **images):
        self.classes = [str(c) for c in range(classes)]
        self.size, self.images = size, {"unlabelled": 40, "train": 40, "test": 4} | images
        self.labelled = labelled

    def prepare(self): ...

    def verify(self): ...

    def fingerprint(self):
        return "0" * 64

    def targets(self):
        return [Target(name="class", classes=self.classes)]

    def split(self, split):
        count = self.images[split]
        pixels = np.zeros((count, 1, self.size, self.size), np.uint8)
        labels = np.full(count, 0 if split in self.labelled else -1)
        return Images(images=pixels, labels={} if split is Split.UNLABELLED else {"class": labels})


class Mumbled(Invented):
    """Recordings of half a second, of which so many have phone labels."""

    modality = Modality.SPEECH

    def __init__(self, *, phones=2, **recordings):
        super().__init__(**{"labelled": {"train": 2, "test": 1}} | recordings)
        self.phones = phones

    def targets(self):
        return [
            Target(name="speaker", classes=["ann", "ben"]),
            Target(name="phone", classes=[str(p) for p in range(self.phones)], per_step=True),
        ]

    def split(self, split):
        count, length = self.images[split], 8_000
        phones = np.full((count, label_frames(length)), -1, dtype=np.int16)
        phones[count - self.labelled.get(split, 0) :, -1] = 1  # at the very end of the last ones
        return Recordings(
            samples=np.zeros(length, np.int16),
            starts=np.zeros(count, np.int64),
            lengths=np.full(count, length),
            labels={"speaker": np.zeros(count, np.int64)},
            frames={"phone": phones.reshape(-1)},
        )


@pytest.mark.parametrize(
    ("dataset", "complaint"),
    [
        ({"classes": 1}, "photos has 1 class(s): a probe needs at least two"),
        ({"unlabelled": 19}, "photos has 19 unlabelled images, fewer than one batch of 20: add "),
        ({"train": 7}, "photos has 7 train images, fewer than one batch of 20: add images, or "),
        ({"test": 0}, "photos has no test images: add some"),
        ({"size": 20}, "a crop of 24 pixels does not fit into the unlabelled images of photos"),
        ({"labelled": ["train"]}, "photos has 0 test image(s) with a class label where a probe "),
        ({"labelled": ["test"]}, "photos has 0 train image(s) with a class label where a probe "),
    ],
    ids=[
        "one class", "few to train on", "few labelled", "none to test on", "small images",
        "no label to test on", "no label to fit on",
    ],
)  # fmt: skip
def test_data_that_cannot_carry_a_cell_is_refused_before_training(dataset, complaint, suite, bench):
    other = Bench(Invented(**dataset), device=CPU, progress=bench.progress)
    with pytest.raises(DataError) as error:
        other.check(tiny_cell(suite, "gim").config)
    assert str(error.value).startswith(complaint)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("dataset", "complaint"),
    [
        ({"phones": 1}, "noise has 1 phone(s): a probe needs at least two"),
        ({"unlabelled": 3}, "noise has 3 unlabelled recordings, fewer than one batch of 4: add "),
        ({"train": 0}, "noise has 0 train recordings, fewer than one batch of 4: add recordings"),
        ({"test": 0}, "noise has no test recordings: add some"),
        (
            {"labelled": {"train": 1, "test": 1}},
            "noise has 1 train recording(s) with a phone label where a probe needs 2 or more: ",
        ),
        (
            {"labelled": {"train": 2}},
            "noise has 0 test recording(s) with a phone label where a probe needs 1 or more: ",
        ),
    ],
    ids=["one phone", "few to train on", "none labelled", "none to test on",
         "few phones to fit on", "no phones to test on"],
)  # fmt: skip
def test_speech_that_cannot_carry_a_cell_is_refused_before_training(
    dataset, complaint, speech_suite, speech_bench
):
    other = Bench(Mumbled(**dataset), device=CPU, progress=speech_bench.progress)
    with pytest.raises(DataError) as error:
        other.check(tiny_cell(speech_suite, "gim").config)
    assert str(error.value).startswith(complaint)
    assert "\n" not in str(error.value)


def test_data_that_just_suffices_is_accepted(suite, bench):
    enough = Invented(unlabelled=20, train=20, test=1, size=24)
    Bench(enough, device=CPU, progress=bench.progress).check(tiny_cell(suite, "gim").config)


def test_speech_that_just_suffices_is_accepted(speech_suite, speech_bench):
    enough = Mumbled(unlabelled=4, train=4, test=1)
    other = Bench(enough, device=CPU, progress=speech_bench.progress)
    other.check(tiny_cell(speech_suite, "gim").config)


# -- memory ----------------------------------------------------------------------------------------


def test_each_peak_is_of_its_own_phase(suite, bench, tmp_path, monkeypatch):
    """Each peak grows by what its phase holds, not by what is held as the learner is built."""
    cell = tiny_cell(suite, "gim")
    without = run_cell(cell, bench, runs=RunsFolder(tmp_path / "without"))
    monkeypatch.setattr(phases, "build", holding(900, build))
    monkeypatch.setattr(phases, "fit", holding(200, fit))
    monkeypatch.setattr(phases, "probe", holding(500, probe))
    beside = run_cell(cell, bench, runs=RunsFolder(tmp_path / "beside"))
    assert 0.5 < grown(without, beside, "memory/host_over_baseline_bytes") / 200e6 < 1.5
    assert 0.5 < grown(without, beside, "memory/probe_host_over_baseline_bytes") / 500e6 < 1.5


def test_a_peak_that_is_not_known_of_one_model_is_not_known_of_the_cell(
    speech_suite, speech_bench, spoken
):
    """The one that is known might be the lower one."""
    speaker, phone = models_of(tiny_cell(speech_suite, "supervised"), speech_bench)
    gpu = {"memory/gpu_process_peak_bytes": 9}
    models = [finished(speaker, seconds=3.0, peak=70, **gpu), finished(phone, seconds=1.0, peak=50)]
    models[1].training.peaks.notes["gpu_process"] = "the driver went away"
    record = outcome.done(spoken["supervised"], models)
    assert "memory/gpu_process_peak_bytes" not in record.metrics
    assert record.provenance["memory"]["training"] == {"gpu_process": "the driver went away"}
    assert record.metrics["memory/host_peak_bytes"] == 70


@pytest.fixture
def gpu_that_refuses(monkeypatch):
    """The search as on a GPU, though on the CPU; learners refuse batches larger than 50."""

    def refuse(learner, batch, **options):
        if len(batch.inputs) > 50:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return GreedyInfoMax.losses(learner, batch, **options)

    def searched(attempt, *, start, up_to, device):
        monkeypatch.setattr(Observed, "losses", refuse)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
        fits = partial(capacity._fits, attempt, device=device)
        return Capacity(capacity.largest(fits, start=start, up_to=up_to), "as on a GPU")

    table = {**registry.methods(), "observed": "tests.tiny_suite:Observed"}
    monkeypatch.setattr(registry, "methods", lambda: table)
    monkeypatch.setattr(capacity, "largest_batch", searched)


@pytest.mark.usefixtures("gpu_that_refuses")
def test_the_largest_batch_is_one_that_new_learners_take(bench, tmp_path, monkeypatch):
    """From the 20 of the suite on; the learner that was trained is gone by then."""
    alive, seen = [], weakref.WeakSet()

    def watched(*arguments, **options):
        learner = build(*arguments, **options)
        alive.append(len(seen))
        seen.add(learner)
        return learner

    monkeypatch.setattr(phases, "build", watched)
    suite = tiny_suite(tmp_path, "capacity.up_to=100")
    record = run_cell(tiny_cell(suite, "observed"), bench, runs=RunsFolder(tmp_path))
    assert record.status is Status.DONE, record.error
    assert record.metrics["memory/largest_batch"] == 50  # of 20, 40, 80, 60, 50, 55, 52
    assert record.provenance["memory"]["largest_batch"] == "as on a GPU"
    assert alive == [0] * 8


@pytest.mark.usefixtures("gpu_that_refuses")
def test_all_models_of_a_cell_are_tried(speech_bench, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(
        capacity, "take_steps", lambda trainer, batch: tried.append(len(batch.inputs))
    )
    with noise_registered():
        suite = tiny_suite(tmp_path, "capacity.up_to=8", toml=SPEECH_TOML)
        record = run_cell(tiny_cell(suite, "supervised"), speech_bench, runs=RunsFolder(tmp_path))
    assert record.metrics["memory/largest_batch"] == 8
    assert tried == [4, 4, 8, 8]


@pytest.mark.parametrize(
    ("method", "reason"),
    [("gim", "not measured: on a CPU"), ("random_init", "not measured: nothing is trained")],
)
def test_where_there_is_no_largest_batch_the_record_says_why(method, reason, bench, tmp_path):
    suite = tiny_suite(tmp_path, "capacity.up_to=100")
    record = run_cell(tiny_cell(suite, method), bench, runs=RunsFolder(tmp_path))
    assert record.status is Status.DONE, record.error
    assert "memory/largest_batch" not in record.metrics
    assert record.provenance["memory"]["largest_batch"].startswith(reason)


# -- procedures ------------------------------------------------------------------------------------


def test_a_unit_trained_alone_leaves_the_others_as_they_were(tmp_path):
    suite = tiny_suite(tmp_path, "method.gim.only=module_2")
    cell, bench, runs = tiny_cell(suite, "gim"), tiny_bench(suite), RunsFolder(tmp_path / "runs")
    record = run_cell(cell, bench, runs=runs)
    assert record.status is Status.DONE, record.error
    assert [set(row) for row in record.losses] == [{"epoch", "module_2"}]
    trained = load_file(runs.folder_of(record) / "encoder.safetensors")
    untrained = build(cell, bench, target=bench.targets[0]).encoder.state_dict()
    moved = {
        name.split(".")[1] for name in trained if not torch.equal(trained[name], untrained[name])
    }
    assert moved == {"1"}
    assert record.metrics["loss"] == record.metrics["loss/module_2"]
    whole = run_cell(tiny_cell(tiny_suite(tmp_path), "gim"), bench, runs=runs)
    assert record.metrics["train/parameters"] < whole.metrics["train/parameters"]


def test_a_unit_that_is_not_there_is_one_line(tmp_path):
    suite = tiny_suite(tmp_path, "method.gim.only=module_9")
    record = run_cell(
        tiny_cell(suite, "gim"), tiny_bench(suite), runs=RunsFolder(tmp_path / "runs")
    )
    assert record.status is Status.FAILED
    assert "no unit 'module_9'" in str(record.error)
    assert "Available: module_1, module_2" in str(record.error)


def test_a_variant_starts_from_the_weights_and_sees_the_negatives_of_its_method(tmp_path):
    """So that what differs between two rows of one method is the procedure alone."""
    overrides = ("method.other.like=gim", "method.other.schedule=joint")
    suite = tiny_suite(tmp_path, *overrides)
    bench, runs = tiny_bench(suite), RunsFolder(tmp_path / "runs")
    gim, other = (run_cell(tiny_cell(suite, name), bench, runs=runs) for name in ("gim", "other"))
    assert other.status is Status.DONE, other.error
    assert gim.losses == other.losses


def test_without_a_probe_nothing_is_extracted_or_measured(tmp_path):
    suite = tiny_suite(tmp_path, toml=TOML[: TOML.index("[probe]")])
    record = run_cell(
        tiny_cell(suite, "gim"), tiny_bench(suite), runs=RunsFolder(tmp_path / "runs")
    )
    assert record.status is Status.DONE, record.error
    assert not [name for name in record.metrics if "accuracy" in name or "probe" in name]
    assert "loss" in record.metrics


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ],
    ids=["gpu", "cpu"],
)
def test_what_does_not_fit_is_a_result(error, tmp_path, monkeypatch):
    suite = tiny_suite(tmp_path)

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(phases, "build", refuse)
    record = run_cell(
        tiny_cell(suite, "gim"), tiny_bench(suite), runs=RunsFolder(tmp_path / "runs")
    )
    assert record.status is Status.FAILED
    assert str(record.error).startswith("does not fit: ")
    assert not record.fits


@pytest.mark.usefixtures("misbehaving")
def test_another_failure_says_nothing_of_memory(suite, bench, tmp_path):
    record = run_cell(tiny_cell(suite, "broken"), bench, runs=RunsFolder(tmp_path))
    assert (record.status, record.fits) == (Status.FAILED, True)


def test_the_validation_loss_of_every_module_is_recorded(tmp_path):
    suite = tiny_suite(tmp_path, "training.held_out=0.5")
    record = run_cell(
        tiny_cell(suite, "gim"), tiny_bench(suite), runs=RunsFolder(tmp_path / "runs")
    )
    assert record.status is Status.DONE, record.error
    found = {name: x for name, x in record.metrics.items() if "validation" in name}
    assert set(found) == {
        "validation_loss", "validation_loss/module_1", "validation_loss/module_2",
    }  # fmt: skip
    assert found["validation_loss"] == found["validation_loss/module_2"]
    assert record.metrics["train/steps"] == 1  # 48 images, 24 held out, a batch of 20
    for name in found:
        assert metrics.unit_of(name, record.config) == "nats"


def test_too_little_held_out_is_one_line(tmp_path):
    """Of 48 images a tenth is 5, and a batch 20: nothing would be validated."""
    suite = tiny_suite(tmp_path, "training.held_out=0.1")
    with pytest.raises(DataError, match=r"held_out = 0.1 holds out 5 unlabelled image.* of 20"):
        tiny_bench(suite).check(tiny_cell(suite, "gim").config)
    tiny_bench(suite).check(tiny_cell(suite, "random_init").config)


def test_too_much_held_out_is_one_line(tmp_path):
    suite = tiny_suite(tmp_path, "training.held_out=0.9")
    with pytest.raises(DataError, match="48 unlabelled images, of which 5 are not held out"):
        tiny_bench(suite).check(tiny_cell(suite, "gim").config)


# -- gone on with ----------------------------------------------------------------------------------


class Stopped(Silence):
    """Interrupts in the step of that number."""

    def __init__(self, step):
        self.left = step

    def task(self, title, *, total, unit):
        self.counts = "training" in title
        return self

    def advance(self, steps=1, **facts):
        self.left -= steps if self.counts else 0
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def interrupted_cell(cell, suite, runs, *, step):
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, tiny_bench(suite, progress=Stopped(step)), runs=runs)
    return list(runs.root.glob("**/checkpoint-*.pt"))


def test_an_interrupted_cell_ends_as_one_that_never_was(tmp_path):
    """Weights and numbers; what was measured of a part of its training is not given for all."""
    suite = tiny_suite(tmp_path, "training.epochs=3")
    cell = tiny_cell(suite, "gim")
    runs, others = RunsFolder(tmp_path / "runs"), RunsFolder(tmp_path / "others")
    assert interrupted_cell(cell, suite, runs, step=4)
    resumed = run_cell(cell, tiny_bench(suite), runs=runs)
    whole = run_cell(cell, tiny_bench(suite), runs=others)
    assert (resumed.losses, resumed.probe_curves) == (whole.losses, whole.probe_curves)
    weights = [load_file(r.folder_of(whole) / "encoder.safetensors") for r in (runs, others)]
    assert all(torch.equal(weights[0][name], w) for name, w in weights[1].items())
    assert resumed.provenance["resumed_at_step"] == [4]
    lost = whole.metrics.keys() - resumed.metrics.keys()
    assert lost == {"memory/host_peak_bytes", "memory/host_over_baseline_bytes"}
    assert "resumed after step 4" in resumed.provenance["memory"]["training"]["training"]
    assert not list(runs.root.glob("**/checkpoint*"))


def test_another_version_of_a_method_does_not_go_on_from_what_the_one_before_left(
    tmp_path, monkeypatch
):
    """Half a training each by two would be neither's."""
    suite, runs = tiny_suite(tmp_path), RunsFolder(tmp_path / "runs")
    cell = tiny_cell(suite, "gim")
    assert interrupted_cell(cell, suite, runs, step=1)
    monkeypatch.setattr("gim_bench.records.provenance.code_sha256", lambda *kinds: "f" * 64)
    assert "resumed_at_step" not in run_cell(cell, tiny_bench(suite), runs=runs).provenance


def test_an_interrupted_rerun_leaves_the_finished_record(tmp_path):
    suite, runs = tiny_suite(tmp_path), RunsFolder(tmp_path / "runs")
    cell = tiny_cell(suite, "gim")
    before = run_cell(cell, tiny_bench(suite), runs=runs)
    interrupted_cell(cell, suite, runs, step=1)
    assert _as_read(before) in runs.records("tiny")


def test_so_does_one_that_is_interrupted_between_two_models_that_come_out_otherwise(
    speech_suite, speech_bench, tmp_path, monkeypatch
):
    """As they do on a GPU, or after the code was changed."""
    runs, cell = RunsFolder(tmp_path), tiny_cell(speech_suite, "supervised")
    before = run_cell(cell, speech_bench, runs=runs)

    def otherwise(trainer, *arguments, **options):
        if "phone" in options["title"]:
            raise KeyboardInterrupt
        trained = fit(trainer, *arguments, **options)
        with torch.no_grad():
            next(trainer.learner.parameters()).add_(1)
        return trained

    monkeypatch.setattr(phases, "fit", otherwise)
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, speech_bench, runs=runs)
    assert table.found(cell, runs) == _as_read(before)


def test_a_cell_that_takes_longer_than_it_may_is_a_failure_that_can_be_gone_on_with(tmp_path):
    """Its checkpoints stay, and with more time it ends as if nothing had been."""
    suite, runs = tiny_suite(tmp_path, "training.epochs=20"), RunsFolder(tmp_path / "runs")
    cell = tiny_cell(suite, "gim")
    checkpoints = "runs/tiny/gim/*/checkpoints/*.pt"

    class Dawdling(Silence):
        """Training goes on no further than to its first checkpoint."""

        def advance(self, steps=1, **facts):
            while list(tmp_path.glob(checkpoints)):
                time.sleep(0.01)

    bench = tiny_bench(suite, progress=Dawdling())
    bench.checkpoint_seconds, bench.cell_timeout = 0.0, LIMIT_SECONDS
    with over_once(lambda: list(tmp_path.glob(checkpoints))):
        late = run_cell(cell, bench, runs=runs)
    assert late.status is Status.FAILED
    assert late.error == f"took longer than --cell-timeout {LIMIT_SECONDS:g} s"
    assert list(tmp_path.glob(checkpoints))
    ended = run_cell(cell, tiny_bench(suite), runs=runs)
    fresh = run_cell(cell, tiny_bench(suite), runs=RunsFolder(tmp_path / "other"))
    assert "resumed_at_step" in ended.provenance
    assert ended.losses == fresh.losses
    assert ended.files == fresh.files


def test_an_encoder_that_was_altered_since_makes_its_record_unbelievable(done, runs):
    """One bit."""
    record = done["gim"]
    path = runs.folder_of(record) / "encoder.safetensors"
    content = path.read_bytes()
    identity = {"seed": record.seed, "key": record.key}
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert runs.find(record.suite, record.method, **identity) is None
    path.write_bytes(content)
    assert runs.find(record.suite, record.method, **identity) is not None


def test_a_disk_without_room_costs_no_checkpoint(tmp_path, monkeypatch):
    suite = tiny_suite(tmp_path, "training.schedule=sequential", "training.kept_outputs.epochs=1")
    cell, runs = tiny_cell(suite, "gim"), RunsFolder(tmp_path / "runs")
    there = interrupted_cell(cell, suite, runs, step=1)

    class Full:
        free = 0

    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda folder: Full)
        failed = run_cell(cell, tiny_bench(suite), runs=runs)
    assert "has room for 0.00 GB" in failed.error
    assert list(runs.root.glob("**/checkpoint-*.pt")) == there
    assert run_cell(cell, tiny_bench(suite), runs=runs).error is None


def test_a_loss_that_is_not_finite_leaves_nothing_to_go_on_from(tmp_path):
    suite = tiny_suite(tmp_path, "training.learning_rate=1e30", "training.epochs=4")
    suite_bench = tiny_bench(suite)
    suite_bench.checkpoint_seconds = 0.0
    runs = RunsFolder(tmp_path / "runs")
    record = run_cell(tiny_cell(suite, "gim"), suite_bench, runs=runs)
    assert "lower training.learning_rate" in record.error
    assert not list(runs.root.glob("**/checkpoint*"))


def test_an_audit_for_which_memory_does_not_suffice_costs_no_cell(tmp_path, bench, monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(phases, "audit", exhausted)
    cell = tiny_cell(tiny_suite(tmp_path), "gim")
    record = run_cell(cell, bench, runs=RunsFolder(tmp_path / "runs"))
    assert record.error is None
    assert "train/flops" not in record.metrics
    assert record.isolation == {}
