"""The record of a cell: its metrics, losses and curves, and where it comes from."""

import csv
import json
import math
import tomllib
from dataclasses import replace

import pytest

from gim_bench.cells import outcome
from gim_bench.cells.build import build, models_of
from gim_bench.cells.phases import Finished, TrainingPhase
from gim_bench.cells.run import run_cell
from gim_bench.contract import Split
from gim_bench.datasets.speech.windows import tiles
from gim_bench.hardware.memory import Peaks
from gim_bench.probing.probe import Probed
from gim_bench.records import metrics
from gim_bench.records.folder import RunsFolder
from gim_bench.records.predictions import target_named
from gim_bench.records.record import Status
from gim_bench.settings.schema import InsideSettings
from gim_bench.training.audit import Audit
from gim_bench.training.loop import Trained
from tests.cells.tiny_cells import (
    PROBES,
    SPEECH_PROBES,
    TRAINING,
    probe_names,
    speech_names,
)
from tests.tiny_suite import (
    SPEECH_TOML,
    tiny_bench,
    tiny_cell,
    tiny_suite,
)

# -- the record -----------------------------------------------------------------------------------


def test_the_metrics_are_the_declared_ones(done):
    losses = {
        f"{name}{module}"
        for name in ("loss", "uninformed_loss")
        for module in ("", "/module_1", "/module_2")
    }
    assert set(done["gim"].metrics) == probe_names() | TRAINING | losses
    assert set(done["random_init"].metrics) == probe_names()
    end_to_end = {"loss/module_2", "loss", "uninformed_loss/module_2", "uninformed_loss"}
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


def test_a_record_says_what_a_predictor_without_information_loses(done, spoken):
    """Of 4 negatives and the positive; of 16 classes; of 3 speakers and 4 phones."""
    assert done["gim"].metrics["uninformed_loss/module_1"] == pytest.approx(math.log(1 + 4))
    assert done["supervised"].metrics["uninformed_loss"] == pytest.approx(math.log(16))
    assert spoken["supervised"].metrics["speaker_uninformed_loss"] == pytest.approx(math.log(3))
    assert spoken["supervised"].metrics["phone_uninformed_loss"] == pytest.approx(math.log(4))
    assert not any("uninformed" in name for name in done["random_init"].metrics)


def test_a_record_says_where_it_comes_from(done):
    found = done["gim"].provenance
    assert found["data_sha256"] == "0" * 64
    assert found["precision"] == "fp32"
    assert found["data_counts"] == {
        "examples": {"unlabelled": 48, "train": 32, "test": 16},
        "classes": {"class": 16},
    }
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


# case 1
def test_a_record_keeps_the_notes_of_the_data(tmp_path, monkeypatch):
    suite = tiny_suite(tmp_path)
    bench = tiny_bench(suite)
    assert "data_notes" not in outcome.begun(tiny_cell(suite, "gim"), bench).provenance
    monkeypatch.setattr(bench.dataset, "notes", lambda: ("left out: 1 link",))
    found = outcome.begun(tiny_cell(suite, "gim"), bench).provenance
    assert found["data_notes"] == ["left out: 1 link"]


def test_the_probes_curve_has_every_rate_of_every_module(done):
    for record in done.values():
        assert set(record.probe_curves) == {"module_1", "module_2"}
        for curve in record.probe_curves.values():
            assert [rate for rate, _ in curve] == [1e-3, 1e-1]


def test_labels_are_counted_for_methods_that_learn_from_them(done, spoken):
    """32 labelled images; without labels it is 0, and absent where nothing is trained."""
    assert done["supervised"].metrics["train/labels"] == 32
    assert done["gim"].metrics["train/labels"] == spoken["gim"].metrics["train/labels"] == 0
    assert "train/labels" not in done["random_init"].metrics


# -- the folder -----------------------------------------------------------------------------------


def test_the_folder_holds_what_it_should(done, archive):
    for record in done.values():
        folder = archive.folder_of(record)
        assert {path.name for path in folder.iterdir()} == {
            "record.json",
            "config.toml",
            "losses.csv",
            "encoder.safetensors",
            "predictions.npz",
        }
        assert json.loads((folder / "record.json").read_text())["status"] == "done"
        config = tomllib.loads((folder / "config.toml").read_text())
        assert config["method"]["name"] == record.method
        with (folder / "losses.csv").open() as file:
            assert len(list(csv.DictReader(file))) == len(record.losses)


# -- speech ---------------------------------------------------------------------------------------


