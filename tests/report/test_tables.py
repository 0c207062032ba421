"""The report on records, read as Markdown."""

from dataclasses import replace

import pytest

from gim_bench.errors import ConfigError
from gim_bench.records.record import Status
from gim_bench.report import has_interval
from tests.report.cells import Suite, cell, config, provenance, report_on

GOLDEN = """\
# Suite quickstart

**Does it work?** Not known. gim reaches 64.0 ± 12.7 % (2 seeds). Against end to end: cpc, which \
trains its objective end to end, has no finished cell. Run `python -m gim_bench run --suite \
quickstart --method cpc`. Against untrained: random_init with one seed has no interval. Run \
`python -m gim_bench run --suite quickstart --method random_init --seeds 3`.

**What does it cost?** Not known. Training gim takes 61.0 ± 12.7 s. Against end to end: cpc, which \
trains its objective end to end, has no finished cell. Run `python -m gim_bench run --suite \
quickstart --method cpc`. Energy: not measured: the records are older than its measurement.

**What does it save?** Not known. No answer, because gim has no peak of memory. Run \
`python -m gim_bench run --suite memory`.

In the answers, ± is half of a 95 % interval, and brackets after a ratio hold one; where two rows \
are compared, the interval is corrected by Holm. In the tables below, ± after a number is a \
standard deviation over seeds.

Figure (drawn by --format html): Accuracy over time of training

- Protocol: linear probe on frozen features; test set read once
- Data: photos, sha256 0123456789ab…
- Code: commit abcdef012345; torch 2.12.1
- Machine: A CPU, 2 threads, device cpu, fp32

## Test error by module (Figure 4)

Figure (drawn by --format html): Test error of every module

## Accuracy: % of all test examples, features of the top module

| method      | seeds | linear probe | 95% CI, seeds | own head |
|-------------|------:|-------------:|--------------:|---------:|
| gim         |     2 |   64.0 ± 1.4 |        ± 12.7 |        – |
| supervised  |     1 |         58.0 |             – |     59.2 |
| random_init |     1 |         52.0 |             – |        – |

± after a number is the standard deviation over seeds (n - 1).

95% CI is the half width of the confidence interval of the mean. It covers the choice of seeds and \
of test examples, unless it says that it covers one of them alone.

One seed only (supervised, random_init): no interval covers seeds, and small differences may be \
chance.

## Differences on the same test examples: each method less gim, in points of %

| method      | metric       | difference |   95% CI |   p | detects | seeds |
|-------------|--------------|-----------:|---------:|----:|--------:|------:|
| supervised  | linear probe |       -6.0 | one seed |   – |       – |  1; 2 |
| random_init | linear probe |      -12.0 | one seed |   – |       – |  1; 2 |

## What each method was given

| method      | trained on    | labels | steps |
|-------------|---------------|-------:|------:|
| gim         | unlabelled    |      0 | 1,200 |
| supervised  | labelled only |    300 |   100 |
| random_init | nothing       |      – |     – |

All differences here follow from what methods and rows declare.

## Accuracy by module: linear probe, %

| method |   module 1 |   module 2 |
|--------|-----------:|-----------:|
| gim    | 56.0 ± 0.0 | 64.0 ± 1.4 |

## Time

| method      |    train s |
|-------------|-----------:|
| gim         | 61.0 ± 1.4 |
| supervised  |       60.5 |
| random_init |          – |

## Not in the tables

- cpc, seed 0 failed: the loss of module_3 is nan at step 12
- greedy_supervised, seed 0 is running or was interrupted

## Were the settings identical?

Not in everything: the rows differ in budget, labels and seeds. gim takes 12 times as many \
optimiser steps as supervised. Without optimiser steps, and so without a budget: random_init.

| kind   | setting              | values                                                      \
| declared by |
|--------|----------------------|-------------------------------------------------------------\
|-------------|
| budget | train/steps          | 1,200: gim; 100: supervised                                 \
| the method  |
| labels | method.trains_on     | unlabelled: gim; train: supervised; none: random_init       \
| the method  |
| labels | method.uses_labels   | false: gim, random_init; true: supervised                   \
| the method  |
| labels | train/labels         | 0: gim; 300: supervised                                     \
| the method  |
| seeds  | seeds                | 0, 1: gim; 0: supervised, random_init                       \
| the run     |
| method | method.objective     | info_nce: gim; cross_entropy: supervised; none: random_init \
| the method  |
| method | method.gradient_flow | isolated: gim; end_to_end: supervised; none: random_init    \
| the method  |
"""


