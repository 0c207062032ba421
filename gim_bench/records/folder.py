"""Records on disk, from which MLflow, the report and every later run read.

`<runs>/<suite>/<method>/seed-<n>-<key8>/` holds record.json, config.toml, losses.csv,
encoder.safetensors, predictions.npz, and error.log if the cell failed. The record is written last,
so a folder whose record says "done" is complete. The record holds the sha256 of each encoder and of
the predictions, and ends with its own sha256. A record, encoder or file of predictions that was
altered or cut off later does not count.
"""

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from os.path import lexists
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, NamedTuple

import tomli_w

from gim_bench.errors import ConfigError
from gim_bench.records.claims import CLAIM, Claim, claimed
from gim_bench.records.predictions import PREDICTIONS, Predictions
from gim_bench.records.record import Record, Status
from gim_bench.records.sealed import finite, read_record, record_json
from gim_bench.seals import sha256_of
from gim_bench.system.atomic import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

RECORD = "record.json"
LOG = "error.log"
SWEEP = "sweep.json"
LOCK = ".lock"
NEW = ".new"
TICK_SECONDS = 2.0  # the coarsest times of files that file systems keep
DAMAGED = "its record, encoder or predictions were altered or cut off since they were written"


class RunsFolder:
    """All records below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check_place(self) -> None:
        """Check that the folder is there or could be made. Raises: ConfigError if it could not."""
        nearest = next(path for path in (self.root, *self.root.parents) if lexists(path))
        if not nearest.is_dir():
            raise self._unwritable(os.strerror(errno.ENOTDIR))

    def check_writable(self) -> None:
        """Check that records can be written. Raises: ConfigError if they cannot."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            # A unique name, because processes that begin together would remove each other's file.
            tempfile.TemporaryFile(dir=self.root).close()
        except OSError as error:
            raise self._unwritable(error.strerror) from None

    def _unwritable(self, reason: str | None) -> ConfigError:
        return ConfigError(
            f"cannot write records to {self.root} ({reason}): choose another folder with --runs-dir"
        )

    def folder(self, suite: str, method: str, *, seed: int, key: str) -> Path:
        """The folder of a cell."""
        return self.root.joinpath(*_place(suite, method, seed=seed, key=key))

    def folder_of(self, record: Record) -> Path:
        """The folder of a record's cell."""
        return self.folder(record.suite, record.method, seed=record.seed, key=record.key)

    def find(self, suite: str, method: str, *, seed: int, key: str) -> Record | None:
        """The record of a cell; None if the record is missing or damaged."""
        folder = self.folder(suite, method, seed=seed, key=key)
        record = read_record(folder / RECORD)
        if record is None or record.key != key:
            return None
        whole = all(_file_sha256(folder / name) == known for name, known in record.files.items())
        return record if whole else None

    def is_damaged(self, suite: str, method: str, *, seed: int, key: str) -> bool:
        """Whether the cell has a record that was altered or cut off."""
        there = lexists(self.folder(suite, method, seed=seed, key=key) / RECORD)
        return there and self.find(suite, method, seed=seed, key=key) is None

    @contextmanager
    def claimed(self, suite: str, method: str, *, seed: int, key: str) -> Iterator[Claim | None]:
        """A context that holds this process's claim on a cell; None if another process has it.

        Raises: OSError.
        """
        folder = self.folder(suite, method, seed=seed, key=key)
        with claimed(folder, lock=self.root / suite / LOCK) as claim:
            yield claim

    def records(self, suite: str) -> list[Record]:
        """Every undamaged record of the suite, sorted by path."""
        return self.read(suite)[0]

    def unreadable(self, suite: str) -> list[Path]:
        """The files of the suite's damaged records, sorted."""
        return self.read(suite)[1]

    def read(self, suite: str) -> tuple[list[Record], list[Path]]:
        """The undamaged records of the suite, and the files of its damaged ones, sorted by path.

        A record in another folder than its cell's counts as damaged: it is a copy, or was moved.
        """
        records, damaged = [], []
        for path in self.files(suite):
            record = read_record(path)
            if record is None or path.parts[-4:-1] != _place(
                record.suite, record.method, seed=record.seed, key=record.key
            ):
                damaged.append(path)
            else:
                records.append(record)
        return records, damaged

    def suites(self) -> list[str]:
        """Names of the suites that have records, sorted."""
        return sorted({path.parts[-4] for path in self._files("*")})

    def files(self, suite: str) -> list[Path]:
        """The files of all records of the suite, with links that lead nowhere, sorted."""
        return sorted(self._files(escape(suite)))

    def _files(self, suites: str) -> Iterator[Path]:
        """The files of all records of the suites whose names match a pattern."""
        files = (folder / RECORD for folder in self.root.glob(f"{suites}/*/seed-*"))
        return filter(lexists, files)

    def save(self, record: Record) -> None:
        """Write a record and the files that are made from it. Raises: OSError."""
        folder = self.folder_of(record)
        write_atomically(folder / "config.toml", tomli_w.dumps(_toml(record.config)).encode())
        write_atomically(folder / "losses.csv", _csv(record.losses).encode())
        if record.status is not Status.FAILED:
            (folder / LOG).unlink(missing_ok=True)  # the log of an earlier attempt
        if not record.sweeps:
            (folder / SWEEP).unlink(missing_ok=True)  # the sweep of an earlier encoder
        write_atomically(folder / RECORD, record_json(record).encode())

    def remove(self, record: Record) -> None:
        """Remove all of the cell but a claim, which keeps other processes away until its end.

        Raises: OSError.
        """
        folder = self.folder_of(record)
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != CLAIM:
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()

    def save_encoder(
        self, record: Record, weights: "Mapping[str, Tensor]", *, name: str
    ) -> dict[str, str]:
        """Save a trained encoder as safetensors; returns {file name: sha256}.

        Until `put_encoders`, the file lies beside the encoder of an earlier run, so that the
        record of the earlier run stays valid. Raises: OSError.
        """
        from safetensors.torch import save

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        return self._save_new(record, f"{name}.safetensors", content=save(tensors))

    def save_predictions(self, record: Record, predictions: Predictions) -> dict[str, str]:
        """Save the predictions on the test labels; returns {file name: sha256}.

        Until `put_encoders`, the file lies beside that of an earlier run, as an encoder does.
        Raises: OSError.
        """
        return self._save_new(record, PREDICTIONS, content=predictions.packed())

    def _save_new(self, record: Record, file: str, *, content: bytes) -> dict[str, str]:
        write_atomically(self.folder_of(record) / f"{file}{NEW}", content)
        return {file: hashlib.sha256(content).hexdigest()}

    def are_new(self, record: Record, files: Mapping[str, str]) -> bool:
        """Whether these files were saved whole, with these sha256, and are not put in place yet."""
        folder = self.folder_of(record)
        return all(_file_sha256(folder / f"{name}{NEW}") == sha for name, sha in files.items())

    def put_encoders(self, record: Record) -> None:
        """Replace the files of an earlier run by those of this record. Raises: OSError."""
        for file in record.files:
            path = self.folder_of(record) / file
            path.with_name(f"{file}{NEW}").replace(path)

    def predictions(
        self, record: Record, *, wanted: Callable[[str], bool] = lambda _: True
    ) -> Predictions | None:
        """The predictions of a record, of the metrics that are wanted.

        None if they are missing or were altered.
        """
        path, known = self.folder_of(record) / PREDICTIONS, record.files.get(PREDICTIONS)
        if known is None or _file_sha256(path) != known:
            return None
        try:
            return Predictions.unpacked(path.read_bytes(), wanted=wanted)
        except (OSError, ValueError):
            return None

    def encoder_sha256(self, record: Record, *, name: str) -> str:
        """The sha256 of an encoder's file. Raises: ConfigError if the file cannot be read."""
        path = self.folder_of(record) / f"{name}.safetensors"
        try:
            return sha256_of(path)
        except OSError as error:
            raise ConfigError(
                f"cannot read the encoder {path} ({error.strerror}): run the cell again with "
                f"--rerun"
            ) from None

    def read_encoder(self, record: Record, *, name: str) -> "dict[str, Tensor]":
        """The weights of an encoder, by name.

        Raises: ConfigError if the file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder_of(record) / f"{name}.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"cannot read the encoder {path} ({error}): run the cell again with --rerun"
            ) from None

    def save_features(self, record: Record, features: "Tensor", *, name: str, encoder: str) -> None:
        """Save features with the sha256 of the encoder that computed them. Raises: OSError."""
        from safetensors.torch import save

        kept = features.detach().cpu().contiguous()
        origin = {"key": record.key, "encoder": encoder, "sha256": _sha256(kept)}
        content = save({"features": kept}, metadata=origin)
        write_atomically(self._features_file(record, name), content)

    def read_features(self, record: Record, *, name: str, encoder: str) -> "Tensor | None":
        """The saved features; None if they are missing, damaged, or from another encoder."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._features_file(record, name), framework="pt") as file:
                features, origin = file.get_tensor("features"), file.metadata() or {}
        except (OSError, SafetensorError):
            return None
        expected = {"key": record.key, "encoder": encoder, "sha256": _sha256(features)}
        return features if origin == expected else None

    def _features_file(self, record: Record, name: str) -> Path:
        return self.folder_of(record) / "features" / f"{name}.safetensors"

    def save_sweeps(self, record: Record) -> None:
        """Save a record with new sweeps, and the sweeps in a separate file. Raises: OSError.

        The record keeps its time, so that checkpoints of an interrupted rerun stay newer.
        """
        path = self.folder_of(record) / RECORD
        written = path.stat()
        self.save(record)
        os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))
        identity = {"suite": record.suite, "method": record.method, "seed": record.seed}
        table = {**identity, "key": record.key, "sweeps": record.sweeps}
        text = json.dumps(finite(table), indent=2, allow_nan=False) + "\n"
        write_atomically(self.folder_of(record) / SWEEP, text.encode())

    def save_log(self, record: Record, text: str) -> Path:
        """Save the traceback of a failed cell; returns the file's path. Raises: OSError."""
        path = self.folder_of(record) / LOG
        # Errors quote file names, which may hold bytes that are no text.
        write_atomically(path, text.encode(errors="backslashreplace"))
        return path


