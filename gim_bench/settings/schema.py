"""Suites and cells: what the TOML file may say, and what one cell of its table resolves to.

A suite states every shared setting once. A method's own table, `[method.<name>]`, holds only that
method's options: the encoder, the data, the budget and the probe belong to the suite.
"""

from collections.abc import Mapping
from enum import StrEnum
from math import prod
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from gim_bench import RESULTS_VERSION
from gim_bench.seals import digest
from gim_bench.settings.augmentations import FRAME_SAMPLES, CropSettings, WindowSettings
from gim_bench.settings.base import (
    Fraction,
    Name,
    Names,
    NotNegative,
    PositiveFloat,
    PositiveInt,
    Settings,
)


class Schedule(StrEnum):
    """When the trainer goes backward; joint and interleaved have the same gradients."""

    JOINT = "joint"  # sum the losses, one backward: what the paper measured
    INTERLEAVED = "interleaved"  # backward and step as soon as a loss is there
    SEQUENTIAL = "sequential"  # one module after the other, those below frozen: "iterative"


class Recompute(StrEnum):
    """What is not kept for the backward pass but computed again; the gradients are the same."""

    NOTHING = "nothing"
    LAYERS = "layers"  # each layer's activations, from its input: activation checkpointing
    PIECES = "pieces"  # a unit's activations, for an eighth of the batch at a time


class Precision(StrEnum):
    """Number format of the matrix products in training and feature extraction."""

    AUTO = "auto"  # bf16 where the hardware multiplies in it, else fp32
    FP32 = "fp32"
    BF16 = "bf16"


class Budget(StrEnum):
    """What methods that train on differently sized splits have in common."""

    EPOCHS = "epochs"  # as many passes over their own split: the paper's choice
    STEPS = "steps"  # as many optimiser steps as the unlabelled split gives


class DatasetSettings(Settings):
    """Which data set, and its own options (checked against the data set's class)."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class ResNetSettings(Settings):
    """For images: the paper's ResNet-50 v2 without batch norm, and how much smaller it may be."""

    kind: Literal["resnet"]
    width: PositiveInt = 64  # bottleneck channels of the first module; doubled in each next one
    blocks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (3, 4, 6)
    patch_size: PositiveInt = 16  # pixels
    patch_overlap: Annotated[int, Field(ge=0)] = 8  # pixels

    @model_validator(mode="after")
    def _patches_advance(self) -> "ResNetSettings":
        if self.patch_overlap >= self.patch_size:
            raise ValueError(
                f"patch_overlap {self.patch_overlap} must be below patch_size {self.patch_size}"
            )
        return self


class ConvGRUSettings(Settings):
    """For speech: the paper's strided convolutions, each a module, and a GRU above them."""

    kind: Literal["conv_gru"]
    width: PositiveInt = 512  # channels of every convolution
    context: PositiveInt = 256  # units of the GRU
    kernels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (10, 8, 4, 4, 4)
    strides: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (5, 4, 2, 2, 2)
    paddings: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (2, 2, 2, 2, 1)

    @model_validator(mode="after")
    def _one_of_each_per_layer(self) -> "ConvGRUSettings":
        if not len(self.kernels) == len(self.strides) == len(self.paddings):
            raise ValueError("kernels, strides and paddings must name as many layers")
        if prod(self.strides) != FRAME_SAMPLES:
            raise ValueError(
                f"the strides multiply to {prod(self.strides)} samples where the top layer must "
                f"advance by {FRAME_SAMPLES}, the 10 ms of a phone label"
            )
        return self


EncoderSettings = Annotated[ResNetSettings | ConvGRUSettings, Field(discriminator="kind")]


AugmentationSettings = Annotated[CropSettings | WindowSettings, Field(discriminator="kind")]


class InfoNCESettings(Settings):
    """The contrastive task: predict up to `prediction_steps` rows down, past the skipped ones."""

    prediction_steps: PositiveInt = 5
    skip_rows: NotNegative = 1
    negatives: PositiveInt = 16
    anchor_rows: PositiveInt | None = None  # how many, from a random one on, predict; None: all


class Procedure(Settings):
    """How a row of the table is trained, where it differs from the suite's way.

    Stands in `[method.<name>]`, beside the method's options. With `like`, the row is another
    method under a name of its own, so that a table can hold it more than once.
    """

    like: str | None = None
    schedule: Schedule | None = None
    recompute: Recompute | None = None
    only: str | None = None  # the one unit that is trained, such as "module_2"


PROCEDURE = tuple(Procedure.model_fields)


class KeptOutputsSettings(Settings):
    """Of modules trained in sequence: the outputs of the frozen ones below are kept on disk."""

    views: PositiveInt = 1  # random crops of every image, or windows of every recording, kept
    precision: Literal["bf16", "fp32"] = "bf16"


class TrainingSettings(Settings):
    """Adam at a constant rate, one optimiser for each isolated module."""

    epochs: NotNegative
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    schedule: Schedule = Schedule.INTERLEAVED
    recompute: Recompute = Recompute.NOTHING
    # In sequence, what a module is given: outputs kept on disk, or (None) computed at every step.
    kept_outputs: KeptOutputsSettings | None = None
    compile: bool = False  # the encoder's layers, by torch.compile
    # Of the images or recordings trained on, held out: their loss is measured after every epoch.
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Precision = Precision.FP32
    budget: Budget = Budget.EPOCHS


class ProbeSettings(Settings):
    """Linear probe, ridge and nearest neighbours on frozen features."""

    learning_rates: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
    steps: PositiveInt  # of Adam, alike for targets with few labels and with many
    batch_size: PositiveInt
    standardise: bool = (
        False  # features to mean 0 and deviation 1; the paper takes them as they are
    )
    validation_fraction: Fraction = 0.2
    # Where labels are for every 10 ms: how many to fit on, drawn at random; None: all.
    fitted_steps: PositiveInt | None = None
    ridge_penalties: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (
        1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0,
    )  # fmt: skip
    neighbours: PositiveInt = 20


