"""`report` prints the table of a suite from its records."""

import csv
import io
import json

import pytest

from tests.cli.commands import PLAIN, REPORT, records


def test_a_report_is_the_table_that_the_run_printed(finished, gim_bench):
    answer = gim_bench(*REPORT)
    assert answer.code == 0
    assert finished.out.startswith(answer.out.rstrip("\n"))


def test_a_report_reads_the_predictions_beside_the_records(finished, gim_bench, tmp_path):
    """One seed: the interval covers the choice of the test examples."""
    assert "95% CI, examples" in gim_bench(*REPORT).out
    for path in (tmp_path / "runs").rglob("predictions.npz"):
        path.write_bytes(b"")
    assert "95% CI, examples" not in gim_bench(*REPORT).out


def test_a_report_of_a_secondary_accuracy_has_its_interval(finished, gim_bench):
    assert "95% CI, examples" in gim_bench(*REPORT, "--metric", "knn_accuracy").out


def test_a_report_in_json_is_the_list_of_cells(finished, gim_bench):
    cells = json.loads(gim_bench(*REPORT, "--format", "json").out)
    assert {cell["method"] for cell in cells} == {"gim", "random_init"}


def test_a_report_in_csv_has_a_line_for_each_cell_and_metric(finished, gim_bench, tmp_path):
    rows = list(csv.DictReader(io.StringIO(gim_bench(*REPORT, "--format", "csv").out)))
    rows = [row for row in rows if row["method"]]
    assert len(rows) == sum(len(record["metrics"]) for record in records(tmp_path))


def test_a_report_in_html_goes_into_the_file_that_was_named(finished, gim_bench, tmp_path):
    answer = gim_bench(*REPORT, "--format", "html", "--output", "table.html")
    assert (answer.code, answer.out, answer.err) == (0, "", "wrote table.html\n")
    assert "random_init" in (tmp_path / "table.html").read_text()


def test_a_report_of_one_metric_holds_no_other(finished, gim_bench):
    answer = gim_bench(*REPORT, "--format", "json", "--metric", "knn_accuracy")
    assert all(set(cell["metrics"]) == {"knn_accuracy"} for cell in json.loads(answer.out))


def test_the_command_that_fills_a_gap_asks_for_the_suite_as_the_report_was(finished, gim_bench):
    """With its file, its other settings and the folder of its records, and quoted for a shell."""
    folder = ("--runs-dir", "runs of mine")
    gim_bench(*PLAIN, "--set", "probe.steps=1", *folder)
    answer = gim_bench(*REPORT, "--set", "probe.steps=1", *folder)
    asked = "run --suite ./tiny.toml --set probe.steps=1 --runs-dir 'runs of mine' --method gim"
    assert f"Run `python -m gim_bench {asked}" in answer.out
    again = gim_bench(*REPORT, "--runs-dir", "none there").err
    assert "run --suite ./tiny.toml --runs-dir 'none there', or name the folder" in again


@pytest.mark.parametrize("override", ["probe.steps=1", "method.gim.schedule=joint"])
def test_records_with_other_settings_are_left_out_and_counted(override, finished, gim_bench):
    gim_bench(*PLAIN, "--method", "gim", "--set", override)
    answer = gim_bench(*REPORT, "--format", "json")
    assert len(json.loads(answer.out)) == 2
    assert answer.err.startswith("left out: 1 record(s) with other settings")
    other = gim_bench(*REPORT, "--format", "json", "--set", override)
    assert "gim" in {cell["method"] for cell in json.loads(other.out)}
    assert "left out" in other.err


def test_a_record_that_was_altered_is_left_out_and_named(finished, gim_bench, tmp_path):
    path = next((tmp_path / "runs").glob("*/gim/*/record.json"))
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    answer = gim_bench(*REPORT, "--format", "json")
    assert [cell["method"] for cell in json.loads(answer.out)] == ["random_init"]
    assert answer.err.startswith("left out: 1 record(s) that were altered, cut off")
    assert f"{path.relative_to(tmp_path)}; run --suite ./tiny.toml replaces" in answer.err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--metric", "acuracy"), "no metric 'acuracy'. Did you mean 'accuracy'?"),
        (("--format", "jsn"), "no format 'jsn' (--format). Did you mean 'json'?"),
        (("--output", "no/such/folder.md"), "cannot write no/such/folder.md (No such file"),
    ],
)
def test_a_report_that_cannot_be_written_is_one_line(options, complaint, finished, gim_bench):
    answer = gim_bench(*REPORT, *options)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert complaint in line


def test_a_report_says_on_top_which_settings_are_not_the_files_and_what_is_left_out(
    finished, gim_bench
):
    """The records of the suite's file and those of --set are not mixed in either report."""
    longer = ("--set", "training.epochs=2")
    assert gim_bench(*PLAIN, *longer, "--method", "gim").code == 0
    changed = gim_bench(*REPORT, *longer).out
    assert "Not the suite's file: --set training.epochs = 2 (in the file 1)" in changed
    assert "Left out: 2 record(s) of this suite with other settings" in changed
    plain = gim_bench(*REPORT).out
    assert "Not the suite's file" not in plain
    assert "Left out: 1 record(s) of this suite with other settings, such as" in plain
    assert "training.epochs = 2" in plain
