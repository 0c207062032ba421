"""Statistics over records: selection of the records that count, means, spread, intervals."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from itertools import groupby
from typing import Any

from gim_bench.records.record import Record, Status

Complete = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """All in a record's key beside its settings and seed: numbers of two origins never mix."""

    data_sha256: str | None
    results_version: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Mean and spread of `n` values; `std` and `ci95` are None for a single value."""

    mean: float
    std: float | None  # with n - 1 in the denominator
    ci95: float | None  # half width of the mean's 95 % interval over seeds alone, Student's t
    n: int


def summarise(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and 95 % confidence interval of `values`, in their own unit.

    Raises: ValueError without any value.
    """
    n = len(values)
    if n == 0:
        raise ValueError("a summary needs at least one value")
    mean = statistics.fmean(values)
    if n == 1:
        return Summary(mean=mean, std=None, ci95=None, n=1)
    std = statistics.stdev(values)
    return Summary(mean=mean, std=std, ci95=_student_t(n - 1) * std / math.sqrt(n), n=n)


def values_by_seed(records: Sequence[Record], name: str) -> dict[int, float]:
    """{seed: value} of a metric in one method's records, without values that are not finite."""
    return {
        record.seed: record.metrics[name]
        for record in records
        if math.isfinite(record.metrics.get(name, math.nan))
    }


def mean_over_seeds(records: Sequence[Record], name: str) -> float | None:
    """Mean of a metric over the seeds of one method's records that have it; None if none has."""
    values = values_by_seed(records, name).values()
    return sum(values) / len(values) if values else None


def summarise_metrics(records: Sequence[Record]) -> dict[str, Summary]:
    """A summary of every metric over the records with a finite value, in order of appearance."""
    values: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.metrics.items():
            if math.isfinite(value):
                values.setdefault(name, []).append(value)
    return {name: summarise(of_metric) for name, of_metric in values.items()}


def newest_done(records: Sequence[Record]) -> list[Record]:
    """The finished record of each method and seed that finished last.

    A suite whose settings changed has records of both settings on disk. A mean over all of them
    would mix two experiments.
    """
    newest: dict[tuple[str, int], Record] = {}
    for record in records:
        cell = (record.method, record.seed)
        if record.status is Status.DONE and (
            cell not in newest or finished_at(record) >= finished_at(newest[cell])
        ):
            newest[cell] = record
    return list(newest.values())


def latest_attempts(records: Sequence[Record]) -> list[Record]:
    """The latest record of each method and seed, finished or not."""
    latest: dict[tuple[str, int], Record] = {}
    for record in records:
        cell = (record.method, record.seed)
        if cell not in latest or _attempted_at(record) >= _attempted_at(latest[cell]):
            latest[cell] = record
    return list(latest.values())


def _attempted_at(record: Record) -> str:
    return finished_at(record) or str(record.provenance.get("started_at") or "")


def origin_of(record: Record) -> Origin:
    """The data and the version of the results that a record is of."""
    return Origin(
        data_sha256=record.provenance.get("data_sha256"),
        results_version=record.provenance.get("results_version"),
    )


def newest_origin(records: Sequence[Record]) -> Origin:
    """The origin of the record that finished last; of the latest attempt, where none finished."""
    finished = [record for record in records if record.status is Status.DONE]
    return origin_of(max(finished or records, key=_attempted_at))


def by_settings(records: Sequence[Record], *, complete: Complete = dict) -> list[list[Record]]:
    """Groups of finished records that may be averaged: a method, its settings, and an origin each.

    A group holds the newest record of each seed. `complete` adds to a configuration the settings
    that the package learnt after the record; without it, such records are a group of their own.
    """
    as_written = _joined([[record] for record in records], dict)
    groups = _joined(as_written, complete)
    return [newest for group in groups if (newest := newest_done(group))]


def _joined(groups: Iterable[Sequence[Record]], complete: Complete) -> list[list[Record]]:
    """The groups, those of one method, one origin and equal completed settings as one."""
    joined: dict[str, list[Record]] = {}
    for group in groups:
        own = settings_of(group[0])
        alike = own | {"config": complete(own["config"])} | asdict(origin_of(group[0]))
        joined.setdefault(json.dumps(alike, sort_keys=True), []).extend(group)
    return list(joined.values())


def settings_of(record: Record) -> dict[str, Any]:
    """A record's method and settings, without the device it ran on."""
    shared = {name: value for name, value in record.config.items() if name != "device"}
    return {"method": record.method, "config": shared}


def finished_at(record: Record) -> str:
    """Time at which the cell ended, in ISO 8601 UTC; empty, which sorts first, if unknown."""
    return str(record.provenance.get("finished_at") or "")


def ended_after(record: Record, since: datetime | None) -> bool:
    """Whether the cell ended at the time `since` or later; False without a time."""
    ended = finished_at(record)
    return since is not None and bool(ended) and datetime.fromisoformat(ended) >= since


def flatten(settings: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one table with dotted names; lists stay whole.

    >>> flatten({"training": {"epochs": 6}, "device": "cpu"})
    {'training.epochs': 6, 'device': 'cpu'}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, prefix=f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def spans(numbers: Iterable[int]) -> list[str]:
    """The numbers in order, three or more in a row as one span.

    >>> spans([3, 0, 1, 2, 7, 5, 6, 9, 10])
    ['0 to 3', '5 to 7', '9', '10']
    """
    in_order = sorted(set(numbers))
    rows = groupby(enumerate(in_order), key=lambda placed: placed[1] - placed[0])
    found = []
    for row in ([number for _, number in placed] for _, placed in rows):
        found += [f"{row[0]} to {row[-1]}"] if len(row) > 2 else [str(number) for number in row]
    return found


@cache
def _student_t(degrees_of_freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    from scipy.special import stdtrit  # importing scipy.stats takes five times as long

    return float(stdtrit(degrees_of_freedom, 0.975))
