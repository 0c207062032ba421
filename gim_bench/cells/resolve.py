"""Resolution of a suite and the command line: a complete configuration for every cell."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gim_bench import registry
from gim_bench.cells.cell import Cell
from gim_bench.cells.defaults import agrees, with_defaults
from gim_bench.cells.pretrained import Base
from gim_bench.cells.together import Case, check_devices, check_kept_outputs, check_together
from gim_bench.contract import Dataset, Encoder, GradientFlow, Learner, Modality, Setup
from gim_bench.errors import BenchError, ConfigError, unknown_name
from gim_bench.hardware.devices import resolve_precision
from gim_bench.objectives.info_nce import INFO_NCE
from gim_bench.progress import Progress
from gim_bench.records.protocols import READ, READ_UNDER
from gim_bench.records.sealed import finite
from gim_bench.records.statistics import flatten
from gim_bench.seals import digest
from gim_bench.settings.augmentations import SpeechSettings
from gim_bench.settings.base import Precision, Settings
from gim_bench.settings.probing import ProbeSettings, with_kind
from gim_bench.settings.protocols import protocols_of, resolved
from gim_bench.settings.schema import (
    CellConfig,
    DatasetSettings,
    EncoderSettings,
    MethodSettings,
    Recipe,
    Row,
    Schedule,
    Suite,
)
from gim_bench.settings.suites import laid_over, parse

ROW = tuple(Row.model_fields)


def dataset_of(suite: Suite) -> tuple[type[Dataset], Settings]:
    """The suite's data set and its checked options. Raises: ConfigError."""
    kind = registry.dataset(suite.dataset.name, where=f"suite {suite.name}, dataset.name")
    options = parse(
        kind.Options, suite.dataset.options, origin=f"suite {suite.name}", name="dataset"
    )
    return kind, options


def dataset_of_suite(suite: Suite, *, data_dir: Path | None, progress: Progress) -> Dataset:
    """The data set of a suite, whose files may not be there yet. Raises: ConfigError."""
    kind, options = dataset_of(suite)
    if data_dir is not None and not kind.needs_data_dir:
        raise ConfigError(
            f"the data set {suite.dataset.name!r} of suite {suite.name!r} takes no --data-dir; "
            f"for your own images use --suite folder, for recordings --suite folder-audio"
        )
    return kind(options=options, data_dir=data_dir, progress=progress)


def configs(
    suite: Suite,
    *,
    methods: Sequence[str],
    device: torch.device,
    base: Base | None = None,
    elsewhere: bool = False,
) -> dict[str, CellConfig]:
    """The resolved configuration of every method asked for; all of the suite's by default.

    With a base, rows have names of their own, and their added modules are trained in sequence.
    `elsewhere` than here, the processes that share a batch have their devices: on ranks, or in the
    tasks of a cluster.

    Raises: ConfigError for an unknown method or option.
    """
    _check_names(suite)
    named = [(name, "--method") for name in methods] or [
        (name, f"suite {suite.name}, methods[{i}]") for i, name in enumerate(suite.methods)
    ]
    found = [_config(suite, name, where=where, device=device) for name, where in named]
    if not elsewhere:
        for config in found:
            check_devices(config, device, suite=suite.name)
    if base is not None:
        found = [_on_top(config, base) for config in found]
    for config in found:
        check_kept_outputs(config, suite=suite.name)
    return {config.method.name: config for config in found}


def cells(
    suite: Suite,
    configured: Mapping[str, CellConfig],
    *,
    seeds: Sequence[int],
    data_sha256: str,
    base: Base | None = None,
) -> list[Cell]:
    """Seed by seed, so that a table of all methods is there as early as possible."""
    return [
        Cell(
            suite=suite.name,
            protocol=suite.protocol,
            config=config,
            seed=seed,
            data_sha256=data_sha256,
            base=base,
        )
        for seed in seeds
        for config in configured.values()
    ]


# -- rows ------------------------------------------------------------------------------------------


