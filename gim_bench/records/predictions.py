"""Predictions of a cell's probes on every test label, which lie beside its record.

An item is an image, a recording, or a source that several of them are made from. Labels of one
recording or source depend on each other: statistics resample items, not labels.
"""

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from gim_bench.records.metrics import target_of

PREDICTIONS = "predictions.npz"
PARTS = ("labels", "items", "predicted")
UNPREFIXED = "class"  # the target whose metrics have no prefix
VERSION_1 = np.lib.format.magic(1, 0)  # of npy, what numpy writes
LARGEST = 2**31  # bytes of all arrays: ten times those of LibriSpeech's phones


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Predicted classes, with the labels and items that they are about; n = test labels.

    Targets are "class", "speaker", "phone". Metrics are named as in the record.
    """

    labels: Mapping[str, np.ndarray]  # {target: int [n]}
    items: Mapping[str, np.ndarray]  # {target: int [n]}, the item that each label belongs to
    predicted: Mapping[str, np.ndarray]  # {metric: int [n]}, as in "speaker_accuracy/module_2"

    def packed(self) -> bytes:
        """All arrays as a compressed npz file; equal predictions give equal bytes."""
        arrays: dict[str, Any] = {
            f"{part}/{name}": _narrow(values)
            for part in PARTS
            for name, values in getattr(self, part).items()
        }
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    @classmethod
    def unpacked(
        cls, content: bytes, *, wanted: Callable[[str], bool] = lambda _: True
    ) -> "Predictions":
        """The predictions in such a file, of the metrics that are wanted.

        Raises: ValueError if the file is none.
        """
        parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in PARTS}
        try:
            for part, name, values in _arrays(content, wanted):
                parts[part][name] = values
            predictions = cls(**parts)
            predictions.check()
        # A damaged archive ends in one of many exceptions of zipfile, zlib, struct and numpy.
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise ValueError(f"not a file of predictions ({reason})") from None
        return predictions

    def check(self) -> None:
        """Raises: ValueError if the arrays do not belong together."""
        if self.labels.keys() != self.items.keys():
            raise ValueError("labels and items have different targets")
        shapes = {target: labels.shape for target, labels in self.labels.items()}
        for target, items in self.items.items():
            if items.shape != shapes[target]:
                raise ValueError(f"{target}: labels and items have different numbers of entries")
        for metric, predicted in self.predicted.items():
            if predicted.shape != shapes.get(target_named(metric)):
                raise ValueError(f"{metric}: no label for each prediction")
        for part in PARTS:
            for name, values in getattr(self, part).items():
                if values.ndim != 1 or values.dtype.kind not in "iu":
                    raise ValueError(f"{part}/{name} is no list of whole numbers")


def target_named(metric: str) -> str:
    """The target that a metric is about: "speaker" of "speaker_accuracy/module_2"."""
    return target_of(metric)[0] or UNPREFIXED


def _arrays(content: bytes, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str, np.ndarray]]:
    """(part, name, array) of an npz file, without the predictions of metrics not wanted."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if (size := sum(entry.file_size for entry in entries)) > LARGEST:
            raise ValueError(f"{size:,} bytes of arrays, at most {LARGEST:,} are read")
        for entry in entries:
            part, _, name = entry.filename.removesuffix(".npy").partition("/")
            if part != "predicted" or wanted(name):
                yield part, name, _array(archive.read(entry))


def _array(content: bytes) -> np.ndarray:
    """The array of an npy file. numpy refuses pickled objects. Raises: ValueError."""
    length = int.from_bytes(content[8:10], "little")
    if content.startswith(VERSION_1):
        shape, _, of_type = _header(content[8 : 10 + length])
        if len(shape) == 1 and shape[0] > 0:
            return np.frombuffer(content, of_type, count=shape[0], offset=10 + length)
    return np.lib.format.read_array(io.BytesIO(content))


@lru_cache(maxsize=1000)
def _header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran's order, type) of an array.

    numpy compiles each header as Python, which takes longer than reading the array; all seeds of a
    suite have the same headers.
    """
    return np.lib.format.read_array_header_1_0(io.BytesIO(header))


def _narrow(values: np.ndarray) -> np.ndarray:
    """Whole numbers in the smallest type that holds them."""
    ends = (int(values.min(initial=0)), int(values.max(initial=0)))
    return values.astype(np.result_type(*map(np.min_scalar_type, ends)))
