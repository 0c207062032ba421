"""Records as data, and as a web page."""

import csv
import io
import json
import re
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

from gim_bench.records.record import Record, Status
from gim_bench.report.document import Answer, Bullets, Column, Document, Section, Table
from gim_bench.report.markdown import as_markdown
from gim_bench.report.webpage import as_html
from tests.report.cells import Suite, cell, config, provenance, report_on

RECORDS_MD = Path(__file__).parents[2] / "docs" / "records.md"
# Fields of a record that these cells have nothing in.
NOTHING = {"losses": [], "inside": [], "probe_curves": {}, "files": {}, "sweeps": {}}
HOSTILE = "<script>alert('x')</script> & more"


def rows(records, **options):
    return list(csv.DictReader(io.StringIO(report_on(records, fmt="csv", **options))))


def test_json_gives_back_every_cell():
    values = {"accuracy": 60.25, "train/steps": 900.0}
    failed = cell("cpc", seed=3, metrics={}, status=Status.FAILED, error="no")
    norms = {"module_1": {"module_1": 0.25}}
    done = cell(metrics=values, isolation=norms)
    first, second = json.loads(report_on([done, failed], fmt="json"))
    assert first == {
        **NOTHING,
        "suite": "quickstart",
        "method": "gim",
        "dataset": "photos",
        "seed": 0,
        "key": "gim0",
        "status": "done",
        "error": None,
        "fits": True,
        "metrics": values,
        "config": config("gim"),
        "provenance": provenance(),
        "protocol": Suite.protocol,
        "isolation": norms,
    }
    assert (second["status"], second["error"], second["metrics"]) == ("failed", "no", {})


# case 11
def test_json_has_the_fields_that_the_page_on_records_lists():
    """Those of a record: a field that is added to records is given, and has to be described."""
    table = RECORDS_MD.read_text().partition("`report --format json` prints a list")[2]
    names = re.findall(r"(?m)^\| ((?:`\w+`(?:, )?)+) \|", table.partition("\n\nA metric")[0])
    documented = {name for cell in names for name in re.findall(r"\w+", cell)}
    (found,) = json.loads(report_on([cell(metrics={})], fmt="json"))
    assert set(found) == documented == {field.name for field in fields(Record)}


# case 11
def test_json_gives_losses_curves_files_and_sweeps_as_the_record_has_them():
    given = {
        "losses": [{"epoch": 1, "module_1": 2.5}],
        "inside": [{"epoch": 0, "effective_rank/module_1": 3.5}],
        "probe_curves": {"module_1": [[0.001, 40.0], [0.01, 50.0]]},
        "files": {"encoder.safetensors": "3b1f"},
        "sweeps": {"module_1": {"best": {"learning_rate": 0.01}}},
    }
    record = cell(metrics={}, **given)
    for chosen in ([], ["accuracy"]):
        (found,) = json.loads(report_on([record], fmt="json", metrics=chosen))
        assert {name: found[name] for name in given} == given


def test_json_holds_no_nan():
    record = cell(
        metrics={"accuracy": float("nan"), "loss": 2.0},
        config={"a": [1.0, float("inf")]},
        provenance={"b": {"c": float("nan")}},
        isolation={"module_1": {"module_1": float("nan")}},
    )
    (found,) = json.loads(report_on([record], fmt="json"), parse_constant=refuse)
    assert found["metrics"] == {"loss": 2.0}
    assert found["config"] == {"a": [1.0, None]}
    assert found["provenance"] == {"b": {"c": None}}
    assert found["isolation"] == {"module_1": {"module_1": None}}


def refuse(constant):
    raise AssertionError(constant)


