"""Records as a table."""

import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

import gim_bench
from gim_bench.errors import ConfigError
from gim_bench.records.folder import RECORD, RunsFolder
from gim_bench.records.record import Record, Status


def cell(method="gim", *, seed=0, suite="tiny", **changes):
    return Record(
        suite=suite,
        method=method,
        dataset="photos",
        seed=seed,
        key=f"{method}{seed}".encode().hex().ljust(64, "0"),
        **{
            "status": Status.DONE,
            "metrics": {"accuracy/module_1": 20.0, "accuracy": 30.0, "train/seconds": 2.0},
            "provenance": {"data_sha256": "d" * 64, "results_version": 4, "git_commit": "abc"},
            **changes,
        },
    )


@pytest.fixture
def runs(tmp_path):
    return RunsFolder(tmp_path / "runs")


def test_a_metric_is_a_row_with_unit_direction_and_origin(runs):
    runs.save(cell())
    table = gim_bench.results(runs.root)
    assert len(table) == 3
    row = table[table.module == 1].iloc[0].to_dict()
    assert row == {
        "suite": "tiny", "dataset": "photos", "method": "gim", "seed": 0, "status": "done",
        "target": "class", "metric": "accuracy", "module": 1, "value": 20.0, "unit": "%",
        "better": "higher", "settings": row["settings"], "key": cell().key,
        "data_sha256": "d" * 64, "results_version": 4, "git_commit": "abc",
        "folder": str(runs.folder_of(cell())),
    }  # fmt: skip


def test_costs_have_no_target_and_no_module(runs):
    runs.save(cell())
    table = gim_bench.results(runs.root)
    row = table[table.metric == "train/seconds"].iloc[0]
    assert (row.target, row.unit, row.better, row.value) == ("", "s", "lower", 2.0)
    assert row.module is pd.NA


def test_targets_of_speech_are_a_column(runs):
    runs.save(cell(metrics={"speaker_accuracy/module_2": 50.0, "phone_accuracy/own_head": 10.0}))
    table = gim_bench.results(runs.root)
    assert list(table.target) == ["speaker", "phone"]
    assert list(table.metric) == ["accuracy", "accuracy/own_head"]


def test_other_settings_are_told_apart_and_seeds_are_not(runs):
    for seed, epochs in ((0, 1), (1, 1), (2, 9)):
        runs.save(cell(seed=seed, config={"training": {"epochs": epochs}}))
    table = gim_bench.results(runs.root)
    groups = table.groupby("settings").seed.agg(set)
    assert sorted(groups, key=len) == [{2}, {0, 1}]


def test_the_device_and_settings_from_after_a_record_make_no_other_settings(runs):
    for seed, more in enumerate(({"device": "cpu"}, {"device": "cuda"}, {"inside": None})):
        runs.save(cell(seed=seed, config={"training": {"epochs": 1}} | more))
    assert len(set(gim_bench.results(runs.root).settings)) == 1


def test_a_seed_that_ran_on_two_devices_counts_once_if_duplicates_are_dropped(runs):
    for device in ("cpu", "cuda"):
        key = device.encode().hex().ljust(64, "0")
        runs.save(replace(cell(config={"device": device}), key=key))
    table = gim_bench.results(runs.root)
    alike = ["suite", "method", "settings", "data_sha256", "results_version", "target", "module"]
    once = table.drop_duplicates([*alike, "seed", "metric"], keep="last")
    assert (len(table), len(once)) == (6, 3)


def test_a_failed_cell_is_a_row_without_a_metric(runs):
    runs.save(cell(status=Status.FAILED, error="it broke", metrics={}))
    (row,) = gim_bench.results(runs.root).to_dict("records")
    assert row["status"] == "failed"
    assert pd.isna(row["metric"])


def test_a_suite_is_chosen_by_its_name(runs):
    runs.save(cell(suite="tiny"))
    runs.save(cell(suite="other"))
    assert set(gim_bench.results(runs.root).suite) == {"tiny", "other"}
    assert set(gim_bench.results(runs.root, suite="other").suite) == {"other"}


def test_an_unknown_suite_is_refused_with_those_that_are_there(runs):
    runs.save(cell())
    with pytest.raises(ConfigError, match=r"no records of suite 'typo' .*: there are tiny$"):
        gim_bench.results(runs.root, suite="typo")


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^no records in .*--runs-dir$"):
        gim_bench.results(tmp_path / "nothing")


def test_damaged_records_are_counted(runs):
    runs.save(cell())
    runs.save(cell(seed=1))
    path = runs.folder_of(cell()) / RECORD
    path.write_text(path.read_text().replace("30.0", "99.0"))
    with pytest.warns(UserWarning, match=r"left out: 1 record\(s\) that were altered, cut off"):
        table = gim_bench.results(runs.root)
    assert set(table.seed) == {1}


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, gim_bench; "
        "print([m for m in ('torch', 'pandas', 'numpy', 'mlflow') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_what_python_is_offered_is_listed_and_nothing_else_is_there():
    names = {"run", "results", "summary", "differences", "figures", "load", "features", "export"}
    assert names <= set(dir(gim_bench))
    with pytest.raises(AttributeError, match="no attribute 'resluts'"):
        _ = gim_bench.resluts
