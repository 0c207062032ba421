"""The ledger: each published number, ours, and what the two say about each other."""

from dataclasses import replace

import pytest

from gim_bench.records.statistics import summarise
from gim_bench.report import published
from gim_bench.report.ledger import LEGEND, Verdict, verdict
from gim_bench.report.published import Published
from gim_bench.settings.suites import load_suite
from tests.report.cells import Suite, cell, config, provenance, report_on
from tests.report.test_tables import markdown, table

TITLE = "Ledger of published numbers"
PAPER = Published(
    value=62.5, std=None, runs=None, table="Table 1", page=1, source="A paper", note=""
)


def judged(*values, paper=PAPER, comparable=True):
    return verdict(summarise(values) if values else None, paper, comparable=comparable)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # Mean 62, std √2 and t(0.975, 1) = 12.7062: ± 12.7062.
        ((61.0, 63.0), Verdict.REPRODUCED),
        # The same ± 12.7062 around 75.2 ends at 62.494, and around 75.3 at 62.594.
        ((74.2, 76.2), Verdict.REPRODUCED),
        ((74.3, 76.3), Verdict.DIFFERS),
        # Around 49.8 it ends at 62.506, and around 49.7 at 62.406.
        ((48.8, 50.8), Verdict.REPRODUCED),
        ((48.7, 50.7), Verdict.DIFFERS),
        # No spread: only the very number.
        ((62.5, 62.5), Verdict.REPRODUCED),
        ((62.6, 62.6), Verdict.DIFFERS),
    ],
)
def test_reproduced_is_a_paper_s_number_within_our_interval(values, expected):
    assert judged(*values) is expected


def test_reproduced_is_also_our_mean_within_the_paper_s_own_spread():
    """Seeds of 60.0 and 60.02 have a narrow interval of ± 0.13; the paper says 62.5 ± 3.1."""
    assert judged(60.0, 60.02) is Verdict.DIFFERS
    assert judged(60.0, 60.02, paper=replace(PAPER, std=3.1)) is Verdict.REPRODUCED
    assert judged(59.0, 59.02, paper=replace(PAPER, std=3.1)) is Verdict.DIFFERS
    assert judged(66.0, 66.02, paper=replace(PAPER, std=3.1)) is Verdict.DIFFERS


def test_one_seed_is_too_few_even_for_the_very_number():
    assert judged(62.5) is Verdict.TOO_FEW_SEEDS
    assert judged(62.5, paper=replace(PAPER, std=3.1)) is Verdict.TOO_FEW_SEEDS


def test_other_settings_come_before_any_number():
    assert judged(62.5, 62.5, comparable=False) is Verdict.NOT_COMPARABLE
    assert judged(62.5, comparable=False) is Verdict.NOT_COMPARABLE


def test_without_a_number_of_ours_there_is_nothing_to_compare():
    assert judged() is Verdict.NOT_RUN
    assert judged(comparable=False) is Verdict.NOT_RUN


def test_the_legend_explains_every_verdict():
    assert {entry.partition(":")[0] for entry in LEGEND} == {*Verdict, "difference"}


def seeds(method, *accuracies, **changes):
    return [
        cell(method, seed=s, metrics={"accuracy": x}, **changes) for s, x in enumerate(accuracies)
    ]


def test_every_number_of_the_paper_has_a_row():
    """gim: mean 81, std 1, t(0.975, 2)/√3 = 2.4841; supervised is far off."""
    records = [*seeds("gim", 80.0, 81.0, 82.0), *seeds("supervised", 60.0, 60.0), *seeds("cpc", 80)]
    records += seeds("random_init", 27.0, 27.0, config=config("random_init", epochs=5))
    page = markdown(records, published=("loewe2019/table1",))
    assert table(page, TITLE) == [
        ["method", "metric", "paper", "ours", "difference", "verdict"],
        ["deep_infomax", "linear probe, %", "78.2", "–", "–", "not run"],
        ["predsim", "linear probe, %", "80.8", "–", "–", "not run"],
        ["random_init", "linear probe, %", "27.0", "27.0 ± 0.0", "–", "not comparable"],
        ["supervised", "linear probe, %", "71.4", "60.0 ± 0.0", "-11.4 ± 0.0", "differs"],
        ["greedy_supervised", "linear probe, %", "65.2", "–", "–", "not run"],
        ["cpc", "linear probe, %", "80.5 ± 3.1", "80.0", "-0.5", "too few seeds"],
        ["gim", "linear probe, %", "81.9 ± 0.3", "81.0 ± 1.0", "-0.9 ± 2.5", "reproduced"],
        ["gim_iterative", "linear probe, %", "79.8", "–", "–", "not run"],
    ]


