"""Numbers printed in papers, read from `results/published`."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

from gim_bench.errors import ConfigError, unknown_name
from gim_bench.records.metrics import METRICS, OF_OBJECTIVE

CONVERSIONS = {("GB", "bytes"): 1e9}  # from the paper's unit to the metric's


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
    page: int
    source: str  # "Löwe et al. 2019"
    note: str
    margin_reason: str
    probe_rate: float | None = None  # learning rate of the paper's linear probe
    requires: Mapping[str, Any] = field(default_factory=dict)  # settings of a comparable record


# The numbers of one paper, by (method, metric).
Numbers = Mapping[tuple[str, str], Published]


def load(references: Sequence[str]) -> dict[str, Numbers]:
    """The numbers of published tables, as in "loewe2019/table1", by the paper's short name.

    A number that tables of a paper repeat is the first table's. Raises: ConfigError for an
    unknown paper or table.
    """
    papers = {path.stem: path for path in sorted(_folder().glob("*.toml"))}
    found: dict[str, dict[tuple[str, str], Published]] = {}
    for reference in references:
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
        numbers = found.setdefault(content["short"], {})
        for row in content[table]["results"]:
            number = _published(row, content[table], source=content["short"])
            numbers.setdefault((row["method"], row["metric"]), number)
    return dict(found)


def results_folder(name: str) -> Path:
    """The folder `name` of results/: inside an installed package, or beside it in a checkout."""
    package = Path(str(resources.files("gim_bench")))
    installed = package / "results" / name
    return installed if installed.is_dir() else package.parent / "results" / name


def _folder() -> Path:
    return results_folder("published")


def _read(path: Path) -> dict[str, Any]:
    """The file's tables, with numbers as they are printed: 7.0 has a digit behind the point."""
    return tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)


def _published(row: Mapping[str, Any], table: Mapping[str, Any], *, source: str) -> Published:
    """A row of a table in the unit of the metric; metrics that we lack keep the paper's unit."""
    metric = METRICS.get(row["metric"])
    converts = metric is not None and metric.unit not in (row["unit"], OF_OBJECTIVE)
    factor = CONVERSIONS[row["unit"], metric.unit] if metric and converts else 1.0

    def of_metric(setting: str) -> Any:
        """The table's setting, which may be a table by metric."""
        found = table.get(setting)
        return found[row["metric"]] if isinstance(found, Mapping) else found

    std, rate = row.get("std"), of_metric("probe_rate")
    printed = Decimal(row["value"]).as_tuple().exponent
    assert isinstance(printed, int)  # finite, as every number that is printed
    return Published(
        value=float(row["value"]) * factor,
        std=None if std is None else float(std) * factor,
        runs=row.get("runs"),
        rounding=0.5 * 10**printed * factor,
        margin=float(of_metric("margin")) * factor,
        probe_rate=None if rate is None else float(rate),
        requires=table.get("requires", {}),
        table=row.get("place", table["place"]),
        page=row.get("page", table["page"]),
        source=source,
        note=row.get("note", ""),
        margin_reason=table["margin_reason"],
    )
