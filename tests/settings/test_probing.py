"""Kinds of linear probes: which kind a table means, what it inherits, and its part of a key."""

import pytest
import torch

from gim_bench.cells.defaults import with_defaults
from gim_bench.cells.resolve import configs, describes
from gim_bench.errors import ConfigError
from gim_bench.settings.base import Precision
from gim_bench.settings.keys import keyed
from gim_bench.settings.probing import AdamProbeSettings, LogisticRegressionSettings
from gim_bench.settings.protocols import ProtocolSettings, resolved
from gim_bench.settings.suites import load_suite, shipped_suites
from tests.settings.tables import SUITE, load, refused, write

ADAM = SUITE["probe"]
REGRESSION = {"kind": "logistic_regression", "penalties": [0.1, 1.0]}
CPU = torch.device("cpu")


def with_probe(probe, **changes):
    return SUITE | {"probe": probe} | changes


def cell(suite, method="gim", device=CPU):
    return configs(suite, methods=[method], device=device)[method]


def key(suite):
    return cell(suite).key(data_sha256="0" * 64, seed=0)


@pytest.mark.parametrize(
    ("probe", "kind"),
    [
        ({}, LogisticRegressionSettings),
        ({"validation_fraction": 0.3}, LogisticRegressionSettings),
        ({"penalties": [0.1]}, LogisticRegressionSettings),
        ({"kind": "logistic_regression"}, LogisticRegressionSettings),
        (ADAM, AdamProbeSettings),
        (ADAM | {"kind": "adam"}, AdamProbeSettings),
    ],
)
def test_a_table_is_of_the_kind_that_it_names_or_that_its_settings_imply(tmp_path, probe, kind):
    assert type(load(tmp_path, suite=with_probe(probe)).probe) is kind


def test_a_table_with_one_setting_of_adams_needs_the_others(tmp_path):
    message = refused(write(tmp_path, suite=with_probe({"learning_rates": [0.1]})))
    assert message.startswith(
        "mine.toml: the settings 'probe.steps', 'probe.batch_size' are missing"
    )


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        (REGRESSION | {"learning_rates": [0.1]}, "probe.learning_rates"),
        (ADAM | {"kind": "adam", "penalties": [0.1]}, "probe.penalties"),
        ({"kind": "lbfgs"}, "probe.kind = 'lbfgs': should be one of 'adam', 'logistic_regression'"),
    ],
)
def test_settings_of_another_kind_are_refused_in_a_line(tmp_path, probe, reason):
    assert reason in refused(write(tmp_path, suite=with_probe(probe)))


# -- what is inherited -----------------------------------------------------------------------------


def extended(folder, probe, *, base=SUITE, overrides=()):
    """A suite with that probe, over the suite `base`."""
    write(folder, suite=base)
    above = folder / "above.toml"
    lines = [f"{name} = {value!r}".replace("True", "true") for name, value in probe.items()]
    head = 'extends = "mine.toml"\nname = "above"\nsummary = "s"\n[probe]\n'
    above.write_text(head + "\n".join(lines) + "\n")
    return load_suite(str(above), overrides=overrides).probe


COMMON = ADAM | {"fitted_steps": 70, "neighbours": 3}


def test_a_suite_with_another_kind_inherits_the_settings_that_all_kinds_have(tmp_path):
    found = extended(tmp_path, {"kind": "logistic_regression"}, base=with_probe(COMMON))
    assert found == LogisticRegressionSettings(fitted_steps=70, neighbours=3)


def test_a_suite_that_only_names_rates_is_adams_whatever_it_extends(tmp_path):
    found = extended(tmp_path, ADAM, base=with_probe(REGRESSION | {"neighbours": 3}))
    assert found == AdamProbeSettings(
        learning_rates=(1e-3, 1e-2), steps=5, batch_size=128, neighbours=3
    )


@pytest.mark.parametrize("probe", [{"steps": 7}, {"kind": "adam", "steps": 7}])
def test_a_suite_of_the_same_kind_inherits_all_settings(tmp_path, probe):
    found = extended(tmp_path, probe)
    assert found == AdamProbeSettings(learning_rates=(1e-3, 1e-2), steps=7, batch_size=128)


def test_a_suite_that_names_common_settings_alone_keeps_the_kind(tmp_path):
    assert extended(tmp_path, {"standardise": True}).learning_rates == (1e-3, 1e-2)
    found = extended(tmp_path, {"standardise": True}, base=with_probe({"penalties": [0.3]}))
    assert found.penalties == (0.3,)


