"""The tables of a report: accuracy, accuracy and loss by module, costs, chosen metrics."""

from collections.abc import Sequence

from gim_bench.records.metrics import METRICS, OF_OBJECTIVE, describe, hyperparameter_of
from gim_bench.records.record import SEEN_IN_TRAINING
from gim_bench.report.columns import (
    NONE,
    SAW_VALIDATION,
    Filled,
    PublishedNumbers,
    Row,
    heading_of,
    interval_column,
    interval_of,
    method_column,
    metric_column,
    ratio_column,
    saw_validation,
    seeds_column,
    show_published,
    style_of,
    table_of,
    unit_column,
    unit_shared,
    with_unit,
)
from gim_bench.report.comparable import Describes, misfit
from gim_bench.report.document import Block, Bullets, Column, Section
from gim_bench.report.flags import flags


def accuracy_table(
    rows: Sequence[Row],
    names: Sequence[str],
    *,
    headline: Sequence[str],
    published: PublishedNumbers,
    describes: Describes,
) -> Section:
    """The accuracies of the top module; `headline` ones with interval and published numbers."""
    if not names:
        return Section(title="Accuracy", blocks=[])
    columns = [method_column(rows), seeds_column(rows)]
    for name in names:
        columns.append(metric_column(rows, name))
        if name in headline:
            columns += interval_column(rows, name)
            columns += _paper_columns(rows, name, published, describes)
    return Section(
        title="Accuracy: % of all test examples, features of the top module",
        blocks=[
            table_of(columns),
            *_about_leaks(rows),
            *_about_spread(rows, headline),
            *_about_rates(rows),
            *_about_validation(rows),
            *flags([record for row in rows for record in row.records]),
            *_about_paper(rows, published, names, describes),
        ],
    )


def accuracy_by_module(rows: Sequence[Row], name: str) -> Section:
    """An accuracy, module by module."""
    return _by_module(rows, name, title=f"Accuracy by module: {heading_of(name)}, %")


def losses_by_module(rows: Sequence[Row]) -> list[Section]:
    """Each loss on training beside the same on validation, if any row holds examples out."""
    losses = [metric.name for metric in METRICS.values() if metric.unit == OF_OBJECTIVE]
    sections = []
    for validation in (name for name in losses if "validation" in name):
        if any(validation in row.summaries for row in rows):
            for name in (validation.replace("validation_", ""), validation):
                unit = unit_shared(rows, modules_of(rows, name))
                title = f"By module: {with_unit(describe(name).meaning, unit)}, {name}"
                sections.append(_by_module(rows, name, title=title))
    return sections


def modules_of(rows: Sequence[Row], name: str) -> list[str]:
    """The metric of every module that any row has, lowest module first."""
    found = {n for row in rows for n in row.summaries if n.startswith(f"{name}/module_")}
    return sorted(found, key=lambda n: int(n.rpartition("_")[2]))


def _by_module(rows: Sequence[Row], name: str, *, title: str) -> Section:
    modules = modules_of(rows, name)
    if not modules:
        return Section(title=title, blocks=[])
    # Features that are no stack of modules would pass for the first module's.
    stacks = [row for row in rows if len(row.summaries.keys() & modules) > 1] or rows
    columns = [method_column(stacks)]
    if describe(name).unit == OF_OBJECTIVE:
        columns += unit_column(stacks, modules)
    for module in modules:
        heading = module.rpartition("/")[2].replace("_", " ")
        columns.append(metric_column(stacks, module, title=heading))
    return Section(title=title, blocks=[table_of(columns)])


def cost_table(
    rows: Sequence[Row],
    names: Sequence[str],
    *,
    title: str,
    published: PublishedNumbers,
    describes: Describes,
    ratios: bool = False,
) -> Section:
    """Costs beside the published ones; with `ratios`, also as shares of CPC's."""
    columns = [method_column(rows)]
    for name in names:
        columns += [metric_column(rows, name), *(ratio_column(rows, name) if ratios else [])]
        columns += _paper_columns(rows, name, published, describes)
    blocks = [table_of(columns), *_about_paper(rows, published, names, describes)] if names else []
    return Section(title=title, blocks=blocks)


def chosen_metrics(
    rows: Sequence[Row],
    names: Sequence[str],
    *,
    published: PublishedNumbers,
    describes: Describes,
) -> Section:
    """The metrics that the user asked for, with intervals and published numbers."""
    losses = [name for name in names if describe(name).unit == OF_OBJECTIVE]
    columns = [method_column(rows), seeds_column(rows)]
    columns += unit_column(rows, losses) if losses else []
    for name in names:
        unit = unit_shared(rows, losses) if name in losses else style_of(name).unit
        columns += [
            metric_column(rows, name, title=with_unit(name, unit)),
            *interval_column(rows, name),
            *_paper_columns(rows, name, published, describes),
        ]
    notes = [
        *_about_leaks(rows),
        *_about_spread(rows, names),
        *flags([record for row in rows for record in row.records]),
        *_about_paper(rows, published, names, describes),
    ]
    return Section(title="Metrics", blocks=[table_of(columns), *notes] if rows else [])


