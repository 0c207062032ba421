"""Numbers printed in papers, read from `results/published`.

results/README.md describes the format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

from gim_bench.errors import ConfigError, unknown_name
from gim_bench.records.metrics import METRICS, OF_OBJECTIVE
from gim_bench.report.tags import Tag, read_tags
from gim_bench.texts import read_toml

CONVERSIONS = {("GB", "bytes"): 1e9}  # from the paper's unit to the metric's
ERROR = "% error"  # 100 % less the accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A number and its place in the paper; `std` and `runs` if the paper gives them.

    Values are in the metric's own unit.
    """

    value: float
    std: float | None
    runs: int | None
    rounding: float  # half of the last printed digit
    margin: float  # largest difference that counts as a reproduction
    table: str  # "Table 1", or "section 4.1, text"
    page: int | None  # None: not known
    source: str  # "Löwe et al. 2019"
    note: str
    margin_reason: str
    probe_rate: float | None = None  # learning rate of the paper's linear probe
    requires: Mapping[str, Any] = field(default_factory=dict)  # settings of a comparable record
    tags: Sequence[Tag] = ()  # the protocol; without tags, `requires` alone decides
    rivals: Sequence["Published"] = ()  # numbers of the same method that others print
    read_in: str = ""  # the text in which the number was read, where it was not the paper

    @property
    def where(self) -> str:
        """Source, table and page, as in "Löwe et al. 2019, Table 1, page 5"."""
        page = "" if self.page is None else f", page {self.page}"
        return f"{self.source}, {self.table}{page}"


# The numbers of one paper, by (method, metric).
Numbers = Mapping[tuple[str, str], Published]


def load(references: Sequence[str]) -> dict[str, Numbers]:
    """The numbers of published tables, as in "loewe2019/table1", by the paper's short name.

    A number that tables of a paper repeat is the first table's. Raises: ConfigError for an
    unknown paper or table, a tag or a rival that is not there, or two tables of a paper with
    different numbers of a method.
    """
    found: dict[str, dict[tuple[str, str], Published]] = {}
    for reference in references:
        content, table = _table(reference)
        numbers = found.setdefault(content["short"], {})
        for row in table["results"]:
            number = _published(row, table, paper=content)
            rivals = [
                _rival(each, metric=row["metric"], where=reference)
                for each in row.get("rivals", [])
            ]
            first = numbers.setdefault(
                (row["method"], row["metric"]), replace(number, rivals=rivals)
            )
            if first.value != number.value:
                raise ConfigError(
                    f"{number.source}, {first.table} and {number.table} have different numbers for "
                    f"{row['metric']} of {row['method']}: name one table"
                )
    return dict(found)


def _table(reference: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A paper's file and the table in it that the reference names.

    Raises: ConfigError.
    """
    papers = {path.stem: path for path in sorted(_folder().glob("*.toml"))}
    paper, _, table = reference.partition("/")
    content = _read(papers[paper]) if paper in papers else {}
    if not isinstance(content.get(table), dict):
        known = [
            f"{name}/{each}"
            for name, path in papers.items()
            for each, of_table in _read(path).items()
            if isinstance(of_table, dict)
        ]
        raise ConfigError(unknown_name("published table", reference, known=known))
    return content, content[table]


def _rival(reference: str, *, metric: str, where: str) -> Published:
    """The number of "loewe2019/table1/predsim" for this metric; its own rivals are left out.

    Raises: ConfigError.
    """
    name, _, method = reference.rpartition("/")
    content, table = _table(name)
    rows = {row["method"]: row for row in table["results"] if row["metric"] == metric}
    if method not in rows:
        known = [f"{name}/{each}" for each in rows]
        raise ConfigError(unknown_name("rival", reference, known=known, where=where))
    return _published(rows[method], table, paper=content)


def results_folder(name: str) -> Path:
    """The folder `name` of results/: inside an installed package, or beside it in a checkout."""
    package = Path(str(resources.files("gim_bench")))
    installed = package / "results" / name
    return installed if installed.is_dir() else package.parent / "results" / name


def _folder() -> Path:
    return results_folder("published")


def _read(path: Path) -> dict[str, Any]:
    """The file's tables, with numbers as they are printed: 7.0 has a digit behind the point."""
    return read_toml(path, noun="published table", parse_float=Decimal)


def _published(
    row: Mapping[str, Any], table: Mapping[str, Any], *, paper: Mapping[str, Any]
) -> Published:
    """A row of a table in the unit of the metric; metrics that we lack keep the paper's unit."""
    metric = METRICS.get(row["metric"])
    is_error = row["unit"] == ERROR
    converts = metric is not None and metric.unit not in (row["unit"], OF_OBJECTIVE)
    factor = CONVERSIONS[row["unit"], metric.unit] if metric and converts and not is_error else 1.0

    def of_metric(setting: str) -> Any:
        """The table's setting, which may be a table by metric."""
        found = table.get(setting)
        return found[row["metric"]] if isinstance(found, Mapping) else found

    std = row.get("std")
    # A row with tags of its own is quoted from a paper with another probe.
    rate = None if "tags" in row else of_metric("probe_rate")
    printed = Decimal(row["value"]).as_tuple().exponent
    assert isinstance(printed, int)  # finite, as every number that is printed
    return Published(
        value=float((100 - row["value"]) if is_error else row["value"]) * factor,
        std=None if std is None else float(std) * factor,
        runs=row.get("runs"),
        rounding=0.5 * 10**printed * factor,
        margin=float(of_metric("margin")) * factor,
        probe_rate=None if rate is None else float(rate),
        requires=table.get("requires", {}),
        tags=read_tags(
            {**table.get("tags", {}), **row.get("tags", {})},
            folder=_folder() / "tags",
            where=f"{paper['short']}, {row['method']}",
        ),
        table=row.get("place", table["place"]),
        page=row.get("page", table.get("page")),
        source=paper["short"],
        read_in=paper.get("read_in", ""),
        note=row.get("note", ""),
        margin_reason=table["margin_reason"],
    )
