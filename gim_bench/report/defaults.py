"""Configurations of records, with the settings that the package learnt after the record."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, get_args

from pydantic_core import to_jsonable_python

from gim_bench import registry
from gim_bench.errors import ConfigError
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import CellConfig


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a record; every setting that the record lacks stands at its default.

    The default of a setting that was added later stands for the behaviour before that setting, so
    records from before and after compare. Settings of a plug-in that is not installed stay as
    they are.
    """
    full = _completed(config, CellConfig)
    with suppress(ConfigError, KeyError):
        dataset = full["dataset"]
        full["dataset"] = _completed(dataset, registry.dataset(dataset["name"]).Options)
    with suppress(ConfigError, KeyError):
        method = full["method"]
        options = registry.method(method["like"]).Options
        full["method"] = method | {"options": _completed(method["options"], options)}
    return full


def _completed(table: Mapping[str, Any], model: type[Settings]) -> dict[str, Any]:
    """The table of settings with the defaults of `model`; tables within it likewise.

    >>> from gim_bench.settings.schema import CapacitySettings
    >>> _completed({}, CapacitySettings)
    {'up_to': 4096}
    """
    full = dict(table)
    for name, field in model.model_fields.items():
        if name not in table and not field.is_required():
            full[name] = to_jsonable_python(field.get_default(call_default_factory=True))
        elif isinstance(inner := table.get(name), Mapping):
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
