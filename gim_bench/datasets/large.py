"""Random windows of large examples: of images or recordings that are never held whole.

Letters: b = windows of a batch; dim = 2 for images (rows, columns), 1 for recordings (samples).
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gim_bench import seeding
from gim_bench.contract import Batch
from gim_bench.datasets.batches import Batches, BatchOptions, ViewStreams
from gim_bench.hardware import process_group


class Windows(NamedTuple):
    """Windows of large examples."""

    examples: Int[Tensor, "b"]  # numbers of the images or recordings
    corners: Int[Tensor, "b dim"]  # first row and first column, or first sample


class LargeBatches(Batches):
    """Windows at random places of the regions of large examples, so many of them an epoch.

    The region of an example is its first `side` rows and columns, or samples. The corner of a
    window lies on a grid of `grid` pixels or samples. A module whose stride divides the grid then
    hands on the same encodings of a window and of the whole example, up to padding.
    """

    noun = "window"
    noun_of_items = "window"
    dimensions: int
    side_setting: str  # of the settings, which says how large the region is

    def __init__(
        self,
        *,
        examples: int,
        side: int,
        window: int,
        windows: int,
        grid: int,
        **options: Unpack[BatchOptions],
    ) -> None:
        """Batches of windows of `examples` examples."""
        super().__init__(**options)
        self.examples = examples
        self.side = side
        self.window = window
        self.windows = windows
        self.grid = grid

    @abstractmethod
    def read(
        self, example: int, corner: Sequence[int], *, size: Sequence[int]
    ) -> Float[Tensor, "1 *shape"]:
        """A normalised part of an example, on the device. Raises: DataError."""

    @property
    def items(self) -> int:
        return self.windows

    @property
    def labels(self) -> Mapping[str, Int[Tensor, "b"]]:
        return {}

    def in_order(self) -> Iterator[Batch]:
        yield from self.epoch(1)

    def epoch(self, number: int) -> Iterator[Batch]:
        for windows in self.places(number):
            yield self._batch(windows)

    def places(self, number: int) -> Iterator[Windows]:
        """The windows of every batch of epoch `number`."""
        draw = seeding.generator("data", *self.stream, number)
        for _ in range(len(self)):
            yield self._drawn(self.batch_size, draw)

    def _augmented(self, chosen: Int[Tensor, "b"], streams: Sequence[ViewStreams]) -> Batch:
        return self._batch(self._drawn(len(chosen), streams[0].place))

    def _drawn(self, windows: int, draw: torch.Generator) -> Windows:
        examples = torch.randint(self.examples, (windows,), generator=draw)
        places = (self.side - self.window) // self.grid + 1
        corners = self.grid * torch.randint(places, (self.dimensions, windows), generator=draw)
        return Windows(examples, corners.T)

    def _batch(self, windows: Windows) -> Batch:
        """A batch of the process's own among the windows."""
        own = process_group.own(len(windows.examples))
        size = [self.window] * self.dimensions
        ours = zip(windows.examples[own].tolist(), windows.corners[own].tolist(), strict=True)
        inputs = [self.read(example, corner, size=size) for example, corner in ours]
        return Batch(inputs=torch.cat(inputs), labels={})
