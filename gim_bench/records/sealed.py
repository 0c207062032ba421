"""What a record.json says: with a seal when it is written, checked when it is read.

The seal tells a file that was altered or cut off; the check one that another version of this
package, or another program, wrote.
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
    """The content of the record's file."""
    return json.dumps(sealed(finite(record.as_dict())), indent=2, allow_nan=False) + "\n"


def read_record(path: Path) -> Record | None:
    """A record as it was written, and of known fields; anything else does not count as one."""
    try:
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
        }
    )


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    """The numbers that were finite when they were written."""
    return {name: value for name, value in values.items() if value is not None}


def finite(value: Any) -> Any:
    """`value` without what JSON has no word for: a number that is not finite becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


# -- what is read --------------------------------------------------------------------------------


def _moment(text: str) -> str:
    """Raises: ValueError where it is no ISO 8601 time."""
    try:
        datetime.fromisoformat(text).timestamp()
    except OverflowError as error:
        raise ValueError("a time before or after all times") from error
    return text


Moment = Annotated[str, AfterValidator(_moment)]


class _Tried(BaseModel):
    """One rate of a sweep, with its accuracies in percent."""

    model_config = ConfigDict(strict=True, extra="allow")

    learning_rate: float
    weight_decay: float
    validation_accuracy: float
    test_accuracy: float


class _Trial(BaseModel):
    """One point of a sweep's curve."""

    model_config = ConfigDict(strict=True, extra="allow")

    learning_rate: float
    weight_decay: float
    validation_accuracy: float
    validation_loss: float | None


class _Swept(BaseModel):
    """What a sweep found for one probe."""

    model_config = ConfigDict(strict=True, extra="allow")

    trials: int
    best: _Tried
    paper: _Tried
    decades_within_one_point: float | None
    test_reads: int = 1
    curve: list[_Trial] = []


class _Method(BaseModel):
    """What a record's configuration says of its method."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: str = ""
    gradient_flow: Literal["isolated", "end_to_end", "none"] = "none"
    options: dict[str, Any] = {}


class _Config(BaseModel):
    """A record's configuration; whatever else it says, it may be one of another version."""

    model_config = ConfigDict(strict=True, extra="allow")

    method: _Method = _Method()
    dataset: dict[str, Any] = {}
    training: dict[str, Any] = {}
    info_nce: dict[str, Any] = {}


class _Provenance(BaseModel):
    """Where a record comes from, as far as it is read for more than to be shown."""

    model_config = ConfigDict(strict=True, extra="allow")

    versions: dict[str, str] | None = None
    threads: int | None = None
    gpu: str | None = None
    started_at: Moment | None = None
    finished_at: Moment | None = None


def _epoch(row: Mapping[str, float | None]) -> float:
    """Of a row of losses; not a number where it has none."""
    epoch = row.get("epoch")
    return math.nan if epoch is None else epoch


class _Stored(BaseModel):
    """What a file has to say to be a record; `Record` says what it means."""

    model_config = ConfigDict(strict=True)

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
    probe_curves: dict[str, list[tuple[float, float]]] = {}
    isolation: dict[str, dict[str, float | None]] = {}
    sweeps: dict[str, _Swept] = {}

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "_Stored":
        if len({frozenset(row) for row in self.isolation.values()}) > 1:
            raise ValueError("norms of gradients that are no matrix")
        if not all(math.isfinite(_epoch(row)) for row in self.losses):
            raise ValueError("losses of no epoch")
        if self.isolation and "gradient_flow" not in self.config.method.model_fields_set:
            raise ValueError("norms of gradients and no word on where they should flow")
        return self
