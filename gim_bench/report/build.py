"""The report as a document: its sections, and above them the facts that all numbers share."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from gim_bench.cells.defaults import sharing_configs
from gim_bench.records.intervals import marks_of
from gim_bench.records.metrics import METRICS, OF_OBJECTIVE, Metric, target_of
from gim_bench.records.predictions import Predictions
from gim_bench.records.protocols import ReadAsSuite, ResultsOf
from gim_bench.records.provenance import changes
from gim_bench.records.record import Record, Status
from gim_bench.records.statistics import latest_attempts, newest_done, summarise_metrics
from gim_bench.report.answers import READING, answers
from gim_bench.report.best import best_module_table
from gim_bench.report.columns import BYTES, PERCENT, PublishedNumbers, Row
from gim_bench.report.comparable import Describes
from gim_bench.report.comparison import COUNTS, between_rows, mixtures
from gim_bench.report.costs import ENERGY
from gim_bench.report.curves import loss_figures, module_figures, rate_figures
from gim_bench.report.depth import depth_section
from gim_bench.report.document import Block, Bullets, Document, Section
from gim_bench.report.given import what_each_was_given
from gim_bench.report.identical import identical_section
from gim_bench.report.inside import inside_section
from gim_bench.report.isolation import isolation_section
from gim_bench.report.large import large_section
from gim_bench.report.ledger import implemented, known_deviations, ledger
from gim_bench.report.pairs import differences_on_the_same_examples
from gim_bench.report.patches import PicturesOf, patches_section
from gim_bench.report.pipelines import pipelines_section
from gim_bench.report.points import accuracy_over_cost
from gim_bench.report.protocols import left_out, protocols_section, rows_under
from gim_bench.report.published import load
from gim_bench.report.rates import load_evidence, rates_section, tuned_elsewhere
from gim_bench.report.suite_like import SuiteLike
from gim_bench.report.sweeps import sweep_section
from gim_bench.report.tables import (
    accuracy_by_module,
    accuracy_table,
    chosen_metrics,
    cost_table,
    losses_by_module,
)

PredictionsOf = Callable[[Record], Predictions | None]  # None: the record has no predictions
# Accuracies beside the linear probe's: without an interval, and without a table by module.
SECONDARY = {"accuracy/own_head", "ridge_accuracy", "knn_accuracy"}
# The table of memory; the probes' peaks and the context are in the records only.
MEMORY = (
    "memory/host_peak_bytes",
    "memory/host_over_baseline_bytes",
    "memory/gpu_allocated_peak_bytes",
    "memory/gpu_allocated_over_baseline_bytes",
    "memory/gpu_reserved_peak_bytes",
    "memory/gpu_process_peak_bytes",
    "memory/gpu_process_over_baseline_bytes",
    "memory/largest_batch",
)

ONE_OF_MANY = "These cells were not all measured alike; above are the facts of one."


def build(
    records: Sequence[Record],
    *,
    suite: SuiteLike,
    describes: Describes,
    predictions: PredictionsOf = lambda _: None,
    pictures: PicturesOf = lambda _: None,
    results: ResultsOf = lambda _: {},
    notes: Sequence[str] = (),
    settings: Mapping[str, str] = MappingProxyType({}),
    metrics: Sequence[str] = (),
) -> Document:
    """The report on `records`; with `metrics`, a single table of these.

    `describes` says whether a configuration is one that the suite gives. `predictions` reads the
    predictions of a record, `pictures` its pictures of patches, `results` the results of further
    protocols: those that were read as the suite reads are shown.

    Lines among `notes` that are not empty stand on top. `settings` has the sha256 of each row's
    settings but the rate.

    Raises: ConfigError for a published table that is not there.
    """
    records = sharing_configs(records)
    rows = rows_of(records, suite.methods, predictions=predictions)
    done = [record for row in rows for record in row.records]
    published = load(suite.published)
    finished = [row for row in rows if row.records]
    sections = (
        [chosen_metrics(finished, metrics, published=published, describes=describes)]
        if metrics
        else _results(
            rows,
            suite=suite,
            published=published,
            describes=describes,
            results=ReadAsSuite(results, describes=describes),
            settings=settings,
        )
    )
    sections += [
        *([] if metrics else [large_section(records, suite.methods), pipelines_section(done)]),
        isolation_section(done),
        *([] if metrics else [patches_section(finished, pictures)]),
        _unfinished(records, suite.methods),
        identical_section(done, rows=suite.method),
    ]
    return Document(
        title=f"Suite {suite.name}",
        summary=[
            *([Bullets(said)] if (said := [note for note in notes if note]) else []),
            *([] if metrics else _answered(rows, suite=suite)),
            *_summary(done, suite, settings=settings),
        ],
        sections=[section for section in sections if section.blocks],
    )


def check_sources(suite: SuiteLike) -> None:
    """Check that the published tables and the evidence that the suite names are there.

    Raises: ConfigError.
    """
    load(suite.published)
    if suite.tuned is not None:
        load_evidence(suite.tuned)


def rows_of(
    records: Sequence[Record], methods: Sequence[str], *, predictions: PredictionsOf
) -> list[Row]:
    """A row for each method that has finished cells, or whose latest did not fit into memory.

    The rows are in the suite's order; methods that the suite does not list come last.
    """
    done, latest = newest_done(records), latest_attempts(records)
    too_large = [record.method for record in latest if not record.fits]
    rows = []
    for method in dict.fromkeys([*methods, *(record.method for record in done), *too_large]):
        cells = sorted((r for r in done if r.method == method), key=lambda r: r.seed)
        if cells or method in too_large:
            marks = {cell.seed: marks_of(found) for cell in cells if (found := predictions(cell))}
            summaries = summarise_metrics(cells)
            failed = [
                r.seed
                for r in latest
                if r.method == method and r.fits and r.status is Status.FAILED
            ]
            lost = sorted(set(failed) - {cell.seed for cell in cells})
            rows.append(Row(method, cells, summaries, fits=bool(cells), marks=marks, failed=lost))
    return rows


def _answered(rows: Sequence[Row], *, suite: SuiteLike) -> list[Block]:
    """The answers to the reader's questions, and accuracy over costs."""
    done = [row for row in rows if row.records]
    headline = headline_of(done)
    costs = accuracy_over_cost(done, headline, fresh_process=suite.fresh_process)
    given = answers(rows, headline, suite=suite)
    numbers = any("±" in answer.paragraph() for answer in given)
    return [*given, *([READING] if numbers else []), *costs]