def by_module(first: float, second: float, **others: float) -> dict[str, float]:
    return {
        "accuracy": second,
        "accuracy/module_1": first,
        "accuracy/module_2": second,
    } | {name.replace("__", "/"): value for name, value in others.items()}


def markdown(records, *, metrics=(), **suite):
    return report_on(records, suite=Suite(**suite), fmt="md", metrics=metrics)


def test_a_small_suite_reads_like_this():
    given = {"train__steps": 1200.0, "train__labels": 0.0}
    records = [
        cell("random_init", metrics={"accuracy": 52.0}),
        cell("gim", seed=0, metrics=by_module(56.0, 63.0, train__seconds=60.0, **given)),
        cell("gim", seed=1, metrics=by_module(56.0, 65.0, train__seconds=62.0, **given)),
        cell(
            "supervised",
            metrics={
                "accuracy": 58.0,
                "accuracy/own_head": 59.2,
                "train/seconds": 60.5,
                "train/steps": 100.0,
                "train/labels": 300.0,
            },
        ),
        cell(
            "cpc",
            metrics={},
            status=Status.FAILED,
            error="the loss of module_3 is nan at step 12",
        ),
        cell("greedy_supervised", metrics={}, status=Status.RUNNING, provenance={}),
    ]
    assert markdown(records) == GOLDEN


def test_rows_stand_in_the_suites_order_and_strangers_last():
    records = [cell(m, metrics={"accuracy": 50.0}) for m in ("random_init", "supervised", "gim")]
    page = markdown(records, methods=("gim", "random_init"))
    rows = [line.split()[1] for line in page.splitlines() if line.endswith("50.0 |")]
    assert rows == ["gim", "random_init", "supervised"]


def test_the_quickstart_fits_a_terminal():
    """Five methods, one seed, three modules, every accuracy and cost: 100 columns at most."""
    values = {"accuracy": 63.93, "ridge_accuracy": 61.9, "knn_accuracy": 56.9}
    values |= {f"accuracy/module_{k}": 60.0 for k in (1, 2, 3)} | {"accuracy/own_head": 57.5}
    values |= {"train/seconds": 123.4, "train/samples_per_second": 460.7, "train/steps": 900.0}
    values |= {"train/samples": 28_800.0, "train/labels": 1600.0, "train/operations": 123e12}
    values |= {"train/parameters": 2_123_456.0, "probe/seconds": 12.3}
    values |= {"memory/host_peak_bytes": 1.2e9}
    page = markdown([cell(m, metrics=values) for m in Suite.methods])
    tables = page.partition("## Were")[0].splitlines()
    assert max(len(line) for line in tables if line.startswith("|")) <= 100


def test_the_papers_number_and_its_place_stand_beside_ours():
    page = markdown([as_in_table1()], published=("loewe2019/table1",))
    accuracies = page.partition("## Accuracy: %")[2]
    (row, *_) = (line for line in accuracies.splitlines() if line.startswith("| gim"))
    assert row.split() == [
        "|",
        "gim",
        "|",
        "1",
        "|",
        "80.0",
        "|",
        "81.9",
        "±",
        "0.3",
        "|",
    ]
    assert "paper: Löwe et al. 2019, Table 1, page 5" in page
    assert "in the paper, not here: deep_infomax 78.2" in page


def as_in_table1(**changes):
    """A cell with the data and the probe of the paper's Table 1."""
    of_paper = config("gim") | {"dataset": {"name": "stl10"}, "probe": {"standardise": False}}
    return cell("gim", metrics={"accuracy": 80.0}, **({"config": of_paper} | changes))


