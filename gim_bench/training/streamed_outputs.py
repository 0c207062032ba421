"""Outputs of frozen modules over whole images and recordings, streamed to disk tile by tile.

The module above is trained on windows of these outputs. A file holds chunks of equal sides, one
after the other, each with a checksum: example by example, and of an image row by row. A chunk is
[channel row column] of an image, [channel step] of a recording. Chunks at the end of a dimension
are filled up with zeros, which no window reads. The file is read and not mapped: mapped pages would
count as memory of the process.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import prod
from pathlib import Path
from weakref import finalize

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from gim_bench.contract import Batch
from gim_bench.datasets.large import LargeBatches
from gim_bench.encoders.tiles import Reach, Span, part, spans
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

# By the dimensions of the examples: time steps, or rows and columns, of a chunk, which is also the
# tile of outputs that is computed.
CHUNKS = {1: 1024, 2: 64}
ONE: Span = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamer:
    """Streams outputs to a folder, in one number format."""

    folder: Path
    dtype: torch.dtype
    progress: Progress
    reaches: Mapping[str, Reach]  # of each unit, in pixels or samples

    def make_room(self, source: Source, encoders: Mapping[str, Encode]) -> int:
        """Say how large the outputs of each unit will be, and return the bytes of the largest.

        Outputs of one unit are held at a time. Raises: RoomError before training where the disk has
        no room for them; DataError where the examples are too small or damaged.
        """
        large = _large(source)
        places = CHUNKS[large.dimensions] ** large.dimensions
        sizes = {}
        for unit, encode in encoders.items():
            one = [ONE] * large.dimensions
            outputs = _tile(large, encode, self.reaches[unit], example=0, tile=one)
            pieces = self.pieces(source, unit=unit)
            sizes[unit] = pieces * len(outputs) * places * self.dtype.itemsize
        return check_room(
            sizes,
            folder=self.folder,
            progress=self.progress,
            remedy=f"lower {large.side_setting}",
        )

    def keep(
        self, source: Source, encode: Encode, *, unit: str, identity: str
    ) -> "StreamedOutputs":
        """Outputs of `unit` over the regions of `source`; `encode` computes them.

        Chunks that an interrupted call wrote are used as far as their checksums agree. Files of
        other units, or of other weights, are removed first. Raises: OSError; DataError.
        """
        large, reach = _large(source), self.reaches[unit]
        path = outputs_file(self.folder, unit=unit, identity=identity)
        outputs = None
        along = [_spans(large, reach)] * large.dimensions
        title, total = f"streaming outputs of {unit}", self.pieces(source, unit=unit)
        with (
            ledger_at(path) as ledger,
            self.progress.task(title, total=total, unit="tile") as task,
        ):
            for example, tile in product(range(large.examples), product(*along)):
                if outputs is None or not ledger.holds_next():
                    outputs = _tile(large, encode, reach, example=example, tile=tile)
                    ledger.write(self._held(outputs))
                ledger.advance()
                task.advance()
        assert outputs is not None, "a region has a tile or more"
        return StreamedOutputs(
            path, like=outputs, dtype=self.dtype, reach=reach, unit=unit, source=large
        )

    def pieces(self, source: Source, *, unit: str) -> int:
        """Pieces in which the outputs of `unit` over all regions are computed: tiles, or chunks."""
        large = _large(source)
        return large.examples * len(_spans(large, self.reaches[unit])) ** large.dimensions

    def piece(self, source: Source, encode: Encode, *, unit: str) -> Float[Tensor, "d *chunk"]:
        """The first piece as the file holds it, to time how long one takes."""
        large, reach = _large(source), self.reaches[unit]
        tile = [_spans(large, reach)[0]] * large.dimensions
        return self._held(_tile(large, encode, reach, example=0, tile=tile))

    def batches(self, source: Source) -> int:
        """Batches with as many values as the regions whose outputs are computed, rounded up."""
        large = _large(source)
        values = large.examples * large.side**large.dimensions
        return -(-values // (source.batch_size * large.window**large.dimensions))

    def clear(self) -> None:
        """Remove all outputs."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _held(self, outputs: Float[Tensor, "d *place"]) -> Float[Tensor, "d *chunk"]:
        return _filled_up(outputs.to("cpu", self.dtype))


