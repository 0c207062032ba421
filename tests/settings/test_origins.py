"""Every setting of a row says who states it."""

import json

import pytest

from gim_bench.cells.resolve import configs
from gim_bench.settings.origins import settings_of
from gim_bench.settings.suites import load_suite
from tests.tiny_suite import CPU, TOML

ABOVE = """\
extends = "./tiny.toml"
name = "above"
summary = "A suite over another"
methods = ["gim", "slow_gim", "cpc"]

[training]
batch_size = 6

[method.gim.training]
epochs = 2

[method.slow_gim]
extends = "gim"
schedule = "joint"

[method.cpc]
autoregressor_layers = 1
"""


@pytest.fixture
def origins(tmp_path):
    """{setting: origin} of a row of a suite that extends another."""
    (tmp_path / "tiny.toml").write_text(TOML, encoding="utf-8")
    path = tmp_path / "above.toml"
    path.write_text(ABOVE, encoding="utf-8")

    def of(row, *overrides):
        suite = load_suite(str(path), overrides=overrides)
        config = configs(suite, methods=[row], device=CPU)[row]
        found = settings_of(config, suite=str(path), overrides=overrides)
        return {setting.name: setting.origin for setting in found}

    return of


def test_the_file_above_goes_before_the_file_below(origins):
    found = origins("cpc")
    assert found["training.batch_size"] == "above.toml"
    assert found["training.learning_rate"] == "tiny.toml"
    assert found["training.optimiser.eps"] == "default"


def test_the_table_of_a_row_goes_before_the_suite(origins):
    assert origins("gim")["training.epochs"] == "above.toml [method.gim]"
    assert origins("cpc")["training.epochs"] == "tiny.toml"


def test_options_of_a_method_have_the_name_that_set_takes(origins):
    found = origins("cpc")
    assert found["method.cpc.autoregressor_layers"] == "above.toml [method.cpc]"


def test_a_row_has_what_the_row_below_states(origins):
    found = origins("slow_gim")
    assert found["training.epochs"] == "above.toml [method.gim]"
    assert found["method.slow_gim.schedule"] == "above.toml [method.slow_gim]"


def test_the_last_word_is_the_command_lines(origins):
    found = origins("gim", "training.batch_size=4", "method.gim.training.epochs=1")
    assert found["training.batch_size"] == "--set"
    assert found["training.epochs"] == "--set [method.gim]"


def test_a_statement_that_is_resolved_stands_beside_its_value(origins):
    assert origins("gim", "training.precision=auto")["training.precision"] == '--set ("auto")'


@pytest.mark.parametrize(
    ("suite", "row", "override", "setting"),
    [
        (
            "imagenet-blockwise",
            "gim",
            'training.optimiser={kind="sgd"}',
            "training.optimiser.weight_decay",
        ),
        (
            "imagenet-blockwise",
            "gim",
            'method.gim.training.optimiser={kind="sgd"}',
            "training.optimiser.weight_decay",
        ),
        ("quickstart", "supervised", 'encoder={kind="resnet"}', "encoder.width"),
        ("quickstart", "gim", "info_nce={prediction_steps=2}", "info_nce.negatives"),
    ],
)
def test_a_table_that_was_replaced_states_nothing(suite, row, override, setting):
    """By a table of another kind, or by the whole table that `--set` gives."""
    config = configs(load_suite(suite, overrides=[override]), methods=[row], device=CPU)[row]
    found = {s.name: s for s in settings_of(config, suite=suite, overrides=[override])}
    assert found[setting].origin == "default", found[setting]


@pytest.mark.parametrize("suite", ["quickstart", "quickstart-audio", "stl10-published"])
def test_every_name_is_a_setting_that_set_takes(suite):
    """A setting at the value that it has, beside the kind of its table, moves nothing."""
    loaded = load_suite(suite)
    for row, config in configs(loaded, methods=loaded.methods[:2], device=CPU).items():
        settings = settings_of(config, suite=suite)
        kinds = {s.name: s for s in settings if s.name.endswith(".kind")}
        for setting in settings:
            if setting.value is None or isinstance(setting.value, dict | list):
                continue
            kind = kinds.get(f"{setting.name.rpartition('.')[0]}.kind", setting)
            overrides = [f"{s.name}={json.dumps(s.value)}" for s in (kind, setting)]
            again = load_suite(suite, overrides=overrides)
            assert configs(again, methods=[row], device=CPU)[row] == config, overrides
