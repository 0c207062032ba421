"""What the report says: the tables, and beside them all that a reader needs to trust them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from gim_bench.records.metrics import METRICS, describe, target_of
from gim_bench.records.record import Record, Status
from gim_bench.records.statistics import finished_at, newest_done, summarise_metrics
from gim_bench.report.columns import (
    NATS,
    PERCENT,
    PublishedNumbers,
    Row,
    heading_of,
    interval_column,
    method_column,
    metric_column,
    paper_columns,
    ratio_column,
    seeds_column,
    show,
    style_of,
    table_of,
)
from gim_bench.report.comparison import (
    COUNTS,
    count_differences,
    count_settings,
    differences,
    mixtures,
)
from gim_bench.report.curves import loss_figures, rate_figures
from gim_bench.report.document import Block, Bullets, Column, Document, Section, Table
from gim_bench.report.given import what_each_was_given
from gim_bench.report.isolation import isolation_section
from gim_bench.report.ledger import ledger
from gim_bench.report.pairs import differences_on_the_same_seeds
from gim_bench.report.published import Numbers, load
from gim_bench.report.sweeps import sweep_section

# Beside the linear probe they need no interval and no table by module of their own.
SECONDARY = {"accuracy/own_head", "ridge_accuracy", "knn_accuracy"}
# The table of memory; the probes' peaks and the context stand in the records.
MEMORY = (
    "memory/host_peak_bytes",
    "memory/host_over_baseline_bytes",
    "memory/gpu_allocated_peak_bytes",
    "memory/gpu_reserved_peak_bytes",
    "memory/gpu_process_peak_bytes",
    "memory/gpu_process_over_baseline_bytes",
    "memory/largest_batch",
)


@runtime_checkable
class SuiteLike(Protocol):
    """What the report needs to know of a suite."""

    @property
    def name(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def published(self) -> Sequence[str]: ...
    @property
    def methods(self) -> Sequence[str]: ...
    @property
    def fresh_process(self) -> bool: ...
    @property
    def deviations(self) -> Sequence[str]: ...
    def describes(self, config: Mapping[str, Any]) -> bool: ...


def build(records: Sequence[Record], *, suite: SuiteLike, metrics: Sequence[str] = ()) -> Document:
    """The report on `records`; with `metrics`, a single table of these.

    Raises: ConfigError for a published table that is not there.
    """
    rows = _rows(newest_done(records), suite.methods)
    done = [record for row in rows for record in row.records]
    published = load(suite.published)
    chosen = (
        [_chosen(rows, metrics, published)]
        if metrics
        else _results(rows, _too_large(records, rows), published, suite)
    )
    sections = [
        *(section for section in chosen if section.blocks),
        isolation_section(done),
        *([] if metrics else [sweep_section(done)]),
        _unfinished(records, suite.methods),
        _settings(done),
    ]
    return Document(
        title=f"Suite {suite.name}",
        summary=_summary(done, suite),
        sections=[section for section in sections if section.blocks],
    )


def _rows(done: Sequence[Record], methods: Sequence[str]) -> list[Row]:
    """In the suite's order; methods that the suite does not list come last."""
    order = dict.fromkeys([*methods, *(record.method for record in done)])
    by_seed = sorted(done, key=lambda record: record.seed)
    by_method = {method: [r for r in by_seed if r.method == method] for method in order}
    return [Row(m, cells, summarise_metrics(cells)) for m, cells in by_method.items() if cells]


def _too_large(records: Sequence[Record], rows: Sequence[Row]) -> list[Row]:
    """Methods of which no cell finished, and the latest did not fit into memory."""
    finished = {row.method for row in rows}
    methods = dict.fromkeys(r.method for r in _latest(records) if not r.fits)
    return [Row(method, [], {}, fits=False) for method in methods if method not in finished]


