"""Metrics declare a unit and a direction, and unknown ones are refused."""

import pytest

from gim_bench.errors import ConfigError
from gim_bench.records.metrics import METRICS, TARGETS, Better, describe, target_of, unit_of


def test_a_module_s_value_is_described_by_its_metric():
    assert describe("accuracy/module_3") is describe("accuracy")
    assert describe("accuracy/module_12") is METRICS["accuracy"]


def test_a_metric_whose_name_has_a_slash_of_its_own_is_found():
    assert describe("accuracy/own_head").name == "accuracy/own_head"
    assert describe("memory/gpu_reserved_peak_bytes").unit == "bytes"


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_declares_unit_direction_and_meaning(name):
    metric = METRICS[name]
    assert metric.name == name
    assert metric.unit
    assert metric.meaning
    assert isinstance(metric.better, Better)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_accuracies_and_speeds_are_better_higher_and_costs_lower(name):
    gains = name.endswith(("accuracy", "own_head", "per_second", "largest_batch"))
    assert METRICS[name].better is (Better.HIGHER if gains else Better.LOWER)


OF_A_TARGET = [
    "accuracy",
    "accuracy/own_head",
    "ridge_accuracy",
    "knn_accuracy",
    "unconverged",
    "loss",
    "uninformed_loss",
    "validation_loss",
]


@pytest.mark.parametrize("metric", OF_A_TARGET)
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_the_metrics_that_the_class_of_an_image_has(target, metric):
    found, plain = describe(f"{target}_{metric}"), describe(metric)
    assert found.name == f"{target}_{metric}"
    assert (found.unit, found.better, found.meaning) == (plain.unit, plain.better, plain.meaning)
    assert describe(f"{target}_{metric}/module_6") is found


def test_costs_are_those_of_a_cell_whatever_its_targets():
    assert "speaker_train/seconds" not in METRICS
    assert sum(name.startswith("speaker") for name in METRICS) == len(OF_A_TARGET)


def test_the_probes_have_every_measure_of_memory_that_training_has():
    probes = {name for name in METRICS if name.startswith("memory/probe_")}
    training = {name.replace("memory/", "memory/probe_") for name in METRICS if "memory/" in name}
    assert len(probes) == 8
    assert probes == {name for name in training if "probe_probe" not in name} - {
        "memory/probe_largest_batch"
    }
    assert describe("memory/host_peak_bytes").meaning == "peak resident memory; training"
    assert describe("memory/probe_host_peak_bytes").meaning == "peak resident memory; probes"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("accuracy", ("", "accuracy")),
        ("knn_accuracy", ("", "knn_accuracy")),
        ("phone_accuracy", ("phone", "accuracy")),
        ("speaker_knn_accuracy", ("speaker", "knn_accuracy")),
        ("speaker_accuracy/own_head", ("speaker", "accuracy/own_head")),
        ("phone_loss/module_6", ("phone", "loss/module_6")),
        ("train/samples_per_second", ("", "train/samples_per_second")),
        ("memory/host_peak_bytes", ("", "memory/host_peak_bytes")),
    ],
)
def test_a_metric_is_of_a_target_or_of_none(name, parts):
    assert target_of(name) == parts


@pytest.mark.parametrize(
    "name", ["acuracy", "accuracy/module_", "accuracy/module_1/x", "vowel_accuracy", ""]
)
def test_an_unknown_metric_is_a_config_error_in_one_line(name):
    with pytest.raises(ConfigError) as caught:
        describe(name)
    message = str(caught.value)
    assert message.startswith(f"no metric {name!r}")
    assert "Available: accuracy, " in message
    assert "\n" not in message


def test_a_misspelt_metric_gets_a_suggestion():
    with pytest.raises(ConfigError, match="Did you mean 'accuracy'"):
        describe("acuracy")


@pytest.mark.parametrize("name", ["loss", "validation_loss/module_2", "speaker_loss"])
def test_a_loss_has_the_unit_that_its_objective_declares(name):
    assert unit_of(name, {"method": {"loss_unit": "bits"}}) == "bits"
    assert unit_of(name, {"method": {"loss_unit": None}}) == ""


def test_losses_of_records_from_before_objectives_declared_a_unit_are_in_nats():
    assert unit_of("loss", {"method": {"name": "gim"}}) == unit_of("loss", {}) == "nats"


def test_all_other_metrics_have_one_unit_whatever_the_objective():
    assert unit_of("train/seconds", {"method": {"loss_unit": "bits"}}) == "s"