class StreamedOutputs:
    """Windows of the outputs of a unit: a `Source` for the unit above.

    They are the windows of the source, batch for batch: what the unit hands on of these windows.
    """

    def __init__(
        self,
        path: Path,
        *,
        like: Float[Tensor, "d *place"],
        dtype: torch.dtype,
        reach: Reach,
        unit: str,
        source: LargeBatches,
    ) -> None:
        """Batches have the number format and the device of `like`; the file holds `dtype`."""
        self.path = path
        self.unit = unit
        self.source = source
        self.batch_size = source.batch_size
        self.stream = source.stream
        self._reach = reach
        self._dtype, self._like = dtype, like
        self._side = CHUNKS[source.dimensions]
        self._shape = (like.shape[0], *[self._side] * source.dimensions)
        self._chunks_across = len(_spans(source, reach))
        self._sums = path.with_suffix(SUMS).read_bytes()
        self._file = os.open(path, os.O_RDONLY)
        finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, number: int) -> Iterator[Batch]:
        rows = self._reach.outputs(self.source.window)
        for examples, corners in self.source.places(number):
            places = zip(examples.tolist(), (corners // self._reach.stride).tolist(), strict=True)
            found = torch.stack([self.window(*place, rows=rows) for place in places])
            inputs = moved(found, device=self._like.device).to(self._like.dtype)[:, None]
            yield Batch(inputs=inputs, labels={}, encoded_by=self.unit)

    def validation(self) -> Iterator[Batch]:
        return self.source.validation()

    def window(
        self, example: int, corner: Sequence[int], *, rows: int
    ) -> Float[Tensor, "d *place"]:
        """Outputs of `rows` rows along each dimension from `corner` on, as the file holds them.

        Raises: DataError where the file is damaged.
        """
        side = self._side
        found = torch.empty((self._shape[0], *[rows] * len(corner)), dtype=self._dtype)
        touched = [range(first // side, (first + rows - 1) // side + 1) for first in corner]
        for chunk in product(*touched):
            number = reduce(lambda above, at: above * self._chunks_across + at, chunk, example)
            shared = [
                _shared(first, rows=rows, chunk=at, side=side)
                for first, at in zip(corner, chunk, strict=True)
            ]
            here, there = zip(*shared, strict=True)
            part(found, here).copy_(part(self._chunk(number), there))
        return found

    def _chunk(self, number: int) -> Float[Tensor, "d *chunk"]:
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


def _large(source: Source) -> LargeBatches:
    assert isinstance(source, LargeBatches), "outputs are streamed of what is read by windows"
    return source


def _spans(large: LargeBatches, reach: Reach) -> list[Span]:
    """The spans of the chunks along a dimension of a region's outputs."""
    return list(spans(reach.outputs(large.side), size=CHUNKS[large.dimensions]))


def _tile(
    large: LargeBatches, encode: Encode, reach: Reach, *, example: int, tile: Sequence[Span]
) -> Float[Tensor, "d *place"]:
    """The outputs at these places, from the part of the region that they see."""
    seen = [reach.tile(span, large.side) for span in tile]
    first, after = zip(*(each.inputs for each in seen), strict=True)
    size = [end - start for start, end in zip(first, after, strict=True)]
    inputs = large.read(example, first, size=size)
    outputs = encode(Batch(inputs=inputs, labels={})).inputs[0, 0]
    return part(outputs, [each.kept for each in seen])


def _filled_up(outputs: Float[Tensor, "d *place"]) -> Float[Tensor, "d *chunk"]:
    sides = outputs.shape[1:]
    missing = [CHUNKS[len(sides)] - side for side in reversed(sides)]
    return pad(outputs, [each for side in missing for each in (0, side)]).contiguous()


def _shared(first: int, *, rows: int, chunk: int, side: int) -> tuple[slice, slice]:
    """What a window of `rows` from `first` on and a chunk share: in the window, in the chunk."""
    start, end = max(first, chunk * side), min(first + rows, (chunk + 1) * side)
    return slice(start - first, end - first), slice(start - chunk * side, end - chunk * side)
