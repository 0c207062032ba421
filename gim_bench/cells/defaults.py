"""Configurations of records, with the settings that the package learnt after the record."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar, get_args

from pydantic_core import to_jsonable_python

from gim_bench import registry
from gim_bench.errors import ConfigError
from gim_bench.objectives.info_nce import INFO_NCE
from gim_bench.records.protocols import READ
from gim_bench.records.record import Record
from gim_bench.records.sealed import finite
from gim_bench.records.statistics import flatten
from gim_bench.settings.base import Settings
from gim_bench.settings.keys import NOT_KEYED, with_todays_names
from gim_bench.settings.probing import AnyProbeSettings
from gim_bench.settings.schema import CellConfig

Plugin = TypeVar("Plugin")


def agrees(config: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether the configuration of a record has the value of each of our settings.

    Settings that are not among ours may have any value.
    """
    if config == ours:
        return True
    wanted = {n: value for n, value in flatten(finite(ours)).items() if n not in NOT_KEYED}
    return wanted.items() <= settings_by_name(config).items()


def settings_by_name(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a record by dotted name, at its default where the record lacks the setting.

    Facts that decide no number, such as the unit of a loss, are left out.
    """
    return by_name(with_defaults(config))


def encoder_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a record's encoder, as `settings_by_name` has them."""
    settings = settings_by_name(config)
    return {name: value for name, value in settings.items() if name.startswith("encoder.")}


def by_name(full: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a complete configuration by dotted name, without facts."""
    return {name: value for name, value in flatten(full).items() if name not in NOT_KEYED}


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a record; every setting that the record lacks stands at its default.

    The default of a setting that was added later stands for the behaviour before that setting, so
    records from before and after compare. A setting that had another name in the record has today's
    name. Settings of a plug-in that is not installed stay as they are. So it is for the probe of a
    protocol whose result the record stands for.
    """
    full = dict(_completed(with_todays_names(config), CellConfig))

    def complete(name: str, model: type[Settings]) -> None:
        if name in full:
            full[name] = _completed(full[name], model)

    complete(INFO_NCE.name, INFO_NCE.settings)
    if dataset := _plugin(registry.dataset, full.get("dataset"), "name"):
        complete("dataset", dataset.Options)
    if encoder := _plugin(registry.encoder, full.get("encoder"), "kind"):
        complete("encoder", encoder.Options)
    if method := _plugin(registry.method, full.get("method"), "like"):
        options = _completed(full["method"].get("options", {}), method.Options)
        full["method"] = {**full["method"], "options": options}
        if method.traits.objective is not None:
            complete("objective", method.traits.objective.settings)
    if READ in full:
        probe = _completed_within(full[READ]["probe"], AnyProbeSettings)
        full[READ] = {**full[READ], "probe": probe}
    return full


def each_with_defaults(configs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`with_defaults` of every configuration; equal ones are completed once, and share a table."""
    shared = sharing(configs)
    full = {key: with_defaults(config) for key, config in {id(c): c for c in shared}.items()}
    return [full[id(config)] for config in shared]


def sharing_configs(records: Sequence[Record]) -> list[Record]:
    """The records; those with equal configurations, as seeds have, share one object."""
    shared = sharing(record.config for record in records)
    return [replace(record, config=of) for record, of in zip(records, shared, strict=True)]


def sharing(tables: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The tables; equal ones are one object. An object is looked at once."""
    given = [*tables]
    known: dict[str, Mapping[str, Any]] = {}
    first: dict[int, Mapping[str, Any]] = {}
    for table in given:
        if id(table) not in first:
            first[id(table)] = known.setdefault(json.dumps(table, default=str), table)
    return [first[id(table)] for table in given]


def _plugin(find: Callable[[str], Plugin], table: Any, name: str) -> Plugin | None:
    """The plug-in that the table names, if any; None where it is not installed."""
    with suppress(ConfigError):
        if isinstance(table, Mapping) and name in table:
            return find(str(table[name]))
    return None


def _completed(table: Any, model: type[Settings]) -> Any:
    """The table with the defaults of the settings that it lacks; tables within it likewise.

    >>> from gim_bench.settings.schema import KeptOutputsSettings
    >>> _completed({"epochs": 4}, KeptOutputsSettings)
    {'epochs': 4, 'precision': 'bf16'}
    """
    if not isinstance(table, Mapping):
        return table
    full = dict(table)
    for name, field in model.model_fields.items():
        if name in full:
            full[name] = _completed_within(full[name], field.annotation)
        elif not field.is_required():
            full[name] = to_jsonable_python(field.get_default(call_default_factory=True))
    return full


def _completed_within(value: Any, annotation: Any) -> Any:
    """The value of a setting; a table, or every table of a list, is completed as its kind says."""
    if isinstance(value, list):
        return [_completed_within(each, annotation) for each in value]
    for model in _models(annotation):
        if isinstance(value, Mapping) and _is_of(value, model):
            return _completed(value, model)
    return value


def _models(annotation: Any) -> Iterator[type[Settings]]:
    """The classes of settings that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _is_of(table: Mapping[str, Any], model: type[Settings]) -> bool:
    """Whether the table has the kind of this class, or the class has no kinds."""
    kind = model.model_fields.get("kind")
    return kind is None or table.get("kind") in get_args(kind.annotation)
