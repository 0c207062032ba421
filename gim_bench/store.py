"""Records on disk: the truth that MLflow, the report and every later run read.

`<runs>/<suite>/<method>/seed-<n>-<key8>/` holds record.json, config.toml, losses.csv,
encoder.safetensors, and error.log where the cell failed. The record is written last, so a folder
whose record says "done" is complete.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gim_bench.atomic import write_atomically
from gim_bench.config import Name
from gim_bench.contract import Record, Status
from gim_bench.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

RECORD = "record.json"
MIRRORED = "mirrored.json"
LOG = "error.log"
SWEEP = "sweep.json"


class RunsFolder:
    """All records below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check_writable(self) -> None:
        """Raises: ConfigError in one line where records could not be written."""
        probe = self.root / ".write-check"
        try:
            write_atomically(probe, b"")
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"cannot write records to {self.root} ({error.strerror}): choose another folder "
                f"with --runs-dir"
            ) from None

    def folder(self, suite: str, method: str, *, seed: int, key: str) -> Path:
        return self.root / suite / method / f"seed-{seed}-{key[:8]}"

    def folder_of(self, record: Record) -> Path:
        return self.folder(record.suite, record.method, seed=record.seed, key=record.key)

    def find(self, suite: str, method: str, *, seed: int, key: str) -> Record | None:
        """The record of that very cell; None where there is none, or none that can be read."""
        record = read_record(self.folder(suite, method, seed=seed, key=key) / RECORD)
        return record if record is not None and record.key == key else None

    def records(self, suite: str) -> list[Record]:
        """Every readable record of the suite, in a stable order."""
        found = (read_record(path) for path in sorted(self.root.glob(f"{suite}/*/seed-*/{RECORD}")))
        return [record for record in found if record is not None]

    def save(self, record: Record) -> None:
        """Raises: OSError."""
        folder = self.folder_of(record)
        write_atomically(folder / "config.toml", tomli_w.dumps(_toml(record.config)).encode())
        write_atomically(folder / "losses.csv", _csv(record.losses).encode())
        if record.status is not Status.FAILED:
            (folder / LOG).unlink(missing_ok=True)  # of an earlier try
        if not record.sweeps:
            (folder / SWEEP).unlink(missing_ok=True)  # of an earlier encoder
        text = json.dumps(_json(record.as_dict()), indent=2, allow_nan=False) + "\n"
        write_atomically(folder / RECORD, text.encode())

    def save_encoder(self, record: Record, weights: "Mapping[str, Tensor]", *, name: str) -> None:
        """A trained encoder, as safetensors. Raises: OSError."""
        from safetensors.torch import save

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        write_atomically(self.folder_of(record) / f"{name}.safetensors", save(tensors))

    def encoder_sha256(self, record: Record, *, name: str) -> str:
        """Of the file with an encoder's weights. Raises: ConfigError where it cannot be read."""
        path = self.folder_of(record) / f"{name}.safetensors"
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ConfigError(
                f"cannot read the encoder {path} ({error.strerror}): run the cell again with "
                f"--rerun"
            ) from None

    def read_encoder(self, record: Record, *, name: str) -> "dict[str, Tensor]":
        """Raises: ConfigError where the file is damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder_of(record) / f"{name}.safetensors"
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ConfigError(
                f"cannot read the encoder {path} ({error}): run the cell again with --rerun"
            ) from None

    def save_features(self, record: Record, features: "Tensor", *, name: str, encoder: str) -> None:
        """Features that the encoder of that sha256 made. Raises: OSError."""
        from safetensors.torch import save

        kept = features.detach().cpu().contiguous()
        origin = {"key": record.key, "encoder": encoder, "sha256": _sha256(kept)}
        content = save({"features": kept}, metadata=origin)
        write_atomically(self._features_file(record, name), content)

    def read_features(self, record: Record, *, name: str, encoder: str) -> "Tensor | None":
        """Those that were kept; None where they are missing, damaged, or another encoder's."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._features_file(record, name), framework="pt") as file:
                found, origin = file.get_tensor("features"), file.metadata() or {}
        except (OSError, SafetensorError):
            return None
        expected = {"key": record.key, "encoder": encoder, "sha256": _sha256(found)}
        return found if origin == expected else None

    def _features_file(self, record: Record, name: str) -> Path:
        return self.folder_of(record) / "features" / f"{name}.safetensors"

    def save_sweeps(self, record: Record) -> None:
        """A record whose sweeps are new, and these in a file of their own. Raises: OSError."""
        self.save(record)
        identity = {"suite": record.suite, "method": record.method, "seed": record.seed}
        table = {**identity, "key": record.key, "sweeps": record.sweeps}
        text = json.dumps(_json(table), indent=2, allow_nan=False) + "\n"
        write_atomically(self.folder_of(record) / SWEEP, text.encode())

    def save_log(self, record: Record, text: str) -> Path:
        """The traceback of a failed cell. Raises: OSError."""
        path = self.folder_of(record) / LOG
        write_atomically(path, text.encode())
        return path

    # -- what has been mirrored ----------------------------------------------------------------

    def is_mirrored(self, records: Sequence[Record], *, folder: Path, to: str) -> bool:
        """Whether just these records were already sent to the tracking store `to`.

        `folder` is the cell's for its record, the suite's for the summary of several.
        """
        try:
            noted = json.loads((folder / MIRRORED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return noted == {"to": to, "records": _identities(records)}

    def note_mirrored(self, records: Sequence[Record], *, folder: Path, to: str) -> None:
        """Raises: OSError."""
        note = {"to": to, "records": _identities(records)}
        write_atomically(folder / MIRRORED, json.dumps(note).encode())


def _sha256(tensor: "Tensor") -> str:
    import torch

    return hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().data).hexdigest()


def _identities(records: Sequence[Record]) -> list[list[str]]:
    return [[record.key, str(record.provenance.get("finished_at"))] for record in records]


def read_record(path: Path) -> Record | None:
    """A record that is whole and of known fields; anything else does not count as one."""
    try:
        content = path.read_bytes()
        _Stored.model_validate_json(content)
        table = json.loads(content)
    except (OSError, ValueError):
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


class _Tried(BaseModel):
    """One rate of a sweep, with its accuracies in percent."""

    model_config = ConfigDict(strict=True, extra="allow")

    learning_rate: float
    weight_decay: float
    validation_accuracy: float
    test_accuracy: float


class _Swept(BaseModel):
    """What a sweep found for one probe."""

    model_config = ConfigDict(strict=True, extra="allow")

    trials: int
    best: _Tried
    paper: _Tried
    decades_within_one_point: float | None
    test_reads: int = 1


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
    config: _Config = _Config()
    provenance: _Provenance = _Provenance()
    protocol: str = ""
    losses: list[dict[str, float | None]] = []
    probe_curves: dict[str, list[tuple[float, float]]] = {}
    isolation: dict[str, dict[str, float | None]] = {}
    sweeps: dict[str, _Swept] = {}

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "_Stored":
        if any(row.get("epoch") is None for row in self.losses):
            raise ValueError("losses of no epoch")
        if self.isolation and "gradient_flow" not in self.config.method.model_fields_set:
            raise ValueError("norms of gradients and no word on where they should flow")
        return self


def _json(value: Any) -> Any:
    """`value` without what JSON has no word for: a number that is not finite becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): _json(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    return value


def _toml(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` without the nulls that TOML has no word for."""
    return {
        name: _toml(item) if isinstance(item, Mapping) else item
        for name, item in value.items()
        if item is not None
    }


def _csv(rows: Sequence[Mapping[str, float]]) -> str:
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