@pytest.mark.parametrize("metrics", [(), ("accuracy",)])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": config("gim")}, "dataset.name is photos, where Table 1 needs stl10"),
        ({"provenance": provenance(data_incomplete="9 of 100 files")}, "data: 9 of 100 files"),
        ({}, "seed 1 failed and is in no mean"),
    ],
)
def test_a_number_that_the_ledger_does_not_compare_does_not_stand_beside_ours(
    changes, reason, metrics
):
    records = [as_in_table1(**changes)]
    if not changes:
        records.append(replace(records[0], seed=1, status=Status.FAILED, metrics={}))
    page = markdown(records, published=("loewe2019/table1",), metrics=metrics)
    assert f"not comparable, gim 81.9 ± 0.3: {reason}\n" in page
    assert "| paper" not in page.partition("## Metrics" if metrics else "## Accuracy:")[2]


PAPER = """
short = "{short}"
[table1]
place = "Table 1"
page = 2
margin = 1.0
margin_reason = "half of a gap"
results = [
    {{ method = "gim", metric = "speaker_accuracy", value = {speaker}, unit = "%" }},
    {{ method = "cpc", metric = "speaker_accuracy", value = 97.4, unit = "%" }},
    {{ method = "{other}", metric = "phone_accuracy", value = 64.6, unit = "%" }},
]
"""


@pytest.fixture
def two_papers(tmp_path, monkeypatch):
    """Both have a speaker accuracy of GIM; of phones, one knows GIM's and the other CPC's."""
    for name, speaker, other in (("one", 99.4, "gim"), ("two", 98.7, "cpc")):
        text = PAPER.format(short=f"{name.title()} et al.", speaker=speaker, other=other)
        (tmp_path / f"{name}.toml").write_text(text)
    monkeypatch.setattr("gim_bench.report.published._folder", lambda: tmp_path)


SPOKEN = {
    "speaker_accuracy": 98.1,
    "speaker_accuracy/module_1": 90.0,
    "speaker_accuracy/module_2": 98.1,
    "speaker_ridge_accuracy": 95.0,
    "speaker_knn_accuracy": 94.0,
    "phone_accuracy": 60.1,
    "phone_accuracy/module_1": 40.0,
    "phone_accuracy/module_2": 60.1,
    "phone_accuracy/own_head": 59.0,
}


def table(page, title):
    """Heading and rows of the first table of a section, as lists of cells."""
    lines = page.partition(f"## {title}")[2].strip().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


def test_targets_have_columns_of_their_own_and_a_table_by_module_each():
    page = markdown([cell("gim", metrics=SPOKEN), cell("cpc", metrics={"phone_accuracy": 1.0})])
    heading, gim, cpc = table(page, "Accuracy: %")
    assert heading == [
        "method", "seeds", "phone, linear probe", "phone, own head",
        "speaker, linear probe", "speaker, ridge", "speaker, kNN",
    ]  # fmt: skip
    assert gim == ["gim", "1", "60.1", "59.0", "98.1", "95.0", "94.0"]
    assert cpc == ["cpc", "1", "1.0", "–", "–", "–", "–"]
    assert table(page, "Accuracy by module: phone, linear probe, %") == [
        ["method", "module 1", "module 2"],
        ["gim", "40.0", "60.1"],
    ]
    assert table(page, "Accuracy by module: speaker, linear probe, %")[1] == ["gim", "90.0", "98.1"]
    assert page.count("## Accuracy by module") == 2


def test_features_that_are_no_stack_of_modules_are_not_compared_with_the_first_one():
    """Cepstral coefficients are a single "module"; they stand in the first table alone."""
    mfcc = {"phone_accuracy": 39.7, "phone_accuracy/module_1": 39.7}
    page = markdown([cell("gim", metrics=SPOKEN), cell("random_init", metrics=mfcc)])
    assert table(page, "Accuracy: %")[2][2] == "39.7"
    by_module = table(page, "Accuracy by module: phone, linear probe, %")
    assert [row[0] for row in by_module] == ["method", "gim"]


def test_modules_stand_in_their_order_even_where_there_are_ten():
    metrics = {f"phone_accuracy/module_{m}": float(m) for m in (10, 2, 1)} | {"phone_accuracy": 10}
    heading, row = table(markdown([cell(metrics=metrics)]), "Accuracy by module")
    assert heading == ["method", "module 1", "module 2", "module 10"]
    assert row == ["gim", "1.0", "2.0", "10.0"]


