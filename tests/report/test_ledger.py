"""The ledger: each published number, ours, and what the two say about each other."""

from dataclasses import replace

import pytest

from gim_bench.records.protocols import READ_UNDER
from gim_bench.records.record import Status
from gim_bench.records.statistics import summarise_metrics
from gim_bench.report import published
from gim_bench.report.columns import Row
from gim_bench.report.ledger import LEGEND, Verdict, entries
from gim_bench.report.tags import Tag
from gim_bench.settings.schema import Deviation
from gim_bench.settings.shipped import shipped_suites
from gim_bench.settings.suites import load_suite
from tests.report.cells import Suite, cell, config, provenance, report_on
from tests.report.test_tables import markdown, table

TITLE = "Ledger of published numbers"
DEVIATIONS = "Known deviations from what is published"
HALVED = Deviation(about="batch", paper="128", released="32", ours="The batch is halved.")


def test_the_legend_explains_every_verdict():
    assert {entry.partition(":")[0] for entry in LEGEND} == {*Verdict, "difference"}


def as_in(name, method, *, epochs=6, **probe):
    """A configuration with the data and the probe of a paper."""
    return config(method, epochs=epochs) | {
        "dataset": {"name": name},
        "probe": {"standardise": False} | probe,
    }


def seeds(method, *accuracies, **changes):
    changes = {"config": as_in("stl10", method)} | changes
    return [
        cell(method, seed=s, metrics={"accuracy": x}, **changes) for s, x in enumerate(accuracies)
    ]


def test_every_number_of_the_paper_has_a_row():
    """gim: mean 81.8, std 0.1. Its error is √(0.01/3 + 0.09/4) = 0.1607.

    The quantiles of Student's t are 2.9200 and 2.3534 (0.95; 2 and 3 degrees of freedom), and their
    mean, weighted by variance, is 2.4265: ± 0.390, and 0.05 for the rounding.
    """
    records = [*seeds("gim", 81.7, 81.8, 81.9), *seeds("supervised", 60.0, 60.0), *seeds("cpc", 80)]
    records += seeds("random_init", 27.0, 27.0, config=as_in("stl10", "random_init", epochs=5))
    page = markdown(records, published=("loewe2019/table1",))
    assert table(page, TITLE) == [
        ["method", "metric", "paper", "ours", "difference", "verdict"],
        ["deep_infomax", "linear probe, %", "78.2", "–", "–", "not run"],
        ["predsim", "linear probe, %", "80.8", "–", "–", "not run"],
        ["random_init", "linear probe, %", "27.0", "27.0 ± 0.0", "–", "not comparable"],
        ["supervised", "linear probe, %", "71.4", "60.0 ± 0.0", "-11.4 ± 0.1", "different"],
        ["greedy_supervised", "linear probe, %", "65.2", "–", "–", "not run"],
        ["cpc", "linear probe, %", "80.5 ± 3.1", "80.0", "-0.5", "inconclusive"],
        ["gim", "linear probe, %", "81.9 ± 0.3", "81.8 ± 0.1", "-0.1 ± 0.4", "equivalent"],
        ["gim_iterative", "linear probe, %", "79.8", "–", "–", "not run"],
    ]
    assert "\n- linear probe, margin 1 %: half of the 2.1 points between gim and" in page
    assert "\n- not comparable, random_init: settings are not the suite's\n" in page


def test_a_row_of_which_a_seed_failed_has_no_verdict():
    lost = cell("gim", seed=3, metrics={}, status=Status.FAILED, config=as_in("stl10", "gim"))
    records = [*seeds("gim", 81.7, 81.8, 81.9), lost]
    assert verdict_of(records, reason="seed 3 failed and is in no mean") == "not comparable"


def test_a_row_of_the_suite_is_implemented_whatever_its_name():
    methods = (*Suite.methods, "infopro_softmax")
    page = report_on(
        seeds("gim", 80.0), suite=Suite(published=("wang2021/stl10_k2",), methods=methods)
    )
    verdicts = {row[0]: row[-1] for row in table(page, TITLE)}
    assert verdicts["infopro_softmax"] == "not run"
    assert verdicts["infopro_contrast"] == "not implemented"


def verdict_of(records, method="gim", *, reason):
    """The verdict on a method; the reason stands below the table."""
    page = markdown(records, published=("loewe2019/table1",))
    assert f"- not comparable, {method}: {reason}\n" in page
    return {row[0]: row[-1] for row in table(page, TITLE)}[method]


def test_seeds_that_saw_different_data_are_not_comparable():
    records = seeds("gim", 81.9)
    records += [replace(records[0], seed=1, provenance=provenance(data_sha256="x"))]
    assert verdict_of(records, reason="the seeds saw different data") == "not comparable"


