"""Predictions of a cell's probes on every test label, which lie beside its record.

An item is an image or a recording: labels of one recording are not independent of each other, so
that statistics resample items, not labels.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

PREDICTIONS = "predictions.npz"
PARTS = ("labels", "items", "predicted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Predicted classes, with the labels and items that they are about; n = test labels."""

    labels: Mapping[str, np.ndarray]  # {target: int [n]}
    items: Mapping[str, np.ndarray]  # {target: int [n]}, the item that each label belongs to
    predicted: Mapping[str, np.ndarray]  # {metric: int [n]}, as in "speaker_accuracy/module_2"

    def packed(self) -> bytes:
        """All arrays as a compressed npz file; equal predictions give equal bytes."""
        arrays = {
            f"{part}/{name}": _narrow(values)
            for part in PARTS
            for name, values in getattr(self, part).items()
        }
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    @classmethod
    def unpacked(cls, content: bytes) -> Self:
        """The predictions in such a file. Raises: ValueError if the file is none."""
        parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in PARTS}
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                for name in file.files:
                    part, _, of = name.partition("/")
                    parts[part][of] = file[name]
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"not a file of predictions ({error})") from None
        return cls(**parts)


def _narrow(values: np.ndarray) -> np.ndarray:
    """Whole numbers in the smallest type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))