def _results(
    rows: Sequence[Row],
    *,
    suite: SuiteLike,
    published: PublishedNumbers,
    describes: Describes,
    results: ReadAsSuite,
    settings: Mapping[str, str],
) -> list[Section]:
    done = [row for row in rows if row.records]
    measured = [m for m in METRICS.values() if any(m.name in row.summaries for row in done)]
    accuracies = [metric.name for metric in measured if metric.unit == PERCENT]
    headline = headline_of(done)
    times = [metric.name for metric in measured if _is_time(metric)]
    records = [record for row in done for record in row.records]
    return [
        Section(title="Test error by module (Figure 4)", blocks=module_figures(done, headline)),
        Section(title="Loss over epochs (Figure 3)", blocks=loss_figures(done)),
        rates_section(records, tuned=suite.tuned, settings=settings),
        sweep_section(records),
        Section(title="The probe's hyperparameters", blocks=rate_figures(done)),
        ledger(
            done,
            published,
            describes=describes,
            known=implemented(suite.methods),
            under=[other for row in done for other in rows_under(row, results).values()],
        ),
        known_deviations(suite.deviations if published else ()),
        accuracy_table(
            done, accuracies, headline=headline, published=published, describes=describes
        ),
        best_module_table(done, headline),
        differences_on_the_same_examples(done, headline),
        protocols_section(
            done, headline, results=results, without=left_out(records, results, suite=suite)
        ),
        what_each_was_given(done, declared=suite.method),
        *(accuracy_by_module(done, name) for name in headline),
        *losses_by_module(done),
        cost_table(
            done,
            times,
            title="Time and energy" if set(times) & set(ENERGY) else "Time",
            published=published,
            describes=describes,
        ),
        cost_table(
            rows,
            [name for name in MEMORY if name in {metric.name for metric in measured}],
            title="Peak memory in training, GB (10⁹ bytes)",
            published=published,
            describes=describes,
            # In a process that other cells have used, memory is not the method's alone.
            ratios=suite.fresh_process,
        ),
        depth_section(done, headline, fresh_process=suite.fresh_process),
        inside_section(done),
    ]


def _is_time(metric: Metric) -> bool:
    """Whether the metric stands in the table of time and energy."""
    return (
        metric.unit not in (PERCENT, OF_OBJECTIVE, BYTES, "probes")
        and metric.name not in COUNTS
        and not metric.name.startswith("memory/")
    )


