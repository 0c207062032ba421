"""Suites and cells: what the TOML file may say, and what one cell of its table resolves to.

A suite states every shared setting once. A method's own table, `[method.<name>]`, holds only that
method's options: the encoder, the data, the budget and the probe belong to the suite.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import reduce
from importlib import resources
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from gim_bench import RESULTS_VERSION
from gim_bench.errors import ConfigError, unknown_name
from gim_bench.seals import digest

Fraction = Annotated[float, Field(gt=0, lt=1)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[int, Field(ge=0)]
# Of suites and methods, which records lie in folders named after.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Names = Annotated[tuple[Name, ...], Field(min_length=1)]

FRAME_SAMPLES = 160  # at 16 kHz: phone labels are 10 ms apart


class Settings(BaseModel):
    """Frozen settings that refuse keys they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Model = TypeVar("Model", bound=Settings)


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


class CropSettings(Settings):
    """Of images: random crops and flips in training; the centre crop, unflipped, for the probe."""

    kind: Literal["crop"]
    crop: PositiveInt  # pixels
    flip: bool = True  # horizontally, with probability 0.5
    grayscale: bool = True
    mean: tuple[FiniteFloat, ...]  # per channel after grayscale, of intensities in 0..1
    std: tuple[PositiveFloat, ...]

    @model_validator(mode="after")
    def _a_statistic_per_channel(self) -> "CropSettings":
        channels = 1 if self.grayscale else 3
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean and std must hold {channels} number(s), one per channel")
        return self


class WindowSettings(Settings):
    """Of speech: a window at a random 10 ms place in training; all of it, cut up, for the probe.

    A recording that is shorter than the window is followed by silence.
    """

    kind: Literal["window"]
    samples: PositiveInt = 20_480  # at 16 kHz
    mean: FiniteFloat = -0.00068  # of samples in -1..1
    std: PositiveFloat = 0.0630

    @model_validator(mode="after")
    def _whole_steps(self) -> "WindowSettings":
        if self.samples % FRAME_SAMPLES:
            raise ValueError(
                f"samples = {self.samples} is no multiple of {FRAME_SAMPLES}, the 10 ms of a "
                f"phone label"
            )
        return self


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


