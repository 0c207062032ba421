"""The section on learning rates, and the evidence that it reads."""

import json
from dataclasses import replace

import pytest

from gim_bench.errors import ConfigError
from gim_bench.report import check_sources, rates
from gim_bench.report.rates import NOT_TUNED, load_evidence, settings_of_rows, settings_sha256
from tests.report.cells import Suite, cell, config, provenance, report_on
from tests.tiny_suite import tiny_cell, tiny_suite

TRIED = [(1e-3, 40.0), (3e-3, 60.0), (1e-2, 50.0)]


def table(best=3e-3, tried=TRIED):
    """Evidence for GIM."""
    return {
        "suite": "quickstart",
        "space": "1e-3,3e-3,1e-2",
        "trials": 3,
        "seeds": [0, 1],
        "date": "2026-11-26T10:00:00+00:00",
        "results_version": 7,
        "data_sha256": provenance()["data_sha256"],
        "provenance": {"git_commit": "abcdef0123456789"},
        "methods": {
            "gim": {
                "learning_rate": best,
                "settings": "0" * 64,
                "tried": [
                    {
                        "learning_rate": rate,
                        "validation_accuracy": {"0": accuracy and accuracy - 1, "1": accuracy},
                        "reasons": {},
                    }
                    for rate, accuracy in tried
                ],
            }
        },
    }


@pytest.fixture
def tuned(tmp_path, monkeypatch):
    """Writes evidence under the name "tuned"."""
    monkeypatch.setattr(rates, "results_folder", lambda name: tmp_path)

    def write(**of):
        (tmp_path / "tuned.json").write_text(json.dumps(table(**of)))

    return write


def trained(method="gim", *, rate=3e-3):
    settings = config(method)
    settings["training"]["learning_rate"] = rate
    return cell(method, metrics={"accuracy": 50.0, "train/steps": 10}, config=settings)


def rows(*records, tuned="tuned", settings=None):
    """The rows of the section, each as its cells."""
    text = report_on(list(records), suite=Suite(tuned=tuned), settings=settings)
    section = text.partition("## Learning rates")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[each.strip() for each in line.strip("|").split("|")] for line in lines]


def test_a_tuned_rate_stands_beside_its_neighbours(tuned):
    tuned()
    assert rows(trained()) == [
        ["gim", "0.003", "39.5 (0.001)", "59.5 (0.003)", "49.5 (0.01)", ""],
    ]


def test_the_space_the_trials_and_the_seeds_stand_below_the_table(tuned):
    tuned()
    assert (
        "in suite quickstart: each row tried 1e-3,3e-3,1e-2 (3 trials) with seeds 0, 1, at commit"
    ) in report_on([trained()], suite=Suite(tuned="tuned"))


def test_commits_of_trials_that_differ_stand_beside_each_other(tuned, tmp_path):
    tuned()
    several = {**table(), "provenance": {"git_commit": ["abcdef0123456789", "b" * 40, None]}}
    (tmp_path / "tuned.json").write_text(json.dumps(several))
    page = report_on([trained()], suite=Suite(tuned="tuned"))
    assert "at commit abcdef012345, bbbbbbbbbbbb, unknown (results version 7)" in page


@pytest.mark.parametrize(
    ("accuracies", "best", "edge"), [((9, 8, 7), 1e-3, "lowest"), ((7, 8, 9), 1e-2, "highest")]
)
def test_a_rate_at_the_edge_of_the_space_is_remarked_upon(accuracies, best, edge, tuned):
    tuned(best=best, tried=list(zip((1e-3, 3e-3, 1e-2), accuracies, strict=True)))
    (row,) = rows(trained(rate=best))
    assert row[-1] == f"the {edge} of the space"


def test_a_rate_that_the_evidence_did_not_choose_is_remarked_upon(tuned):
    tuned()
    (row,) = rows(trained(rate=1e-2))
    assert row[-1] == "not the chosen rate, which is 0.003"


