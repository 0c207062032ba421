"""The file record.json: sealed when it is written, checked when it is read.

The seal reveals a file that was altered or cut off. The check of its fields reveals a file from
another version of this package, or from another program.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from gim_bench.records.record import Record, Status
from gim_bench.seals import sealed
from gim_bench.settings.base import Name


def record_json(record: Record) -> str:
    """The content of record.json for a record."""
    return json.dumps(sealed(finite(record.as_dict())), indent=2, allow_nan=False) + "\n"


def read_record(path: Path) -> Record | None:
    """The record in a regular file; None if it is missing, altered, or has unexpected fields."""
    try:
        if not path.is_file():  # the reader of a named pipe waits for a writer
            return None
        content = path.read_bytes()
        _Stored.model_validate_json(content)
        table = json.loads(content)
    except (OSError, ValueError):
        return None
    if table != sealed(table):
        return None
    known = {field.name for field in fields(Record)}
    return Record(
        **{name: value for name, value in table.items() if name in known}
        | {
            "status": Status(table["status"]),
            "metrics": _known(table["metrics"]),
            "losses": [_known(row) for row in table.get("losses", ())],
            "inside": [_known(row) for row in table.get("inside", ())],
        }
    )


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    """The finite numbers among `values`; a number that was not finite is stored as null."""
    return {name: value for name, value in values.items() if value is not None}


def finite(value: Any) -> Any:
    """`value` as JSON can express it: a number that is not finite becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


# -- fields of the file --------------------------------------------------------------------------


def _moment(text: str) -> str:
    """The text, which is an ISO 8601 time. Raises: ValueError if it is not."""
    try:
        datetime.fromisoformat(text).timestamp()
    except OverflowError as error:
        raise ValueError("a time before or after all times") from error
    return text


Moment = Annotated[str, AfterValidator(_moment)]


class _Part(BaseModel):
    """A table within the file, with finite numbers; other versions may add further fields."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Varied(_Part):
    """Hyperparameters of a linear probe: Adam's, or the penalty of a logistic regression."""

    learning_rate: float | None = None
    weight_decay: float | None = None
    penalty: float | None = None
    validation_accuracy: float

    @model_validator(mode="after")
    def _complete(self) -> "_Varied":
        if (self.learning_rate is None or self.weight_decay is None) and self.penalty is None:
            raise ValueError("neither a learning_rate with a weight_decay nor a penalty")
        return self


class _Tried(_Varied):
    """One trial of a sweep that the test set has judged, with its accuracies in percent."""

    test_accuracy: float


class _Trial(_Varied):
    """One point of a sweep's curve."""

    validation_loss: float | None


class _Swept(_Part):
    """Result of a sweep for one probe."""

    trials: int
    best: _Tried
    paper: _Tried | None = None  # Adam at the rate of Löwe et al.
    suite: _Tried | None = None  # logistic regression at the best penalty of the suite's grid
    decades_within_one_point: float | None
    unconverged: list[Literal["best", "paper", "suite"]] = []  # of the probes that were tested
    test_reads: int = 1
    curve: list[_Trial] = []

    @model_validator(mode="after")
    def _complete(self) -> "_Swept":
        if self.paper is None and self.suite is None:
            raise ValueError("no trial beside the best: neither `paper` nor `suite`")
        return self


class _Method(_Part):
    """The method in a record's configuration."""

    name: str = ""
    gradient_flow: Literal["isolated", "end_to_end", "none"] = "none"
    units: int | None = None
    options: dict[str, Any] = {}


class _Config(_Part):
    """A record's configuration."""

    method: _Method = _Method()
    dataset: dict[str, Any] = {}
    training: dict[str, Any] = {}
    info_nce: dict[str, Any] = {}


class _Provenance(_Part):
    """A record's provenance: the fields that code reads, not those that are only shown."""

    data_sha256: str | None = None
    data_counts: dict[str, Any] = {}
    data_notes: list[str] | None = None
    results_version: int | None = None
    git_commit: str | None = None
    energy: dict[str, Any] | None = None
    versions: dict[str, str] | None = None
    threads: int | None = None
    workers: int | None = None
    gpu: str | None = None
    started_at: Moment | None = None
    finished_at: Moment | None = None


class _Stored(BaseModel):
    """Required fields of a record's file; `Record` explains each field."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    suite: Name
    method: Name
    dataset: str
    seed: int
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    status: Status
    error: str | None = None
    fits: bool = True
    metrics: dict[str, float | None]
    files: dict[str, str] = {}
    config: _Config = _Config()
    provenance: _Provenance = _Provenance()
    protocol: str = ""
    losses: list[dict[str, float | None]] = []
    inside: list[dict[str, float | None]] = []
    probe_curves: dict[str, list[tuple[float, float]]] = {}
    isolation: dict[str, dict[str, float | None]] = {}
    sweeps: dict[str, _Swept] = {}

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "_Stored":
        if len({frozenset(row) for row in self.isolation.values()}) > 1:
            raise ValueError("the norms of gradients are no matrix")
        epochs = [row.get("epoch") for row in (*self.losses, *self.inside)]
        if not all(epoch is not None and math.isfinite(epoch) for epoch in epochs):
            raise ValueError("a row of losses or measures has no epoch")
        if self.isolation and "gradient_flow" not in self.config.method.model_fields_set:
            raise ValueError("norms of gradients without the method's gradient_flow")
        return self
