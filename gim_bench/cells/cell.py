"""One cell of a suite's table."""

from dataclasses import dataclass
from functools import cached_property

from gim_bench.cells.pretrained import Base
from gim_bench.settings.schema import CellConfig


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method on one data set with one seed, with everything that decides its numbers."""

    suite: str
    protocol: str
    config: CellConfig
    seed: int
    data_sha256: str
    base: Base | None = None  # a finished encoder, frozen below the modules that are trained

    @cached_property
    def key(self) -> str:
        return self.config.key(data_sha256=self.data_sha256, seed=self.seed)

    @property
    def name(self) -> str:
        return f"{self.config.method.name} seed {self.seed}"

    @property
    def stream(self) -> tuple[str, int]:
        """(dataset, seed): the stream that data order, augmentation and splits are drawn from."""
        return self.config.dataset.name, self.seed
