"""Records of before: settings that they lack, lists of tables, former names, and odd content.

`tests/golden/record.json` is a record that the commit 60d465d made: of the method random_init and
seed 0, in the suite smoke of that commit, which `tests/golden/smoke.toml` holds.
"""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gim_bench.cells import explain
from gim_bench.cells.cell import Cell
from gim_bench.cells.defaults import (
    agrees,
    each_with_defaults,
    settings_by_name,
    sharing_configs,
    with_defaults,
)
from gim_bench.cells.explain import why
from gim_bench.cells.resolve import cells, configs, describes
from gim_bench.cells.table import found, run_table
from gim_bench.records.record import Record, Status
from gim_bench.records.sealed import read_record
from gim_bench.settings import schema
from gim_bench.settings.suites import load_suite
from tests.tiny_suite import CPU, tiny_bench, tiny_suite

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "record.json"
SMOKE = str(GOLDEN.with_name("smoke.toml"))


@pytest.fixture(autouse=True)
def results_version_of_the_record(monkeypatch):
    for module in (schema, explain):
        monkeypatch.setattr(module, "RESULTS_VERSION", 3)


@pytest.fixture
def record() -> Record:
    """The record of 60d465d; its encoder is not kept."""
    read = read_record(GOLDEN)
    assert read is not None
    return replace(read, files={})


@pytest.fixture
def cell(record: Record) -> Cell:
    """The cell that today's package makes of the record's suite, method, seed and data."""
    return smoke_cell(record)


def smoke_cell(record: Record, *overrides: str) -> Cell:
    suite = load_suite(SMOKE, overrides=overrides)
    configured = configs(suite, methods=[record.method], device=CPU)
    data = record.provenance["data_sha256"]
    (cell,) = cells(suite, configured, seeds=[record.seed], data_sha256=data)
    return cell


# -- a record of 60d465d ---------------------------------------------------------------------------


def test_a_record_of_before_is_read_and_counts_as_whole(tmp_path):
    copied = shutil.copy(GOLDEN, tmp_path / "record.json")
    read = read_record(Path(copied))
    assert (read.suite, read.method, read.seed) == ("smoke", "random_init", 0)
    assert read.status is Status.DONE
    assert read.metrics["accuracy"] == 45.0


def test_a_record_of_before_has_the_key_that_its_cell_has_today(record, cell):
    assert cell.key == record.key


def test_a_record_of_before_is_of_its_suite_and_of_no_changed_one(record):
    assert describes(load_suite(SMOKE), record.config)
    for other in ("training.epochs=4", "training.optimiser.kind=sgd", "augmentation.blur.kernel=5"):
        assert not describes(load_suite(SMOKE, overrides=[other]), record.config)


def test_a_cell_that_was_done_before_is_done(record, cell, runs):
    runs.save(record)
    assert found(cell, runs).metrics == record.metrics
    finished = record.provenance["finished_at"]
    assert why(cell, runs) == f"done: nothing has changed since {finished}"


def test_a_cell_that_was_done_before_is_not_run_again(record, cell, runs):
    def run(*_, **__):
        pytest.fail("the cell is run again")

    runs.save(record)
    bench = tiny_bench(load_suite(SMOKE))
    (kept,) = run_table([cell], bench, runs=runs, run=run)
    assert kept.metrics == record.metrics


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("training.epochs=4", ["training.epochs is 4, was 3"]),
        ("training.optimiser.kind=sgd", ["training.optimiser.kind is sgd, was adam"]),
        (
            'training.optimiser={kind="adam", eps=1e-3}',
            ["training.optimiser.eps is 0.001, was 1e-08"],
        ),
        (
            "augmentation.blur.kernel=5",
            [
                "augmentation.blur.kernel is 5, was None",
                "augmentation.blur.probability is 1.0, was None",
                "augmentation.blur.sigma is [0.1, 2.0], was None",
            ],
        ),
    ],
    ids=["setting", "kind", "later setting", "later table"],
)
def test_what_was_changed_since_a_record_of_before_is_the_only_difference(
    override, reason, record, runs
):
    runs.save(record)
    assert why(smoke_cell(record, override), runs) == f"runs: {', '.join(reason)}"


# -- configurations with all settings --------------------------------------------------------------


def test_a_record_of_before_with_defaults_is_today_s_configuration(record, cell):
    today = cell.config.as_dict()
    assert settings_by_name(record.config) == settings_by_name(today)
    assert with_defaults(today) == today


def test_the_record_itself_stays_as_it_was(record):
    before = copy.deepcopy(record.config)
    with_defaults(record.config)
    assert record.config == before


