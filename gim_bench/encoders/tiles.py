"""Encoders that say what they see: the encodings of a tile are those of the whole at its places."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from gim_bench.contract import Encoder, Shape
from gim_bench.settings.schema import EncoderSettings

Span = tuple[int, int]  # first row (or column), and the one after the last


class Tile(NamedTuple):
    """Input rows from which output rows are computed, and where these are among all computed."""

    inputs: Span
    kept: slice


class Reach(NamedTuple):
    """Input rows that one output row sees, and input rows from one output row to the next.

    The first output row sees `padding` rows before the first input row, and the last one as many
    behind the last. For the modules above the lowest these are zeros in place of its encodings.
    """

    field: int
    stride: int
    padding: int = 0

    def outputs(self, rows: int) -> int:
        """Output rows of so many input rows."""
        return max(0, (rows + 2 * self.padding - self.field) // self.stride + 1)

    def tile(self, outputs: Span, rows: int) -> Tile:
        """The part of `rows` input rows that gives these output rows, those of their halo included.

        Where the part is cut from the whole, padding stands in for rows that are there. The output
        rows that see padding at a cut are computed and not kept.
        """
        start, end = outputs
        spoilt = min(start, -(-self.padding // self.stride))
        last = (end - 1) * self.stride - self.padding + self.field
        return Tile(
            inputs=((start - spoilt) * self.stride, min(rows, last)),
            kept=slice(spoilt, spoilt + end - start),
        )


def composed(reaches: Iterable[Reach]) -> Reach:
    """The reach of modules one after the other, lowest first."""
    field, stride, padding = 1, 1, 0
    for reach in reaches:
        field += (reach.field - 1) * stride
        padding += reach.padding * stride
        stride *= reach.stride
    return Reach(field, stride, padding)


def spans(rows: int, *, size: int) -> Iterator[Span]:
    """All rows, cut into spans of `size`; the last may be shorter."""
    for start in range(0, rows, size):
        yield start, min(start + size, rows)


def part(values: Tensor, along: Sequence[slice]) -> Tensor:
    """A part of the values, cut out of their last dimensions."""
    return values[(*[slice(None)] * (values.dim() - len(along)), *along)]


class TiledEncoder(Encoder):
    """An encoder whose modules see of their inputs what their reaches say, and nothing else."""

    def __init__(self, options: EncoderSettings, *, shape: Shape) -> None:
        super().__init__(options, shape=shape)
        self.reaches = self.reaches_of(options)

    @classmethod
    @abstractmethod
    def reaches_of(cls, options: EncoderSettings) -> Sequence[Reach]:
        """The reach of each module in what it is given, alike for rows and columns.

        An autoregressor on top, which sees everything before it, has none.
        """


@runtime_checkable
class EncodesInPieces(Protocol):
    """An encoder of sound that reads long examples piece by piece."""

    def grids_in_pieces(
        self, inputs: Float[Tensor, "example sample"], *, steps: int
    ) -> Iterator[tuple[slice, Iterator[Float[Tensor, "example t 1 d"]]]]:
        """The encodings of long examples, `steps` steps of 10 ms at a time.

        Yields (which of a piece's steps are new, the grids of all modules as of the piece alone).
        Features of the new steps are those of the whole. The grids of a piece are taken one by
        one, before the next piece.
        """
        ...


def reaches_of(encoder: type[Encoder], options: EncoderSettings) -> Sequence[Reach]:
    """The reach of each module; empty for an encoder whose tiles are not those of the whole."""
    return encoder.reaches_of(options) if issubclass(encoder, TiledEncoder) else ()
