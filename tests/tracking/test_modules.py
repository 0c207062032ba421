"""The data set and the modules of a record, as MLflow's pages for them show them."""

import json

import pytest

from gim_bench.records.record import Status
from gim_bench.settings.shipped import shipped_suites
from gim_bench.tracking.description import described
from gim_bench.tracking.entries import cell_entry, summary_entries, sweep_entry
from gim_bench.tracking.modules import data_of, modules_of
from gim_bench.tracking.plots import figures_of
from tests.tracking.records import SWEPT, cell

METRICS = {
    "accuracy": 60.0,
    "accuracy/module_1": 55.5,
    "accuracy/module_10": 60.0,
    "loss/module_1": 2.0,
    "knn_accuracy/module_1": 50.0,
    "train/seconds": 3.0,
    "loss/module_2": float("nan"),
}


def test_modules_have_the_metrics_that_end_in_their_number():
    one, ten = modules_of(cell(metrics=METRICS))
    assert (one.number, one.name) == (1, "gim seed 0 module 1")
    assert one.metrics == {
        "by_module/accuracy": 55.5,
        "by_module/loss": 2.0,
        "by_module/knn_accuracy": 50.0,
    }
    assert (ten.number, ten.metrics) == (10, {"by_module/accuracy": 60.0})


def test_a_data_set_is_known_by_the_digits_of_its_sha256_and_its_settings():
    record = cell(
        config={"dataset": {"name": "photos", "size": 28}, "method": {"trains_on": "unlabelled"}},
        provenance={"data_sha256": "0123456789abcdef" * 4, "data_counts": {"train": 7}},
    )
    data = data_of(record)
    assert (data.name, data.context) == ("photos", "unlabelled")
    assert data.digest == ("0123456789abcdef" * 4)[:36]
    assert json.loads(data.source) == {"name": "photos", "size": 28}
    assert json.loads(data.profile) == {"train": 7}


def test_a_record_without_the_sha256_of_its_data_has_no_data_set():
    assert data_of(cell(provenance={})) is None


def test_another_accuracy_of_a_module_is_another_content_of_the_run():
    first, other = (cell_entry(cell(metrics=METRICS | {"accuracy/module_1": x})) for x in (1, 2))
    assert first.digest() != other.digest()


# -- figures ---------------------------------------------------------------------------------------


def test_a_cell_has_a_figure_of_its_losses_and_one_of_accuracy_by_module():
    figures = figures_of(cell_entry(cell(metrics=METRICS)))
    assert list(figures) == ["figures/losses.png", "figures/by_module.png"]
    (losses,), (accuracies,) = (figures[name]().axes for name in figures)
    assert {line.get_label(): list(line.get_ydata()) for line in losses.lines} == {
        "module_1": [3.0, 1.5, 1.0],
        "module_2": [2.5, 1.25, 2.5 / 3],
    }
    assert {
        line.get_label(): list(zip(*line.get_data(), strict=True)) for line in accuracies.lines
    } == {"accuracy": [(1, 55.5), (10, 60.0)], "knn_accuracy": [(1, 50.0)]}


def test_a_cell_that_trains_nothing_and_probes_nothing_has_no_figure():
    assert figures_of(cell_entry(cell(metrics={}, losses=()))) == {}


# -- descriptions ----------------------------------------------------------------------------------


def test_a_description_says_protocol_error_and_the_command():
    record = cell("my gim", seed=3, suite="mine", error="a loss is nan")
    text = described(record, seeds=4)
    assert text.startswith("linear probe\n\na loss is nan\n\n")
    assert "gim_bench run --suite ./mine.toml --method 'my gim' --seeds 4" in text
    assert "Deviations" not in text


@pytest.mark.parametrize("suite", sorted(shipped_suites()))
def test_the_deviations_of_every_shipped_suite_are_said(suite):
    text = described(cell(suite=suite), seeds=1)
    assert text.startswith("linear probe\n\n")
    assert text.endswith(f"--suite {suite} --method gim --seeds 1")


def test_the_papers_suite_says_in_what_it_deviates():
    text = described(cell(suite="stl10"), seeds=1)
    assert "**Deviations**\n\n- " in text
    assert "(paper: " in text


def test_a_summary_names_the_command_of_all_its_seeds():
    (summary,) = summary_entries([cell(seed=seed) for seed in (0, 4)])
    assert summary.tags["mlflow.note.content"].endswith("--method gim --seeds 5")


# -- order -----------------------------------------------------------------------------------------


def test_summaries_stand_above_all_cells():
    """MLflow lists the newest runs first."""
    late = {"provenance": cell().provenance | {"finished_at": "2026-11-01T11:00:00+00:00"}}
    records = [cell("gim"), cell("cpc", **late)]
    newest = max(cell_entry(record).started_ms for record in records)
    assert all(entry.started_ms > newest for entry in summary_entries(records))


def test_failed_cells_make_no_summary_newer():
    """`sync` reads failed cells too, and is to find the summaries that `run` has written."""
    late = {"provenance": cell().provenance | {"finished_at": "2026-11-01T11:00:00+00:00"}}
    failed = cell("cpc", status=Status.FAILED, **late)
    (alone,), (beside,) = summary_entries([cell()]), summary_entries([cell(), failed])
    assert alone.digest() == beside.digest()


def test_a_sweep_keeps_its_plot():
    assert list(figures_of(sweep_entry(cell(sweeps={"module_2": SWEPT})))) == ["curves.png"]