def test_seeds_that_saw_different_data_are_not_comparable():
    records = seeds("gim", 81.9)
    records += [
        cell("gim", seed=1, metrics={"accuracy": 81.9}, provenance=provenance(data_sha256="x"))
    ]
    page = markdown(records, published=("loewe2019/table1",))
    assert table(page, TITLE)[7][-1] == "not comparable"


def test_a_part_of_the_papers_data_is_not_comparable():
    """Ten speakers are easier to tell apart than the paper's 251."""
    part = provenance(data_incomplete="900 of the 28,539 utterances")
    page = markdown(seeds("gim", 81.9, 81.9, provenance=part), published=("loewe2019/table1",))
    assert table(page, TITLE)[7][-1] == "not comparable"
    assert "…, not all of it: 900 of the 28,539 utterances\n" in page


def test_memory_is_compared_in_the_paper_s_unit():
    name = "memory/gpu_allocated_peak_bytes"
    records = [cell("cpc", seed=s, metrics={name: b}) for s, b in enumerate((7.6e9, 7.8e9, 7.6e9))]
    page = markdown(records, published=("loewe2019/table2",))
    assert table(page, TITLE)[2] == [
        "cpc", "GPU allocated, GB", "7.70", "7.67", "-0.03 ± 0.29", "reproduced",
    ]  # fmt: skip


def test_each_paper_has_a_table_of_its_own():
    page = markdown(
        [cell("gim", seed=s, metrics={"phone_accuracy": 62.0 + s}) for s in (0, 1)],
        published=("loewe2019/table3", "oord2018/librispeech"),
    )
    section = page.partition(f"## {TITLE}")[2].partition("\n## ")[0]
    first, _, second = section.partition("Oord et al. 2018:\n")
    assert first.strip().startswith("Löwe et al. 2019:\n")
    assert (first.count("| gim "), second.count("| gim "), second.count("| cpc ")) == (2, 0, 2)
    assert section.count("reproduced: ") == 1


def test_known_deviations_stand_below_the_verdicts():
    page = markdown(
        seeds("gim", 80.0), published=("loewe2019/table1",), deviations=("The batch is halved.",)
    )
    assert "Known deviations from what the papers describe:\n\n- The batch is halved.\n" in page
    assert "Known deviations" not in markdown(seeds("gim", 1.0), published=("loewe2019/table1",))


def test_a_suite_without_published_tables_has_no_ledger():
    page = markdown(seeds("gim", 80.0, 81.0), deviations=("The batch is halved.",))
    assert TITLE not in page
    assert "halved" not in page


def test_a_report_on_chosen_metrics_has_no_ledger():
    page = markdown(seeds("gim", 80.0), metrics=["accuracy"], published=("loewe2019/table1",))
    assert TITLE not in page


def test_the_report_on_quickstart_never_shows_a_number_of_a_paper():
    records = [
        cell(method, seed=s, metrics={"accuracy": 60.0 + s, "accuracy/own_head": 61.0})
        for method in Suite.methods
        for s in (0, 1)
    ]
    suite = load_suite("quickstart")
    for fmt in ("md", "html"):
        page = report_on(records, suite=suite, fmt=fmt)
        assert "60.5" in page
        assert "Löwe" not in page
        for numbers in published.load(["loewe2019/table1", "loewe2019/table2"]).values():
            for (_, name), number in numbers.items():
                factor = 1e-9 if name.startswith("memory") else 1.0
                assert f"{number.value * factor:.1f}" not in page


COMPARED = [name for name in ("stl10", "librispeech", "memory") if load_suite(name).published]


@pytest.mark.parametrize("name", COMPARED)
def test_a_shipped_suite_beside_a_paper_says_where_it_deviates(name):
    suite = load_suite(name)
    page = report_on([], suite=suite)
    assert len(suite.deviations) > 3
    for deviation in suite.deviations:
        assert f"- {deviation}\n" in page


@pytest.mark.parametrize("name", COMPARED)
def test_the_ledger_of_a_shipped_suite_fits_100_columns(name):
    suite = load_suite(name)
    values = {"accuracy": 80.0, "phone_accuracy": 60.0, "speaker_accuracy": 90.0}
    values |= {"memory/gpu_allocated_peak_bytes": 7e9}
    records = [
        cell(method, seed=s, metrics={n: v * (1 + s / 9) for n, v in values.items()})
        for method in suite.methods
        for s in (0, 1)
    ]
    alike = Suite(published=suite.published, methods=suite.methods)
    page = report_on(records, suite=alike)
    lines = page.partition(f"## {TITLE}")[2].partition("\n## ")[0].splitlines()
    assert max(len(line) for line in lines if line.startswith("|")) <= 100


def test_a_suite_without_published_tables_lists_no_deviations():
    for name in ("quickstart", "quickstart-audio", "folder", "folder-audio"):
        assert load_suite(name).deviations == ()
