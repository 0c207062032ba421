"""Configurations of records, with the settings that the package learnt after the record."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, get_args

from pydantic import AliasChoices
from pydantic_core import to_jsonable_python

from gim_bench import registry
from gim_bench.errors import ConfigError
from gim_bench.objectives.info_nce import INFO_NCE
from gim_bench.records.statistics import flatten
from gim_bench.settings.base import Settings
from gim_bench.settings.keys import NOT_KEYED
from gim_bench.settings.schema import CellConfig


def settings_by_name(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a record by dotted name, at its default where the record lacks the setting.

    Facts that decide no number, such as the unit of a loss, are left out.
    """
    settings = flatten(with_defaults(config))
    return {name: value for name, value in settings.items() if name not in NOT_KEYED}


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a record; every setting that the record lacks stands at its default.

    The default of a setting that was added later stands for the behaviour before that setting, so
    records from before and after compare. Settings of a plug-in that is not installed stay as
    they are.
    """
    full = _completed(config, CellConfig)
    with suppress(KeyError):
        full["info_nce"] = _completed(full["info_nce"], INFO_NCE.settings)
    with suppress(ConfigError, KeyError):
        dataset = full["dataset"]
        full["dataset"] = _completed(dataset, registry.dataset(dataset["name"]).Options)
    with suppress(ConfigError, KeyError):
        encoder = full["encoder"]
        full["encoder"] = _completed(encoder, registry.encoder(encoder["kind"]).Options)
    with suppress(ConfigError, KeyError):
        method = full["method"]
        kind = registry.method(method["like"])
        full["method"] = method | {"options": _completed(method["options"], kind.Options)}
        if kind.traits.objective is not None and full["objective"] is not None:
            full["objective"] = _completed(full["objective"], kind.traits.objective.settings)
    return full


def _completed(table: Mapping[str, Any], model: type[Settings]) -> dict[str, Any]:
    """The table with the defaults of the settings that it lacks; tables within it likewise.

    A setting that had another name when the table was written has today's name.

    >>> from gim_bench.settings.schema import KeptOutputsSettings
    >>> _completed({"views": 4}, KeptOutputsSettings)
    {'epochs': 4, 'precision': 'bf16'}
    """
    full = dict(table)
    for name, field in model.model_fields.items():
        if isinstance(names := field.validation_alias, AliasChoices):
            for former in (choice for choice in names.choices if choice in full):
                full[name] = full.pop(str(former))
        if name not in full and not field.is_required():
            full[name] = to_jsonable_python(field.get_default(call_default_factory=True))
        elif isinstance(inner := full.get(name), Mapping):
            for kind in _models(field.annotation):
                if _is_of(inner, kind):
                    full[name] = _completed(inner, kind)
    return full


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