def test_a_part_of_the_papers_data_is_not_comparable():
    """Ten speakers are easier to tell apart than the paper's 251."""
    part = provenance(data_incomplete="900 of the 28,539 utterances")
    records = seeds("gim", 81.9, 81.9, provenance=part)
    reason = "data: 900 of the 28,539 utterances"
    assert verdict_of(records, reason=reason) == "not comparable"
    page = markdown(records, published=("loewe2019/table1",))
    assert "…, not all of it: 900 of the 28,539 utterances\n" in page


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"probe": {"standardise": True}}, "probe.standardise is True"),
        (
            {"probe": {"kind": "logistic_regression", "standardise": False}},
            "probe.kind is logistic",
        ),
        ({"dataset": {"name": "photos"}}, "dataset.name is photos"),
    ],
    ids=["features", "probe", "data"],
)
def test_another_probe_or_data_set_than_the_papers_is_not_comparable(changes, reason):
    """A suite of a user may name a published table."""
    records = seeds("gim", 81.9, 81.9, config=as_in("stl10", "gim") | changes)
    page = markdown(records, published=("loewe2019/table1",))
    assert {row[0]: row[-1] for row in table(page, TITLE)}["gim"] == "not comparable"
    assert f"- not comparable, gim: {reason}" in page
    assert "where Table 1 needs" in page


# -- at the learning rate of the paper's probe -----------------------------------------------------


def swept(rate=1e-3, accuracy=77.0, decay=0.0):
    """A sweep whose best rate is the paper's."""
    tried = {
        "learning_rate": rate,
        "weight_decay": decay,
        "validation_accuracy": 1.0,
        "test_accuracy": accuracy,
    }
    return {"paper": tried, "best": tried, "trials": 1, "decades_within_one_point": None}


def at_the_papers_rate(*records):
    page = markdown(records, published=("loewe2019/table1",))
    headings, *rows = table(page, TITLE)
    if "at paper's rate" not in headings:
        return None
    return {row[0]: row[headings.index("at paper's rate")] for row in rows}["gim"]


def probed(*points, seed=0, sweeps=None):
    (record,) = seeds("gim", 80.0, probe_curves={"module_1": [[1e-3, 99.0]], "module_3": [*points]})
    return replace(record, seed=seed, sweeps=sweeps or {})


def test_a_rate_that_validation_chose_gives_the_accuracy_at_the_papers_rate():
    assert at_the_papers_rate(probed([1e-4, 70.0], [1e-3, 81.0], [1e-2, 80.0])) == "80.0"


def test_another_chosen_rate_or_a_tie_says_nothing_about_the_papers_rate():
    assert at_the_papers_rate(probed([1e-3, 81.0], [1e-2, 82.0])) is None
    assert at_the_papers_rate(probed([1e-3, 81.0], [1e-2, 81.0])) is None


def test_an_accuracy_at_the_papers_rate_of_some_seeds_says_of_how_many():
    chosen, other = probed([1e-3, 81.0], [1e-2, 80.0]), probed([1e-3, 81.0], [1e-2, 82.0], seed=1)
    assert at_the_papers_rate(chosen, other) == "80.0 (1 of 2 seeds)"


def test_a_sweep_of_the_top_module_gives_the_accuracy_at_the_papers_rate():
    curve = ([1e-3, 81.0], [1e-2, 82.0])
    assert at_the_papers_rate(probed(*curve, sweeps={"module_3": swept()})) == "77.0"
    assert at_the_papers_rate(probed(*curve, sweeps={"module_1": swept()})) is None
    assert at_the_papers_rate(probed(*curve, sweeps={"module_3": swept(rate=1e-4)})) is None
    assert at_the_papers_rate(probed(*curve, sweeps={"module_3": swept(decay=0.1)})) is None


def entry_of_gim(own, under, **requires):
    """The entry of a number of the paper that has a tag, for a record and its reading by kNN."""
    under = replace(under, config={**under.config, READ_UNDER: "knn"})
    rows = [[Row("gim", [each], summarise_metrics([each]))] for each in (own, under)]
    (numbers,) = published.load(["loewe2019/table1"]).values()
    tag = Tag(dimension="head", means="a classifier", requires=requires)
    number = {("gim", "accuracy"): replace(numbers["gim", "accuracy"], tags=(tag,))}
    (found,) = entries(rows[0], number, describes=lambda _: True, known=["gim"], under=rows[1])
    return found


def test_a_result_under_another_protocol_is_not_the_accuracy_at_the_papers_rate():
    """The curves and the sweeps of a record are of the cell's own probe."""
    own = probed([1e-3, 81.0], [1e-2, 80.0], sweeps={"module_3": swept()})
    found = entry_of_gim(own, replace(own, metrics={"accuracy": 82.0}), **{READ_UNDER: "knn"})
    assert found.ours.mean == 82.0
    assert found.at_rate is None


def test_a_result_under_another_protocol_stands_only_where_a_tag_asks_for_a_protocol():
    """The tag of a linear probe requires nothing, and so fits what nearest neighbours read."""
    (own,) = seeds("gim", 81.0)
    assert entry_of_gim(replace(own, metrics={}), own).verdict is Verdict.NOT_RUN


def test_a_penalty_is_not_taken_for_the_papers_rate():
    curve = [[1e-3, 81.0], [1e-2, 80.0]]
    settings = as_in("stl10", "gim", kind="logistic_regression")
    records = seeds("gim", 80.0, config=settings, probe_curves={"module_3": curve})
    assert at_the_papers_rate(*records) is None


