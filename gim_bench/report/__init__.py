"""Records as a report for people (Markdown, HTML) and as data for programs (JSON, CSV)."""

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from gim_bench.errors import ConfigError, unknown_name
from gim_bench.records.metrics import describe
from gim_bench.records.protocols import ReadAsSuite, ResultsOf
from gim_bench.records.record import Record
from gim_bench.report.build import (
    PredictionsOf,
    build,
    check_sources,
    has_interval,
    headline_of,
    provenance_of,
    rows_of,
)
from gim_bench.report.columns import failed_seeds
from gim_bench.report.comparable import Describes
from gim_bench.report.comparison import undeclared
from gim_bench.report.document import Document
from gim_bench.report.flags import flagged
from gim_bench.report.latex import as_latex
from gim_bench.report.listing import as_csv, as_json
from gim_bench.report.markdown import as_markdown
from gim_bench.report.patches import PicturesOf
from gim_bench.report.protocols import accuracies_of, left_out, protocols_section
from gim_bench.report.spaces import render_spaces
from gim_bench.report.suite_like import SuiteLike
from gim_bench.report.sweeps import sweep_section, sweeps_as_data
from gim_bench.report.webpage import as_html

__all__ = [
    "FORMATS",
    "build",
    "check_sources",
    "has_interval",
    "render",
    "render_protocols",
    "render_spaces",
    "render_sweeps",
]

FORMATS = ("md", "html", "json", "csv", "latex")


def render(
    records: Sequence[Record],
    *,
    suite: SuiteLike,
    describes: Describes,
    fmt: str,
    metrics: Sequence[str] = (),
    predictions: PredictionsOf = lambda _: None,
    pictures: PicturesOf = lambda _: None,
    results: ResultsOf = lambda _: {},
    notes: Sequence[str] = (),
    settings: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The records of `suite` in the format `fmt`; with `metrics`, these metrics alone.

    `describes` says whether a configuration is one that the suite gives: the numbers of other
    records are not compared with published ones. `predictions` reads the predictions of a record;
    without them, intervals cover seeds alone. `pictures` reads its pictures of patches,
    `results` the results of further protocols.

    Lines among `notes` that are not empty stand on top. `settings` has the sha256 of each row's
    settings but the rate: a rate that was tuned for others is named.

    Raises: ConfigError for an unknown format, metric or published table.
    """
    for name in metrics:
        describe(name)

    def document() -> Document:
        return build(
            records,
            suite=suite,
            describes=describes,
            predictions=predictions,
            pictures=pictures,
            results=results,
            notes=notes,
            settings=settings,
            metrics=metrics,
        )

    writers: dict[str, Callable[[], str]] = {
        "md": lambda: as_markdown(document()),
        "html": lambda: as_html(document()),
        "json": lambda: as_json(records, metrics=metrics),
        "csv": lambda: as_csv(records, metrics=metrics),
        "latex": lambda: _as_latex(records, suite, predictions, metrics=metrics, notes=notes),
    }
    if fmt not in writers:
        raise ConfigError(unknown_name("format", fmt, known=FORMATS, where="--format"))
    return writers[fmt]()


def _as_latex(
    records: Sequence[Record],
    suite: SuiteLike,
    predictions: PredictionsOf,
    *,
    metrics: Sequence[str],
    notes: Sequence[str],
) -> str:
    rows = [row for row in rows_of(records, suite.methods, predictions=predictions) if row.records]
    facts = [record for row in rows for record in row.records]
    about = [
        f"Suite {suite.name}: {suite.protocol}",
        *notes,
        *provenance_of(facts),
        *(f"{row.method}: {said}" for row in rows if (said := failed_seeds(row))),
        *(f"UNDECLARED {difference}" for difference in undeclared(facts, rows=suite.method)),
        *flagged(facts),
    ]
    return as_latex(rows, metrics or headline_of(rows), notes=[note for note in about if note])


def render_sweeps(records: Sequence[Record], *, suite: str, as_json: bool) -> str:
    """The sweeps of the probe that the records hold, as Markdown or JSON."""
    if as_json:
        return json.dumps(sweeps_as_data(records), indent=2)
    section = sweep_section(records)
    return as_markdown(Document(title=f"Sweep of suite {suite}", summary=[], sections=[section]))


def render_protocols(
    records: Sequence[Record],
    *,
    suite: SuiteLike,
    describes: Describes,
    predictions: PredictionsOf,
    results: ResultsOf,
    names: Sequence[str],
) -> str:
    """Methods × protocols of these names, as Markdown: results that were read as the suite reads.

    `describes` says whether a configuration is one that the suite gives.
    """
    rows = [row for row in rows_of(records, suite.methods, predictions=predictions) if row.records]
    read = ReadAsSuite(results, describes=describes)
    section = protocols_section(
        rows,
        accuracies_of(rows),
        results=read,
        names=names,
        without=left_out(records, read, suite=suite),
    )
    return as_markdown(Document(title=f"Suite {suite.name}", summary=[], sections=[section]))
