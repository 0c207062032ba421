"""A verdict as text, Markdown, JSON and JUnit's XML."""

import json
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from gim_bench.check.formats import VERDICTS, render
from gim_bench.check.judge import judge
from gim_bench.errors import ConfigError
from tests.check.cells import cells, moved, reference_of
from tests.tiny_suite import tiny_suite


@pytest.fixture(scope="module")
def verdict(tmp_path_factory):
    """An accuracy is worse, and the reference does not know a method."""
    suite = tiny_suite(tmp_path_factory.mktemp("suite"))
    records = cells(suite)
    now = [*moved(records, "accuracy", factor=0.8), *cells(suite, methods=["cpc"])]
    larger = suite.model_copy(update={"methods": ("gim", "random_init", "cpc")})
    return judge(now, reference_of(records, suite=suite), suite=larger)


def test_text_begins_with_the_metrics_that_are_worse_and_by_how_much(verdict):
    lines = render(verdict, "text").splitlines()
    assert lines[0] == "Check of tiny: worse"
    assert "against the reference of commit" in lines[2]
    assert lines[2].endswith("(the tests)")
    worse = lines[lines.index("Worse") + 1]
    assert worse.startswith("  gim accuracy, %: 61.0 ± 0.6 (3), now 48.8 ± 0.5 (3): -12.2 where ")
    assert lines[lines.index("Cannot be judged") + 1].startswith("  cpc reference: not in the")


def test_the_columns_of_the_text_are_aligned_and_the_worst_comes_first(verdict):
    lines = render(verdict, "text").splitlines()
    first = lines.index("Compared") + 1
    heading, worst, *_ = rows = lines[first : first + 13]
    assert worst.split()[:2] == ["gim", "accuracy,"]
    assert len({row[heading.index("verdict") - 2 :][:2] for row in rows}) == 1


def test_markdown_has_the_same_in_a_table(verdict):
    text = render(verdict, "md")
    assert text.startswith("# Check of tiny: worse")
    (row,) = [line for line in text.splitlines() if line.startswith("|") and "worse" in line]
    assert "61.0 ± 0.6 (3)" in row


def test_a_comment_is_the_same_markdown_after_a_hidden_marker(verdict):
    first, rest = render(verdict, "comment").split("\n", 1)
    assert first == "<!-- gim_bench check tiny -->"
    assert rest == render(verdict, "md")


def test_a_comment_that_github_would_refuse_has_no_tables(verdict, monkeypatch):
    monkeypatch.setattr("gim_bench.check.formats.LONGEST_COMMENT", 2_000)
    text = render(verdict, "comment")
    assert len(text) <= 2_000
    assert "- gim accuracy, %: 61.0 ± 0.6 (3), now 48.8" in text
    assert text.endswith("Too long for a comment: `check --format md` prints them.")
    assert "|" not in text


def test_the_number_of_false_alarms_to_expect_is_stated(verdict):
    legend = render(verdict, "text").splitlines()[-1]
    assert "12 comparisons share a chance of 1% (0.00083 each)" in legend
    assert "0.01 false alarms" in legend


def test_memory_is_printed_in_megabytes(verdict):
    assert "memory/host_over_baseline_bytes, MB" in render(verdict, "text")
    assert "1,000.0 ± 10.0 (3)" in render(verdict, "text")


def test_json_holds_every_number_in_its_own_unit(verdict):
    table = json.loads(render(verdict, "json"))
    assert (table["suite"], table["outcome"]) == ("tiny", "worse")
    by_cell = {(c["method"], c["metric"]): c for c in table["compared"]}
    found = by_cell["gim", "accuracy"]
    assert (found["outcome"], found["unit"], found["kind"]) == ("worse", "%", "accuracy")
    assert found["difference"] == pytest.approx(-12.2)
    assert found["reference"] == pytest.approx({"mean": 61.0, "std": 0.61, "n": 3})
    assert table["findings"][0]["method"] == "cpc"
    assert table["reference"]["reason"] == "the tests"


def test_junit_has_a_case_for_each_metric_and_finding(verdict):
    suite = ET.fromstring(render(verdict, "junit"))  # noqa: S314 - our own
    assert suite.tag == "testsuite"
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("13", "1", "1")
    cases = {(case.get("classname"), case.get("name")): case for case in suite}
    assert len(cases) == 13
    failure = cases["tiny.gim", "accuracy"].find("failure")
    assert "now 48.8" in failure.get("message")
    assert cases["tiny.cpc", "reference"].find("error") is not None
    assert len(cases["tiny.gim", "loss"]) == 0


def test_junit_is_xml_whatever_a_reason_or_an_error_says(verdict):
    """Colours of a terminal, for one, are no characters of XML."""
    told = replace(verdict.findings[0], message="\x1b[31mno\x00")
    reference = verdict.reference.model_copy(update={"reason": "it \x07 rang"})
    page = render(replace(verdict, findings=[told], reference=reference), "junit")
    error = ET.fromstring(page).find(".//error")  # noqa: S314 - our own
    assert error.get("message") == r"\x1b[31mno\x00"
    assert r"it \x07 rang" in error.text


@pytest.mark.parametrize(
    ("unit", "shown"), [("nats", "loss, nats"), ("bits", "loss, bits"), ("", "loss ")]
)
def test_a_loss_is_printed_in_the_unit_of_its_objective(unit, shown, verdict):
    compared = [replace(c, unit=unit) for c in verdict.compared if c.metric == "loss"]
    told = replace(verdict, compared=compared)
    assert f"gim          {shown}" in render(told, "text")
    assert {c["unit"] for c in json.loads(render(told, "json"))["compared"]} == {unit}


def test_an_unknown_format_is_answered_with_the_known_ones(verdict):
    with pytest.raises(ConfigError, match=r"no format 'xml'.*junit"):
        render(verdict, "xml")
    assert all(render(verdict, fmt) for fmt in VERDICTS)
