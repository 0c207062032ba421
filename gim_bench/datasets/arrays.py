"""Arrays that are decoded once and then memory-mapped; a damaged array is decoded again."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gim_bench.datasets.files import Checksums, Hashing, KnownChecksums
from gim_bench.errors import DataError
from gim_bench.progress import Progress
from gim_bench.system.atomic import atomically, write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Pieces of any length in one array, their lengths, and notes of their decoding."""

    values: np.ndarray  # flat, memory-mapped copy-on-write: writes never reach the file
    lengths: np.ndarray  # int64 [piece], elements in each piece
    notes: Sequence[str] = ()


def kept(
    path: Path,
    *,
    dtype: np.typing.DTypeLike,
    pieces: Callable[[], Iterable[np.ndarray]],
    known: KnownChecksums,
    progress: Progress,
    notes: Callable[[], Sequence[str]] = tuple,
) -> Kept:
    """The array at `path`; if the file is missing or damaged, `pieces()` are written to it first.

    A file `<name>.json` beside the raw binary file holds its sha256, the lengths, and the `notes`,
    which are asked for after the last piece. An array that does not fit its description, or whose
    description was altered, is written again.

    Raises: OSError if the files cannot be written; whatever `pieces` raises.
    """
    facts = _facts_if_whole(path, dtype=np.dtype(dtype), known=known, progress=progress)
    if facts is None:
        facts, checksums = _write(path, dtype=np.dtype(dtype), pieces=pieces, notes=notes)
        known.remember(path, checksums, progress=progress)
    lengths = np.array(facts.lengths, dtype=np.int64)
    # An empty file cannot be mapped. Copy-on-write, because torch takes writable arrays only.
    values = np.memmap(path, dtype=dtype, mode="c") if lengths.sum() else np.empty(0, dtype)
    return Kept(values=values, lengths=lengths, notes=facts.notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts about an array beside its bytes."""

    lengths: Sequence[int]  # elements in each piece
    notes: Sequence[str]


def read_part(values: np.ndarray, first: int, *, count: int) -> np.ndarray:
    """A copy of `count` values of a flat array from `first` on; of a mapped array, from its file.

    Pages of a mapped file that were read count as memory of the process. Raises: DataError if the
    file has become shorter.
    """
    part = values[first : first + count]
    whole = values
    while isinstance(whole.base, np.memmap):
        whole = whole.base
    if not isinstance(whole, np.memmap) or whole.filename is None:
        return part.copy()
    offset = whole.offset + part.ctypes.data - whole.ctypes.data
    found = np.fromfile(whole.filename, dtype=values.dtype, count=len(part), offset=offset)
    if len(found) != len(part):
        raise DataError(f"{whole.filename} has been cut off: remove it, and it is made again")
    return found


def _write(
    path: Path,
    *,
    dtype: np.dtype,
    pieces: Callable[[], Iterable[np.ndarray]],
    notes: Callable[[], Sequence[str]],
) -> tuple[Facts, Checksums]:
    """Write the array, then its description."""
    hashing, lengths = Hashing(), []
    with atomically(path) as file:
        for piece in pieces():
            assert piece.dtype == dtype
            content = piece.tobytes()
            file.write(content)
            hashing.update(content)
            lengths.append(piece.size)
    checksums = hashing.checksums()
    facts = Facts(lengths=lengths, notes=[*notes()])
    write_atomically(_description(path), _described(checksums.sha256, dtype, facts))
    return facts, checksums


def _facts_if_whole(
    path: Path, *, dtype: np.dtype, known: KnownChecksums, progress: Progress
) -> Facts | None:
    """The facts; None if the array or its description is missing or was altered."""
    try:
        description = _description(path).read_bytes()
        content = json.loads(description)
        facts = Facts(lengths=content["lengths"], notes=content.get("notes", ()))
        title = f"checking {path.name}"
        (checksums,) = known.of([path], title=title, progress=progress)
        whole = description == _described(checksums.sha256, dtype, facts)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, DataError):
        return None
    return facts if whole else None


def _description(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _described(sha256: str, dtype: np.dtype, facts: Facts) -> bytes:
    """The description as JSON, with a `seal` that shows whether the description was altered."""
    content = {"sha256": sha256, "dtype": dtype.str, "lengths": facts.lengths}
    content |= {"notes": facts.notes} if facts.notes else {}
    seal = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps(content | {"seal": seal}).encode()