@pytest.mark.usefixtures("two_papers")
def test_one_paper_is_a_column_of_that_name():
    page = markdown([cell("gim", metrics=SPOKEN)], published=("one/table1",))
    heading, gim = table(page, "Accuracy: %")
    assert heading[2:6] == [
        "phone, linear probe",
        "paper",
        "phone, own head",
        "speaker, linear probe",
    ]
    assert heading[6] == "paper"
    assert (gim[3], gim[6]) == ("64.6", "99.4")
    assert "- in the paper, not here: cpc 97.4\n" in page


@pytest.mark.usefixtures("two_papers")
def test_two_papers_are_a_column_each_headed_by_their_short_names():
    """A paper has no column for a metric that it prints for none of the methods here."""
    page = markdown([cell("gim", metrics=SPOKEN)], published=("one/table1", "two/table1"))
    heading, gim = table(page, "Accuracy: %")
    assert heading[2:8] == [
        "phone, linear probe", "One et al.", "phone, own head",
        "speaker, linear probe", "One et al.", "Two et al.",
    ]  # fmt: skip
    assert gim[2:8] == ["60.1", "64.6", "59.0", "98.1", "99.4", "98.7"]


@pytest.mark.usefixtures("two_papers")
def test_numbers_of_methods_not_run_here_say_of_which_paper_and_target_they_are():
    page = markdown([cell("gim", metrics=SPOKEN)], published=("one/table1", "two/table1"))
    assert "- paper: One et al., Table 1, page 2\n" in page
    assert "- in One et al., not here: cpc 97.4\n" in page
    assert "- paper: Two et al., Table 1, page 2\n" in page
    both = "speaker, linear probe: cpc 97.4; phone, linear probe: cpc 64.6"
    assert f"- in Two et al., not here: {both}\n" in page


@pytest.mark.usefixtures("two_papers")
def test_a_chosen_metric_of_a_target_stands_beside_both_papers():
    page = markdown(
        [cell("gim", metrics=SPOKEN)],
        metrics=["speaker_accuracy"],
        published=("one/table1", "two/table1"),
    )
    assert table(page, "Metrics") == [
        ["method", "seeds", "speaker_accuracy, %", "One et al.", "Two et al."],
        ["gim", "1", "98.1", "99.4", "98.7"],
    ]


def test_published_memory_is_shown_in_the_unit_of_the_column():
    values = {"memory/gpu_allocated_over_baseline_bytes": 6.5e9}
    page = markdown([cell("cpc", metrics=values)], published=("loewe2019/table2",))
    assert table(page, "Peak memory")[1] == ["cpc", "6.50", "7.70"]


def test_mixed_data_code_and_machines_are_pointed_out():
    records = [
        cell("gim", metrics={"accuracy": 60.0}),
        cell(
            "cpc",
            metrics={"accuracy": 61.0},
            provenance=provenance(git_commit="other", gpu="H200", versions={"torch": "2.11.0"}),
        ),
    ]
    page = markdown(records)
    assert "- MIXED git_commit: abcdef0123456789: gim; other: cpc\n" in page
    assert "- MIXED gpu: absent: gim; H200: cpc\n" in page
    assert "- MIXED versions.torch: 2.12.1: gim; 2.11.0: cpc\n" in page
    assert "MIXED cpu" not in page


def test_seeds_of_different_commits_and_data_are_one_line_each():
    records = [
        cell("gim", seed=seed, metrics={"accuracy": 60.0}, provenance=provenance(**differing))
        for seed, differing in enumerate(
            ({}, {"git_commit": "other", "data_sha256": "x"}, {"git_commit": "other"})
        )
    ]
    mixed = [line for line in markdown(records).splitlines() if "MIXED" in line]
    assert mixed == [
        f"- MIXED data_sha256: {'0123456789abcdef' * 4}: gim seed 0, gim seed 2; x: gim seed 1",
        "- MIXED git_commit: abcdef0123456789: gim seed 0; other: gim seed 1, gim seed 2",
    ]


