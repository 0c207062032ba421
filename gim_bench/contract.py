"""The contract: what a data set, an encoder and a method promise.

Read this first. A *suite* is a table; each *cell* is one method on one data set with one seed; the
result of a cell is a record on disk (records/record.py), which every later tool reads.

Tensor letters: example = image or window of speech in a batch, row/column = place of a patch in the
grid (for speech: row = time, one column), step = place that a label may belong to (for an image
there is one; for speech one every 10 ms), d = channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gim_bench.errors import ConfigError
from gim_bench.large_images import LargeImages
from gim_bench.progress import Progress, Silence
from gim_bench.settings.augmentations import FRAME_SAMPLES
from gim_bench.settings.base import Settings
from gim_bench.settings.protocols import Reading
from gim_bench.settings.schema import EncoderSettings, Recompute, Schedule
from gim_bench.system.user import Caching

Shape = tuple[int, ...]  # of one augmented example

# -- data ----------------------------------------------------------------------------------------


class Split(StrEnum):
    """The three parts of a data set. Validation is a share of TRAIN; TEST is read once, last."""

    UNLABELLED = "unlabelled"
    TRAIN = "train"
    TEST = "test"


class Modality(StrEnum):
    """The kind of examples. Encoders are made for one modality, methods for one or both."""

    IMAGE = "images"
    SPEECH = "speech"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A task of labels: probes read it from features, supervised methods learn it."""

    name: str  # "class", "speaker" or "phone": what its metrics are named after
    classes: Sequence[str]  # their names, in the order of the label numbers
    per_step: bool = False  # a label for every 10 ms step, not one for the whole example


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """One split: uint8 images, memory-mapped where they are large, and labels where it has them."""

    images: np.ndarray  # uint8, [image channel row column]
    labels: Mapping[str, np.ndarray]  # {"class": int64 [image]}; empty for unlabelled images
    # int64 [image], numbers of the photographs or instances that the images are made from. Images
    # of one source never serve both fitting and validation. None: every image is its own source.
    sources: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recordings:
    """One split: speech at 16 kHz, memory-mapped where it is large, and labels where it has them.

    Recordings may be short. Label t of a recording is about its sample 160·t + 200.
    """

    samples: np.ndarray  # int16 [sample]; the recordings lie in it, each in one piece
    starts: np.ndarray  # int64 [recording], where in `samples` each begins
    lengths: np.ndarray  # int64 [recording], in samples
    labels: Mapping[str, np.ndarray]  # {"speaker": int64 [recording]}; may be empty
    frames: Mapping[str, np.ndarray]  # {"phone": int16 [frame]}, all recordings; -1: unlabelled
    # int64 [recording], numbers of the chapters or sessions that the recordings belong to, as for
    # images. None: every recording is its own source.
    sources: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.starts)


Examples = Images | Recordings | LargeImages

UNLABELLED = -1  # the label of an example or a step that has none
SAMPLE_RATE_HZ = 16_000
FRAME_WINDOW_SAMPLES = 400  # that a label is about: 25 ms
# Step j of a window that begins with sample 160·s of a recording has label s + j - 1, the one
# whose centre, sample 160·(s + j - 1) + 200 of the recording, lies in the step's own 10 ms: at
# sample 160·j + 40 of the window.
STEP_CENTRE = 40
FIRST_LABEL = -1


