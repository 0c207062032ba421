"""Records as a table of pandas."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from gim_bench.cells.defaults import settings_by_name
from gim_bench.errors import ConfigError
from gim_bench.records.folder import RunsFolder, left_out
from gim_bench.records.metrics import describe, target_of, unit_of
from gim_bench.records.record import Record
from gim_bench.records.statistics import settings_of
from gim_bench.seals import digest

COLUMNS = (
    "suite", "dataset", "method", "seed", "status", "target", "metric", "module", "value", "unit",
    "better", "settings", "key", "data_sha256", "results_version", "git_commit", "folder",
)  # fmt: skip


SETTINGS_DIGITS = 12  # of the sha256 of a cell's settings


def results(runs_dir: str | Path = "runs", *, suite: str | None = None) -> pd.DataFrame:
    """All undamaged records of a folder of runs, or those of one suite: a row for each metric.

    - `target` is "class", "speaker" or "phone" for accuracies and for the losses of encoders that
      learn a target of speech; else empty.
    - `module` is the number of the module; none for the top module's number under its bare name,
      and for what is of the whole cell. The top module has both rows.
    - `value` is in `unit`; `better` is "higher" or "lower".
    - `settings` is alike for cells with the same settings, on any device. Rows may be
      averaged over seeds where suite, method, `settings`, `data_sha256` and `results_version` are
      alike. A seed that ran on two devices has two such rows: `drop_duplicates` by these columns,
      `target`, `module`, `seed` and `metric` keeps one.

    A cell without a metric, such as one that failed, has one row, whose metric is missing. Damaged
    records are left out with a warning that counts them.

    Raises: ConfigError if there is no such folder, or no such suite in it.
    """
    runs = RunsFolder(Path(runs_dir))
    known = runs.suites()
    if suite is not None and suite not in known:
        raise ConfigError(f"no records of suite {suite!r} in {runs_dir}: {_listed(known)}")
    if not known:
        raise ConfigError(f"no records in {runs_dir}: name the folder of --runs-dir")
    found: list[Record] = []
    for name in known if suite is None else [suite]:
        records, damaged = runs.read(name)
        if damaged:
            warnings.warn(left_out(damaged), stacklevel=2)
        found += records
    return table_of(found, runs=runs)


def table_of(records: Sequence[Record], *, runs: RunsFolder) -> pd.DataFrame:
    """The table of these records, which lie in `runs`."""
    rows = [row for r in records for row in _rows(r, folder=str(runs.folder_of(r)))]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"module": "Int64", "value": "float64"})


def _listed(suites: list[str]) -> str:
    return f"there are {', '.join(suites)}" if suites else "there are none at all"


def _rows(record: Record, *, folder: str) -> Iterator[dict[str, Any]]:
    settings = settings_by_name(settings_of(record)["config"])
    shared = {
        "suite": record.suite,
        "dataset": record.dataset,
        "method": record.method,
        "seed": record.seed,
        "status": record.status.value,
        "settings": digest(settings)[:SETTINGS_DIGITS],
        "key": record.key,
        "data_sha256": record.provenance.get("data_sha256"),
        "results_version": record.provenance.get("results_version"),
        "git_commit": record.provenance.get("git_commit"),
        "folder": folder,
    }
    if not record.metrics:
        yield shared
    for name, unit in units(record.metrics, record.config):
        yield shared | about(name) | {"value": record.metrics[name], "unit": unit}


def units(names: Iterable[str], config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each metric with its unit; those of a later version are left out with a warning."""
    for name in names:
        try:
            unit = unit_of(name, config)
        except ConfigError as error:
            warnings.warn(f"left out: {error}", stacklevel=3)
        else:
            yield name, unit


@cache
def about(name: str) -> dict[str, Any]:
    """Target, metric, module and better direction of a metric, from its name in a record."""
    target, bare = target_of(name)
    metric, _, module = bare.partition("/module_")
    return {
        "target": target or ("class" if "accuracy" in metric or metric == "unconverged" else ""),
        "metric": metric,
        "module": int(module) if module else None,
        "better": describe(name).better.value,
    }