def test_uncommitted_changes_are_said_beside_the_commit():
    page = markdown([cell(metrics={"accuracy": 1.0}, provenance=provenance(git_dirty=True))])
    assert "commit abcdef012345 with uncommitted changes" in page


def test_a_record_of_older_settings_is_not_averaged_in():
    old = provenance(finished_at="2026-10-01T00:00:00+00:00")
    records = [
        cell("gim", key="new", metrics={"accuracy": 60.0}),
        cell("gim", key="old", metrics={"accuracy": 10.0}, provenance=old),
    ]
    assert "|     1 |         60.0 |" in markdown(records)


def test_a_failure_that_a_later_success_made_good_is_not_listed():
    early = provenance(finished_at="2026-10-01T00:00:00+00:00")
    failed = cell(key="a", metrics={}, status=Status.FAILED, error="x", provenance=early)
    assert "failed" not in markdown([cell(key="b", metrics={"accuracy": 60.0}), failed])


def test_methods_without_any_record_are_named():
    page = markdown([cell("gim", metrics={"accuracy": 60.0})])
    assert "- no record of cpc, supervised, greedy_supervised, random_init\n" in page


def test_a_report_on_nothing_still_names_the_protocol():
    page = markdown([])
    assert "- Protocol: linear probe on frozen features" in page
    assert "no record of gim, cpc" in page


def test_chosen_metrics_alone_make_the_table():
    values = {"accuracy": 60.0, "accuracy/module_1": 55.0, "loss/module_1": 2.3456}
    page = markdown([cell(metrics=values)], metrics=["accuracy/module_1", "loss/module_1"])
    assert "| method | seeds | accuracy/module_1, % | loss/module_1, nats |" in page
    assert "| gim    |     1 |                 55.0 |               2.346 |" in page
    assert "linear probe, %" not in page


def test_a_metric_that_only_some_seeds_have_says_of_how_many():
    records = [
        cell(seed=0, metrics={"accuracy": 60.0, "knn_accuracy": 50.0}),
        cell(seed=1, metrics={"accuracy": 62.0}),
    ]
    assert "50.0 (n=1) |" in markdown(records)


def test_an_unknown_metric_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"no metric 'acuracy'. Did you mean 'accuracy'"):
        markdown([], metrics=["acuracy"])


def test_an_unknown_format_is_answered_with_the_known_ones():
    with pytest.raises(
        ConfigError, match=r"no format 'pdf'.*Available: csv, html, json, latex, md"
    ):
        report_on([], fmt="pdf")


def test_text_that_markdown_would_take_for_structure_is_escaped():
    error = "<class 'X'>\nsecond | line"
    page = markdown([cell("gim", metrics={}, status=Status.FAILED, error=error)])
    assert r"- gim, seed 0 failed: \<class 'X'> second | line" in page


EDGES = {
    "last": ([[1e-3, 40.0], [1e-2, 50.0], [1e-1, 60.0]], True),
    "first": ([[1e-3, 60.0], [1e-2, 50.0], [1e-1, 40.0]], True),
    "inside": ([[1e-3, 40.0], [1e-2, 60.0], [1e-1, 50.0]], False),
    "last of an unsorted grid": ([[1e-1, 60.0], [1e-3, 40.0], [1e-2, 50.0]], True),
    "inside, listed first": ([[1e-2, 60.0], [1e-3, 40.0], [1e-1, 50.0]], False),
    "last, listed inside": ([[1e-3, 40.0], [1e-1, 60.0], [1e-2, 50.0]], True),
    "as good inside": ([[1e-3, 40.0], [1e-2, 60.0], [1e-1, 60.0]], False),
    "no inside": ([[1e-3, 40.0], [1e-2, 60.0]], False),
}


@pytest.mark.parametrize(("curve", "edged"), EDGES.values(), ids=EDGES)
def test_a_rate_chosen_at_the_edge_of_its_grid_is_pointed_out(curve, edged):
    inside = [[1e-3, 40.0], [1e-2, 60.0], [1e-1, 50.0]]
    records = [
        cell("gim", metrics={"accuracy": 60.0}, probe_curves={"module_1": inside, "m_2": curve}),
        cell("cpc", metrics={"accuracy": 60.0}, probe_curves={"module_1": inside}),
    ]
    text = report_on(records)
    assert ("module of gim: values outside of the grid" in text) == edged


