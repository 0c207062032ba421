"""A finished encoder under several protocols: nothing is trained, and the cell's number returns."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from gim_bench.cells import exchange
from gim_bench.cells import frozen as frozen_cells
from gim_bench.cells.build import models_of
from gim_bench.cells.exchange import NO_CHOOSER, OTHER_LABELS, protocols_on, read_again
from gim_bench.cells.run import run_cell
from gim_bench.contract import Split
from gim_bench.errors import ConfigError
from gim_bench.hardware import devices
from gim_bench.probing import linear
from gim_bench.records.folder import RunsFolder
from gim_bench.records.protocols import predictions_of, results_of
from gim_bench.records.record import Status
from gim_bench.settings.protocols import protocols_of
from tests.tiny_suite import CPU, SPEECH_TOML, noise_registered, tiny_bench, tiny_cell, tiny_suite

SMALL = "training.batch_size=10"  # a batch is left without the validation images
LINEAR = ("top", "all_modules", "knn")


class Finished:
    """A finished tiny cell, and what reads it again."""

    def __init__(self, folder, method, *overrides, toml=None):
        options = {} if toml is None else {"toml": toml}
        self.suite = tiny_suite(folder, SMALL, *overrides, **options)
        self.cell = tiny_cell(self.suite, method)
        self.bench = tiny_bench(self.suite)
        self.runs = RunsFolder(folder / "runs")
        self.record = run_cell(self.cell, self.bench, runs=self.runs)
        assert self.record.status is Status.DONE, self.record.error
        self.folder = self.runs.folder_of(self.record)

    def read(self, *names, record=None, **options):
        protocols = protocols_on(
            self.cell.config, protocols_of(self.suite, names), device=self.bench.device
        )
        return read_again(
            self.cell,
            record or self.record,
            self.bench,
            runs=self.runs,
            protocols=protocols,
            **options,
        )


@pytest.mark.parametrize("kind", ["adam", "logistic_regression"])
@pytest.mark.parametrize("method", ["gim", "supervised", "random_init", "pixels"])
def test_an_encoder_under_the_cells_own_protocol_gives_the_cells_number(method, kind, tmp_path):
    """Bit for bit, also where a first training has chosen the hyperparameters."""
    unseen = "probe.unseen_validation=true"
    found = Finished(tmp_path, method, f"probe.kind={kind}", unseen)
    results = found.read(*LINEAR)
    assert results["top"].metrics["accuracy"] == found.record.metrics["accuracy"]
    assert results["knn"].metrics["accuracy"] == found.record.metrics["knn_accuracy"]
    ours = predictions_of(results["top"], folder=found.folder)
    theirs = found.runs.predictions(found.record)
    for metric in ours.predicted:
        np.testing.assert_array_equal(ours.predicted[metric], theirs.predicted[metric])


def test_speech_has_the_numbers_of_its_cell_for_every_target(tmp_path):
    with noise_registered():
        suite = Finished(tmp_path, "supervised", "training.batch_size=4", toml=SPEECH_TOML)
        results = suite.read("top", "knn", "deep_infomax")
    for metric in ("speaker_accuracy", "phone_accuracy"):
        assert results["top"].metrics[metric] == suite.record.metrics[metric]
    assert results["knn"].metrics == {
        "speaker_accuracy": suite.record.metrics["speaker_knn_accuracy"]
    }
    assert "10 ms" in results["knn"].reason
    assert not results["deep_infomax"].metrics
    assert "no grid" in results["deep_infomax"].reason


def test_validation_alone_chooses_and_the_test_set_is_read_in_one_pass(tmp_path, monkeypatch):
    found = Finished(tmp_path, "gim")
    passes = []
    batches = found.bench.batches

    def counted(cell, split, **options):
        given = batches(cell, split, **options)
        in_order = given.in_order
        monkeypatch.setattr(given, "in_order", lambda: (passes.append(split), in_order())[1])
        return given

    monkeypatch.setattr(found.bench, "batches", counted)
    results = found.read(*LINEAR, "deep_infomax", "clapp")
    assert passes == [Split.TRAIN, Split.TEST]
    assert {result.test_reads for result in results.values()} == {1}


def test_nothing_is_trained(tmp_path, monkeypatch):
    found = Finished(tmp_path, "gim")
    before = (found.folder / "encoder.safetensors").read_bytes()
    monkeypatch.setattr("gim_bench.cells.phases.fit", lambda *_, **__: pytest.fail("trained"))
    found.read(*LINEAR)
    assert (found.folder / "encoder.safetensors").read_bytes() == before


def test_a_protocol_that_is_done_is_not_read_again_unless_asked(tmp_path):
    found = Finished(tmp_path, "gim")
    first = found.read("top", "knn")
    assert found.read("top") == {"top": first["top"]}
    again = found.read("top", rerun=True)["top"]
    assert again.test_reads == 2
    assert again.metrics == first["top"].metrics


@pytest.mark.parametrize("file", ["top.json", "top.npz"])
def test_a_damaged_result_is_made_again(file, tmp_path):
    found = Finished(tmp_path, "gim")
    first = found.read("top")["top"]
    path = found.folder / "protocols" / file
    path.write_bytes(path.read_bytes()[:-40])
    again = found.read("top")["top"]
    assert again.metrics == first.metrics
    assert predictions_of(again, folder=found.folder) is not None


def test_an_altered_number_does_not_count(tmp_path):
    found = Finished(tmp_path, "gim")
    found.read("top")
    path = found.folder / "protocols" / "top.json"
    table = json.loads(path.read_text())
    path.write_text(json.dumps(table | {"metrics": {"accuracy": 100.0}}))
    assert results_of(found.record, folder=found.folder) == {}


def test_a_result_of_other_weights_does_not_count(tmp_path):
    found = Finished(tmp_path, "gim")
    found.read("top")
    other = replace(found.record, files={**found.record.files, "encoder.safetensors": "0" * 64})
    assert results_of(other, folder=found.folder) == {}
    assert set(results_of(found.record, folder=found.folder)) == {"top"}


def test_a_probe_of_the_head_reads_the_head_that_was_trained(tmp_path):
    """The row that reads heads has the number of the protocol that reads heads."""
    found = Finished(
        tmp_path,
        "blockwise_barlow_twins",
        "training.epochs=3",
        "augmentation.further_views=[{}]",
        "method.blockwise_barlow_twins.probe_reads=head",
    )
    assert "heads.safetensors" in found.record.files
    results = found.read("top", "block_head")
    assert results["block_head"].metrics["accuracy"] == found.record.metrics["accuracy"]
    assert results["top"].metrics == results["block_head"].metrics


def test_heads_that_are_read_have_the_weights_of_the_training(tmp_path):
    found = Finished(tmp_path, "blockwise_barlow_twins", "augmentation.further_views=[{}]")
    (model,) = models_of(found.cell, found.bench)
    learner = frozen_cells.frozen(found.cell, found.record, model, found.bench, runs=found.runs)
    kept = found.runs.read_encoder(found.record, name="heads")
    untrained = frozen_cells.build(found.cell, found.bench, target=model.target).read_heads()
    for name, weights in learner.read_heads().state_dict().items():
        assert torch.equal(weights, kept[name])
    changed = [
        not torch.equal(kept[n], w) for n, w in untrained.state_dict().items() if "weight" in n
    ]
    assert any(changed)


def test_a_method_without_a_head_says_that_the_protocol_does_not_apply(tmp_path):
    result = Finished(tmp_path, "gim").read("block_head")["block_head"]
    assert (result.metrics, result.predictions_sha256, result.test_reads) == ({}, "", 0)
    assert "no head" in result.reason


def test_a_supervised_record_without_the_encoder_that_chose_is_not_read_where_one_chooses(
    tmp_path,
):
    """Its own encoder has seen the labels of the validation share."""
    found = Finished(tmp_path, "supervised", "probe.unseen_validation=true")
    files = {n: s for n, s in found.record.files.items() if not n.startswith("selection")}
    old = replace(found.record, files=files)
    results = found.read("top", "knn", "clapp", record=old)
    assert results["top"].reason == NO_CHOOSER
    assert not results["top"].metrics
    assert results["knn"].metrics["accuracy"] == found.record.metrics["knn_accuracy"]
    assert results["clapp"].metrics
    assert found.read("top")["top"].metrics  # the reason is no longer one


# Each draws labels that the tiny suite's own probe does not.
OTHER_DRAWS = ["validation_fraction=0.4", "labelled_fraction=0.5", "fitted_steps=20"]


@pytest.mark.parametrize("method", ["gim", "supervised"])
def test_an_encoder_that_learnt_from_labels_is_read_with_the_labels_of_its_cell_alone(
    method, tmp_path
):
    """Its chooser has left out the validation labels of the cell, and no others."""
    draws = [f"protocols.mine{n}.probe.{draw}" for n, draw in enumerate(OTHER_DRAWS)]
    summaries = [f"protocols.mine{n}.summary=mine" for n in range(len(OTHER_DRAWS))]
    found = Finished(tmp_path, method, "probe.unseen_validation=true", *draws, *summaries)
    results = found.read("top", *(f"mine{n}" for n in range(len(OTHER_DRAWS))))
    assert results.pop("top").metrics
    reasons = {result.reason for result in results.values()}
    applies = {bool(result.metrics) for result in results.values()}
    refused = ({OTHER_LABELS}, {False})
    assert (reasons, applies) == (refused if method == "supervised" else ({""}, {True}))


def test_numbers_of_a_protocol_that_does_not_apply_are_not_kept(tmp_path, monkeypatch):
    """As earlier versions read them."""
    draw = ("protocols.mine.probe.validation_fraction=0.4", "protocols.mine.summary=mine")
    found = Finished(tmp_path, "supervised", "probe.unseen_validation=true", *draw)
    with monkeypatch.context() as patch:
        patch.setattr(exchange, "_applies", lambda *_: True)
        assert found.read("mine")["mine"].metrics
    assert found.read("mine")["mine"].reason == OTHER_LABELS


def test_a_probe_that_runs_out_of_iterations_is_counted_as_in_its_cell(tmp_path):
    overrides = ("probe.kind=logistic_regression", "probe.penalties=[1e-6]", "probe.iterations=2")
    found = Finished(tmp_path, "gim", *overrides)
    results = found.read(*LINEAR)
    assert found.record.metrics["unconverged"] == 2  # probes of two modules
    counts = {name: results[name].metrics.get("unconverged") for name in LINEAR}
    assert counts == {"top": 1, "all_modules": 1, "knn": None}


@pytest.mark.parametrize("method", ["gim", "supervised"])
def test_a_grid_of_one_rate_is_fitted_once_on_all_labels(method, tmp_path, monkeypatch):
    found = Finished(tmp_path, method, "probe.unseen_validation=true")
    fitted = []
    train = linear.train_linear

    def counted(features, labels, **options):
        fitted.append(len(features))
        return train(features, labels, **options)

    monkeypatch.setattr(linear, "train_linear", counted)
    result = found.read("clapp")["clapp"]
    assert fitted == [32]  # the labelled images of the tiny suite
    assert (result.chosen, result.curves) == ({"class": 1e-3}, {})


def test_weights_of_another_encoder_are_refused_in_one_line(tmp_path):
    found = Finished(tmp_path, "gim")
    (found.folder / "encoder.safetensors").write_bytes(b"none")
    with pytest.raises(ConfigError, match="cannot read the encoder"):
        found.read("top")


def test_protocols_of_a_suite_are_in_no_key(tmp_path):
    plain = tiny_cell(tiny_suite(tmp_path), "gim")
    named = tiny_suite(tmp_path, "protocols.mine.summary=mine", "protocols.knn.probe.neighbours=5")
    assert tiny_cell(named, "gim").key == plain.key
    mine, knn = protocols_on(plain.config, protocols_of(named, ["mine", "knn"]), device=CPU)
    assert mine.probe == plain.config.probe
    assert knn.probe.neighbours == 5


def test_the_precision_auto_of_a_protocol_is_resolved_and_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_cpu_multiplies_in_bf16", lambda: True)
    asked = "protocols.top.probe.precision=auto"
    found = Finished(tmp_path, "random_init", "training.precision=fp32", asked)
    (result,) = found.read("top").values()
    assert result.settings["probe"]["precision"] == "bf16"


def test_a_precision_that_the_device_lacks_is_refused_with_the_name_of_the_protocol(tmp_path):
    asked = "protocols.knn.probe.precision=tf32"
    suite = tiny_suite(tmp_path, asked)
    with pytest.raises(ConfigError, match=r"^protocols\.knn\.probe\.precision: .* is a CPU"):
        protocols_on(tiny_cell(suite, "gim").config, protocols_of(suite), device=CPU)


# -- out of memory ---------------------------------------------------------------------------------


def exhausted(*_, **__):
    raise MemoryError("DefaultCPUAllocator: can't allocate memory")


def test_a_protocol_that_exhausts_memory_takes_no_other_with_it(tmp_path, monkeypatch):
    """Protocols of one group that do not fit together are read one by one."""
    found = Finished(tmp_path, "random_init")
    together = found.read(*LINEAR)
    monkeypatch.setattr("gim_bench.probing.exchange.fit_neighbours", exhausted)
    with pytest.raises(MemoryError, match=r"^knn \(DefaultCPUAllocator: can't allocate memory\)$"):
        found.read("knn", "top", "all_modules", rerun=True)
    kept = results_of(found.record, folder=found.folder)
    assert {name: kept[name].test_reads for name in LINEAR} == {
        "top": 2, "all_modules": 2, "knn": 1,
    }  # fmt: skip
    for name in ("top", "all_modules"):
        assert kept[name].metrics == together[name].metrics


def test_features_that_cannot_fit_are_refused_when_the_first_batch_is_read(tmp_path, monkeypatch):
    """32 labels × 16 channels of the top module in float32, held twice while they are joined."""
    found = Finished(tmp_path, "random_init")
    monkeypatch.setattr("gim_bench.hardware.memory.available_bytes", lambda _: 2 * 32 * 16 * 4)
    with pytest.raises(MemoryError, match=r"^all_modules \(32 labels × 24 features"):
        found.read("top", "all_modules")
    assert list(results_of(found.record, folder=found.folder)) == ["top"]
