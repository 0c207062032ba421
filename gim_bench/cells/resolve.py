"""Which cells a suite asks for, which of them are done, and what the others would cost."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from gim_bench import registry
from gim_bench.cells.cell import Cell
from gim_bench.cells.pretrained import Base
from gim_bench.contract import Dataset, Modality
from gim_bench.errors import BenchError, ConfigError, unknown_name
from gim_bench.hardware.devices import resolve_precision
from gim_bench.records.statistics import flatten
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import (
    PROCEDURE,
    CellConfig,
    DatasetSettings,
    MethodSettings,
    Procedure,
    ResNetSettings,
    Schedule,
    Suite,
)
from gim_bench.settings.suites import parse


def dataset_of(suite: Suite) -> tuple[type[Dataset], Settings]:
    """The suite's data set and its checked options. Raises: ConfigError."""
    kind = registry.dataset(suite.dataset.name, where=f"suite {suite.name}, dataset.name")
    origin = f"suite {suite.name}, [dataset]"
    return kind, parse(kind.Options, suite.dataset.options, origin=origin)


def configs(
    suite: Suite, *, methods: Sequence[str], device: torch.device, base: Base | None = None
) -> dict[str, CellConfig]:
    """The resolved configuration of every method asked for; all of the suite's by default.

    With a base they are rows of their own, whose added modules are trained in sequence.

    Raises: ConfigError for an unknown method or option.
    """
    for name, table in suite.method.items():
        if "like" not in table and name not in registry.methods():
            known = registry.methods()
            where = f"suite {suite.name}, [method.{name}]"
            raise ConfigError(unknown_name("method", name, known=known, where=where))
    named = [(name, "--method") for name in methods] or [
        (name, f"suite {suite.name}, methods[{i}]") for i, name in enumerate(suite.methods)
    ]
    kind, dataset_options = dataset_of(suite)
    _check_modality(suite, kind)
    precision = resolve_precision(suite.training.precision, device)
    resolved = [_method_settings(suite, name, where=where) for name, where in named]
    if base is not None:
        resolved = [_on_top(settings, base) for settings in resolved]
    return {
        settings.name: CellConfig(
            method=settings,
            dataset=DatasetSettings(name=suite.dataset.name, **dataset_options.model_dump()),
            encoder=suite.encoder,
            augmentation=suite.augmentation,
            info_nce=suite.info_nce,
            training=suite.training.model_copy(update={"precision": precision}),
            probe=suite.probe,
            capacity=suite.capacity,
            device="cuda" if device.type == "cuda" else "cpu",
        )
        for settings in resolved
    }


def describes(suite: Suite, config: Mapping[str, Any]) -> bool:
    """Whether a record's resolved configuration is one that this suite would give.

    `Suite.describes` knows what its file says; here, what that leaves to the method and the data
    set is resolved, too: an option that was set otherwise is another experiment. A row whose
    method or data set is not known here is taken at its word.
    """
    return (
        suite.describes(config)
        and _agree(config.get("method", {}), partial(_method_of, suite, config))
        and _agree(config.get("dataset", {}), lambda: dataset_of(suite)[1].model_dump(mode="json"))
    )


def _agree(found: Mapping[str, Any], resolve: Callable[[], Mapping[str, Any]]) -> bool:
    """Whether all that both name is the same; what another version did not have yet is no word."""
    try:
        expected = flatten(resolve())
    except BenchError:
        return True
    return all(expected.get(name, value) == value for name, value in flatten(found).items())


def _method_of(suite: Suite, config: Mapping[str, Any]) -> dict[str, Any]:
    name = config.get("method", {}).get("name", "")
    return _method_settings(suite, name, where="record").model_dump(mode="json")


def _on_top(settings: MethodSettings, base: Base) -> MethodSettings:
    return settings.model_copy(
        update={
            "name": f"{settings.name}_on_{base.record.method}_{base.record.key[:8]}",
            "schedule": Schedule.SEQUENTIAL,
            "base": base.sha256,
        }
    )


def cells(
    suite: Suite,
    configured: dict[str, CellConfig],
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


def _check_modality(suite: Suite, kind: type[Dataset]) -> None:
    takes = _modality(suite)
    if takes is not kind.modality:
        raise ConfigError(
            f"suite {suite.name}: the data set {suite.dataset.name!r} holds {kind.modality}, but "
            f"an encoder of kind {suite.encoder.kind!r} takes {takes}: use another encoder.kind "
            f"and augmentation.kind, or another dataset.name"
        )


def _modality(suite: Suite) -> Modality:
    return Modality.IMAGE if isinstance(suite.encoder, ResNetSettings) else Modality.SPEECH


def _method_settings(suite: Suite, name: str, *, where: str) -> MethodSettings:
    origin = f"suite {suite.name}, [method.{name}]"
    table = suite.method.get(name, {})
    given = {key: value for key, value in table.items() if key in PROCEDURE}
    procedure = parse(Procedure, given, origin=origin)
    like = procedure.like or name
    kind = registry.method(like, where=f"{origin}, like" if procedure.like else where)
    chosen = {key: value for key, value in table.items() if key not in PROCEDURE}
    options = parse(kind.Options, chosen, origin=origin)
    traits = kind.traits
    if _modality(suite) not in traits.modalities:
        raise ConfigError(
            f"the method {name!r} ({where}) is made for {', '.join(sorted(traits.modalities))}, "
            f"and suite {suite.name!r} is one of {_modality(suite)}: leave it out"
        )
    kind.check(options, modality=_modality(suite))
    return MethodSettings(
        name=name,
        objective=traits.objective,
        gradient_flow=traits.gradient_flow.value,
        trains_on="none" if traits.trains_on is None else traits.trains_on.value,
        uses_labels=traits.uses_labels,
        ablation=traits.ablation,
        like=like,
        schedule=procedure.schedule or traits.schedule or suite.training.schedule,
        recompute=procedure.recompute or suite.training.recompute,
        only=procedure.only,
        options=options.model_dump(mode="json"),
    )


# -- what it would cost --------------------------------------------------------------------------