def _place(suite: str, method: str, *, seed: int, key: str) -> tuple[str, str, str]:
    """The names of a cell's folder and of the folders around it."""
    return suite, method, f"seed-{seed}-{key[:8]}"


def left_out(damaged: Sequence[Path], *, run: str = "run") -> str:
    """A line on damaged records, of which there is at least one, by their files.

    It says what ends it: the command `run`, but for records outside of their cell's folder.
    """
    return (
        f"left out: {len(damaged)} record(s) that were altered, cut off, moved or written by "
        f"another version, such as {damaged[0]}; {run} replaces the records of its settings; move "
        f"copies out of the folder or remove them"
    )


def _sha256(tensor: "Tensor") -> str:
    import torch

    return hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().data).hexdigest()


class _Known(NamedTuple):
    """The sha256 of a file, and the state in which the file has it."""

    state: tuple[int, int, int]
    sha256: str


_known: dict[Path, _Known] = {}  # a thousand encoders are not read three times by one command


def _file_sha256(path: Path) -> str | None:
    """The sha256 of a regular file; None if the file cannot be read.

    A file is read again when its time, its size or its place on the disk has changed.
    """
    try:
        status = path.stat()
        state = (status.st_mtime_ns, status.st_size, status.st_ino)
        if path in _known and _known[path].state == state:
            return _known[path].sha256
        found = sha256_of(path) if S_ISREG(status.st_mode) else None
    except OSError:
        return None
    # A file that has just been written may change again within the same tick of the clock.
    if found is not None and time.time() - status.st_mtime > TICK_SECONDS:
        _known[path] = _Known(state, found)
    return found


def _toml(table: Mapping[str, Any]) -> dict[str, Any]:
    """`table` without its nulls, which TOML cannot express, in tables within lists too."""
    return {name: _without_nulls(item) for name, item in table.items() if item is not None}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _toml(value)
    if isinstance(value, list):
        return [_without_nulls(each) for each in value if each is not None]
    return value


def _csv(rows: Sequence[Mapping[str, float]]) -> str:
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