def test_memory_of_the_methods_own_is_set_against_cpc_where_every_cell_had_a_process():
    """In a process that earlier cells have used, later ones seem to need less."""
    name = "memory/host_over_baseline_bytes"
    records = [cell("gim", metrics={name: 0.5e9}), cell("cpc", metrics={name: 2e9})]
    text = report_on(records, suite=Suite(fresh_process=True))
    assert "| method | host, over its baseline | of cpc |" in text
    assert "| gim    |                    0.50 |   0.25 |" in text
    alone = report_on(records[:1], suite=Suite(fresh_process=True))
    assert "| of cpc" not in alone
    assert "| of cpc" not in report_on(records)


MEMORY = {"memory/gpu_allocated_over_baseline_bytes": 2e9, "memory/largest_batch": 1152}


def too_large(method, **changes):
    reason = "does not fit: CUDA out of memory"
    return cell(method, metrics={}, status=Status.FAILED, error=reason, fits=False, **changes)


def test_a_row_that_does_not_fit_says_so_in_the_table_of_memory():
    """In the order of the suite, and with the paper's figure beside it."""
    suite = Suite(published=("loewe2019/table2",))
    records = [too_large("cpc"), cell("supervised", metrics=MEMORY), cell("gim", metrics=MEMORY)]
    text = report_on(records, suite=suite).partition("## Peak memory")[2]
    table = [line for line in text.splitlines() if line.startswith("|")][:5]
    assert table == [
        "| method     | GPU allocated, over its baseline | paper | largest batch |",
        "|------------|---------------------------------:|------:|--------------:|",
        "| gim        |                             2.00 |     – |         1,152 |",
        "| cpc        |                     does not fit |  7.70 |  does not fit |",
        "| supervised |                             2.00 |  6.30 |         1,152 |",
    ]
    assert "- cpc, seed 0 does not fit: CUDA out of memory" in text


def test_a_row_that_fitted_with_another_seed_or_failed_otherwise_does_not_say_so():
    failed = cell("supervised", metrics={}, status=Status.FAILED, error="the loss is nan")
    records = [cell("cpc", metrics=MEMORY), too_large("cpc", seed=1), failed]
    text = markdown(records)
    assert "does not fit |" not in text
    assert "| supervised" not in text
    assert "- cpc, seed 1 does not fit: CUDA out of memory" in text
    assert "- supervised, seed 0 failed: the loss is nan" in text


def test_a_cell_that_did_not_fit_and_was_tried_again_shows_its_latest_attempt():
    before, after = (provenance(finished_at=f"2026-11-0{day}T00:00:00+00:00") for day in (1, 2))
    failed = cell(
        "cpc", metrics={}, status=Status.FAILED, error="no disk", key="other", provenance=after
    )
    gim = cell("gim", metrics=MEMORY)
    assert "| cpc" not in markdown([gim, too_large("cpc", provenance=before), failed])


def test_the_probes_memory_and_the_context_widen_no_table():
    values = MEMORY | {"memory/probe_host_peak_bytes": 1e9, "memory/gpu_context_bytes": 5e8}
    assert markdown([cell("gim", metrics=values)]) == markdown([cell("gim", metrics=MEMORY)])
    name = "memory/probe_host_peak_bytes"
    assert "1.00" in report_on([cell("gim", metrics=values)], fmt="md", metrics=[name])


def test_the_peak_of_a_whole_process_is_not_set_against_cpc():
    """Imports and data are in it, which every method has."""
    name = "memory/host_peak_bytes"
    records = [cell("gim", metrics={name: 0.5e9}), cell("cpc", metrics={name: 2e9})]
    assert "| of cpc" not in report_on(records, suite=Suite(fresh_process=True))


LOSSES = {f"{name}loss/module_{m}": 2.0 + m / 10 for name in ("", "validation_") for m in (1, 2)}
LOSSES |= {"loss": 2.2, "validation_loss": 2.2}