def _config(suite: Suite, name: str, *, where: str, device: torch.device) -> CellConfig:
    """The row `name` of the suite's table. Raises: ConfigError."""
    row, own = _row_of(suite, name)
    origin = f"suite {suite.name}, [method.{name}]"
    like = row.like or name
    kind = registry.method(like, where=f"{origin}, like" if row.like else where)
    recipe = _recipe_of(suite, row, origin=origin)
    encoder, encoder_options = _encoder_of(suite, row, origin=origin)
    dataset, dataset_options = dataset_of(suite)
    _check_modalities(
        dataset,
        encoder,
        recipe,
        dataset_name=suite.dataset.name,
        encoder_kind=encoder_options.kind,
        origin=origin if row.encoder or row.augmentation else f"suite {suite.name}",
    )
    if encoder.modality not in kind.traits.modalities:
        raise ConfigError(
            f"the method {name!r} ({where}) is made for {', '.join(sorted(kind.traits.modalities))}"
            f", and suite {suite.name!r} is one of {encoder.modality}: leave it out"
        )
    objective = _objective_of(suite, row, kind, name=name, origin=origin)
    options = parse(
        kind.Options, own, origin=f"suite {suite.name}", name=f"method.{name}", beside=ROW
    )
    method = _method_settings(kind, recipe, row, name=name, origin=origin, options=options)
    setup = Setup(
        encoder=encoder,
        encoder_options=encoder_options,
        shape=recipe.augmentation.shape,
        objective=objective,
        gradient_flow=GradientFlow(method.gradient_flow),
    )
    try:
        kind.check(method.options, setup=setup)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    case = Case(kind=kind, setup=setup, suite=suite, recipe=recipe, method=method, origin=origin)
    check_together(case)
    precision = resolve_precision(recipe.training.precision, device)
    probe = recipe.probe
    if probe is not None and probe.precision is not None:
        probe = probe.model_copy(update={"precision": resolve_precision(probe.precision, device)})
    is_info_nce = method.objective == INFO_NCE.name
    return CellConfig(
        method=method,
        dataset=DatasetSettings(name=suite.dataset.name, options=dataset_options),
        encoder=encoder_options,
        augmentation=recipe.augmentation,
        info_nce=objective if is_info_nce else _info_nce_of(suite),
        # An objective without settings has no table.
        objective=None if is_info_nce or type(objective) is Settings else objective,
        training=recipe.training.model_copy(update={"precision": precision}),
        probe=probe,
        capacity=suite.capacity,
        inside=suite.inside,
        device="cuda" if device.type == "cuda" else "cpu",
    )


def _row_of(suite: Suite, name: str) -> tuple[Row, dict[str, Any]]:
    """The row's own entries, and the options of its method, unchecked."""
    table = suite.method.get(name, {})
    changes = {key: value for key, value in table.items() if key in ROW}
    options = {key: value for key, value in table.items() if key not in ROW}
    return parse(Row, changes, origin=f"suite {suite.name}", name=f"method.{name}"), options


def _recipe_of(suite: Suite, row: Row, *, origin: str) -> Recipe:
    """Augmentation, training and probe of the row."""
    below = suite.model_dump(mode="json", include=set(Recipe.model_fields))
    # As the file has it, so that further views take over what the row changes in view 1.
    below["augmentation"] = suite.augmentation.model_dump(mode="json", exclude_unset=True)
    if suite.probe is not None:  # a row's probe of another kind has defaults of its own
        below["probe"] = with_kind(suite.probe.model_dump(mode="json", exclude_unset=True))
    above = {name: getattr(row, name) for name in Recipe.model_fields if getattr(row, name)}
    return parse(Recipe, laid_over(below, above), origin=origin)


def _encoder_of(suite: Suite, row: Row, *, origin: str) -> tuple[type[Encoder], EncoderSettings]:
    table = laid_over(suite.encoder.model_dump(mode="json"), row.encoder)
    origin = origin if row.encoder else f"suite {suite.name}"
    kind = registry.encoder(str(table.get("kind")), where=f"{origin}, encoder.kind")
    return kind, parse(kind.Options, table, origin=origin, name="encoder")


