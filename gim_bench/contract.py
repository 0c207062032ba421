"""The contract: what a method, an encoder and a data set promise, and what a cell leaves behind.

Read this first. A *suite* is a table; each *cell* is one method on one data set with one seed; a
cell's result is a `Record` on disk; MLflow, the report and every later tool read records.

Tensor letters: image = batch of images, row/column = place of a patch in the grid, dim = channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gim_bench.config import InfoNCESettings, Settings

# -- progress ------------------------------------------------------------------------------------


@runtime_checkable
class Task(Protocol):
    """A piece of work under way, with a known number of steps."""

    def advance(self, steps: int = 1, **facts: float | str) -> None:
        """`steps` more are done; `facts` (loss_module_1=2.31) are shown beside the bar."""


@runtime_checkable
class Progress(Protocol):
    """Where work reports to: bars on a terminal, plain lines elsewhere, nothing in tests."""

    def task(self, title: str, *, total: int, unit: str) -> AbstractContextManager[Task]:
        """Shows `title` with speed and time left until the block is left."""

    def say(self, line: str) -> None:
        """One line that stays."""


class Silence:
    """The progress that shows nothing; its own task."""

    def task(self, title: str, *, total: int, unit: str) -> AbstractContextManager[Task]:
        return self

    def say(self, line: str) -> None: ...

    def advance(self, steps: int = 1, **facts: float | str) -> None: ...

    def __enter__(self) -> Task:
        return self

    def __exit__(self, *exception: object) -> None: ...


# -- data ----------------------------------------------------------------------------------------


class Split(StrEnum):
    """The three parts of a data set. Validation is a share of TRAIN; TEST is read once, last."""

    UNLABELLED = "unlabelled"
    TRAIN = "train"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """One split: uint8 images, memory-mapped where they are large, and labels where it has them."""

    images: np.ndarray  # uint8, [image channel row column]
    labels: np.ndarray | None  # int64, [image]

    def __len__(self) -> int:
        return len(self.images)


class Dataset(ABC):
    """A data set: its classes, its splits, and a fingerprint of every byte that they come from."""

    class Options(Settings):
        """What a suite may set under `[dataset]`; a data set with options overrides this."""

    needs_data_dir: ClassVar[bool] = False

    def __init__(
        self,
        *,
        options: Settings,
        data_dir: Path | None,
        cache_dir: Path,
        progress: Progress | None = None,
    ) -> None:
        """`progress` hears of long work in any of the methods below."""
        self.options = options
        self.data_dir = data_dir
        self.cache_dir = cache_dir
        self.progress = progress or Silence()

    @abstractmethod
    def prepare(self) -> None:
        """Fetch or decode whatever is missing; what is there already is left alone.

        Raises: DataError with one line on what is missing or damaged.
        """

    @abstractmethod
    def verify(self) -> None:
        """Check every file against the known checksums. Raises: DataError naming the file."""

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 of all bytes that the splits are made of. Raises: DataError."""

    @abstractmethod
    def classes(self) -> Sequence[str]:
        """Names of the classes, in the order of the label numbers."""

    @abstractmethod
    def split(self, split: Split) -> Examples:
        """The examples of one split. Raises: DataError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a learner sees at one step: augmented, normalised, on its device."""

    inputs: Float[Tensor, "image channel height width"]
    labels: Int[Tensor, "image"] | None


# -- methods -------------------------------------------------------------------------------------


class GradientFlow(StrEnum):
    """How far a loss reaches back."""

    ISOLATED = "isolated"  # no further than its own module
    END_TO_END = "end_to_end"  # through all modules
    NONE = "none"  # nothing is trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a method declares: the ways in which it may differ from the others in its table."""

    objective: str  # "info_nce", "cross_entropy", … or "none"
    gradient_flow: GradientFlow
    trains_on: Split | None

    @property
    def uses_labels(self) -> bool:
        return self.trains_on is Split.TRAIN


class Encoder(nn.Module, ABC):
    """A stack of modules, the units between which gradients may be stopped."""

    stages: nn.ModuleList
    dims: Sequence[int]  # channels of each module's encodings

    @abstractmethod
    def prepare(self, inputs: Float[Tensor, "image channel height width"]) -> Tensor:
        """What the first module takes: for images, all their patches as one batch."""

    @abstractmethod
    def pool(self, activations: Tensor, *, batch_size: int) -> Float[Tensor, "image row column d"]:
        """A module's activations as a grid with one encoding for each patch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredients:
    """What the suite hands to every method to build its learner from."""

    encoder: Encoder
    classes: int
    info_nce: InfoNCESettings
    options: Settings
    negatives: torch.Generator


class Learner(nn.Module, ABC):
    """A method at work: it yields its losses in forward order, and the trainer goes backward."""

    traits: ClassVar[Traits]

    class Options(Settings):
        """What a suite may set under `[method.<name>]`; a method with options overrides this."""

    encoder: Encoder

    @abstractmethod
    def losses(self, batch: Batch) -> Iterator[tuple[str, Float[Tensor, ""]]]:
        """(unit, loss) in forward order; each unit's forward runs when its loss is asked for."""

    @abstractmethod
    def units(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """The parameters that each loss trains, by the name it is yielded under."""

    @abstractmethod
    def features(
        self, inputs: Float[Tensor, "image channel height width"]
    ) -> Mapping[str, Float[Tensor, "image d"]]:
        """Frozen features for the probe, by module, lowest first; the last is the top one."""

    def predict(
        self, inputs: Float[Tensor, "image channel height width"]
    ) -> Float[Tensor, "image class"] | None:
        """Class scores of the learner's own head; None where it has none."""
        return None


# -- results -------------------------------------------------------------------------------------


class Status(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One cell's result, as `record.json` holds it and `report --format json` prints it."""

    suite: str
    method: str
    dataset: str
    seed: int
    key: str
    status: Status
    error: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = ""
    # Loss of every unit in every epoch, [{"epoch": 1, "module_1": 2.31, …}, …].
    losses: Sequence[Mapping[str, float]] = ()
    # Validation accuracy over the probe's learning rates, {module: [[rate, percent], …]}.
    probe_curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
