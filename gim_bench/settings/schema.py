"""Suites and cells: what the TOML file may say, and what one cell of its table resolves to.

A suite states every shared setting once. The table of a row, `[method.<name>]`, holds the options
of its method and what the row has otherwise than the suite.

Data sets, encoders and objectives are plug-ins with settings of their own. A `Suite` holds their
tables as the file has them; a `CellConfig` holds them checked.
"""

import shlex
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    SerializeAsAny,
    model_serializer,
    model_validator,
)

from gim_bench import RESULTS_VERSION
from gim_bench.seals import digest
from gim_bench.settings.augmentations import (
    CropSettings,
    RegionSettings,
    StretchSettings,
    WindowSettings,
)
from gim_bench.settings.base import (
    Name,
    Names,
    NotNegative,
    PositiveFloat,
    PositiveInt,
    Precision,
    Settings,
)
from gim_bench.settings.keys import keyed
from gim_bench.settings.optimisers import (
    AdamSettings,
    ConstantRate,
    OptimiserSettings,
    RateSettings,
    check_rate_fits,
)
from gim_bench.settings.probing import ProbeSettings


class Schedule(StrEnum):
    """When the trainer goes backward; joint and interleaved have the same gradients."""

    JOINT = "joint"  # sum the losses, one backward: what the paper measured
    INTERLEAVED = "interleaved"  # backward and step as soon as a loss is there
    SEQUENTIAL = "sequential"  # one module after the other, those below frozen: "iterative"
    PIPELINE = "pipeline"  # each in a process of its own: "asynchronously"


class Recompute(StrEnum):
    """Activations that are computed again on the way back; the gradients are the same."""

    NOTHING = "nothing"
    LAYERS = "layers"  # each layer's activations, from its input: activation checkpointing
    PIECES = "pieces"  # a unit's activations, for an eighth of the batch at a time
    TILES = "tiles"  # a unit's activations, for a tile of the images at a time


class Budget(StrEnum):
    """The common measure of training for methods on splits of different sizes."""

    EPOCHS = "epochs"  # as many passes over their own split: the released code's choice
    STEPS = "steps"  # as many optimiser steps as the unlabelled split gives


class BufferPolicy(StrEnum):
    """Which batch of a buffer is used next, and which one makes room for another."""

    LEAST_USED = "least_used"  # used next: the oldest of the least used; makes room: the most used
    FRESHEST = "freshest"  # used next: the newest; makes room: the oldest


