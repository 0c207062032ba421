"""Outputs of frozen modules over whole large images, streamed to disk tile by tile.

The module above is trained on windows of these outputs. A file holds square chunks, one after the
other, each with a checksum: image by image, row by row, [channel row column] in a chunk. Chunks at
the lower and right edges are filled up with zeros, which no window reads. The file is read and not
mapped: mapped pages would count as memory of the process.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from weakref import finalize

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from gim_bench.contract import Batch
from gim_bench.datasets.images.regions import RegionBatches
from gim_bench.encoders.tiles import Reach, Span, spans
from gim_bench.errors import DataError
from gim_bench.hardware.transfers import moved
from gim_bench.progress import Progress
from gim_bench.training.kept_outputs import (
    CHECKSUM_BYTES,
    SUMS,
    Encode,
    Source,
    check_room,
    checksum,
    ledger_at,
    outputs_file,
)

CHUNK = 64  # rows and columns of a chunk, which is also the tile of outputs that is computed
ONE: Span = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamer:
    """Streams outputs to a folder, in one number format."""

    folder: Path
    dtype: torch.dtype
    progress: Progress
    reaches: Mapping[str, Reach]  # of each unit, in pixels

    def make_room(self, source: Source, encoders: Mapping[str, Encode]) -> int:
        """Say how large the outputs of each unit will be, and return the bytes of the largest.

        Outputs of one unit are held at a time. Raises: RoomError before training where the disk has
        no room for them; DataError where the images are too small or damaged.
        """
        regions = _regions(source)
        sizes = {}
        for unit, encode in encoders.items():
            outputs = encode(_tile(regions, self.reaches[unit], image=0, rows=ONE, columns=ONE))
            channels = outputs.inputs.shape[2]
            sizes[unit] = self._chunks(regions, unit) * channels * CHUNK**2 * self.dtype.itemsize
        return check_room(
            sizes,
            folder=self.folder,
            progress=self.progress,
            remedy="lower augmentation.side",
        )

    def keep(
        self, source: Source, encode: Encode, *, unit: str, identity: str
    ) -> "StreamedOutputs":
        """Outputs of `unit` over the regions of `source`; `encode` computes them.

        Chunks that an interrupted call wrote are used as far as their checksums agree. Files of
        other units, or of other weights, are removed first. Raises: OSError; DataError.
        """
        regions, reach = _regions(source), self.reaches[unit]
        path = outputs_file(self.folder, unit=unit, identity=identity)
        outputs = None
        title, total = f"streaming outputs of {unit}", self._chunks(regions, unit)
        with (
            ledger_at(path) as ledger,
            self.progress.task(title, total=total, unit="tile") as task,
        ):
            for image in range(len(regions.images.images)):
                side = reach.outputs(regions.augmentation.side)
                for rows in spans(side, size=CHUNK):
                    for columns in spans(side, size=CHUNK):
                        if outputs is None or not ledger.holds_next():
                            tile = _tile(regions, reach, image=image, rows=rows, columns=columns)
                            outputs = encode(tile).inputs[0, 0]
                            ledger.write(_filled_up(outputs.to("cpu", self.dtype)))
                        ledger.advance()
                        task.advance()
        assert outputs is not None, "a region has a tile or more"
        return StreamedOutputs(
            path, like=outputs, dtype=self.dtype, reach=reach, unit=unit, source=regions
        )

    def batches(self, source: Source) -> int:
        """Batches with as many pixels as the regions whose outputs are computed, rounded up."""
        regions = _regions(source)
        pixels = len(regions.images.images) * regions.augmentation.side**2
        return -(-pixels // (source.batch_size * regions.augmentation.window**2))

    def clear(self) -> None:
        """Remove all outputs."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _chunks(self, regions: RegionBatches, unit: str) -> int:
        """Chunks of the outputs of all regions."""
        side = self.reaches[unit].outputs(regions.augmentation.side)
        return len(regions.images.images) * len(list(spans(side, size=CHUNK))) ** 2


