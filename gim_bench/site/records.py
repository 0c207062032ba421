"""Pages of records: one for each cell, one for the seeds of a method, one that lists a suite's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gim_bench.cells.defaults import settings_by_name
from gim_bench.errors import ConfigError
from gim_bench.records.metrics import describe, unit_of
from gim_bench.records.provenance import changes
from gim_bench.records.record import Record
from gim_bench.records.statistics import finished_at, flatten, summarise
from gim_bench.report.build import provenance_of
from gim_bench.report.columns import NONE, with_unit
from gim_bench.report.document import Bullets, Column, Document, Section, Table
from gim_bench.site.links import relative

DIGITS = 12  # of a commit that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A record with the places of its pages."""

    record: Record
    who: str
    page: str  # from the root of the site
    content: bytes  # of record.json
    run: str = ""  # address of its MLflow run, where known

    @property
    def name(self) -> str:
        return f"{self.record.method} seed {self.record.seed}"

    @property
    def json(self) -> str:
        """The copy of record.json."""
        return self.page.removesuffix(".html") + ".json"


def record_page(listed: Listed) -> Document:
    """One cell: what ran, its files, and every number with all of its digits."""
    record = listed.record
    rows = [("record.json, sealed", relative(listed.json, page=listed.page))]
    rows += [("run in MLflow", listed.run)] if listed.run else []
    files = Table(
        columns=[Column(heading="file", numeric=False)],
        rows=[[text] for text, _ in rows],
        links=[[address] for _, address in rows],
    )
    facts = [
        f"Cell: {record.suite}, {record.method}, seed {record.seed}, key {record.key[:8]}",
        f"Who: {listed.who}",
        f"Status: {record.status}" + (f": {record.error}" if record.error else ""),
        f"Finished: {finished_at(record) or 'not known'}",
        *provenance_of([record]),
        f"Protocol: {record.protocol}",
    ]
    sections = [
        Section(title="Metrics", blocks=[_metrics(record)] if record.metrics else []),
        Section(title="Settings", blocks=[_named(settings_by_name(record.config), "setting")]),
        Section(title="Provenance", blocks=[_named(flatten(record.provenance), "fact")]),
    ]
    return Document(
        title=f"{record.suite}: {listed.name}",
        summary=[files, Bullets(facts)],
        sections=[section for section in sections if section.blocks],
    )


def method_page(cells: Sequence[Listed], *, page: str) -> Document:
    """The seeds of one method beside each other: every number is a link to its record."""
    first = cells[0].record
    names = dict.fromkeys(name for cell in cells for name in cell.record.metrics)
    addresses = [relative(cell.page, page=page) for cell in cells]
    rows, links = [], []
    for name in names:
        values = [cell.record.metrics.get(name) for cell in cells]
        known = [value for value in values if value is not None]
        named = with_unit(name, _unit(name, first))
        rows.append([named, _exact(summarise(known).mean), *map(_exact, values)])
        here = [a if v is not None else "" for a, v in zip(addresses, values, strict=True)]
        links.append(["", "", *here])
    columns = [
        Column(heading="metric", numeric=False),
        Column(heading="mean"),
        *(Column(heading=f"seed {cell.record.seed}") for cell in cells),
    ]
    return Document(
        title=f"{first.suite}: {first.method}, {len(cells)} seeds",
        summary=[Table(columns=columns, rows=rows, links=links)],
        sections=[],
    )


def list_page(cells: Sequence[Listed], *, suite: str, page: str) -> Document:
    """All records of a suite, finished or not, with the commit and the hardware of each."""
    headings = ("method", "seed", "status", "who", "finished", "commit", "hardware", "key")
    rows = [
        [
            cell.record.method,
            str(cell.record.seed),
            str(cell.record.status),
            cell.who,
            finished_at(cell.record)[:16].replace("T", " ") or NONE,
            commit_of(cell.record),
            hardware_of(cell.record),
            cell.record.key[:8],
        ]
        for cell in cells
    ]
    links = [[relative(cell.page, page=page), *[""] * (len(headings) - 1)] for cell in cells]
    columns = [Column(heading=h, numeric=h == "seed") for h in headings]
    return Document(
        title=f"{suite}: records",
        summary=[Table(columns=columns, rows=rows, links=links)],
        sections=[],
    )


def commit_of(record: Record) -> str:
    """The first digits of the commit, and whether files differed from it."""
    facts = record.provenance
    commit = str(facts.get("git_commit") or "unknown")[:DIGITS]
    return f"{commit} {changes(facts)}".rstrip()


def hardware_of(record: Record) -> str:
    """The GPU, or the processor with the number of threads."""
    facts = record.provenance
    cpu = f"{facts.get('cpu') or 'unknown'}, {facts.get('threads') or '?'} thread(s)"
    return str(facts.get("gpu") or cpu)


def _metrics(record: Record) -> Table:
    """Every metric of the record, with all digits."""
    rows = [[n, _exact(v), _unit(n, record), *_about(n)] for n, v in record.metrics.items()]
    headings = ("metric", "value", "unit", "better", "meaning")
    return Table(columns=[Column(heading=h, numeric=h == "value") for h in headings], rows=rows)


def _exact(value: float | None) -> str:
    """All digits of a number, thousands apart."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value == int(value) else f"{value:,}"


def _unit(name: str, record: Record) -> str:
    try:
        return unit_of(name, record.config)
    except ConfigError:  # a metric of another version
        return ""


def _about(name: str) -> tuple[str, str]:
    """The better direction and the meaning of a metric."""
    try:
        metric = describe(name)
    except ConfigError:  # a metric of another version
        return "", ""
    return metric.better.value, metric.meaning


def _named(values: Mapping[str, object], heading: str) -> Table:
    columns = [Column(heading=heading, numeric=False), Column(heading="value", numeric=False)]
    return Table(columns=columns, rows=[[name, str(value)] for name, value in values.items()])