class Open(Settings):
    """A table whose other entries are checked by the plug-in that it names."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class DatasetTable(Open):
    """Which data set; the other entries are its options."""

    name: str = Field(description='"gim_bench list datasets" names the data sets')


class EncoderTable(Open):
    """Which encoder; the other entries are its settings."""

    kind: str = Field(description='"gim_bench list encoders" names the kinds')


class EncoderSettings(Settings):
    """Settings of an encoder; every encoder adds its own."""

    kind: str


AugmentationSettings = Annotated[
    CropSettings | WindowSettings | RegionSettings | StretchSettings, Field(discriminator="kind")
]


class Row(Settings):
    """Entries in which a row of the table differs from the suite.

    These entries stand in `[method.<name>]`, beside the options of the method. With `like`, the
    row is another method under a name of its own, so that a table can hold a method twice. The
    tables `[method.<name>.training]` and so on are laid over the suite's, setting by setting.
    """

    like: str | None = None
    schedule: Schedule | None = None
    recompute: Recompute | None = None
    only: str | None = None  # the one unit that is trained, such as "module_2"
    gradient_flow: Literal["isolated", "end_to_end"] | None = None
    units: PositiveInt | None = None  # isolated, of the encoder's modules; None: one for each
    encoder: dict[str, Any] = {}
    augmentation: dict[str, Any] = {}
    training: dict[str, Any] = {}
    probe: dict[str, Any] = {}
    objective: dict[str, Any] = {}  # settings of its objective


class KeptOutputsSettings(Settings):
    """Training in sequence: outputs of the frozen modules below are kept on disk."""

    # Epochs whose outputs are kept, each with its own random crops or windows.
    epochs: PositiveInt = 1
    precision: Literal["bf16", "fp32"] = "bf16"


class BufferSettings(Settings):
    """Between the processes of a pipeline that do not wait: batches are dropped, or used again.

    See training/pipeline/buffer.py.
    """

    size: PositiveInt = 8  # batches between two workers
    policy: BufferPolicy = BufferPolicy.LEAST_USED
    # By unit, how many times as long as its own step its worker takes: slower hardware, made up.
    slowdown: dict[str, Annotated[float, Field(ge=1)]] = {}


class TrainingSettings(Settings):
    """How every unit is trained: for how long, by which optimiser, in which order."""

    epochs: NotNegative
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    optimiser: OptimiserSettings = AdamSettings()
    rate_schedule: RateSettings = ConstantRate()  # of the learning rate, over training
    schedule: Schedule = Schedule.INTERLEAVED
    recompute: Recompute = Recompute.NOTHING
    # Processes of the schedule "pipeline", which the units are shared out to; None: one for each.
    workers: PositiveInt | None = None
    buffer: BufferSettings | None = None  # between these processes; None: lossless and in order
    # Processes that share each batch, on a device each.
    processes: PositiveInt = 1
    # In sequence, what a module is given: outputs kept on disk, or (None) computed at every step.
    kept_outputs: KeptOutputsSettings | None = None
    compile: bool = False  # the encoder's layers in training, by torch.compile
    cuda_graphs: bool = False  # compiled layers as graphs of a GPU; without effect on a CPU
    # The share of images or recordings (of whole sources, where data has sources) that is held out;
    # their loss is measured every epoch.
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Precision = Precision.FP32
    budget: Budget = Budget.EPOCHS

    @model_validator(mode="after")
    def _the_rate_schedule_fits(self) -> "TrainingSettings":
        check_rate_fits(self.rate_schedule, epochs=self.epochs)
        return self

    @model_validator(mode="after")
    def _graphs_are_of_compiled_layers(self) -> "TrainingSettings":
        if self.cuda_graphs and not self.compile:
            raise ValueError("cuda_graphs = true needs compile = true: set both, or neither")
        return self


class CapacitySettings(Settings):
    """To find the largest training batch that fits into a GPU's memory; see capacity.py."""

    up_to: PositiveInt = 4096  # images or windows; larger batches are not tried


class InsideSettings(Settings):
    """What is measured of an encoder after every epoch of training; see training/inside.py."""

    examples: PositiveInt | None = None  # of the one batch; None: as many as training.batch_size


class Recipe(Settings):
    """The tables of a suite that a row may lay its own over."""

    augmentation: AugmentationSettings
    training: TrainingSettings
    probe: ProbeSettings | None = None  # None: nothing is probed