def on_other_data():
    return replace(trained(), provenance=provenance(data_sha256="f" * 64))


def test_a_rate_that_was_tuned_on_other_data_is_remarked_upon(tuned):
    tuned()
    (row,) = rows(on_other_data())
    assert row[-1] == "tuned on other data"


def test_a_rate_that_was_tuned_with_other_settings_is_remarked_upon(tuned):
    tuned()
    (row,) = rows(trained(), settings={"gim": "f" * 64})
    assert row[-1] == "tuned on other settings"
    (row,) = rows(on_other_data(), settings={"gim": "f" * 64})
    assert row[-1] == "tuned on other data and settings"


def test_a_rate_that_was_tuned_at_another_results_version_is_remarked_upon(tuned):
    tuned()
    (row,) = rows(replace(trained(), provenance=provenance(results_version=8)))
    assert row[-1] == "tuned at results version 7, not 8"
    (row,) = rows(replace(trained(), provenance=provenance(results_version=7)))
    assert row[-1] == ""


def test_settings_that_are_the_evidences_are_not_remarked_upon(tuned):
    tuned()
    assert rows(trained(), settings={"gim": "0" * 64})[0][-1] == ""


def test_the_top_of_the_report_names_rows_that_were_tuned_elsewhere(tuned):
    tuned()
    line = "Learning rates TUNED ELSEWHERE, see below: gim"
    assert line in report_on([on_other_data()], suite=Suite(tuned="tuned")).partition("\n## ")[0]
    assert "ELSEWHERE" not in report_on([trained()], suite=Suite(tuned="tuned"))


def test_settings_of_rows_are_those_that_a_sweep_writes(tmp_path):
    suite = tiny_suite(tmp_path, 'tuned="tuned"')
    assert settings_of_rows(suite) == {
        name: settings_sha256(tiny_cell(suite, name).config) for name in ("gim", "random_init")
    }
    assert settings_of_rows(tiny_suite(tmp_path)) == {}


def test_a_neighbour_that_failed_with_a_seed_has_no_mean(tuned):
    tuned(tried=[(1e-3, None), (3e-3, 60.0), (1e-2, 50.0)])
    (row,) = rows(trained())
    assert row[2] == "failed (0.001)"


def test_rows_without_evidence_have_the_suites_rate(tuned):
    tuned()
    assert rows(trained("cpc"))[0][-1] == NOT_TUNED
    assert rows(trained("cpc"), tuned=None)[0][-1] == NOT_TUNED


def test_rows_that_nothing_is_trained_in_have_no_rate(tuned):
    tuned()
    untrained = cell("random_init", metrics={"accuracy": 10.0})
    assert [row[0] for row in rows(trained(), untrained)] == ["gim"]
    assert "## Learning rates" not in report_on([untrained])


def test_evidence_that_is_not_there_is_one_line(tuned):
    tuned()
    with pytest.raises(ConfigError, match=r"no evidence of tuning 'tund'.*'tuned'"):
        load_evidence("tund")


@pytest.mark.parametrize("named", [{"tuned": "tund"}, {"published": ("loewe2019/table0",)}])
def test_sources_that_are_not_there_are_refused_without_any_record(named, tuned):
    tuned()
    check_sources(Suite(tuned="tuned", published=("loewe2019/table1",)))
    with pytest.raises(ConfigError):
        check_sources(Suite(**named))


@pytest.mark.parametrize("content", ["no JSON", "{}", json.dumps(table(best=1e-2))])
def test_evidence_that_is_wrong_is_one_line(content, tuned, tmp_path):
    (tmp_path / "tuned.json").write_text(content)
    with pytest.raises(ConfigError, match=r"tuned\.json") as told:
        load_evidence("tuned")
    assert "\n" not in str(told.value)


def test_a_record_that_names_no_rate_has_no_row():
    record = cell("gim", metrics={"accuracy": 50.0, "train/steps": 10})
    assert "Learning rates" not in report_on([record])