def test_a_setting_has_today_s_name(record):
    kept = {"views": 4, "precision": "fp32"}
    config = record.config | {"training": record.config["training"] | {"kept_outputs": kept}}
    found = with_defaults(config)["training"]["kept_outputs"]
    assert found == {"epochs": 4, "precision": "fp32"}


def test_tables_in_lists_are_completed_too(tmp_path):
    views = "augmentation.further_views=[{blur={kernel=5}}]"
    config = configs(tiny_suite(tmp_path, views), methods=["gim"], device=CPU)["gim"].as_dict()
    old = copy.deepcopy(config)
    (view,) = old["augmentation"]["further_views"]
    view.pop("solarise")
    view["blur"].pop("sigma")
    assert with_defaults(old) == config
    assert agrees(old, config)


def test_tables_are_completed_by_the_class_of_their_kind(record):
    config = copy.deepcopy(record.config)
    config["training"]["optimiser"] = {"kind": "lars"}
    config["dataset"] = {"name": "espeak"}
    config["encoder"] = {"kind": "conv_gru"}
    config["method"] |= {"like": "mfcc", "options": {}}
    full = with_defaults(config)
    assert full["training"]["optimiser"]["trust_coefficient"] == 1e-3
    assert full["dataset"]["speakers"] == 20
    assert full["encoder"]["kernels"] == [10, 8, 4, 4, 4]
    assert full["method"]["options"] == {"coefficients": 13, "deltas": True}


def test_settings_of_what_is_not_installed_stay_as_they_are(record):
    config = copy.deepcopy(record.config)
    config["dataset"] = {"name": "theirs", "size": 4}
    config["encoder"] = {"kind": "theirs", "depth": 4}
    config["method"] |= {"like": "theirs", "options": {"strength": 4}}
    full = with_defaults(config)
    assert full["dataset"] == {"name": "theirs", "size": 4}
    assert full["encoder"] == {"kind": "theirs", "depth": 4}
    assert full["method"]["options"] == {"strength": 4}


def test_a_fact_that_decides_no_number_is_no_setting(record):
    assert "method.loss_unit" in {
        f"method.{name}" for name in with_defaults(record.config)["method"]
    }
    assert "method.loss_unit" not in settings_by_name(record.config)


def test_agreement_is_about_our_settings_alone(record, cell):
    """A record of a later version may have settings that are not known here."""
    config = copy.deepcopy(record.config)
    config["training"]["novelty"] = 4
    assert agrees(config, cell.config.as_dict())


@pytest.mark.parametrize(
    ("table", "other"),
    [
        ("augmentation", {"jitter": {"hue": 0.1}}),
        ("training", {"optimiser": {"kind": "adam", "eps": 1e-3}}),
        ("capacity", {"up_to": 8}),
        ("probe", {"neighbours": 3}),
    ],
)
def test_a_table_that_one_of_the_two_lacks_is_no_agreement(table, other, record, cell):
    config = copy.deepcopy(record.config)
    config[table] = {**(config[table] or {}), **other}
    assert not agrees(config, cell.config.as_dict())
    assert not agrees(record.config, with_defaults(config))


@pytest.mark.parametrize("content", [None, 3, "text", [], [1, {"kind": "resnet"}], {}])
@pytest.mark.parametrize(
    "table",
    ["method", "dataset", "encoder", "augmentation", "info_nce", "training", "probe", "objective"],
)
def test_whatever_stands_for_a_table_of_a_record_is_a_difference_at_most(
    table, content, record, cell
):
    assert not agrees(record.config | {table: content}, cell.config.as_dict()) or content is None


@pytest.mark.parametrize("name", [None, 3, ["photos"], {"a": 1}])
def test_whatever_stands_for_a_name_of_a_record_is_a_difference_at_most(name, record, cell):
    for table, naming in (("dataset", "name"), ("encoder", "kind"), ("augmentation", "kind")):
        config = record.config | {table: record.config[table] | {naming: name}}
        assert not agrees(config, cell.config.as_dict())
    options = record.config | {"method": record.config["method"] | {"like": name}}
    assert not agrees(options, cell.config.as_dict())


def test_a_setting_without_a_finite_value_agrees_with_its_record(record, cell):
    """JSON has no word for such a number: a record holds null."""
    ours = cell.config.as_dict()
    ours["dataset"] |= {"scale": float("nan")}
    config = record.config | {"dataset": record.config["dataset"] | {"scale": None}}
    assert agrees(config, ours)


def test_equal_configurations_are_one_object(record):
    other = replace(record, config=record.config | {"device": "cuda"})
    shared = sharing_configs([record, replace(record, config=copy.deepcopy(record.config)), other])
    assert shared[0].config is shared[1].config == record.config
    assert shared[2].config == other.config
    full = each_with_defaults(one.config for one in shared)
    assert full[0] is full[1]
    assert full == [with_defaults(one.config) for one in (record, record, other)]
