"""TIFF files that are read by windows: a tile or a strip is decoded when a window needs it."""

import logging
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from tifffile import EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG

from gim_bench.errors import DataError, class_and_first_line

LARGEST_SEGMENT = 64 * 2**20  # bytes, decoded; larger ones would be nearly the whole image
# Decoded segments of all images together that are kept for the next windows, and their bytes.
CACHED, CACHED_BYTES = 16, 2 * LARGEST_SEGMENT
LOOKED_AT = 9  # segments of an image of 16 bits: the first, the last, and some between
# Channels of what is read, without transparency.
CHANNELS = {PHOTOMETRIC.MINISBLACK: 1, PHOTOMETRIC.RGB: 3, PHOTOMETRIC.YCBCR: 3}
TRANSPARENCY = {EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA}
DEPTHS = ((8, np.uint8), (16, np.uint16))  # bits of a sample; others stand in the lower bits alone

# Faults of files are told by errors, in one line; without a handler Python prints them as well.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class TiffImage:
    """One resolution of a TIFF file of 8 or 16 bits, gray or in colour, in tiles or strips.

    Pixels of 16 bits are divided by 256; transparency is left out. The file is open only while
    something is read: a split may have more files than a process may have open.
    """

    def __init__(self, path: Path, *, level: int = 0) -> None:
        """`level` counts the resolutions of a pyramid, from 0, the full one.

        Raises: DataError if the file cannot be read by windows, or is cut off.
        """
        self.path = path
        try:
            with tifffile.TiffFile(path) as file:
                self._page: Any = self._keyframe(file, level)
                self.further = len(file.series) - 1  # images, which are not read
                self._check_page()
                self._check_whole()
                self._decode = self._page.decode  # looks into the file, as the calls do not
        except DataError:
            raise
        except Exception as error:  # damaged headers raise nearly anything
            raise self._unusable(class_and_first_line(error)) from None

    @property
    def shape(self) -> tuple[int, int, int]:
        page = self._page
        return CHANNELS[page.photometric], page.imagelength, page.imagewidth

    @property
    def bits(self) -> int:
        """Bits of a sample in the file, 8 or 16."""
        return int(self._page.bitspersample)

    @cached_property
    def dark(self) -> bool:
        """Whether 16 bits end below 4,096 in up to nine segments that are spread over the image.

        Raises: DataError naming a tile that cannot be decoded.
        """
        if self.bits == 8:
            return False
        places = [*self.segments()]
        spread = np.linspace(0, len(places) - 1, min(len(places), LOOKED_AT)).round().astype(int)
        return all(self._decoded(*places[index]).max() < 4_096 >> 8 for index in spread)

    def window(self, top: int, left: int, *, height: int, width: int) -> np.ndarray:
        """A rectangle within the image, uint8 [channel row column].

        Raises: DataError naming a tile that cannot be decoded.
        """
        channels, *_ = self.shape
        found = np.empty((channels, height, width), dtype=np.uint8)
        tall, wide = self._segment_size
        for row in range(top // tall, (top + height - 1) // tall + 1):
            for column in range(left // wide, (left + width - 1) // wide + 1):
                pixels = self._segment(row, column)
                # Both ends, in pixels of the image, of what window and segment share.
                up, down = max(top, row * tall), min(top + height, (row + 1) * tall)
                west, east = max(left, column * wide), min(left + width, (column + 1) * wide)
                found[:, up - top : down - top, west - left : east - left] = pixels[
                    :,
                    up - row * tall : down - row * tall,
                    west - column * wide : east - column * wide,
                ]
        return found

    def segments(self) -> Iterator[tuple[int, int]]:
        """(row, column) of all tiles or strips."""
        tall, wide = self._segment_size
        for row in range(-(-self._page.imagelength // tall)):
            for column in range(-(-self._page.imagewidth // wide)):
                yield row, column

    def check_decodable(self) -> None:
        """Decode every tile once. Raises: DataError naming one that cannot be decoded."""
        for place in self.segments():
            self._decoded(*place)

    @property
    def _segment_size(self) -> tuple[int, int]:
        """Rows and columns of a tile, or of a strip."""
        page = self._page
        if page.is_tiled:
            return page.tilelength, page.tilewidth
        return min(page.rowsperstrip, page.imagelength), page.imagewidth

    def _keyframe(self, file: tifffile.TiffFile, level: int) -> tifffile.TiffPage:
        """The one page of a level. Raises: DataError, or what damaged headers raise."""
        if not file.pages:
            raise self._unusable(_without_pages(file))
        levels = file.series[0].levels
        if level >= len(levels):
            raise self._unusable(f"no page {level}: it has {len(levels)}, counted from 0")
        found = levels[level]
        # A stack may have one directory for all of its pages, as ImageJ's above 4 GB do.
        pages = max(len(found.pages), found.size // found.keyframe.size)
        if pages > 1:
            raise self._unusable(f"{pages} pages of one size: save each as a file of its own")
        return found.keyframe

    def _check_page(self) -> None:
        page = self._page
        bits, samples = page.bitspersample, page.samplesperpixel
        colours = getattr(page.photometric, "name", f"photometric {page.photometric}")
        if (bits, page.dtype) not in DEPTHS or page.photometric not in CHANNELS:
            raise self._unusable(
                f"{bits} bits ({page.dtype}) of {colours}: use 8 or 16 unsigned bits, gray or RGB"
            )
        channels = samples - sum(extra in TRANSPARENCY for extra in page.extrasamples)
        if channels != CHANNELS[page.photometric]:
            raise self._unusable(
                f"{channels} channels of {colours}: save one as gray, or three as RGB"
            )
        if page.imagedepth != 1 or (samples > 1 and page.planarconfig != PLANARCONFIG.CONTIG):
            raise self._unusable("channels or depths in planes of their own: save them interleaved")
        rows, columns = self._segment_size
        if min(rows, columns) < 1:
            raise self._unusable(f"tiles or strips of {rows}×{columns} pixels")
        size = rows * columns * samples * page.dtype.itemsize
        if size > LARGEST_SEGMENT:
            raise self._unusable(
                f"{'tiles' if page.is_tiled else 'strips'} of {size / 1e6:,.0f} MB, which cannot "
                f"be read by windows: save it in tiles, as with tile=(256, 256) in tifffile"
            )

    def _check_whole(self) -> None:
        size = self.path.stat().st_size
        offsets, counts = self._page.dataoffsets, self._page.databytecounts
        segments = sum(1 for _ in self.segments())
        if min(len(offsets), len(counts)) < segments:
            raise self._unusable(
                f"its header has {len(offsets)} places and {len(counts)} sizes of {segments} "
                f"segments"
            )
        for index, (offset, count) in enumerate(zip(offsets, counts, strict=False)):
            if offset + count > size:
                raise self._unusable(
                    f"it is cut off: segment {index + 1} of {len(offsets)} ends at "
                    f"byte {offset + count:,}, and the file has {size:,}"
                )

    def _segment(self, row: int, column: int) -> np.ndarray:
        """The decoded segment, which is kept for the next windows."""
        return _RECENT.of((self, row, column), self._decoded)

    def _decoded(self, row: int, column: int) -> np.ndarray:
        """Pixels of a tile or strip, uint8 [channel row column]."""
        _, wide = self._segment_size
        index = row * -(-self._page.imagewidth // wide) + column
        try:
            offset, count = self._page.dataoffsets[index], self._page.databytecounts[index]
            with self.path.open("rb", buffering=0) as file:
                file.seek(offset)
                content = file.read(count) or None
            segment, _, _ = self._decode(content, index, jpegtables=self._page.jpegtables)
            if segment is None:
                raise ValueError("it is empty")  # noqa: TRY301 - as any other fault of a segment
        except Exception as error:  # decoders of damaged segments raise nearly anything
            raise self._unusable(
                f"segment {index + 1} of {len(self._page.dataoffsets)} cannot be decoded "
                f"({class_and_first_line(error)})"
            ) from None
        channels, *_ = self.shape
        pixels = segment[0, :, :, :channels].transpose(2, 0, 1)
        return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)

    def _unusable(self, why: str) -> DataError:
        return DataError(f"cannot read {self.path} by windows: {why}; replace it or remove it")


def _without_pages(file: tifffile.TiffFile) -> str:
    """Why a file has no pages."""
    width = file.tiff.offsetsize
    file.filehandle.seek(width)  # byte 4 of the file, or 8, has the place of the first directory
    (first,) = struct.unpack(file.tiff.offsetformat, file.filehandle.read(width))
    if first < file.filehandle.size:
        return "it has 0 pages"
    return (
        f"it is cut off: its directory begins at byte {first:,}, and the file has "
        f"{file.filehandle.size:,}"
    )


class _Segments:
    """The decoded segments that were used last, of all images of the process."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[TiffImage, int, int], np.ndarray] = OrderedDict()

    def of(
        self, place: tuple[TiffImage, int, int], decode: Callable[[int, int], np.ndarray]
    ) -> np.ndarray:
        """The segment at (image, row, column), decoded if it is not kept."""
        if place not in self._found:
            self._found[place] = decode(*place[1:])
        self._found.move_to_end(place)
        segment = self._found[place]
        while len(self._found) > CACHED or self.bytes > CACHED_BYTES:
            self._found.popitem(last=False)
        return segment

    @property
    def bytes(self) -> int:
        return sum(segment.nbytes for segment in self._found.values())


_RECENT = _Segments()