def _info_nce_of(suite: Suite) -> Settings:
    return parse(
        INFO_NCE.settings, suite.info_nce, origin=f"suite {suite.name}", name=INFO_NCE.name
    )


def _objective_of(
    suite: Suite, row: Row, kind: type[Learner], *, name: str, origin: str
) -> Settings:
    """The settings of the method's objective: the suite's, with the row's laid over them."""
    objective = kind.traits.objective
    if objective is None:
        if row.objective:
            raise ConfigError(
                f"{origin}: the method {row.like or name!r} has no objective: leave out the table "
                f"`objective`"
            )
        return Settings()
    shared = suite.info_nce if objective is INFO_NCE else suite.objective.get(objective.name, {})
    return parse(
        objective.settings,
        laid_over(shared, row.objective),
        origin=origin if row.objective else f"suite {suite.name}",
        name=objective.name if objective is INFO_NCE else f"objective.{objective.name}",
    )


def _method_settings(
    kind: type[Learner],
    recipe: Recipe,
    row: Row,
    *,
    name: str,
    origin: str,
    options: Settings,
) -> MethodSettings:
    traits = kind.traits
    flow = GradientFlow(row.gradient_flow or traits.gradient_flow)
    if flow is not traits.gradient_flow and not traits.either_flow:
        raise ConfigError(
            f"{origin}: the gradient flow of {row.like or name!r} is {traits.gradient_flow} by "
            f"definition: leave out gradient_flow = {row.gradient_flow!r}"
        )
    return MethodSettings(
        name=name,
        objective="none" if traits.objective is None else traits.objective.name,
        loss_unit=None if traits.objective is None else traits.objective.unit,
        gradient_flow=flow.value,
        trains_on="none" if traits.trains_on is None else traits.trains_on.value,
        uses_labels=traits.uses_labels,
        views=traits.views,
        ablation=traits.ablation,
        like=row.like or name,
        schedule=row.schedule or traits.schedule or recipe.training.schedule,
        recompute=row.recompute or recipe.training.recompute,
        only=row.only,
        units=row.units,
        options=options,
    )


def _on_top(config: CellConfig, base: Base) -> CellConfig:
    if config.method.schedule is Schedule.PIPELINE:
        raise ConfigError(
            f"--from {base.folder}: modules on a base are trained one after the other, and the "
            f"schedule of {config.method.name!r} is 'pipeline': set training.schedule=sequential"
        )
    method = config.method.model_copy(
        update={
            "name": f"{config.method.name}_on_{base.record.method}_{base.record.key[:8]}",
            "schedule": Schedule.SEQUENTIAL,
            "base": base.sha256,
            "base_uses_labels": base.record.knows_labels,
        }
    )
    return config.model_copy(update={"method": method})


# -- what does not go together ---------------------------------------------------------------------


def _check_names(suite: Suite) -> None:
    """Every table of a method or an objective has somebody who reads it. Raises: ConfigError."""
    for name, table in suite.method.items():
        if "like" not in table and name not in registry.methods():
            known = registry.methods()
            where = f"suite {suite.name}, [method.{name}]"
            line = unknown_name("method", name, known=known, where=where)
            raise ConfigError(f'{line}. A row under another name says like = "<its method>"')
    if not suite.objective:
        return
    read = set()
    for i, name in enumerate(suite.methods):
        like = str(suite.method.get(name, {}).get("like", name))
        objective = registry.method(
            like, where=f"suite {suite.name}, methods[{i}]"
        ).traits.objective
        if objective is not None and objective is not INFO_NCE:
            read.add(objective.name)
    for name in suite.objective:
        if name not in read:
            where = f"suite {suite.name}, [objective.{name}], of the suite's methods"
            hint = f"; InfoNCE's table is [{INFO_NCE.name}]" if name == INFO_NCE.name else ""
            raise ConfigError(unknown_name("objective", name, known=read, where=where) + hint)