def _in_order(rows: Sequence[Row], methods: Sequence[str]) -> list[Row]:
    """As the suite lists them; others come last."""
    order = list(dict.fromkeys([*methods, *(row.method for row in rows)]))
    return sorted(rows, key=lambda row: order.index(row.method))


def _results(
    rows: Sequence[Row],
    too_large: Sequence[Row],
    published: PublishedNumbers,
    suite: SuiteLike,
) -> list[Section]:
    accuracies = [m.name for m in METRICS.values() if m.unit == PERCENT and _any(rows, m.name)]
    headline = [name for name in accuracies if target_of(name)[1] not in SECONDARY]
    memory = [name for name in MEMORY if _any(rows, name)]
    costs = [
        m.name
        for m in METRICS.values()
        if m.unit not in (PERCENT, NATS)
        and m.name not in COUNTS
        and not m.name.startswith("memory/")
        and _any(rows, m.name)
    ]
    return [
        _accuracy(rows, accuracies, headline, published),
        differences_on_the_same_seeds(rows, headline),
        ledger(rows, published, describes=suite.describes, deviations=suite.deviations),
        what_each_was_given(rows),
        *(_by_module(rows, name) for name in headline),
        *_losses(rows),
        _cost("Time", rows, costs, published),
        # In a process that other cells have used, memory is no matter of the method alone.
        _cost(
            "Peak memory in training, GB (10⁹ bytes)",
            _in_order([*rows, *too_large], suite.methods),
            memory,
            published,
            ratios=suite.fresh_process,
        ),
        Section(title="Curves", blocks=[*loss_figures(rows), *rate_figures(rows)]),
    ]


# -- the sections ----------------------------------------------------------------------------------


def _accuracy(
    rows: Sequence[Row],
    accuracies: Sequence[str],
    headline: Sequence[str],
    published: PublishedNumbers,
) -> Section:
    if not accuracies:
        return Section(title="Accuracy", blocks=[])
    columns = [method_column(rows), seeds_column(rows)]
    for name in accuracies:
        columns.append(metric_column(rows, name))
        if name in headline:
            columns += interval_column(rows, name) + paper_columns(rows, name, published)
    return Section(
        title="Accuracy: % of all test examples, features of the top module",
        blocks=[
            table_of(columns),
            *_about_spread(rows),
            *_about_rates(rows),
            *_about_paper(rows, published, accuracies),
        ],
    )


def _losses(rows: Sequence[Row]) -> list[Section]:
    """Training beside validation, module by module, where anything was held out."""
    losses = [m.name for m in METRICS.values() if m.unit == NATS]
    validated = [name for name in losses if "validation" in name and _any(rows, name)]
    names = [n for name in validated for n in (name.replace("validation_", ""), name)]
    return [
        _by_module(rows, name, title=f"By module: {describe(name).meaning}, nats, {name}")
        for name in names
    ]


def _by_module(rows: Sequence[Row], name: str, *, title: str = "") -> Section:
    found = {n for row in rows for n in row.summaries if n.startswith(f"{name}/module_")}
    modules = sorted(found, key=lambda n: int(n.rpartition("_")[2]))
    # Features that are no stack of modules would pass for the first one's.
    stacks = [row for row in rows if sum(module in row.summaries for module in modules) > 1]
    rows = stacks or rows
    columns = [method_column(rows)]
    for module in modules:
        heading = module.rpartition("/")[2].replace("_", " ")
        columns.append(metric_column(rows, module, title=heading))
    return Section(
        title=title or f"Accuracy by module: {heading_of(name)}, %",
        blocks=[table_of(columns)] if modules else [],
    )


def _cost(
    title: str,
    rows: Sequence[Row],
    names: Sequence[str],
    published: PublishedNumbers,
    *,
    ratios: bool = False,
) -> Section:
    columns = [method_column(rows)]
    for name in names:
        columns += [metric_column(rows, name), *(ratio_column(rows, name) if ratios else [])]
        columns += paper_columns(rows, name, published)
    blocks = [table_of(columns), *_about_paper(rows, published, names)] if names else []
    return Section(title=title, blocks=blocks)