def in_unit(method, unit, **losses):
    """A cell of a method whose objective has that unit."""
    settings = config(method)
    settings["method"]["loss_unit"] = unit
    return cell(method, metrics=LOSSES | losses, config=settings)


def test_training_and_validation_losses_stand_module_by_module_where_there_are_both():
    text = markdown([cell("gim", metrics=LOSSES), cell("cpc", metrics={"loss/module_2": 1.0})])
    assert "By module: training loss, mean of the last epoch, nats, loss" in text
    assert "By module: loss of the held-out examples, at the end, nats, validation_loss\n" in text
    assert "validation" not in markdown([cell("gim", metrics={"loss/module_1": 1.0})])


def test_losses_of_one_unit_have_the_unit_in_the_heading():
    text = markdown([in_unit("gim", "bits"), in_unit("cpc", "bits")])
    assert "By module: training loss, mean of the last epoch, bits, loss\n" in text
    heading, _, _ = table(text, "By module: training loss")
    assert heading == ["method", "module 1", "module 2"]


def test_losses_of_several_units_have_the_unit_in_every_row():
    """A record from before objectives declared a unit holds losses in nats."""
    text = markdown([cell("gim", metrics=LOSSES), in_unit("cpc", "bits"), in_unit("other", None)])
    assert "By module: training loss, mean of the last epoch, loss\n" in text
    assert table(text, "By module: training loss") == [
        ["method", "unit", "module 1", "module 2"],
        ["gim", "nats", "2.100", "2.200"],
        ["cpc", "bits", "2.100", "2.200"],
        ["other", "–", "2.100", "2.200"],
    ]


def test_losses_without_a_unit_have_neither_heading_nor_column_for_the_unit():
    text = markdown([in_unit("gim", None), in_unit("cpc", None)])
    assert "By module: training loss, mean of the last epoch, loss\n" in text
    assert table(text, "By module: training loss")[0] == ["method", "module 1", "module 2"]


def test_chosen_losses_of_several_units_have_one_column_for_the_unit():
    records = [in_unit("gim", "nats"), in_unit("cpc", "bits"), cell("mfcc", metrics={})]
    text = markdown(records, metrics=["loss", "accuracy", "validation_loss"])
    assert table(text, "Metrics") == [
        ["method", "seeds", "unit", "loss", "accuracy, %", "validation_loss"],
        ["gim", "1", "nats", "2.200", "–", "2.200"],
        ["cpc", "1", "bits", "2.200", "–", "2.200"],
        ["mfcc", "1", "–", "–", "–", "–"],
    ]


# case 3
@pytest.mark.parametrize("metrics", [(), ("accuracy",)])
def test_test_examples_that_training_sees_are_named_below_the_accuracy(metrics):
    seen = "SEEN IN TRAINING: 40 of 40 test images are also train images, such as a (b)"
    facts = provenance(data_notes=["left out: 6 files", seen])
    records = [cell("gim", metrics={"accuracy": 64.0}, provenance=facts)]
    _, _, table = report_on(records, metrics=metrics).partition("\n## ")
    assert table.partition("\n## ")[0].count(f"- {seen}") == 1
    assert "left out" not in table


def test_cells_that_ran_beside_each_other_are_said_to_have():
    metrics = {"accuracy": 30.0}
    alone, beside = (
        cell(metrics=metrics, provenance=provenance(**more)) for more in ({}, {"workers": 2})
    )
    assert "2 threads, device cpu" in report_on([alone])
    assert "2 threads, 2 workers at once, device cpu" in report_on([beside])
    mixed = report_on([alone, replace(beside, seed=1, key="b" * 64)])
    assert "MIXED workers" in mixed


@pytest.mark.parametrize(
    ("accuracy", "has"),
    [
        ("accuracy", True),
        ("accuracy/module_2", True),
        ("speaker_accuracy/module_1", True),
        ("ridge_accuracy", False),
        ("knn_accuracy/module_1", False),
        ("phone_ridge_accuracy/module_2", False),
        ("accuracy/own_head", False),
    ],
)
def test_accuracies_of_the_linear_probe_alone_have_intervals(accuracy, has):
    assert has_interval(accuracy) is has
