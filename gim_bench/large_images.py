"""Images that are never held whole: they are read by windows, and have a label at every place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class ReadByWindows(Protocol):
    """An image of which any rectangle can be read."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the image."""

    def window(self, top: int, left: int, *, height: int, width: int) -> np.ndarray:
        """A rectangle within the image, uint8 [channel row column]. Raises: DataError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeImages:
    """One split: images that are read by windows, cut into square places with a label each.

    The places of an image are its whole squares of `place` pixels from the top left corner on, row
    by row. Places of all images are numbered one after the other.
    """

    images: Sequence[ReadByWindows]
    place: int  # pixels
    labels: Mapping[str, np.ndarray]  # {"class": int64 [place]}; empty for unlabelled images
    # int64 [place], numbers of the images or photographs that the places are cut from, as for
    # small images. None: every place is its own source.
    sources: np.ndarray | None = None

    def grid(self, image: int) -> tuple[int, int]:
        """Rows and columns of places in an image."""
        _, height, width = self.images[image].shape
        return height // self.place, width // self.place

    def __len__(self) -> int:
        return sum(rows * columns for rows, columns in map(self.grid, range(len(self.images))))
