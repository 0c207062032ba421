"""The parts of a cell for which MLflow has pages of their own: its data, and its modules as models.

MLflow's tab "Models" compares and groups the modules of all cells; a metric of a model also is a
metric of the run, at the step that is the number of the module: MLflow draws accuracy by module.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gim_bench.records.record import Record

BY_MODULE = "by_module"  # first part of the names of these metrics
DIGEST_CHARACTERS = 36  # limit of MLflow
SOURCE_TYPE = "gim_bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataInput:
    """The data set of a run."""

    name: str
    digest: str  # the first digits of the sha256 of the data
    source: str  # settings and folder, as JSON
    profile: str  # numbers of examples and classes, as JSON
    context: str  # the split on which the method trains


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleModel:
    """A module of a cell."""

    name: str
    number: int
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]


def data_of(record: Record) -> DataInput | None:
    """The data set of a record; None if the record does not say which bytes it held."""
    source = record.provenance
    if not (sha256 := source.get("data_sha256")):
        return None
    folder = {"folder": source["data_dir"]} if source.get("data_dir") else {}
    method: Mapping[str, str] = record.config.get("method", {})
    return DataInput(
        name=record.dataset,
        digest=str(sha256)[:DIGEST_CHARACTERS],
        source=json.dumps({**record.config.get("dataset", {}), **folder}, default=str),
        profile=json.dumps(source.get("data_counts", {}), default=str),
        context=str(method.get("trains_on", "none")),
    )


def modules_of(record: Record) -> Sequence[ModuleModel]:
    """The modules with metrics of their own, from the lowest to the top."""
    metrics: dict[int, dict[str, float]] = {}
    for name, value in record.metrics.items():
        found = re.fullmatch(r"(.+)/module_(\d+)", name)
        if found and math.isfinite(value):
            metrics.setdefault(int(found[2]), {})[f"{BY_MODULE}/{found[1]}"] = value
    return [
        ModuleModel(
            name=f"{record.method} seed {record.seed} module {number}",
            number=number,
            metrics=metrics[number],
            params={"module": str(number), "method": record.method, "seed": str(record.seed)},
            tags={"suite": record.suite, "method": record.method, "gim_bench.key": record.key},
        )
        for number in sorted(metrics)
    ]