def _check_modalities(
    dataset: type[Dataset],
    encoder: type[Encoder],
    recipe: Recipe,
    *,
    dataset_name: str,
    encoder_kind: str,
    origin: str,
) -> None:
    """Data, augmentation and encoder are of one modality. Raises: ConfigError."""
    windows = isinstance(recipe.augmentation, SpeechSettings)
    given = Modality.SPEECH if windows else Modality.IMAGE
    if encoder.modality is not given:
        raise ConfigError(
            f"{origin}: an encoder of kind {encoder_kind!r} takes {encoder.modality}, but an "
            f"augmentation of kind {recipe.augmentation.kind!r} gives {given}: use crop for images "
            f"and window for speech, or region and stretch for what is larger than memory"
        )
    if encoder.modality is not dataset.modality:
        raise ConfigError(
            f"{origin}: the data set {dataset_name!r} holds {dataset.modality}, but an encoder of "
            f"kind {encoder_kind!r} takes {encoder.modality}: use another encoder.kind and "
            f"augmentation.kind, or another dataset.name"
        )


# -- records of a suite ----------------------------------------------------------------------------


def describer(suite: Suite) -> Callable[[Mapping[str, Any]], bool]:
    """The function `describes` for one suite, which compares equal configurations once.

    Seeds of a method share their configuration, so that a thousand records have a few.
    """
    known: dict[str, bool] = {}

    def described(config: Mapping[str, Any]) -> bool:
        identity = digest(config)
        if identity not in known:
            known[identity] = describes(suite, config)
        return known[identity]

    return described


def describes(suite: Suite, config: Mapping[str, Any]) -> bool:
    """Whether a record's resolved configuration is one that this suite would give.

    The device may be any, and so may be a precision that the suite leaves to the hardware. Where
    the row's method, encoder or data set is not installed, their settings are compared as far as
    the suite's file goes. A record that stands for a protocol's result was read as this suite
    reads. Raises: ConfigError where the row's table is wrong.
    """
    name = str(config.get("method", {}).get("name", ""))
    row, options = _row_of(suite, name)
    try:
        ours = _config(suite, name, where="record", device=torch.device("cpu")).as_dict()
    except BenchError:
        objective = str(config.get("method", {}).get("objective"))
        ours = _said_of(suite, name, row, options=options, objective=objective)
    ours.pop("device", None)
    if row.training.get("precision", suite.training.precision) == Precision.AUTO:
        ours["training"].pop("precision")
    probe = _recipe_of(suite, row, origin="record").probe
    if probe is not None and probe.precision == Precision.AUTO:
        ours["probe"].pop("precision")
    return agrees(config, ours) and _reads_as(suite, config, own=probe)


def _reads_as(suite: Suite, config: Mapping[str, Any], *, own: ProbeSettings | None) -> bool:
    """Whether a protocol's result, if the record stands for one, was read as this suite reads.

    The precision may be any.
    """
    name = config.get(READ_UNDER)
    if name is None or own is None:
        return True
    try:
        protocol = resolved(name, protocols_of(suite, [name])[name], own=own)
    except ConfigError:  # the suite has no such protocol
        return False
    wanted = flatten(finite(protocol.as_dict()))
    wanted.pop("probe.precision", None)
    return wanted.items() <= flatten(with_defaults(config)[READ]).items()


def _said_of(
    suite: Suite, name: str, row: Row, *, options: Mapping[str, Any], objective: str
) -> dict[str, Any]:
    """What the suite's file says of the row, which has that objective. Raises: ConfigError."""
    recipe = _recipe_of(suite, row, origin=f"suite {suite.name}, [method.{name}]")
    tables = {"encoder", "objective", *Recipe.model_fields}
    method = row.model_dump(mode="json", exclude_unset=True, exclude=tables)
    of_suite = suite.info_nce if objective == INFO_NCE.name else suite.objective.get(objective, {})
    return {
        **recipe.model_dump(mode="json"),
        **suite.model_dump(mode="json", include={"dataset", "info_nce", "capacity", "inside"}),
        "encoder": laid_over(suite.encoder.model_dump(mode="json"), row.encoder),
        "method": {**method, "options": options},
        "info_nce" if objective == INFO_NCE.name else "objective": laid_over(
            of_suite, row.objective
        ),
    }
