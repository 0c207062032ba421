"""Means, differences and figures of a suite in Python are those of its report."""

import io
import re
from dataclasses import replace

import pytest

import gim_bench
from gim_bench.cells.run import run_cell
from gim_bench.errors import ConfigError
from gim_bench.records.folder import RunsFolder
from gim_bench.report import render
from tests.report.cells import answered
from tests.tiny_suite import tiny_bench, tiny_cell, tiny_suite


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The file of the tiny suite, and three seeds of made-up accuracies with predictions."""
    folder = tmp_path_factory.mktemp("comparisons")
    suite, runs = tiny_suite(folder), RunsFolder(folder / "runs")
    for method, accuracies in (("gim", (60.0, 61.0, 62.0)), ("random_init", (40.0, 40.5, 41.0))):
        record = run_cell(tiny_cell(suite, method), tiny_bench(suite), runs=runs)
        runs.remove(record)
        for seed, accuracy in enumerate(accuracies):
            metrics = {"accuracy": accuracy, "accuracy/module_1": 50.0, "train/seconds": seed + 1.0}
            cell = replace(record, seed=seed, key=f"{seed}" * 64, metrics=metrics, files={})
            marks = "1" * round(2 * accuracy) + "0" * round(200 - 2 * accuracy)
            files = runs.save_predictions(cell, answered({"accuracy": marks}))
            cell = replace(cell, files=files)
            runs.put_encoders(cell)
            runs.save(cell)
    return folder


@pytest.fixture
def of(folder):
    return {"suite": folder / "tiny.toml", "runs_dir": folder / "runs"}


@pytest.fixture
def page(folder):
    """The report on the same records."""
    suite, runs = tiny_suite(folder), RunsFolder(folder / "runs")
    return render(
        runs.records("tiny"),
        suite=suite,
        describes=lambda _: True,
        fmt="md",
        predictions=runs.predictions,
    )


def of_gim(table, metric):
    chosen = table[(table.method == "gim") & (table.metric == metric) & table.module.isna()]
    (row,) = chosen.to_dict("records")
    return row


def test_means_of_costs_have_intervals_over_seeds(of):
    """1, 2 and 3: 2 ± t(0.975, 2)·1/√3 = 2.484."""
    row = of_gim(gim_bench.summary(**of), "train/seconds")
    assert (row["mean"], row["std"], row["seeds"]) == (2.0, 1.0, 3)
    assert (row["low"], row["high"]) == pytest.approx((-0.484, 4.484), abs=1e-3)
    assert (row["target"], row["covers"], row["unit"], row["better"]) == (
        "", "seeds", "s", "lower",
    )  # fmt: skip


def test_means_of_accuracies_have_the_intervals_of_the_report_over_seeds_and_items(of, page):
    row = of_gim(gim_bench.summary(**of), "accuracy")
    assert (row["target"], row["covers"], row["mean"]) == ("class", "seeds and items", 61.0)
    said = re.search(r"\| gim +\| +3 \| +61.0 ± 1.0 \| +± (\S+) ", page)
    assert f"{(row['high'] - row['low']) / 2:.1f}" == said.group(1)
    assert row["high"] - row["low"] > 2 * 2.484  # the choice of items adds to the seeds'


def test_a_metric_of_a_later_version_is_left_out_with_a_warning(folder, tmp_path):
    runs = RunsFolder(tmp_path)
    for record in RunsFolder(folder / "runs").records("tiny"):
        runs.save(replace(record, metrics=record.metrics | {"novelty": 1.0}))
    with pytest.warns(UserWarning, match="left out: .*'novelty'"):
        table = gim_bench.summary(folder / "tiny.toml", runs_dir=tmp_path)
    assert "accuracy" in set(table.metric)
    assert "novelty" not in set(table.metric)


def test_differences_are_those_of_the_report(of, page):
    table = gim_bench.differences(**of)
    (row,) = table[~table.at_best_module].to_dict("records")
    assert (row["method"], row["reference"]) == ("random_init", "gim")
    assert row["difference"] == -20.5
    said = re.search(r"\| random_init +\| linear probe +\| +-20.5 \| +± (\S+) ", page)
    assert f"{(row['high'] - row['low']) / 2:.1f}" == said.group(1)
    assert row["p"] < 0.05


def test_one_seed_has_no_interval_and_no_p_value(of, folder, tmp_path):
    runs = RunsFolder(tmp_path)
    for record in RunsFolder(folder / "runs").records("tiny"):
        if record.seed == 0:
            runs.save(record)
    one = {"suite": of["suite"], "runs_dir": tmp_path}
    assert gim_bench.differences(**one)[["low", "high", "p"]].isna().all(axis=None)
    assert gim_bench.summary(**one)[["std", "low", "high"]].isna().all(axis=None)


def test_figures_are_those_of_matplotlib(of):
    found = gim_bench.figures(**of)
    assert "Accuracy over time of training" in found
    figure = found["Accuracy over time of training"]
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time, s", "test accuracy, %")
    file = io.BytesIO()
    figure.savefig(file, format="pdf")
    assert file.getvalue().startswith(b"%PDF")


def test_what_is_left_out_has_a_warning_and_settings_choose(of):
    with (
        pytest.warns(UserWarning, match="left out: 6 record.* with other settings"),
        pytest.raises(ConfigError, match=r"no finished cell of suite 'tiny' .*gim_bench.run\("),
    ):
        gim_bench.summary(**of, settings={"training.epochs": 9})


def test_a_folder_without_cells_is_refused(of, tmp_path):
    with pytest.raises(ConfigError, match="or name the folder with runs_dir"):
        gim_bench.figures(of["suite"], runs_dir=tmp_path)