def _paper_columns(
    rows: Sequence[Row], name: str, published: PublishedNumbers, describes: Describes
) -> list[Filled]:
    """A column for each paper that prints the metric of any of the methods.

    Numbers that are not comparable are left out.
    """
    style = style_of(name)
    columns = []
    for paper, numbers in published.items():
        found = []
        for row in rows:
            printed = numbers.get((row.method, name))
            unfit = printed and misfit(row, printed, metric=name, describes=describes)
            found.append(None if unfit else printed)
        if any(found):
            cells = [show_published(p, style) if p else NONE for p in found]
            heading = "paper" if len(published) == 1 else paper
            columns.append(Filled(Column(heading=heading), cells))
    return columns


# -- notes below the tables ------------------------------------------------------------------------


def _about_leaks(rows: Sequence[Row]) -> list[Block]:
    """Counts of test examples that training sees."""
    facts = [record.provenance for row in rows for record in row.records]
    notes = dict.fromkeys(note for each in facts for note in each.get("data_notes") or ())
    lines = [note for note in notes if note.startswith(SEEN_IN_TRAINING)]
    return [Bullets(lines)] if lines else []


def _about_spread(rows: Sequence[Row], names: Sequence[str]) -> list[Block]:
    """How to read standard deviations and intervals, and the methods of one seed."""
    single = [row.method for row in rows if len(row.records) == 1]
    notes: list[Block] = []
    if len(single) < len(rows):
        notes.append("± after a number is the standard deviation over seeds (n - 1).")
    if any(interval_of(row, name) for row in rows for name in names):
        notes.append(
            "95% CI is the half width of the confidence interval of the mean. It covers the choice "
            "of seeds and of test examples, unless it says that it covers one of them alone."
        )
    if single:
        who = ", ".join(single) if len(single) < len(rows) else "every method"
        notes.append(
            f"One seed only ({who}): no interval covers seeds, and small differences may be chance."
        )
    return notes


def _about_rates(rows: Sequence[Row]) -> list[Block]:
    """The methods whose linear probe may have its best rate or penalty outside of the grid."""

    def at_the_edge(curve: Sequence[Sequence[float]]) -> bool:
        in_order = sorted((rate, accuracy) for rate, accuracy in curve)  # suites list them anyhow
        accuracies = [accuracy for _, accuracy in in_order]
        inner = accuracies[1:-1]
        return bool(inner) and max(accuracies[0], accuracies[-1]) > max(inner)

    edged = [
        row.method
        for row in rows
        if any(at_the_edge(curve) for r in row.records for curve in r.probe_curves.values())
    ]
    if not edged:
        return []
    varied = " or ".join(
        dict.fromkeys(hyperparameter_of(r.config) for row in rows for r in row.records)
    )
    return [
        (
            f"The probe's {varied} that validated best is the first or the last of its grid for a "
            f"module of {', '.join(edged)}: values outside of the grid might do better there."
        )
    ]


def _about_validation(rows: Sequence[Row]) -> list[Block]:
    """The methods whose probe was chosen on labels that their encoder was trained on."""
    lines = [
        f"{row.method}: {SAW_VALIDATION} a {hyperparameter_of(row.records[0].config)} of the probe "
        f"that suits those examples."
        for row in rows
        if saw_validation(row)
        and any(len(curve) > 1 for r in row.records for curve in r.probe_curves.values())
    ]
    return [Bullets(lines)] if lines else []


def _about_paper(
    rows: Sequence[Row],
    published: PublishedNumbers,
    names: Sequence[str],
    describes: Describes,
) -> list[Block]:
    """The place and the notes of each paper's numbers, and its numbers of methods not run here."""
    by_method = {row.method: row for row in rows}
    lines = []
    for paper, numbers in published.items():
        shown = {cell: p for cell, p in numbers.items() if cell[1] in names}
        if not shown:
            continue
        places = dict.fromkeys(p.where for p in shown.values())
        lines.append(f"paper: {'; '.join(places)}")
        elsewhere: dict[str, list[str]] = {}
        differing: dict[str, list[str]] = {}
        for (method, name), p in shown.items():
            number = f"{method} {show_published(p, style_of(name))}"
            if method not in by_method:
                elsewhere.setdefault(heading_of(name), []).append(number)
            elif why := misfit(by_method[method], p, metric=name, describes=describes):
                differing.setdefault(why, []).append(number)
        if elsewhere:
            called = "the paper" if len(published) == 1 else paper
            listed = "; ".join(
                f"{heading}: {', '.join(found)}" if len(elsewhere) > 1 else ", ".join(found)
                for heading, found in elsewhere.items()
            )
            lines.append(f"in {called}, not here: {listed}")
        lines += [f"not comparable, {', '.join(of)}: {why}" for why, of in differing.items()]
        lines += dict.fromkeys(f"{method}: {p.note}" for (method, _), p in shown.items() if p.note)
    return [Bullets(lines)] if lines else []
