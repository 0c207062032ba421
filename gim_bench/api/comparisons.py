"""Means, differences and figures of the finished cells of a suite, as its report has them."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from gim_bench.api.running import overrides_of
from gim_bench.api.tables import about, units
from gim_bench.errors import ConfigError
from gim_bench.records.folder import RunsFolder
from gim_bench.report.build import headline_of, rows_of
from gim_bench.report.columns import Row, interval_of
from gim_bench.report.curves import loss_figures, module_figures, rate_figures
from gim_bench.report.document import Figure
from gim_bench.report.figures import draw
from gim_bench.report.found import of_one_origin
from gim_bench.report.pairs import Pair, compared, reference_of
from gim_bench.report.points import accuracy_over_cost
from gim_bench.settings.schema import Suite
from gim_bench.settings.suites import load_suite

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

OF_MEANS = (
    "method", "target", "metric", "module", "mean", "std", "low", "high", "seeds", "covers",
    "unit", "better",
)  # fmt: skip
OF_DIFFERENCES = (
    "method", "reference", "target", "metric", "at_best_module", "difference", "low", "high", "p",
    "seeds", "reference_seeds",
)  # fmt: skip


class _Finished(NamedTuple):
    """The finished cells of a suite, a row for each method."""

    suite: Suite
    rows: Sequence[Row]


def summary(
    suite: str | Path,
    *,
    runs_dir: str | Path = "runs",
    settings: Mapping[str, Any] | None = None,
    data: str | None = None,
) -> pd.DataFrame:
    """Mean, standard deviation and 95 % interval of each metric of each method of a suite.

    `low` and `high` are the ends of the interval, in the metric's `unit`. `covers` names the chance
    that it covers: "seeds and items" of the test set, "seeds" alone by Student's t, or "items"
    alone, which is about this one trained network. One seed has no `std`.

    Cells have the suite's settings with `settings` over them, as in `run`, and are of one data set
    and version of results: of those that finished last, or of the data whose sha256 begins with
    `data`. Whatever is left out has a warning.

    Raises: ConfigError for unknown names, or if there is no finished cell.
    """
    _, rows = _finished(suite, runs_dir=runs_dir, settings=settings, data=data)
    means = [
        _mean(row, name) | {"unit": unit}
        for row in rows
        for name, unit in units(row.summaries, row.records[0].config)
    ]
    table = pd.DataFrame(means, columns=list(OF_MEANS))
    return table.astype({"module": "Int64"})


def differences(
    suite: str | Path,
    *,
    runs_dir: str | Path = "runs",
    settings: Mapping[str, Any] | None = None,
    data: str | None = None,
) -> pd.DataFrame:
    """Each method's accuracy less that of the reference, `gim` where the suite has it, in points.

    Test examples are paired and seeds are not. The 95 % interval from `low` to `high` and the
    two-sided `p` are corrected by Holm for all rows of the table; they are missing where a method
    has one seed. An untrained encoder has a second row, `at_best_module`.

    Cells are chosen as in `summary`. Raises: ConfigError likewise.
    """
    _, rows = _finished(suite, runs_dir=runs_dir, settings=settings, data=data)
    reference = reference_of(rows).method
    found = compared(rows, headline_of(rows))
    return pd.DataFrame(
        [_difference(pair, reference) for pair in found], columns=list(OF_DIFFERENCES)
    )


def figures(
    suite: str | Path,
    *,
    runs_dir: str | Path = "runs",
    settings: Mapping[str, Any] | None = None,
    data: str | None = None,
) -> "dict[str, Canvas]":
    """The figures of the suite's report as figures of matplotlib, by their titles.

    Accuracy over peak memory and over the time of training, the test error of every module, the
    losses over epochs, and the probe's accuracy over its hyperparameter: those for which the cells
    have numbers. `figure.savefig("error.pdf")` writes one; its axes can be changed before.

    Cells are chosen as in `summary`. Raises: ConfigError likewise.
    """
    loaded, rows = _finished(suite, runs_dir=runs_dir, settings=settings, data=data)
    names = headline_of(rows)
    over_cost = accuracy_over_cost(rows, names, fresh_process=loaded.fresh_process)
    every = [
        *(block for block in over_cost if isinstance(block, Figure)),
        *module_figures(rows, names),
        *loss_figures(rows),
        *rate_figures(rows),
    ]
    return {figure.title: draw(figure) for figure in every}


def _finished(
    suite: str | Path,
    *,
    runs_dir: str | Path,
    settings: Mapping[str, Any] | None,
    data: str | None,
) -> _Finished:
    """The finished cells that `summary` describes. Raises: ConfigError."""
    loaded = load_suite(str(suite), overrides=overrides_of(settings or {}))
    runs = RunsFolder(Path(runs_dir))
    found = of_one_origin(loaded, runs, data=data)
    for line in found.left_out():
        warnings.warn(line, stacklevel=3)
    every = rows_of(found.records, loaded.methods, predictions=runs.predictions)
    rows = [row for row in every if row.records]
    if not rows:
        raise ConfigError(
            f"no finished cell of suite {loaded.name!r} with these settings in {runs_dir}: first "
            f"gim_bench.run({str(suite)!r}), or name the folder with runs_dir"
        )
    return _Finished(loaded, rows)


def _mean(row: Row, name: str) -> dict[str, Any]:
    of_seeds, estimate = row.summaries[name], interval_of(row, name)
    return {
        "method": row.method,
        **about(name),
        "mean": of_seeds.mean,
        "std": of_seeds.std,
        **_interval(of_seeds.mean, estimate.half_width() if estimate else None),
        "seeds": of_seeds.n,
        "covers": estimate.covers if estimate else "",
    }


def _difference(pair: Pair, reference: str) -> dict[str, Any]:
    value, corrected = pair.difference.value, pair.corrected
    half = pair.difference.half_width(corrected.level) if corrected else None
    ours, theirs = pair.seeds
    described = about(pair.metric)
    return {
        "method": pair.method,
        "reference": reference,
        "target": described["target"],
        "metric": described["metric"],
        "at_best_module": pair.at_best,
        "difference": value,
        **_interval(value, half),
        "p": corrected.p_value if corrected else None,
        "seeds": ours,
        "reference_seeds": theirs,
    }


def _interval(value: float, half: float | None) -> dict[str, float | None]:
    if half is None:
        return {"low": None, "high": None}
    return {"low": value - half, "high": value + half}
