"""The record of one cell, which `record.json` holds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

# The first words of a note of the data on test examples that training sees: the report repeats such
# notes beside accuracies.
SEEN_IN_TRAINING = "SEEN IN TRAINING"


class Status(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Result of one cell, which `record.json` holds and `report --format json` prints."""

    suite: str
    method: str
    dataset: str
    seed: int
    key: str
    status: Status
    error: str | None = None
    fits: bool = True  # False: the cell failed because memory did not suffice
    metrics: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = ""
    # Loss of every unit in every epoch, [{"epoch": 1, "module_1": 2.31, …}, …].
    losses: Sequence[Mapping[str, float]] = ()
    # Measures of the encoder before training and after every epoch, [{"epoch": 0,
    # "effective_rank/module_1": 3.2, …}, …]; see training/inside.py.
    inside: Sequence[Mapping[str, float]] = field(default_factory=list)
    # Validation accuracy over the probe's learning rates, {module: [[rate, percent], …]}.
    probe_curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    # ‖∂loss_m/∂θ_n‖₂ after training, {unit of loss m: {module n: norm, …}, …}; None: not finite.
    isolation: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    # The sha256 of each encoder's file beside the record, {"encoder.safetensors": "3b1f…"}.
    files: Mapping[str, str] = field(default_factory=dict)
    # Result of `sweep` for each probe, by the name of the probe's curve: see docs/sweep.md.
    sweeps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def knows_labels(self) -> bool:
        """Whether labels trained the encoder, or the finished encoder that it stands on."""
        method = self.config.get("method", {})
        return bool(method.get("uses_labels") or method.get("base_uses_labels"))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
