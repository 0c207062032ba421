"""Scans of microscopes, in the formats of OpenSlide that keep a scan in one file."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import finalize

import numpy as np
from PIL import Image

from gim_bench.errors import DataError, class_and_first_line

if TYPE_CHECKING:
    from openslide import OpenSlide, OpenSlideCache

# Of Aperio, Hamamatsu, Leica, Ventana and Zeiss. Formats of several files (.mrxs,
# .vms, DICOM) are left out: the checksum of one file would not tell that another has changed.
SUFFIXES = (".svs", ".ndpi", ".scn", ".bif", ".svslide", ".czi")
CACHED_BYTES = 32 * 2**20  # decoded, of all scans together; by default OpenSlide keeps them of each
READ_PIXELS = 1024  # of a side of what is decoded at a time to check a file


class SlideImage:
    """One resolution of a scan, in colour; places that were not scanned are white."""

    bits = 8  # of a sample
    dark = False
    further = 0  # images of the scene: OpenSlide keeps labels and thumbnails apart

    def __init__(self, path: Path, *, level: int = 0) -> None:
        """`level` counts the resolutions, from 0, the full one.

        Raises: DataError if OpenSlide is not installed or cannot read the file.
        """
        self.path = path
        self._slide = self._opened()
        finalize(self, self._slide.close)
        if level >= self._slide.level_count:
            raise self._unusable(f"no level {level}: it has {self._slide.level_count}, from 0")
        self._level = level

    @property
    def shape(self) -> tuple[int, int, int]:
        width, height = self._slide.level_dimensions[self._level]
        return 3, height, width

    def window(self, top: int, left: int, *, height: int, width: int) -> np.ndarray:
        """A rectangle within the image, uint8 [3 row column].

        Raises: DataError naming the corner of a window that cannot be decoded.
        """
        # OpenSlide counts the corner in pixels of the full resolution.
        finer = self._slide.level_downsamples[self._level]
        corner = (round(left * finer), round(top * finer))
        try:
            found = self._slide.read_region(corner, self._level, (width, height))
        except Exception as error:  # decoders of damaged files raise nearly anything
            raise self._unusable(
                f"the window at row {top}, column {left} cannot be decoded "
                f"({class_and_first_line(error)})"
            ) from None
        on_white = Image.new("RGB", found.size, "white")
        on_white.paste(found, mask=found.getchannel("A"))
        return np.asarray(on_white).transpose(2, 0, 1)

    def check_decodable(self) -> None:
        """Decode the whole scan once, piece by piece. Raises: as `window`."""
        _, rows, columns = self.shape
        for top in range(0, rows, READ_PIXELS):
            for left in range(0, columns, READ_PIXELS):
                height, width = min(READ_PIXELS, rows - top), min(READ_PIXELS, columns - left)
                self.window(top, left, height=height, width=width)

    def _opened(self) -> "OpenSlide":
        try:
            from openslide import OpenSlide
        except ImportError:
            raise self._unusable(
                "scans need OpenSlide: pip install 'gim-bench[slides]'", remedy="install it"
            ) from None
        try:
            slide = OpenSlide(self.path)
            slide.set_cache(_decoded_tiles())
        except Exception as error:
            raise self._unusable(class_and_first_line(error)) from None
        return slide

    def _unusable(self, why: str, *, remedy: str = "replace it") -> DataError:
        return DataError(f"cannot read {self.path} by windows: {why}; {remedy} or remove the file")


@cache
def _decoded_tiles() -> "OpenSlideCache":
    """The decoded tiles that all scans of the process keep for their next windows."""
    from openslide import OpenSlideCache

    return OpenSlideCache(CACHED_BYTES)
