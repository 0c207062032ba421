"""Arrays that are decoded once and then memory-mapped; a damaged array is decoded again."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gim_bench.datasets.files import Hashing, KnownChecksums
from gim_bench.errors import DataError
from gim_bench.progress import Progress
from gim_bench.system.atomic import atomically, write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Pieces of any length in one array, and their lengths."""

    values: np.ndarray  # flat, memory-mapped copy-on-write: writes never reach the file
    lengths: np.ndarray  # int64 [piece], elements in each piece


def kept(
    path: Path,
    *,
    dtype: np.typing.DTypeLike,
    pieces: Callable[[], Iterable[np.ndarray]],
    known: KnownChecksums,
    progress: Progress,
) -> Kept:
    """The array at `path`; if the file is missing or damaged, `pieces()` are written to it first.

    A file `<name>.json` beside the raw binary file holds its sha256 and the lengths. An array that
    does not fit its description, or whose description was altered, is written again.

    Raises: OSError if the files cannot be written; whatever `pieces` raises.
    """
    lengths = _lengths_if_whole(path, dtype=np.dtype(dtype), known=known, progress=progress)
    if lengths is None:
        lengths = _write(path, dtype=np.dtype(dtype), pieces=pieces, known=known, progress=progress)
    # An empty file cannot be mapped. Copy-on-write, because torch takes writable arrays only.
    values = np.memmap(path, dtype=dtype, mode="c") if lengths.sum() else np.empty(0, dtype)
    return Kept(values=values, lengths=lengths)


def _write(
    path: Path,
    *,
    dtype: np.dtype,
    pieces: Callable[[], Iterable[np.ndarray]],
    known: KnownChecksums,
    progress: Progress,
) -> np.ndarray:
    """Write the array, then its description; returns the lengths of the pieces."""
    hashing, lengths = Hashing(), []
    with atomically(path) as file:
        for piece in pieces():
            assert piece.dtype == dtype
            content = piece.tobytes()
            file.write(content)
            hashing.update(content)
            lengths.append(piece.size)
    checksums = hashing.checksums()
    write_atomically(_description(path), _described(checksums.sha256, dtype, lengths))
    known.remember(path, checksums, progress=progress)
    return np.array(lengths, dtype=np.int64)


def _lengths_if_whole(
    path: Path, *, dtype: np.dtype, known: KnownChecksums, progress: Progress
) -> np.ndarray | None:
    """Lengths of the pieces; None if the array or its description is missing or was altered."""
    try:
        description = _description(path).read_bytes()
        lengths = json.loads(description)["lengths"]
        title = f"checking {path.name}"
        (checksums,) = known.of([path], title=title, progress=progress)
        if description != _described(checksums.sha256, dtype, lengths):
            return None
        return np.array(lengths, dtype=np.int64)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, DataError):
        return None


def _description(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _described(sha256: str, dtype: np.dtype, lengths: list[int]) -> bytes:
    """The description as JSON, with a `seal` that shows whether the description was altered."""
    content = {"sha256": sha256, "dtype": dtype.str, "lengths": lengths}
    seal = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps(content | {"seal": seal}).encode()
