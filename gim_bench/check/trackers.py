"""The means of a check for services that keep histories: github-action-benchmark and Bencher.

Sources: github.com/benchmark-action/github-action-benchmark, its tools customSmallerIsBetter and
customBiggerIsBetter; bencher.dev/docs/reference/bencher-metric-format.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gim_bench import RESULTS_VERSION
from gim_bench.check.reference import machine_of, was_resumed
from gim_bench.check.tolerance import COSTS, Worse, compared, kind_of
from gim_bench.records.metrics import unit_of
from gim_bench.records.record import Record
from gim_bench.records.statistics import Summary, newest_done, summarise_metrics

SMALLER, BIGGER, BENCHER = "github-smaller", "github-bigger", "bencher"
TRACKERS = (SMALLER, BIGGER, BENCHER)


class Mean(NamedTuple):
    """The mean of one metric of one method over seeds."""

    row: str  # "<suite>/<method>"
    metric: str
    unit: str
    found: Summary


def for_tracker(records: Sequence[Record], fmt: str) -> str:
    """The means of the newest finished cells as JSON, metric by metric that a check compares.

    `fmt` is one of `TRACKERS`. A tool of github-action-benchmark knows one direction: accuracies
    are for `github-bigger`; losses, memory and time are for `github-smaller`.
    """
    means = [mean for alike in newest_by_method(records).values() for mean in means_of(alike)]
    if fmt == BENCHER:
        return json.dumps(_as_bencher(means), indent=2)
    chosen = [mean for mean in means if _is_bigger_better(mean) == (fmt == BIGGER)]
    return json.dumps([_as_github(mean) for mean in chosen], indent=2)


def newest_by_method(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The newest finished cells with results of this version, by method."""
    current = [r for r in records if r.provenance.get("results_version") == RESULTS_VERSION]
    by_method: dict[str, list[Record]] = {}
    for record in newest_done(current):
        by_method.setdefault(record.method, []).append(record)
    return by_method


def means_of(alike: Sequence[Record]) -> Iterator[Mean]:
    """The mean of each metric that a check compares, over the cells of one method.

    Memory and speed are those of the cells that were not resumed, and ran alone.
    """
    summaries, first = summarise_metrics(alike), alike[0]
    undisturbed = summarise_metrics(
        [r for r in alike if not was_resumed(r) and machine_of([r]).workers == 1]
    )
    for name in compared(summaries):
        unit = unit_of(name, first.config)
        found = undisturbed if kind_of(name, unit=unit) in COSTS else summaries
        if name in found:
            yield Mean(f"{first.suite}/{first.method}", name, unit, found[name])


def _is_bigger_better(mean: Mean) -> bool:
    kind = kind_of(mean.metric, unit=mean.unit)
    return kind is not None and kind.worse is Worse.LOWER


def _as_github(mean: Mean) -> dict[str, Any]:
    """An entry with the standard deviation over seeds as its range."""
    found = mean.found
    entry = {
        "name": f"{mean.row} {mean.metric}",
        "unit": mean.unit,
        "value": found.mean,
        "extra": f"seeds: {found.n}",
    }
    return entry if found.std is None else entry | {"range": f"± {found.std:.3g}"}


def _as_bencher(means: Sequence[Mean]) -> dict[str, dict[str, dict[str, float]]]:
    """{row: {metric: value with the ends of the 95 % interval over seeds}}."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for mean in means:
        found = mean.found
        value = {"value": found.mean}
        if found.ci95 is not None:
            value |= {
                "lower_value": found.mean - found.ci95,
                "upper_value": found.mean + found.ci95,
            }
        table.setdefault(mean.row, {})[mean.metric] = value
    return table