def _chosen(rows: Sequence[Row], names: Sequence[str], published: PublishedNumbers) -> Section:
    columns = [method_column(rows), seeds_column(rows)]
    for name in names:
        columns += [
            metric_column(rows, name, title=f"{name}, {style_of(name).unit}"),
            *interval_column(rows, name),
            *paper_columns(rows, name, published),
        ]
    notes = [*_about_spread(rows), *_about_paper(rows, published, names)]
    return Section(title="Metrics", blocks=[table_of(columns), *notes] if rows else [])


def _unfinished(records: Sequence[Record], methods: Sequence[str]) -> Section:
    """Cells that have no result, or none of their latest attempt, each with the reason."""
    lines = [_reason(record) for record in _latest(records) if record.status is not Status.DONE]
    absent = [m for m in methods if m not in {record.method for record in records}]
    lines += [f"no record of {', '.join(absent)}"] if absent else []
    return Section(title="Not in the tables", blocks=[Bullets(lines)] if lines else [])


def _latest(records: Sequence[Record]) -> list[Record]:
    """The latest attempt of every method and seed."""
    latest: dict[tuple[str, int], Record] = {}
    for record in records:
        cell = (record.method, record.seed)
        if cell not in latest or _attempted_at(record) >= _attempted_at(latest[cell]):
            latest[cell] = record
    return list(latest.values())


def _settings(done: Sequence[Record]) -> Section:
    title = "Were the settings identical?"
    if len({record.method for record in done}) < 2:
        return Section(title=title, blocks=[])
    found = differences(done)
    undeclared = [difference for difference in found if not difference.declared]
    shared = count_settings(done)
    verdict = (
        f"No: {len(undeclared)} of {shared} settings differ that no method declares."
        if undeclared
        else f"Yes: all {shared} settings of data, encoder, training and probe are the same. "
        f"The methods differ only in what they declare."
    )
    table = Table(
        columns=[
            Column(heading=heading, numeric=False)
            for heading in ("setting", "difference", "values")
        ],
        rows=[[d.name, "declared" if d.declared else "UNDECLARED", d.described()] for d in found],
    )
    return Section(title=title, blocks=[verdict, *([table] if found else [])])


def _summary(done: Sequence[Record], suite: SuiteLike) -> list[Block]:
    """Protocol, data, code and machine; what is mixed among them is pointed out."""
    protocols = dict.fromkeys(record.protocol for record in done if record.protocol)
    lines = [f"Protocol: {protocol}" for protocol in protocols or [suite.protocol]]
    if done:
        lines += _provenance(done[-1])
    found = [*differences(done), *count_differences(done)]
    undeclared = [d.name for d in found if not d.declared]
    if undeclared:
        lines.append(f"UNDECLARED differences, see below: {', '.join(undeclared)}")
    mixed = [f"MIXED {d.name}: {d.described()}" for d in mixtures(done)]
    warning: list[Block] = (
        ["These cells were not all measured alike; above are the facts of one.", Bullets(mixed)]
        if mixed
        else []
    )
    return [Bullets(lines), *warning]


def _provenance(record: Record) -> list[str]:
    """Data, code and machine of one cell, a line each."""
    found = record.provenance
    sha256, incomplete = found.get("data_sha256"), found.get("data_incomplete")
    commit = str(found.get("git_commit") or "unknown")[:12]
    dirty = " with uncommitted changes" if found.get("git_dirty") else ""
    versions = ", ".join(f"{name} {v}" for name, v in (found.get("versions") or {}).items())
    machine = [
        found.get("gpu") and f"{found['gpu']} (driver {found.get('driver') or 'unknown'})",
        found.get("cpu"),
        found.get("threads") and f"{found['threads']} threads",
        found.get("device") and f"device {found['device']}",
        found.get("precision"),
    ]
    return [
        f"Data: {record.dataset}"
        + (f", sha256 {str(sha256)[:12]}…" if sha256 else "")
        + (f", not all of it: {incomplete}" if incomplete else ""),
        f"Code: commit {commit}{dirty}" + (f"; {versions}" if versions else ""),
        f"Machine: {', '.join(str(part) for part in machine if part) or 'unknown'}",
    ]