def label_frames(samples: int) -> int:
    """Labelled frames of a recording: as many whole 25 ms windows as fit, one every 10 ms.

    Kaldi counts CPC's labels so ("snip edges"): one or two fewer than there are steps of 10 ms.
    """
    return max(0, 1 + (samples - FRAME_WINDOW_SAMPLES) // FRAME_SAMPLES)


class Dataset(Caching, ABC):
    """A data set: its classes, its splits, and a fingerprint of every byte that they come from."""

    class Options(Settings):
        """Settings under `[dataset]`; a data set with options overrides this class."""

    modality: ClassVar[Modality] = Modality.IMAGE
    needs_data_dir: ClassVar[bool] = False

    def __init__(
        self,
        *,
        options: Settings,
        data_dir: Path | None,
        cache_dir: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`progress` hears of long work in any of the methods below."""
        self.options = options
        self.data_dir = data_dir
        self.given_cache_dir = cache_dir
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
        """sha256 of all bytes that the splits come from. Raises: DataError."""

    @abstractmethod
    def targets(self) -> Sequence[Target]:
        """The tasks of its labels; TRAIN and TEST have labels for each."""

    @abstractmethod
    def split(self, split: Split) -> Examples:
        """The examples of one split. Raises: DataError."""

    def incomplete(self) -> str:
        """Which part of a published data set is present; empty if all of it is.

        Hook: numbers on a part of the data are not set against a paper's. Raises: DataError.
        """
        return ""

    def notes(self) -> Sequence[str]:
        """Facts about the data that a reader of its numbers should know, a line each.

        Hook: counts of what was left out or copied, each with an example. `prepare`, `verify` and
        `run` print notes, records keep them, and the report shows them. Raises: DataError.
        """
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The examples of one step: augmented, normalised, on the learner's device.

    Labels are by target: one for each example, or one for each of its steps, -1 where unlabelled.
    All views of an example share its labels; labels of steps are those of view 1.
    """

    # Augmented view 1: images [channel height width], or speech [sample].
    inputs: Float[Tensor, "example *shape"]
    labels: Mapping[str, Int[Tensor, "example *step"]]
    # Augmented views 2, 3, … of the same examples, for methods that take several.
    further: tuple[Float[Tensor, "example *shape"], ...] = ()
    encoded_by: str | None = None  # the unit whose outputs the inputs are, kept or handed on

    @property
    def views(self) -> tuple[Float[Tensor, "example *shape"], ...]:
        """All augmented views of the examples, view 1 first."""
        return (self.inputs, *self.further)


# -- encoders ------------------------------------------------------------------------------------


class Encoder(nn.Module, ABC):
    """A stack of modules, the units between which gradients may be stopped.

    An encoder is built from its own settings and the shape of one augmented example: [channel
    height width] of an image, [sample] of a window of speech.
    """

    Options: ClassVar[type[EncoderSettings]]  # what a suite may set under `[encoder]`
    modality: ClassVar[Modality]
    stages: nn.ModuleList
    dims: Sequence[int]  # channels of each module's encodings
    # Whether the top module is an autoregressor, which predicts what the module below it encodes.
    autoregressive: bool = False

    @abstractmethod
    def __init__(self, options: EncoderSettings, *, shape: Shape) -> None:
        super().__init__()

    @classmethod
    @abstractmethod
    def rows(cls, options: EncoderSettings, *, shape: Shape) -> Sequence[int]:
        """Rows of the grid that each module encodes: of patches, or time steps."""

    @classmethod
    def examples_are_independent(cls, options: EncoderSettings) -> bool:
        """Whether an example's encodings depend on no other example of the batch in training.

        Batch norm makes them depend: an encoder with batch norm overrides this. A batch is then
        never encoded in pieces.
        """
        return True

    @abstractmethod
    def prepare(self, inputs: Float[Tensor, "example *shape"]) -> Tensor:
        """The input of the first module: for images, all their patches as one batch."""

    @abstractmethod
    def pool(
        self, activations: Tensor, *, batch_size: int
    ) -> Float[Tensor, "example row column d"]:
        """A module's activations as a grid with one encoding for each patch or time step."""

    @abstractmethod
    def steps(
        self, z: Float[Tensor, "example row column d"], *, module: int
    ) -> Float[Tensor, "example step d"]:
        """The encodings of module `module` (from 0), averaged over the places of every label."""

    def grids(
        self, inputs: Float[Tensor, "example *shape"]
    ) -> Iterator[Float[Tensor, "example row column d"]]:
        """Every module's encodings as a grid, lowest module first."""
        activations = self.prepare(inputs)
        for stage in self.stages:
            activations = stage(activations)
            yield self.pool(activations, batch_size=inputs.shape[0])


# -- methods -------------------------------------------------------------------------------------


class GradientFlow(StrEnum):
    """How far a loss reaches back."""

    ISOLATED = "isolated"  # no further than its own module
    END_TO_END = "end_to_end"  # through all modules
    NONE = "none"  # no gradients at all; fitting without them is possible


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A loss: its name, its unit, and the settings that all rows of a suite share."""

    name: str
    unit: str | None = None  # "nats"; None where the loss has no unit
    # The table `[objective.<name>]` of a suite (InfoNCE's is `[info_nce]`).
    settings: type[Settings] = Settings
    # Other values of the settings, {} for none, with which log(candidates) - loss is a lower bound
    # on mutual information; None: no bound. The learner's `uninformed_losses` are log(candidates).
    bounds_information: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Declaration of a method: the ways in which it may differ from other methods."""

    objective: Objective | None  # None: nothing is trained by gradients
    gradient_flow: GradientFlow
    trains_on: Split | None
    # Whether a row may have the objective with the other gradient flow.
    either_flow: bool = False
    views: int = 1  # augmented views of every example
    modalities: frozenset[Modality] = frozenset(Modality)
    ablation: str | None = None  # what it leaves out of the shared encoder, or has in its place
    schedule: Schedule | None = None  # its own, in place of the suite's

    def __post_init__(self) -> None:
        """Refuse text where a member of an enum belongs, before anybody compares the two."""
        for name, kind in (("gradient_flow", GradientFlow), ("trains_on", Split)):
            value = getattr(self, name)
            if not isinstance(value, kind) and not (name == "trains_on" and value is None):
                raise TypeError(f"Traits.{name} = {value!r}: use a member of {kind.__name__}")
        if not isinstance(self.objective, Objective | None):
            raise TypeError(f"Traits.objective = {self.objective!r}: use Objective(name=…)")

    @property
    def uses_labels(self) -> bool:
        return self.trains_on is Split.TRAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Surroundings of a method in a row of a suite, before anything is built."""

    encoder: type[Encoder]
    encoder_options: EncoderSettings
    shape: Shape  # of one augmented example
    objective: Settings
    gradient_flow: GradientFlow

    @property
    def modality(self) -> Modality:
        return self.encoder.modality

    @property
    def rows(self) -> Sequence[int]:
        """Rows of the grid that each module encodes."""
        return self.encoder.rows(self.encoder_options, shape=self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredients:
    """Parts that every method builds its learner from."""

    encoder: Encoder
    shape: Shape  # of one augmented example
    target: Target  # what a supervised method learns; one model is trained for each
    objective: Settings  # of the method's objective
    options: Settings
    gradient_flow: GradientFlow
    # What the losses of a unit draw from, by the unit's name: no draws depend on another unit's.
    stream: Callable[[str], torch.Generator]
    recompute: Recompute = Recompute.NOTHING
    compiled: bool = False  # its layers, by torch.compile
    cuda_graphs: bool = False  # the compiled layers are replayed as CUDA graphs
    units: int | None = None  # isolated ones that modules are grouped into; None: one for each


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Within the block the module is in eval mode: no dropout, and running statistics stay."""
    before = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, training in before:
            each.training = training


class Learner(nn.Module, ABC):
    """A method at work: it yields its losses in forward order, and the trainer goes backward.

    Modes: what is trained runs in train mode. What is frozen, evaluated or probed runs in eval
    mode: `outputs`, `features` and `predict` see to that themselves, and so does `losses` for the
    modules below the one unit that it is asked for.
    """

    traits: ClassVar[Traits]

    class Options(Settings):
        """Settings under `[method.<name>]`; a method with options overrides this class."""

    encoder: nn.Module  # whose weights are kept with the record

    @classmethod
    def check(cls, options: Settings, *, setup: Setup) -> None:
        """Raises: ConfigError where these options make no sense in that setup."""

    @abstractmethod
    def losses(
        self, batch: Batch, *, only: str | None = None
    ) -> Iterator[tuple[str, Float[Tensor, ""]]]:
        """(unit, loss) in forward order; each unit's forward runs when its loss is asked for.

        With `only`, that unit's alone: what it stands on is run without autograd, and what stands
        on it is not run.
        """

    def fit_without_gradients(self, batches: Iterable[Batch]) -> None:
        """Fit buffers of `encoder` to augmented examples, before the probe.

        Hook: called once, with an epoch of the split that `trains_on` names, if `gradient_flow` is
        NONE. A learner takes as many batches as it needs. Buffers keep their shapes, so that a
        saved encoder can be loaded into a learner that was never fitted.
        """

    def generators(self) -> Mapping[str, torch.Generator]:
        """Generators that its losses draw from, by unit; their states belong to a checkpoint."""
        return {}

    @abstractmethod
    def units(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """The parameters that each loss trains, by the name it is yielded under."""

    def uninformed_losses(self) -> Mapping[str, float]:
        """The loss of a predictor without information, by unit: log(classes), for example.

        Hook: the loss that a unit has where all weights of the learner are 0. A unit that ends
        above this loss has diverged. Units for which no such loss is known are left out.
        """
        return {}

    def outputs(self, batch: Batch, *, unit: str) -> Batch:
        """The batch as `unit` hands it to the unit above, view by view, without autograd.

        It trains the units above as the batch itself would. Raises: ConfigError where the method
        hands nothing from unit to unit.
        """
        raise ConfigError(
            f"{type(self).__name__} hands nothing from unit to unit: leave out "
            f"training.kept_outputs"
        )

    @abstractmethod
    def features(
        self, inputs: Float[Tensor, "example *shape"]
    ) -> Mapping[str, Float[Tensor, "example step d"]]:
        """Frozen features for the probe, by module, lowest first; the last is the top one."""

    def readings(
        self, inputs: Float[Tensor, "example *shape"], *, kinds: Collection[Reading]
    ) -> Mapping[Reading, Mapping[str, Float[Tensor, "example step _"]]]:
        """What each of `kinds` reads, by module; empty where the learner has no such thing."""
        features = {Reading.FEATURES: self.features(inputs)} if Reading.FEATURES in kinds else {}
        return {kind: features.get(kind, {}) for kind in kinds}

    def read_heads(self) -> nn.ModuleDict:
        """Parts of the heads that readings pass through, whose weights are kept with the record."""
        return nn.ModuleDict()

    def predict(
        self, features: Mapping[str, Float[Tensor, "example step d"]]
    ) -> Float[Tensor, "example i class"] | None:
        """Class scores of the learner's own head, for every step or one for the whole example.

        From its features; None where it has no head.
        """
        return None