def test_a_method_without_labels_trains_one_model_that_is_probed_for_all_targets(spoken):
    modules = ("", *(f"/module_{m}" for m in range(1, 7)))
    losses = {f"{name}{of}" for name in ("loss", "uninformed_loss") for of in modules}
    assert set(spoken["gim"].metrics) == speech_names(6) | TRAINING | losses
    assert set(spoken["random_init"].metrics) == speech_names(6)
    assert spoken["gim"].metrics["train/steps"] == 3
    assert spoken["gim"].metrics["train/samples"] == 12


def test_a_supervised_method_trains_a_model_for_each_target(spoken):
    """Its losses and its own head bear the name of what they learn."""
    heads = {"speaker_accuracy/own_head", "phone_accuracy/own_head"}
    for method, modules in (("supervised", (6,)), ("greedy_supervised", range(1, 7))):
        losses = {
            f"{target}_{name}{place}"
            for name in ("loss", "uninformed_loss")
            for target in SPEECH_PROBES
            for place in ("", *(f"/module_{m}" for m in modules))
        }
        assert set(spoken[method].metrics) == speech_names(6) | TRAINING | losses | heads


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


def test_the_losses_of_both_models_stand_in_one_row_an_epoch(spoken, archive):
    record = spoken["supervised"]
    assert [list(row) for row in record.losses] == [["epoch", "speaker_module_6", "phone_module_6"]]
    assert record.metrics["speaker_loss"] == record.losses[-1]["speaker_module_6"]
    assert record.metrics["phone_loss"] == record.losses[-1]["phone_module_6"]
    with (archive.folder_of(record) / "losses.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1


def test_the_probes_curves_of_speech_are_named_by_target_and_module(spoken):
    names = {f"{target}/module_{m}" for target in SPEECH_PROBES for m in range(1, 7)}
    for method in ("gim", "supervised"):
        assert set(spoken[method].probe_curves) == names


def test_without_the_autoregressor_the_fifth_module_is_the_top(spoken):
    found = spoken["gim_no_ar"].metrics
    modules = ("", *(f"/module_{m}" for m in range(1, 6)))
    losses = {f"{name}{of}" for name in ("loss", "uninformed_loss") for of in modules}
    assert set(found) == speech_names(5) | TRAINING | losses
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


# -- predictions ----------------------------------------------------------------------------------


def test_every_accuracy_is_that_of_the_kept_predictions(done, spoken, archive):
    """Those of a cell's models lie in one file, which is sealed by its checksum."""
    for record in (*done.values(), *spoken.values()):
        kept = archive.predictions(record)
        accuracies = {name: x for name, x in record.metrics.items() if "accuracy" in name}
        assert kept.predicted.keys() == accuracies.keys()
        for name, predicted in kept.predicted.items():
            labels = kept.labels[target_named(name)]
            assert 100 * (predicted == labels).mean() == pytest.approx(accuracies[name])
        assert "predictions.npz" in record.files


# -- several models -------------------------------------------------------------------------------


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
        uninformed_losses={"module_2": 2.3, "module_3": 9.9},  # module_3 is not trained
        selection_seconds=0.0,
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


def test_isolation_that_was_not_measured_for_every_model_is_not_measured(
    speech_suite, speech_bench, spoken
):
    """Memory did not suffice for the audit of the second one."""
    speaker, phone = models_of(tiny_cell(speech_suite, "supervised"), speech_bench)
    unknown = finished(phone, seconds=1.0, peak=50)
    unknown = replace(unknown, training=replace(unknown.training, audited=Audit()))
    models = [finished(speaker, seconds=3.0, peak=70), unknown]
    assert outcome.done(spoken["supervised"], models).isolation == {}


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
        "speaker_uninformed_loss": 2.3,
        "speaker_uninformed_loss/module_2": 2.3,
        "phone_uninformed_loss": 2.3,
        "phone_uninformed_loss/module_2": 2.3,
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
        "train/operations": 120,
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


def test_an_encoder_is_looked_into_where_the_suite_asks_for_it(suite, bench, done, tmp_path):
    """Curves are in the record, before training and after every epoch; no other number moves."""
    asked = suite.model_copy(update={"inside": InsideSettings()})
    record = run_cell(tiny_cell(asked, "gim"), bench, runs=RunsFolder(tmp_path))
    plain = done["gim"]
    assert record.status is Status.DONE
    assert record.key != plain.key
    assert record.losses == plain.losses
    assert record.metrics["accuracy"] == plain.metrics["accuracy"]
    assert not plain.inside
    assert [row["epoch"] for row in record.inside] == list(range(len(record.losses) + 1))
    assert record.inside[-1]["gradient_cosine/module_2"] == pytest.approx(1, abs=1e-5)
    assert "[inside]" in record.provenance["memory"]["training"]["training"]
    assert "memory/host_peak_bytes" not in record.metrics
    (read,) = RunsFolder(tmp_path).records(record.suite)
    assert [dict(row) for row in read.inside] == [dict(row) for row in record.inside]