# -- notes -----------------------------------------------------------------------------------------


def _about_spread(rows: Sequence[Row]) -> list[Block]:
    single = [row.method for row in rows if len(row.records) == 1]
    several = len(rows) - len(single)
    notes: list[Block] = []
    if several:
        notes.append(
            "± after a number is the standard deviation over seeds (n - 1); 95% CI is the half "
            "width of the confidence interval of the mean, by Student's t."
        )
    if single:
        who = ", ".join(single) if several else "every method"
        notes.append(
            f"One seed only ({who}): no interval can be given, and small differences may be chance."
        )
    return notes


def _about_rates(rows: Sequence[Row]) -> list[Block]:
    """Which linear probes might have chosen a rate outside of the grid."""
    edged = [
        row.method
        for row in rows
        if any(_at_the_edge(curve) for r in row.records for curve in r.probe_curves.values())
    ]
    if not edged:
        return []
    return [
        (
            f"The probe's learning rate that validated best is the first or the last of its grid "
            f"for a module of {', '.join(edged)}: other rates might do better there."
        )
    ]


def _at_the_edge(curve: Sequence[Sequence[float]]) -> bool:
    """Whether either end of the curve is better than all that lies between."""
    accuracies = [accuracy for _, accuracy in curve]
    inner = accuracies[1:-1]
    return bool(inner) and max(accuracies[0], accuracies[-1]) > max(inner)


def _about_paper(
    rows: Sequence[Row], published: PublishedNumbers, names: Sequence[str]
) -> list[Block]:
    """Where each paper's numbers stand, what it adds, and its numbers of methods not run here."""
    methods = {row.method for row in rows}
    lines = []
    for paper, numbers in published.items():
        shown = {cell: p for cell, p in numbers.items() if cell[1] in names}
        if not shown:
            continue
        places = dict.fromkeys(f"{p.source}, {p.table}, page {p.page}" for p in shown.values())
        lines.append(f"paper: {'; '.join(places)}")
        called = "the paper" if len(published) == 1 else paper
        others = {cell: p for cell, p in shown.items() if cell[0] not in methods}
        if others:
            lines.append(f"in {called}, not here: {_listed(others)}")
        lines += dict.fromkeys(f"{cell[0]}: {p.note}" for cell, p in shown.items() if p.note)
    return [Bullets(lines)] if lines else []


def _listed(numbers: Numbers) -> str:
    """Methods and their numbers, metric by metric where there are several."""
    by_metric: dict[str, list[str]] = {}
    for (method, name), p in numbers.items():
        shown = f"{method} {show(p.value, p.std, style_of(name))}"
        by_metric.setdefault(heading_of(name), []).append(shown)
    if len(by_metric) == 1:
        return ", ".join(*by_metric.values())
    return "; ".join(f"{heading}: {', '.join(found)}" for heading, found in by_metric.items())


def _reason(record: Record) -> str:
    cell = f"{record.method}, seed {record.seed}"
    if not record.fits:
        return f"{cell} {record.error}"
    if record.status is Status.FAILED:
        return f"{cell} failed: {record.error or 'no reason recorded'}"
    started = record.provenance.get("started_at")
    return f"{cell} is running or was interrupted" + (f" (started {started})" if started else "")


def _attempted_at(record: Record) -> str:
    return finished_at(record) or str(record.provenance.get("started_at") or "")


def _any(rows: Sequence[Row], name: str) -> bool:
    return any(name in row.summaries for row in rows)
