"""The leaderboard: methods of everybody who sent records, by suite, data and protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gim_bench.records.record import Record
from gim_bench.records.statistics import Origin, finished_at, origin_of
from gim_bench.report.build import headline_of
from gim_bench.report.columns import (
    Filled,
    Row,
    heading_of,
    interval_column,
    metric_column,
    seeds_column,
    style_of,
    table_of,
    with_unit,
)
from gim_bench.report.document import Bullets, Column, Document, Section, Table
from gim_bench.site.links import NUMBER, relative
from gim_bench.site.records import commit_of, hardware_of

ORDER = (
    "Rows stand in the order of the mean of their first accuracy. Whether two methods differ is "
    "another question, which the page of a suite answers with intervals."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A method of one person under one protocol."""

    suite: str
    protocol: str  # the protocol of the suite, or the name of a further one
    who: str
    row: Row
    page: str  # of the method's records, from the root of the site
    verified: str

    @property
    def origin(self) -> Origin:
        return origin_of(self.row.records[0])


def leaderboard(standings: Sequence[Standing], *, page: str) -> Document:
    """A table for each suite, protocol, data and version of results."""
    groups: dict[tuple[str, str, Origin], list[Standing]] = {}
    for each in standings:
        groups.setdefault((each.suite, each.protocol, each.origin), []).append(each)
    several = [(suite, protocol) for suite, protocol, _ in groups]
    sections = []
    for (suite, protocol, origin), group in groups.items():
        apart = several.count((suite, protocol)) > 1
        title = f"{suite}, data {str(origin.data_sha256)[:12]}" if apart else suite
        about = [f"Protocol: {protocol}", f"Results version: {origin.results_version}"]
        sections.append(Section(title=title, blocks=[Bullets(about), _table(group, page=page)]))
    return Document(title="Leaderboard", summary=[ORDER], sections=sections)


def _table(group: Sequence[Standing], *, page: str) -> Table:
    names = headline_of([each.row for each in group])

    def best_first(each: Standing) -> float:
        found = each.row.summaries.get(names[0]) if names else None
        return -found.mean if found else 0.0

    ordered = sorted(group, key=best_first)
    rows = [each.row for each in ordered]
    records = [each.row.records for each in ordered]
    columns = [
        _words("method", [row.method for row in rows]),
        _words("who", [each.who for each in ordered]),
    ]
    for name in names:
        title = with_unit(heading_of(name), style_of(name).unit)
        columns += [metric_column(rows, name, title=title), *interval_column(rows, name)]
    columns += [
        seeds_column(rows),
        _words("finished", [max(map(finished_at, of_row))[:10] for of_row in records]),
        _words("commit", [_all(of_row, commit_of) for of_row in records]),
        _words("hardware", [_all(of_row, hardware_of) for of_row in records]),
        _words("ran again", [each.verified for each in ordered]),
    ]
    table = table_of(columns)
    addresses = [relative(each.page, page=page) for each in ordered]
    links = [
        [
            address if place == 0 or (column.numeric and NUMBER.match(cell)) else ""
            for place, (column, cell) in enumerate(zip(table.columns, row, strict=True))
        ]
        for address, row in zip(addresses, table.rows, strict=True)
    ]
    return replace(table, links=links)


def _words(heading: str, cells: Sequence[str]) -> Filled:
    return Filled(Column(heading=heading, numeric=False), cells)


def _all(records: Sequence[Record], fact: Callable[[Record], str]) -> str:
    """A fact about records, with every value that it has."""
    return "; ".join(dict.fromkeys(map(fact, records)))
