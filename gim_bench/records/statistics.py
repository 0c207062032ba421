"""What several records say together: which of them count, their means, how far those are off."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from gim_bench.records.record import Record, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Of `n` values; `std` and `ci95` are None for a single one, which has no spread to show."""

    mean: float
    std: float | None  # with n - 1 in the denominator
    ci95: float | None  # half width of the 95 % confidence interval of the mean, Student's t
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference(Summary):
    """Of ours less theirs, seed by seed; `n` counts the seeds that both have."""

    left_out: tuple[int, ...]  # seeds that only one of the two has, in ascending order


def summarise(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and 95 % confidence interval of `values`, in their own unit.

    Raises: ValueError where there is no value.
    """
    n = len(values)
    if n == 0:
        raise ValueError("a summary needs at least one value")
    mean = statistics.fmean(values)
    if n == 1:
        return Summary(mean=mean, std=None, ci95=None, n=1)
    std = statistics.stdev(values)
    return Summary(mean=mean, std=std, ci95=_student_t(n - 1) * std / math.sqrt(n), n=n)


def paired_difference(
    ours: Mapping[int, float], theirs: Mapping[int, float]
) -> PairedDifference | None:
    """How much more ours are than theirs, values by seed; None where they share no seed.

    Methods of one seed start from the same weights and, on the same split, see the same batches, so
    what these do to both cancels: the interval is of the mean of the differences, not of two
    means apart.
    """
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return None
    found = summarise([ours[seed] - theirs[seed] for seed in common])
    return PairedDifference(
        mean=found.mean,
        std=found.std,
        ci95=found.ci95,
        n=found.n,
        left_out=tuple(sorted(ours.keys() ^ theirs.keys())),
    )


def values_by_seed(records: Sequence[Record], name: str) -> dict[int, float]:
    """That metric of one method's records, where they have it and it is finite."""
    return {
        record.seed: record.metrics[name]
        for record in records
        if math.isfinite(record.metrics.get(name, math.nan))
    }


def summarise_metrics(records: Sequence[Record]) -> dict[str, Summary]:
    """A summary of every metric over the records that have it, in the order of first sight."""
    values: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.metrics.items():
            if math.isfinite(value):
                values.setdefault(name, []).append(value)
    return {name: summarise(of_metric) for name, of_metric in values.items()}


def newest_done(records: Sequence[Record]) -> list[Record]:
    """One finished record for each method and seed: the one that finished last.

    A suite whose settings were changed leaves records of both settings on disk; averaging over
    them would mix two experiments.
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
    """One record for each method and seed, finished or not: the attempt that began or ended last."""
    latest: dict[tuple[str, int], Record] = {}
    for record in records:
        cell = (record.method, record.seed)
        if cell not in latest or _attempted_at(record) >= _attempted_at(latest[cell]):
            latest[cell] = record
    return list(latest.values())


def _attempted_at(record: Record) -> str:
    return finished_at(record) or str(record.provenance.get("started_at") or "")


def by_settings(records: Sequence[Record]) -> list[list[Record]]:
    """The finished records that may be averaged over: of one method and the same settings.

    In each group there is one for each seed, the newest.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(json.dumps(settings_of(record), sort_keys=True), []).append(record)
    return [newest for group in groups.values() if (newest := newest_done(group))]


def settings_of(record: Record) -> dict[str, Any]:
    """A record's method and settings; where it ran is none of them, as in the report."""
    shared = {name: value for name, value in record.config.items() if name != "device"}
    return {"method": record.method, "config": shared}


def finished_at(record: Record) -> str:
    """When the cell ended, in ISO 8601 UTC; empty, which sorts first, where it is not known."""
    return str(record.provenance.get("finished_at") or "")


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


@cache
def _student_t(degrees_of_freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    from scipy.special import stdtrit  # scipy.stats has the same and takes five times as long

    return float(stdtrit(degrees_of_freedom, 0.975))