def test_speakers_and_phones_have_rates_of_their_own():
    curves = {
        "speaker/module_6": [[1e-3, 9.0], [1e-4, 1.0]],
        "phone/module_6": [[1e-3, 9.0], [1e-4, 1.0]],
    }
    values = {"speaker_accuracy": 99.0, "phone_accuracy": 60.0}
    record = cell("gim", metrics=values, probe_curves=curves, config=as_in("librispeech", "gim"))
    headings, *rows = table(markdown([record], published=("loewe2019/table3",)), TITLE)
    place = headings.index("at paper's rate")
    assert {row[1]: row[place] for row in rows if row[0] == "gim"} == {
        "phone, linear probe, %": "–",
        "speaker, linear probe, %": "99.0",
    }


# -- other papers and units ------------------------------------------------------------------------


TABLE_2 = Suite(published=("loewe2019/table2",))


def in_precision(precision):
    settings = config("cpc")
    return settings | {"training": settings["training"] | {"precision": precision}}


def test_memory_is_compared_in_the_paper_s_unit():
    name = "memory/gpu_allocated_over_baseline_bytes"
    metric = "GPU allocated, over its baseline, GB"
    records = [cell("cpc", metrics={name: 7.75e9}, config=in_precision("fp32"))]
    page = report_on(records, suite=TABLE_2, describes=lambda _: True)
    assert table(page, TITLE)[2] == [
        "cpc", metric, "7.70", "7.75", "+0.05 ± 0.05", "equivalent",
    ]  # fmt: skip
    assert f"- {metric.removesuffix(', GB')}, margin 0.35 GB: half of the 0.7 GB between" in page


def test_memory_that_repeats_to_the_byte_is_judged_though_a_seed_failed():
    name = "memory/gpu_allocated_over_baseline_bytes"
    records = [
        cell("cpc", metrics={name: 7.75e9}, config=in_precision("fp32")),
        cell("cpc", seed=1, metrics={}, status=Status.FAILED, config=in_precision("fp32")),
    ]
    page = report_on(records, suite=TABLE_2, describes=lambda _: True)
    assert table(page, TITLE)[2][-1] == "equivalent"


def test_memory_in_bf16_is_not_comparable_with_gpus_that_had_none():
    name = "memory/gpu_allocated_over_baseline_bytes"
    records = [cell("cpc", metrics={name: 7.75e9}, config=in_precision("bf16"))]
    page = report_on(records, suite=TABLE_2, describes=lambda _: True)
    assert "- not comparable, cpc: training.precision is bf16, where Table 2 needs fp32\n" in page


def test_each_paper_has_a_table_of_its_own():
    page = markdown(
        [cell("gim", seed=s, metrics={"phone_accuracy": 62.0 + s}) for s in (0, 1)],
        published=("loewe2019/table3", "oord2018/librispeech"),
    )
    section = page.partition(f"## {TITLE}")[2].partition("\n## ")[0]
    first, _, second = section.partition("Oord et al. 2018:\n")
    assert first.strip().startswith("Löwe et al. 2019:\n")
    assert (first.count("| gim "), second.count("| gim "), second.count("| cpc ")) == (2, 0, 2)
    assert section.count("equivalent: ") == 1


def test_known_deviations_stand_in_three_columns():
    page = markdown(seeds("gim", 80.0), published=("loewe2019/table1",), deviations=(HALVED,))
    assert table(page, DEVIATIONS) == [
        ["about", "paper", "released code", "here"],
        ["batch", "128", "32", "The batch is halved."],
    ]
    assert DEVIATIONS not in markdown(seeds("gim", 1.0), published=("loewe2019/table1",))


def test_a_suite_without_published_tables_has_no_ledger():
    page = markdown(seeds("gim", 80.0, 81.0), deviations=(HALVED,))
    assert TITLE not in page
    assert DEVIATIONS not in page


def test_a_report_on_chosen_metrics_has_no_ledger():
    page = markdown(seeds("gim", 80.0), metrics=["accuracy"], published=("loewe2019/table1",))
    assert TITLE not in page


def test_the_report_on_quickstart_never_shows_a_number_of_a_paper():
    records = [
        cell(method, seed=s, metrics={"accuracy": 60.4 + 0.2 * s, "accuracy/own_head": 61.0})
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


COMPARED = [name for name in sorted(shipped_suites()) if load_suite(name).published]


@pytest.mark.parametrize("name", COMPARED)
def test_a_shipped_suite_beside_a_paper_says_where_it_deviates(name):
    suite = load_suite(name)
    page = report_on([], suite=suite)
    assert len(suite.deviations) > 3
    assert table(page, DEVIATIONS)[1:] == [
        [each.about, each.paper, each.released, each.ours] for each in suite.deviations
    ]


@pytest.mark.parametrize("name", COMPARED)
def test_the_ledger_of_a_shipped_suite_fits_100_columns(name):
    suite = load_suite(name)
    values = {"accuracy": 80.0, "phone_accuracy": 60.0, "speaker_accuracy": 90.0}
    values |= {"memory/gpu_allocated_over_baseline_bytes": 7e9}
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