def test_csv_has_a_line_for_each_cell_and_metric_with_unit_and_direction():
    first, second = rows([cell(metrics={"accuracy": 60.25, "loss/module_1": 2.5})])
    assert first == {
        "suite": "quickstart",
        "method": "gim",
        "dataset": "photos",
        "seed": "0",
        "key": "gim0",
        "status": "done",
        "metric": "accuracy",
        "value": "60.25",
        "unit": "%",
        "better": "higher",
    }
    assert (second["metric"], second["unit"], second["better"]) == (
        "loss/module_1", "nats", "lower",
    )  # fmt: skip


def test_metrics_of_targets_are_in_every_format():
    values = {"phone_accuracy": 60.25, "speaker_accuracy/module_6": 98.5, "speaker_loss": 0.75}
    record = cell(metrics=values)
    (found,) = json.loads(report_on([record], fmt="json"))
    assert found["metrics"] == values
    assert [
        (row["metric"], row["value"], row["unit"], row["better"]) for row in rows([record])
    ] == [
        ("phone_accuracy", "60.25", "%", "higher"),
        ("speaker_accuracy/module_6", "98.5", "%", "higher"),
        ("speaker_loss", "0.75", "nats", "lower"),
    ]
    page = report_on([record], fmt="html")
    assert "<td class=number>60.2</td>" in page
    assert "phone, linear probe" in page


def test_csv_keeps_a_failed_cell_in_sight():
    (row,) = rows([cell(metrics={}, status=Status.FAILED, error="x")])
    assert (row["status"], row["metric"], row["value"]) == ("failed", "", "")


def test_csv_and_json_keep_the_chosen_metrics_only():
    records = [cell(metrics={"accuracy": 60.0, "accuracy/module_1": 55.0})]
    assert [row["metric"] for row in rows(records, metrics=["accuracy"])] == ["accuracy"]
    (found,) = json.loads(report_on(records, fmt="json", metrics=["accuracy"]))
    assert found["metrics"] == {"accuracy": 60.0}


def test_csv_tolerates_a_metric_of_another_version():
    (row,) = rows([cell(metrics={"forgotten": 1.0})])
    assert (row["metric"], row["value"], row["unit"]) == ("forgotten", "1.0", "")


def test_html_escapes_text_wherever_it_stands():
    table = Table(columns=[Column(heading=HOSTILE, numeric=False)], rows=[[HOSTILE]])
    answer = Answer(question=HOSTILE, verdict=HOSTILE, sentences=[HOSTILE])
    section = Section(title=HOSTILE, blocks=[HOSTILE, Bullets([HOSTILE]), table, answer])
    page = as_html(Document(title=HOSTILE, summary=[HOSTILE], sections=[section]))
    assert page.count("<script") == 1  # the page's own
    # Titles, a paragraph, a list, a table and its name, an answer and its parts.
    assert page.count("&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; more") == 12


def test_html_shows_numbers_and_failures_of_records():
    records = [
        cell("gim", metrics={"accuracy": 60.0}),
        cell("cpc", metrics={}, status=Status.FAILED, error=HOSTILE),
    ]
    page = report_on(records, fmt="html")
    assert "<td class=number>60.0</td>" in page
    assert "cpc, seed 0 failed: &lt;script&gt;" in page


def test_html_needs_nothing_from_elsewhere_and_closes_its_tags():
    page = report_on([cell(metrics={"accuracy": 60.0})], fmt="html")
    assert "http" not in page
    assert "prefers-color-scheme" in page or "light dark" in page
    assert TagBalance().check(page) == []


class TagBalance(HTMLParser):
    """Lists the elements that are left open."""

    def check(self, page: str) -> list[str]:
        self.open: list[str] = []
        self.feed(page)
        return self.open

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_backslashes_of_a_text_undo_no_escape_of_markdown():
    table = Table(columns=[Column(heading="a")], rows=[[r"x\|y <b>"]])
    document = Document(title="t", summary=[r"\<b> and \\<i>", table], sections=[])
    _, text, *_, row = as_markdown(document).split("\n\n")
    assert text == r"\\\<b> and \\\\\<i>"
    assert row.splitlines()[-1].strip("| ") == r"x\\\|y \<b>"