def headline_of(done: Sequence[Row]) -> list[str]:
    """The accuracies of the linear probe that any row has, one for each target."""
    return [
        metric.name
        for metric in METRICS.values()
        if metric.unit == PERCENT
        and has_interval(metric.name)
        and any(metric.name in row.summaries for row in done)
    ]


def has_interval(accuracy: str) -> bool:
    """Whether a report has intervals of this accuracy of the top module or of another module.

    A report of chosen metrics has the intervals of all that it is asked for.
    """
    return target_of(accuracy)[1].partition("/module_")[0] not in SECONDARY


def _unfinished(records: Sequence[Record], methods: Sequence[str]) -> Section:
    """Cells whose latest attempt gave no result, with the reason, and methods without cells."""
    lines = []
    for record in latest_attempts(records):
        cell = f"{record.method}, seed {record.seed}"
        if not record.fits:
            lines.append(f"{cell} {record.error}")
        elif record.status is Status.FAILED:
            lines.append(f"{cell} failed: {record.error or 'no reason recorded'}")
        elif record.status is Status.RUNNING:
            started = record.provenance.get("started_at")
            since = f" (started {started})" if started else ""
            lines.append(f"{cell} is running or was interrupted{since}")
    absent = [m for m in methods if m not in {record.method for record in records}]
    lines += [f"no record of {', '.join(absent)}"] if absent else []
    return Section(title="Not in the tables", blocks=[Bullets(lines)] if lines else [])


def _summary(
    done: Sequence[Record], suite: SuiteLike, *, settings: Mapping[str, str]
) -> list[Block]:
    """Protocol, data, code and machine, with a warning where the cells do not share them."""
    protocols = dict.fromkeys(record.protocol for record in done if record.protocol)
    lines = [f"Protocol: {protocol}" for protocol in protocols or [suite.protocol]]
    if done:
        lines += _provenance(done[-1])
        lines += _data_notes(done)
    found = between_rows(done, rows=suite.method)
    undeclared = [difference.name for difference in found if not difference.declared]
    if undeclared:
        lines.append(f"UNDECLARED differences, see below: {', '.join(undeclared)}")
    if elsewhere := tuned_elsewhere(done, tuned=suite.tuned, settings=settings):
        lines.append(f"Learning rates TUNED ELSEWHERE, see below: {', '.join(elsewhere)}")
    mixed = _mixed(done)
    warning: list[Block] = [ONE_OF_MANY, Bullets(mixed)] if mixed else []
    return [Bullets(lines), *warning]


def provenance_of(done: Sequence[Record]) -> list[str]:
    """Data, code and machine of the last cell, and the facts in which cells differ, a line each."""
    facts, mixed = _provenance(done[-1]) if done else [], _mixed(done)
    return [*facts, *_data_notes(done), *([ONE_OF_MANY] if mixed else []), *mixed]


def _data_notes(done: Sequence[Record]) -> list[str]:
    """The notes of the cells on their data, each once."""
    return [*dict.fromkeys(note for r in done for note in r.provenance.get("data_notes") or ())]


def _mixed(done: Sequence[Record]) -> list[str]:
    return [f"MIXED {d.name}: {d.described()}" for d in mixtures(done)]


def _provenance(record: Record) -> list[str]:
    """Data, code and machine of one cell, a line each."""
    facts = record.provenance
    sha256, incomplete = facts.get("data_sha256"), facts.get("data_incomplete")
    commit = str(facts.get("git_commit") or "unknown")[:12]
    dirty = f" {words}" if (words := changes(facts)) else ""
    versions = ", ".join(f"{name} {v}" for name, v in (facts.get("versions") or {}).items())
    machine = [
        facts.get("gpu") and f"{facts['gpu']} (driver {facts.get('driver') or 'unknown'})",
        facts.get("cpu"),
        (n := facts.get("threads")) and f"{n} thread{'' if n == 1 else 's'}",
        (w := facts.get("workers")) and f"{w} workers at once",
        facts.get("device") and f"device {facts['device']}",
        facts.get("precision"),
    ]
    return [
        f"Data: {record.dataset}"
        + (f" in {facts['data_dir']}" if facts.get("data_dir") else "")
        + (f", sha256 {str(sha256)[:12]}…" if sha256 else "")
        + (f", not all of it: {incomplete}" if incomplete else ""),
        f"Code: commit {commit}{dirty}" + (f"; {versions}" if versions else ""),
        f"Machine: {', '.join(str(part) for part in machine if part) or 'unknown'}",
    ]
