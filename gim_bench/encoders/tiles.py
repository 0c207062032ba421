"""Encoders without padding: the encodings of a tile are those of the whole image at its places."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from gim_bench.contract import Encoder, Shape
from gim_bench.encoders.images import ImageEncoder
from gim_bench.settings.schema import EncoderSettings

Span = tuple[int, int]  # first row (or column), and the one after the last


class Reach(NamedTuple):
    """Input rows that one output row sees, and input rows from one output row to the next."""

    field: int
    stride: int

    def outputs(self, rows: int) -> int:
        """Output rows of so many input rows."""
        return max(0, (rows - self.field) // self.stride + 1)

    def inputs(self, outputs: Span) -> Span:
        """The input rows that these output rows see, those of their halo among them."""
        start, end = outputs
        return start * self.stride, (end - 1) * self.stride + self.field


def composed(reaches: Iterable[Reach]) -> Reach:
    """The reach of modules one after the other, lowest first."""
    field, stride = 1, 1
    for reach in reaches:
        field += (reach.field - 1) * stride
        stride *= reach.stride
    return Reach(field, stride)


def spans(rows: int, *, size: int) -> Iterator[Span]:
    """All rows, cut into spans of `size`; the last may be shorter."""
    for start in range(0, rows, size):
        yield start, min(start + size, rows)


class TiledEncoder(ImageEncoder):
    """An encoder whose modules pad nothing: output i sees the inputs that its reach says."""

    def __init__(self, options: EncoderSettings, *, shape: Shape) -> None:
        super().__init__(options, shape=shape)
        self.reaches = self.reaches_of(options)

    @classmethod
    @abstractmethod
    def reaches_of(cls, options: EncoderSettings) -> Sequence[Reach]:
        """The reach of each module in what it is given, alike for rows and columns."""

    @classmethod
    def rows(cls, options: EncoderSettings, *, shape: Shape) -> Sequence[int]:
        reaches = cls.reaches_of(options)
        return [composed(reaches[: m + 1]).outputs(shape[1]) for m in range(len(reaches))]


def reaches_of(encoder: type[Encoder], options: EncoderSettings) -> Sequence[Reach]:
    """The reach of each module; empty for an encoder whose tiles are not those of the whole."""
    return encoder.reaches_of(options) if issubclass(encoder, TiledEncoder) else ()