class StreamedOutputs:
    """Windows of the outputs of a unit: a `Source` for the unit above.

    They are the windows of the source, batch for batch: what the unit hands on of these windows.
    """

    def __init__(
        self,
        path: Path,
        *,
        like: Float[Tensor, "d row column"],
        dtype: torch.dtype,
        reach: Reach,
        unit: str,
        source: RegionBatches,
    ) -> None:
        """Batches have the number format and the device of `like`; the file holds `dtype`."""
        self.path = path
        self.unit = unit
        self.source = source
        self.batch_size = source.batch_size
        self.stream = source.stream
        self._reach = reach
        self._dtype, self._like = dtype, like
        self._shape = (like.shape[0], CHUNK, CHUNK)
        self._chunks_across = len(list(spans(reach.outputs(source.augmentation.side), size=CHUNK)))
        self._sums = path.with_suffix(SUMS).read_bytes()
        self._file = os.open(path, os.O_RDONLY)
        finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, number: int) -> Iterator[Batch]:
        rows = self._reach.outputs(self.source.augmentation.window)
        for windows in self.source.places(number):
            places = zip(*(values.tolist() for values in windows), strict=True)
            found = torch.stack(
                [
                    self.window(
                        image, top // self._reach.stride, left // self._reach.stride, rows=rows
                    )
                    for image, top, left in places
                ]
            )
            inputs = moved(found, device=self._like.device).to(self._like.dtype)[:, None]
            yield Batch(inputs=inputs, labels={}, encoded_by=self.unit)

    def validation(self) -> Iterator[Batch]:
        return self.source.validation()

    def window(self, image: int, top: int, left: int, *, rows: int) -> Float[Tensor, "d rows rows"]:
        """A square of outputs, as the file holds them. Raises: DataError where it is damaged."""
        found = torch.empty((self._shape[0], rows, rows), dtype=self._dtype)
        for down in range(top // CHUNK, (top + rows - 1) // CHUNK + 1):
            for across in range(left // CHUNK, (left + rows - 1) // CHUNK + 1):
                chunk = self._chunk(
                    (image * self._chunks_across + down) * self._chunks_across + across
                )
                here, there = _shared(top, rows=rows, chunk=down)
                beside, yonder = _shared(left, rows=rows, chunk=across)
                found[:, here, beside] = chunk[:, there, yonder]
        return found

    def _chunk(self, number: int) -> Float[Tensor, "d chunk chunk"]:
        size = prod(self._shape) * self._dtype.itemsize
        content = bytearray(size)
        read = os.preadv(self._file, [content], number * size)
        expected = self._sums[number * CHECKSUM_BYTES : (number + 1) * CHECKSUM_BYTES]
        if read != size or checksum(content) != expected:
            raise DataError(
                f"chunk {number + 1} of {self.path} was damaged after it was written: the same "
                f"command computes it again"
            )
        return torch.frombuffer(content, dtype=self._dtype).view(self._shape)


def _regions(source: Source) -> RegionBatches:
    assert isinstance(source, RegionBatches), "outputs are streamed of large images"
    return source


def _tile(regions: RegionBatches, reach: Reach, *, image: int, rows: Span, columns: Span) -> Batch:
    """The pixels that these outputs see, with their halo."""
    (top, bottom), (left, right) = reach.inputs(rows), reach.inputs(columns)
    inputs = regions.pixels(image, top, left, height=bottom - top, width=right - left)
    return Batch(inputs=inputs, labels={})


def _filled_up(outputs: Float[Tensor, "d row column"]) -> Float[Tensor, "d chunk chunk"]:
    _, rows, columns = outputs.shape
    return pad(outputs, (0, CHUNK - columns, 0, CHUNK - rows)).contiguous()


def _shared(first: int, *, rows: int, chunk: int) -> Sequence[slice]:
    """What a window of `rows` from `first` on and a chunk share: in the window, in the chunk."""
    start, end = max(first, chunk * CHUNK), min(first + rows, (chunk + 1) * CHUNK)
    return slice(start - first, end - first), slice(start - chunk * CHUNK, end - chunk * CHUNK)
