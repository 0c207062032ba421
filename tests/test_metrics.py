"""Metrics declare a unit and a direction, and unknown ones are refused."""

import pytest

from gim_bench.errors import ConfigError
from gim_bench.metrics import METRICS, Better, describe


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
    gains = name.endswith(("accuracy", "own_head", "per_second"))
    assert METRICS[name].better is (Better.HIGHER if gains else Better.LOWER)


@pytest.mark.parametrize("name", ["acuracy", "accuracy/module_", "accuracy/module_1/x", ""])
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