def test_set_may_choose_another_kind(tmp_path):
    suite = with_probe(COMMON)
    found = load(tmp_path, "probe.kind=logistic_regression", "probe.penalties=[0.1]", suite=suite)
    assert found.probe == LogisticRegressionSettings(
        penalties=(0.1,), fitted_steps=70, neighbours=3
    )


def test_set_keeps_the_kind_of_the_suite(tmp_path):
    assert load(tmp_path, "probe.steps=9").probe.steps == 9
    found = load(tmp_path, "probe.iterations=9", suite=with_probe({})).probe
    assert found == LogisticRegressionSettings(iterations=9)


def test_a_row_may_have_a_probe_of_another_kind(tmp_path):
    """It standardises, as its kind does by default, though the suite's own probe does not."""
    suite = load(
        tmp_path, suite=with_probe(COMMON, method={"gim": {"probe": {"penalties": [0.1]}}})
    )
    assert cell(suite).probe == LogisticRegressionSettings(
        penalties=(0.1,), fitted_steps=70, neighbours=3
    )
    assert cell(suite, "random_init").probe == suite.probe


@pytest.mark.parametrize("name", shipped_suites())
def test_the_probes_of_shipped_suites_read_features_in_fp32(name):
    """Also those of suites and rows that have a [probe] of their own."""
    for row, config in configs(load_suite(name), methods=[], device=CPU).items():
        if config.probe is not None:
            assert config.probe.precision is Precision.FP32, row


# -- protocols -------------------------------------------------------------------------------------


def under(suite, probe):
    """The probe of a protocol with that table on a cell of the suite."""
    settings = ProtocolSettings(summary="s", probe=probe)
    return resolved("mine", settings, own=cell(suite).probe).probe


def test_a_protocol_may_have_a_probe_of_another_kind(tmp_path):
    """As a row's, it has its kind's defaults where the suite says nothing."""
    found = under(load(tmp_path, suite=with_probe(COMMON)), {"kind": "logistic_regression"})
    assert found == LogisticRegressionSettings(
        fitted_steps=70, neighbours=3, unseen_validation=False
    )


def test_a_protocol_of_another_kind_keeps_what_the_suite_says(tmp_path):
    said = COMMON | {"precision": "bf16", "standardise": False}
    found = under(load(tmp_path, suite=with_probe(said)), {"penalties": [0.1]})
    assert (found.precision, found.standardise) == (Precision.BF16, False)


def test_a_protocol_whose_classifier_trains_by_adam_has_the_settings_of_the_cell(tmp_path):
    """Its results were read with these before there were kinds."""
    found = under(load(tmp_path, suite=with_probe(REGRESSION)), ADAM | {"kind": "adam"})
    assert (found.standardise, found.precision) == (True, Precision.FP32)


def test_a_protocol_cannot_say_which_encoder_its_hyperparameters_are_chosen_with(tmp_path):
    with pytest.raises(ConfigError) as caught:
        under(load(tmp_path), {"unseen_validation": True})
    assert str(caught.value) == (
        "protocols.mine.probe.unseen_validation: the training of a cell decides with which encoder "
        "hyperparameters are chosen: set probe.unseen_validation"
    )


# -- keys and records ------------------------------------------------------------------------------


def test_the_kind_adam_is_in_no_key_and_the_other_kind_is(tmp_path):
    plain = load(tmp_path)
    named = load(tmp_path, suite=with_probe(ADAM | {"kind": "adam"}))
    assert key(plain) == key(named)
    assert "kind" not in keyed(cell(plain))["probe"]
    regression = load(tmp_path, suite=with_probe({}))
    assert keyed(cell(regression))["probe"]["kind"] == "logistic_regression"


def test_a_record_without_a_kind_is_adams_and_is_described_by_its_suite(tmp_path):
    suite = load(tmp_path)
    record = cell(suite).as_dict()
    for name in ("kind", "augment", "precision", "labelled_fraction", "unseen_validation"):
        del record["probe"][name]
    assert with_defaults(record)["probe"] == cell(suite).as_dict()["probe"]
    assert describes(suite, record)
    assert not describes(load(tmp_path, suite=with_probe({})), record)


def test_the_precision_of_a_record_fits_a_suite_that_leaves_it_to_the_hardware(tmp_path):
    automatic = load(tmp_path, suite=with_probe({"precision": "auto"}))
    found = cell(automatic)
    assert found.probe.precision is not Precision.AUTO
    for precision in ("bf16", "fp32"):
        record = found.as_dict()
        record["probe"]["precision"] = precision
        assert describes(automatic, record)
    fixed = load(tmp_path, suite=with_probe({"precision": "fp32"}))
    assert not describes(fixed, record | {"probe": record["probe"] | {"precision": "bf16"}})