class CapacitySettings(Settings):
    """To find the largest training batch that fits into a GPU's memory; see capacity.py."""

    up_to: PositiveInt = 4096  # images or windows; larger batches are not tried


class Suite(Settings):
    """A table: methods × seeds on one data set, everything else shared."""

    name: Name
    summary: str
    protocol: str  # named beside every number
    published: tuple[str, ...] = ()  # "<file>/<table>" in results/published, if comparable
    deviations: tuple[str, ...] = ()  # from the protocol of what is published, as far as known
    methods: Names
    seeds: PositiveInt = 1
    dataset: DatasetSettings
    encoder: EncoderSettings
    augmentation: AugmentationSettings
    info_nce: InfoNCESettings = InfoNCESettings()
    training: TrainingSettings
    probe: ProbeSettings | None = None  # None: nothing is probed
    capacity: CapacitySettings | None = None  # None: the largest batch is not looked for
    fresh_process: bool = False  # every cell in a process of its own
    method: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _encoder_and_augmentation_fit(self) -> "Suite":
        """And every module has as many rows below each other as InfoNCE predicts."""
        crops = isinstance(self.augmentation, CropSettings)
        if crops != isinstance(self.encoder, ResNetSettings):
            raise ValueError(
                f"an encoder of kind {self.encoder.kind!r} cannot take what an augmentation of "
                f"kind {self.augmentation.kind!r} gives: use resnet with crop (images), or "
                f"conv_gru with window (speech)"
            )
        rows = grid_rows(self.encoder, self.augmentation)
        needed = self.info_nce.skip_rows + self.info_nce.prediction_steps + 1
        if min(rows) < needed:
            what = (
                f"a crop of {self.augmentation.crop} pixels gives {min(rows)} rows of patches"
                if isinstance(self.augmentation, CropSettings)
                else f"a window of {self.augmentation.samples} samples gives {min(rows)} steps"
            )
            raise ValueError(
                f"{what}, but predicting {self.info_nce.prediction_steps} steps past "
                f"{self.info_nce.skip_rows} skipped row(s) needs {needed}: enlarge augmentation."
                f"{'crop' if crops else 'samples'} or lower info_nce.prediction_steps"
            )
        return self

    def describes(self, config: Mapping[str, Any]) -> bool:
        """Whether a record's resolved configuration is one that this suite's file allows.

        What only a run resolves (precision "auto", the device) may be any; so may what the file
        leaves to methods and data sets, which `plan.describes` knows.
        """
        shared = {"encoder", "augmentation", "info_nce", "training", "probe", "capacity"}
        ours = self.model_dump(mode="json", include=shared)
        if self.training.precision is Precision.AUTO:
            ours["training"]["precision"] = config.get("training", {}).get("precision")
        method = config.get("method", {})
        options = {**method.get("options", {}), **{name: method.get(name) for name in PROCEDURE}}
        set_here = self.method.get(method.get("name", ""), {})
        return (
            all(config.get(section) == settings for section, settings in ours.items())
            and self.dataset.model_dump(mode="json").items() <= config.get("dataset", {}).items()
            and all(options.get(name) == value for name, value in set_here.items())
        )


class MethodSettings(Settings):
    """What a method declares about itself, and its options; spelled out for the record."""

    name: str
    objective: str  # "info_nce", "cross_entropy", … or "none"
    gradient_flow: str  # "isolated", "end_to_end" or "none"
    trains_on: str  # a split's name, or "none"
    uses_labels: bool
    ablation: str | None = None  # what it leaves out of the shared encoder
    like: str  # the method that it is: its own name, or another's whose variant it is
    schedule: Schedule
    recompute: Recompute
    only: str | None = None  # the one unit that is trained
    base: str | None = None  # sha256 of the frozen encoder that it adds modules to
    options: dict[str, Any]


class CellConfig(Settings):
    """One cell, frozen and fully explicit: nothing is looked up or written back later."""

    method: MethodSettings
    dataset: DatasetSettings
    encoder: EncoderSettings
    augmentation: AugmentationSettings
    info_nce: InfoNCESettings
    training: TrainingSettings
    probe: ProbeSettings | None
    capacity: CapacitySettings | None = None
    device: Literal["cpu", "cuda"]

    def as_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def key(self, *, data_sha256: str, seed: int) -> str:
        """The cell's identity: a hash of all that can move its numbers."""
        identity = {
            "config": self.as_dict(),
            "data_sha256": data_sha256,
            "seed": seed,
            "results_version": RESULTS_VERSION,
        }
        return digest(identity)


def grid_rows(
    encoder: ResNetSettings | ConvGRUSettings, augmentation: CropSettings | WindowSettings
) -> list[int]:
    """Rows of the grid that each module encodes: of patches, or time steps of each layer."""
    if isinstance(encoder, ResNetSettings):
        assert isinstance(augmentation, CropSettings)
        stride = encoder.patch_size - encoder.patch_overlap
        return [(augmentation.crop - encoder.patch_size) // stride + 1] * len(encoder.blocks)
    assert isinstance(augmentation, WindowSettings)
    lengths = [augmentation.samples]
    for kernel, stride, padding in zip(
        encoder.kernels, encoder.strides, encoder.paddings, strict=True
    ):
        lengths.append(max(0, (lengths[-1] + 2 * padding - kernel) // stride + 1))
    return [*lengths[1:], lengths[-1]]


# -- reading suites ------------------------------------------------------------------------------