class Deviation(Settings):
    """A point in which a suite and a paper, or the paper and its released code, do not agree."""

    about: str
    paper: str
    released: str  # in the paper's released code
    ours: str

    @model_validator(mode="before")
    @classmethod
    def _is_a_table(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(  # noqa: TRY004 - pydantic collects ValueErrors
                f"{value!r} is a sentence: write a table [[deviations]] with about, paper, "
                f"released and ours"
            )
        return value


class Suite(Recipe):
    """A table: methods × seeds on one data set, everything else shared."""

    name: Name
    summary: str
    protocol: str  # named beside every number
    published: tuple[str, ...] = ()  # "<file>/<table>" in results/published, if comparable
    deviations: tuple[Deviation, ...] = ()  # from the protocols of what is published, where known
    tuned: str | None = None  # evidence for its rows' learning rates: results/tuned/<name>.json
    methods: Names
    seeds: PositiveInt = 1
    dataset: DatasetTable
    encoder: EncoderTable
    info_nce: dict[str, Any] = {}  # InfoNCE's settings
    objective: dict[str, dict[str, Any]] = {}  # other objectives' settings, by name
    capacity: CapacitySettings | None = None  # None: the largest batch is not looked for
    inside: InsideSettings | None = None  # None: nothing is measured after an epoch
    fresh_process: bool = False  # every cell in a process of its own
    # Further protocols, by name, for `probe`; see protocols.py. They are of no cell's key.
    protocols: dict[Name, dict[str, Any]] = {}
    method: dict[str, dict[str, Any]] = {}
    _asked: tuple[str, ...] = PrivateAttr(default=())

    @property
    def options(self) -> str:
        """The options of a command that ask for this suite, to be pasted into a shell."""
        return shlex.join(self._asked or ("--suite", self.name))

    def asked_by(self, *options: str) -> "Suite":
        """The same suite, which a command asks for by these options and those that it has."""
        suite = self.model_copy()
        suite._asked = (*self._asked, *options)  # noqa: SLF001 - of its own kind
        return suite


class MethodSettings(Settings):
    """Declaration and options of a method, spelled out for the record."""

    name: str
    objective: str  # "info_nce", "cross_entropy", … or "none"
    loss_unit: str | None = "nats"  # None: the loss has no unit
    gradient_flow: str  # "isolated", "end_to_end" or "none"
    trains_on: str  # a split's name, or "none"
    uses_labels: bool
    views: PositiveInt = 1  # augmented views of every example
    ablation: str | None = None  # what it leaves out of the shared encoder
    like: str  # the method that it is: its own name, or another's whose variant it is
    schedule: Schedule
    recompute: Recompute
    only: str | None = None  # the one unit that is trained
    units: PositiveInt | None = None  # isolated ones; None: every module is a unit of its own
    base: str | None = None  # sha256 of the frozen encoder that it adds modules to
    base_uses_labels: bool = False  # whether labels trained any module of that encoder
    options: SerializeAsAny[Settings]


class DatasetSettings(Settings):
    """A data set's name and its checked options, in one table."""

    name: str
    options: SerializeAsAny[Settings]

    def entries(self) -> dict[str, Any]:
        return {"name": self.name, **self.options.entries()}

    def is_default(self, name: str) -> bool:
        return name != "name" and self.options.is_default(name)

    @model_serializer
    def _one_table(self) -> dict[str, Any]:
        return {"name": self.name, **self.options.model_dump(mode="json")}


class CellConfig(Settings):
    """One cell, frozen and fully explicit: nothing is looked up or written back later."""

    method: MethodSettings
    dataset: DatasetSettings
    encoder: SerializeAsAny[EncoderSettings]
    augmentation: AugmentationSettings
    # In every cell, whatever its method: the first keys were made so.
    info_nce: SerializeAsAny[Settings]
    objective: SerializeAsAny[Settings] | None = None  # the method's own, where not info_nce
    training: TrainingSettings
    probe: ProbeSettings | None
    capacity: CapacitySettings | None = None
    inside: InsideSettings | None = None
    device: Literal["cpu", "cuda"]

    @property
    def objective_settings(self) -> Settings:
        """The settings of the method's own objective."""
        own = self.info_nce if self.method.objective == "info_nce" else self.objective
        return Settings() if own is None else own

    def as_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def is_default(self, name: str) -> bool:
        """An objective with all settings at their defaults is as one that has no settings yet."""
        if name == "objective" and self.objective is not None:
            return all(map(self.objective.is_default, type(self.objective).model_fields))
        return super().is_default(name)

    def key(self, *, data_sha256: str, seed: int) -> str:
        """The cell's identity: a hash of all that can move its numbers."""
        identity = {
            "config": keyed(self),
            "data_sha256": data_sha256,
            "seed": seed,
            "results_version": RESULTS_VERSION,
        }
        return digest(identity)
