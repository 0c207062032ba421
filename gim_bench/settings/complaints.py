"""What is wrong with settings, as one line."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from gim_bench.errors import unknown_name
from gim_bench.settings.augmentations import CropSettings, WindowSettings
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import ConvGRUSettings, ResNetSettings


def first_complaint(error: ValidationError, model: type[BaseModel], *, origin: str) -> str:
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
