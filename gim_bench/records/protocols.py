"""Results of protocols, which lie beside the record of the cell whose encoder was read.

`<cell>/protocols/<name>.json` is a result, sealed when it is written; `<name>.npz` holds the
predictions on the test labels. The result is written last and has the sha256 of the predictions,
and of every file of weights that was read: a result of other weights does not count.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from gim_bench.records.predictions import Predictions
from gim_bench.records.record import Record
from gim_bench.records.sealed import finite
from gim_bench.seals import sealed, unsealed
from gim_bench.system.atomic import write_atomically

PROTOCOLS = "protocols"
# In the configuration of a record that stands for a protocol's result: its name and its settings.
READ_UNDER, READ = "read_under", "read"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolResult:
    """A finished encoder under one protocol."""

    protocol: str
    suite: str
    method: str
    seed: int
    key: str  # of the cell
    settings: Mapping[str, Any]  # what is read, and the probe
    files: Mapping[str, str]  # the weights that were read, with their sha256
    metrics: Mapping[str, float] = field(default_factory=dict)  # empty: does not apply
    chosen: Mapping[str, float] = field(default_factory=dict)  # hyperparameter, by target
    curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    reason: str = ""  # why the protocol does not apply, or not to all targets
    predictions_sha256: str = ""  # empty where there are none
    test_reads: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)


Kept = tuple[ProtocolResult, Predictions | None]  # None: no predictions, or they were altered
_STORED = TypeAdapter(ProtocolResult)


def save_result(
    folder: Path, result: ProtocolResult, predictions: Predictions | None
) -> ProtocolResult:
    """Write a result into a cell's folder; returns it with the sha256 of the predictions.

    Raises: OSError.
    """
    sha256 = ""
    if predictions is not None:
        content = predictions.packed()
        sha256 = hashlib.sha256(content).hexdigest()
        write_atomically(folder / PROTOCOLS / f"{result.protocol}.npz", content)
    table = finite({**asdict(result), "predictions_sha256": sha256})
    text = json.dumps(sealed(table), indent=2, allow_nan=False) + "\n"
    write_atomically(folder / PROTOCOLS / f"{result.protocol}.json", text.encode())
    return _STORED.validate_python(table)


def results_of(record: Record, *, folder: Path) -> dict[str, ProtocolResult]:
    """The whole results that are of the weights of a record, by name of the protocol."""
    found = {}
    for path in sorted((folder / PROTOCOLS).glob("*.json")):
        result = _read(path)
        if (
            result is not None
            and result.protocol == path.stem
            and result.key == record.key
            and result.files.items() <= record.files.items()
        ):
            found[result.protocol] = result
    return found


def predictions_of(result: ProtocolResult, *, folder: Path) -> Predictions | None:
    """The predictions of a result; None if there are none, or they were altered."""
    try:
        content = (folder / PROTOCOLS / f"{result.protocol}.npz").read_bytes()
        if hashlib.sha256(content).hexdigest() != result.predictions_sha256:
            return None
        return Predictions.unpacked(content)
    except (OSError, ValueError):
        return None


def _read(path: Path) -> ProtocolResult | None:
    """The result in a file; None if the file is altered, cut off, or of another program."""
    try:
        return _STORED.validate_python(unsealed(path.read_bytes()))
    except (OSError, ValueError):  # pydantic's errors are ValueErrors
        return None


ResultsOf = Callable[[Record], Mapping[str, Kept]]  # by name of the protocol


def config_under(record: Record, result: ProtocolResult) -> dict[str, Any]:
    """The configuration of a record that stands for a protocol's result."""
    return {**record.config, READ_UNDER: result.protocol, READ: result.settings}


class KeptResults:
    """Results of protocols on the records of a folder; each is read from disk once."""

    def __init__(self, folder_of: Callable[[Record], Path]) -> None:
        self._folder_of = folder_of
        self._known: dict[Path, dict[str, Kept]] = {}

    def __call__(self, record: Record) -> Mapping[str, Kept]:
        """The results on a record by name of the protocol, with their predictions."""
        folder = self._folder_of(record)
        if folder not in self._known:
            self._known[folder] = {
                name: (result, predictions_of(result, folder=folder))
                for name, result in results_of(record, folder=folder).items()
            }
        return self._known[folder]


class ReadAsSuite:
    """Results of protocols that were read as a suite reads; other results are left out.

    `describes` says whether the suite gives a configuration. Each record is judged once.
    """

    def __init__(
        self, results: ResultsOf, *, describes: Callable[[Mapping[str, Any]], bool]
    ) -> None:
        self._results = results
        self._describes = describes
        self._known: dict[str, dict[str, Kept]] = {}

    def __call__(self, record: Record) -> Mapping[str, Kept]:
        """The results on a record by name of the protocol, with their predictions."""
        if record.key not in self._known:
            self._known[record.key] = {
                name: kept
                for name, kept in self._results(record).items()
                if self._describes(config_under(record, kept[0]))
            }
        return self._known[record.key]

    def left_out(self, records: Sequence[Record]) -> dict[str, list[int]]:
        """The seeds of the records whose results are left out, by name of the protocol."""
        seeds: dict[str, list[int]] = {}
        for record in records:
            for name in self._results(record).keys() - self(record).keys():
                seeds.setdefault(name, []).append(record.seed)
        return dict(sorted(seeds.items()))
