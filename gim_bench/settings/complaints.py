"""Complaints about settings, in one line each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from gim_bench.errors import unknown_name

Place = Sequence[int | str]


def first_complaint(
    error: ValidationError,
    model: type[BaseModel],
    *,
    origin: str,
    table: str = "",
    beside: Sequence[str] = (),
) -> str:
    """The first mistake, as one line; further mistakes are only counted.

    A table's unknown setting comes before a missing one: another kind or name may explain both.
    Settings of one table that are missing share the line.

    `table` is the dotted name of the table that should have been a `model`; `beside` names settings
    of the same table that somebody else reads.
    """
    problems = error.errors(include_url=False)
    within = [table] if table else []
    first = problems[0]
    around = [p for p in problems if p["loc"][:-1] == first["loc"][:-1]]
    missing = [p for p in around if p["type"] == "missing"]
    if first in missing:
        first = next((p for p in around if p["type"] == "extra_forbidden"), first)
    if first in missing and len(missing) > 1:
        names = [".".join([*within, *map(str, _located(p["loc"], model)[0])]) for p in missing]
        line = f"{origin}: the settings {', '.join(map(repr, names))} are missing"
        others = len(problems) - len(missing)
    else:
        line = _complaint(first, model, origin=origin, within=within, beside=beside)
        others = len(problems) - 1
    return f"{line} (and {others} more)" if others else line


def _complaint(
    problem: Mapping[str, Any],
    model: type[BaseModel],
    *,
    origin: str,
    within: list[str],
    beside: Sequence[str],
) -> str:
    place, table = _located(problem["loc"], model)
    dotted = ".".join([*within, *map(str, place)])
    message = problem["msg"].removeprefix("Value error, ").replace("an object", "a table")
    match problem["type"]:
        case "extra_forbidden":
            known = [*(table.model_fields if table is not None else ()), *beside]
            where = f"{origin}: {dotted}{_of_kind(table)}"
            return unknown_name("setting", str(place[-1]), known=known, where=where)
        case "union_tag_not_found":
            kinds = " or ".join(_kinds_at(place, model))
            return f"{origin}: the setting '{dotted}.kind' is missing: {kinds}"
        case "union_tag_invalid":
            found, expected = (problem["ctx"][name] for name in ("tag", "expected_tags"))
            return f"{origin}: {dotted}.kind = {found!r}: should be one of {expected}"
        case "missing":
            field = table.model_fields.get(str(place[-1])) if table is not None else None
            hint = f": {field.description}" if field is not None and field.description else ""
            return f"{origin}: the setting {dotted!r} is missing{hint}"
        case "value_error":
            return f"{origin}: {f'{dotted}: ' if dotted else ''}{message}"
        case _:
            asked = f"{dotted} = {problem['input']!r}"
            return f"{origin}: {asked}: {message[:1].lower() + message[1:]}"


def _located(loc: Place, model: type[BaseModel]) -> tuple[list[int | str], type[BaseModel] | None]:
    """The place in the suite's file, and the class of the table that the last part stands in.

    Where a table's class depends on its kind, pydantic puts the kind behind the table's name.
    """
    place: list[int | str] = []
    table: type[BaseModel] | None = model
    inside: dict[str, type[BaseModel]] = {}  # the classes that the table named last may have
    for part in loc:
        if len(inside) > 1 and part in inside:
            inside = {str(part): inside[str(part)]}
            continue
        if not isinstance(part, int):  # the number of a table in a list
            table = next(iter(inside.values())) if place and inside else None if place else model
            field = None if table is None else table.model_fields.get(part)
            inside = {} if field is None else dict(_tables_in(field.annotation))
        place.append(part)
    return place, table


def _of_kind(table: type[BaseModel] | None) -> str:
    """The kind of a table whose settings depend on its kind, as in ", of kind 'adam'"."""
    kind = None if table is None else table.model_fields.get("kind")
    if kind is None or get_origin(kind.annotation) is not Literal:
        return ""
    return f", of kind {get_args(kind.annotation)[0]!r}"


def _kinds_at(place: Place, model: type[BaseModel]) -> list[str]:
    """The kinds that the table at `place` may have."""
    found: dict[str, type[BaseModel]] = {}
    for part in place:
        field = model.model_fields[str(part)]
        found = dict(_tables_in(field.annotation))
        model = next(iter(found.values()))
    return list(found)


def _tables_in(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """(kind, class) of every table that a value of that type may be or hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = annotation.model_fields.get("kind")
        tagged = kind is not None and get_origin(kind.annotation) is Literal
        yield get_args(kind.annotation)[0] if kind and tagged else annotation.__name__, annotation
    for inner in get_args(annotation):
        yield from _tables_in(inner)