def shipped_suites() -> dict[str, Path]:
    """The suites that come with the package, by name."""
    folder = Path(str(resources.files("gim_bench") / "suites"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_suite(name_or_path: str, *, overrides: Sequence[str] = ()) -> Suite:
    """The suite of that name, or the one in that TOML file, with `--set` values laid over it.

    Raises: ConfigError for an unknown suite, an unreadable file, an unknown key or a wrong type.
    """
    files = _chain(_suite_path(name_or_path))
    table: dict[str, Any] = reduce(_merged, reversed(files.values()))
    if len(files) > 1:  # another experiment than the paper's, unless its own file says otherwise
        table["published"] = next(iter(files.values())).get("published", [])
    for override in overrides:
        _lay_over(table, override)
    origin = " over ".join(path.name for path in files) + (" with --set" if overrides else "")
    suite = parse(Suite, table, origin=origin)
    # A suite that was changed is another experiment than the paper's.
    changed = any(not override.startswith("published") for override in overrides)
    return suite.model_copy(update={"published": ()}) if changed else suite


def _chain(path: Path) -> dict[Path, dict[str, Any]]:
    """What the file says, what the one that it `extends` says, and so on down."""
    files: dict[Path, dict[str, Any]] = {}
    while (file := path.resolve()) not in files:
        files[file] = _read(path)
        base = files[file].pop("extends", None)
        if base is None:
            _check_own(files)
            return files
        path = _extended(base, by=path)
    cycle = " over ".join(each.name for each in [*files, file])
    raise ConfigError(f"suites extend each other in a circle ({cycle}): one must stand by itself")


def _extended(base: Any, *, by: Path) -> Path:
    if not isinstance(base, str):
        raise ConfigError(f"{by.name}: extends = {base!r}: name one suite or TOML file")
    return _suite_path(base, beside=by.parent, where=f"{by.name}: extends")


def _check_own(files: Mapping[Path, Mapping[str, Any]]) -> None:
    """Names and summaries are not handed down: records of two suites lie apart by name."""
    names: list[str] = []
    for (above, table), (below, base) in pairwise(files.items()):
        for setting in ("name", "summary"):
            if setting not in table:
                raise ConfigError(
                    f"{above.name} extends {below.name}: it needs a {setting} of its own"
                )
        names.append(table["name"])
        if base.get("name") in names:
            raise ConfigError(
                f"{below.name} is extended under its own name {base['name']!r}, which would "
                f"mix the records of both: give the suite above it another name"
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"cannot read the suite {path} ({error}): it must be TOML, in UTF-8"
        ) from None


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged; all else, lists too, is `above`'s where it says anything.

    >>> _merged({"a": {"x": 1, "y": 2}, "b": [1, 2]}, {"a": {"y": 3}, "b": [4]})
    {'a': {'x': 1, 'y': 3}, 'b': [4]}
    """
    return {**below, **above} | {
        name: _merged(below[name], table)
        for name, table in above.items()
        if isinstance(table, dict) and isinstance(below.get(name), dict)
    }


def parse(model: type[Model], table: Mapping[str, Any], *, origin: str) -> Model:
    """`table` as a `model`; a ConfigError in one line where it does not fit."""
    try:
        # Through JSON, because strict validation then takes arrays as tuples and strings as enums.
        return model.model_validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        raise ConfigError(_first_complaint(error, model, origin=origin)) from None
    except RecursionError:
        raise ConfigError(f"{origin}: tables or lists are nested too deep: flatten them") from None


def _suite_path(name_or_path: str, *, beside: Path = Path(), where: str = "--suite") -> Path:
    """The suite's file; paths are relative to the folder `beside`."""
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        path = beside / Path(name_or_path).expanduser()
        if not _is_file(path):
            raise ConfigError(
                f"no suite file {name_or_path!r} ({where}): write one, or name a shipped suite"
            )
        return path
    suites = shipped_suites()
    if name_or_path not in suites:
        raise ConfigError(unknown_name("suite", name_or_path, known=suites, where=where))
    return suites[name_or_path]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _lay_over(table: dict[str, Any], override: str) -> None:
    """Write `a.b=value` into nested tables; the value is TOML, or else a plain string."""
    dotted, equals, text = override.partition("=")
    *parents, leaf = (part.strip() for part in dotted.split("."))
    if not equals or not leaf or not all(parents):
        raise ConfigError(f"--set {override!r} is not KEY=VALUE, as in --set training.epochs=10")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is a value, not a table of settings")
    table[leaf] = setting_value(text)


def setting_value(text: str) -> Any:
    """What `--set` makes of the text behind the "=": the value in TOML, or else the text itself.

    >>> setting_value("1e-3"), setting_value("joint")
    (0.001, 'joint')
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _first_complaint(error: ValidationError, model: type[BaseModel], *, origin: str) -> str:
    """The first thing wrong, as one line; the others are only counted."""
    problems = error.errors(include_url=False)
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    place = _without_kinds(first["loc"])
    dotted = ".".join(str(part) for part in place)
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        return (
            unknown_name("setting", str(place[-1]), known=known, where=f"{origin}: {dotted}") + more
        )
    if first["type"].startswith("union_tag"):
        return _unknown_kind(first, dotted, origin=origin) + more
    if first["type"] == "missing":
        return f"{origin}: the setting {dotted!r} is missing{more}"
    message = first["msg"].removeprefix("Value error, ").replace("an object", "a table")
    if first["type"] == "value_error":
        return f"{origin}: {f'{dotted}: ' if dotted else ''}{message}{more}"
    return f"{origin}: {dotted} = {first['input']!r}: {message[:1].lower() + message[1:]}{more}"


KINDS: dict[str, type[Settings]] = {
    "resnet": ResNetSettings,
    "conv_gru": ConvGRUSettings,
    "crop": CropSettings,
    "window": WindowSettings,
}


def _without_kinds(place: Sequence[int | str]) -> list[int | str]:
    """Where a setting stands in the file; pydantic adds the kind to the place of its table.

    The kind stands second, and only there: a crop has a setting "crop".
    """
    return [part for i, part in enumerate(place) if i != 1 or part not in KINDS]


def _unknown_kind(problem: Mapping[str, Any], dotted: str, *, origin: str) -> str:
    expected = str(problem.get("ctx", {}).get("expected_tags", ""))
    if problem["type"] == "union_tag_not_found":
        kinds = "resnet or conv_gru" if dotted == "encoder" else "crop or window"
        return f"{origin}: the setting '{dotted}.kind' is missing: {kinds}"
    found = problem.get("ctx", {}).get("tag")
    return f"{origin}: {dotted}.kind = {found!r}: should be one of {expected}"


def _fields_at(model: type[BaseModel], parents: Sequence[int | str]) -> list[str]:
    for parent in parents:
        annotation = KINDS.get(str(parent)) or model.model_fields[str(parent)].annotation
        tables = [
            kind
            for kind in (annotation, *get_args(annotation))  # of what may be left out, too
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        model = tables[0] if tables else model
    return list(model.model_fields)
