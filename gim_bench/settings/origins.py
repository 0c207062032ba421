"""Where the settings of a row come from: `--set`, a file of its suite, or a default."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gim_bench.settings.schema import CellConfig
from gim_bench.settings.suites import Layer, layers

DEFAULT = "default"
OF_ROWS = ("like", "schedule", "recompute", "only", "gradient_flow", "units")  # a row's own entries
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of a row: its dotted name as in `--set`, its value, and who states the value."""

    name: str
    value: Any
    origin: str

    def __str__(self) -> str:
        return f"{self.name} = {json.dumps(self.value, ensure_ascii=False)}"


def settings_of(config: CellConfig, *, suite: str, overrides: Sequence[str] = ()) -> list[Setting]:
    """The settings of the row that resolves to `config`, by table.

    `suite` is the name or the path of the row's suite. Where a statement and its value differ, as
    for the precision "auto", the origin has the statement too. Raises: ConfigError.
    """
    stated = layers(suite, overrides=overrides)
    row = config.method.name
    found = []
    for path, value in _leaves(config.as_dict()):
        name = _in_suite(path, config)
        if name is None:
            continue
        origin, may_be_replaced = DEFAULT, False
        for place in _places(path, name, row=row, config=config, stated=stated):
            said, origin = _said(place, stated)
            if said is not _MISSING:
                if not _same(said, value):
                    origin = DEFAULT if may_be_replaced else f"{origin} ({json.dumps(said)})"
                break
            # A row's table of another kind replaces the table of the suite.
            kind, _ = _said((*place[:-1], "kind"), stated)
            may_be_replaced = may_be_replaced or kind is not _MISSING
        found.append(Setting(".".join(name), value, origin))
    return found


def _leaves(table: Mapping[str, Any], *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of every value in nested tables."""
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, *above, name)
        else:
            yield (*above, name), value


def _in_suite(path: tuple[str, ...], config: CellConfig) -> tuple[str, ...] | None:
    """The setting's name in a suite's file; None for what no file can state."""
    table, *rest = path
    if table == "method":
        if rest[0] == "options":
            return ("method", config.method.name, *rest[1:]) if rest[1:] else None
        return ("method", config.method.name, rest[0]) if rest[0] in OF_ROWS else None
    if table == "objective":
        return ("objective", config.method.objective, *rest) if rest else None
    return None if table == "device" else path


def _places(
    path: tuple[str, ...],
    name: tuple[str, ...],
    *,
    row: str,
    config: CellConfig,
    stated: Sequence[Layer],
) -> Iterator[tuple[str, ...]]:
    """Where a setting may be stated, the last word first: rows, then the suite."""
    if name[0] == "method":
        inside = name[2:]
    elif path[0] in ("objective", "info_nce"):
        own = "info_nce" if config.method.objective == "info_nce" else "objective"
        inside = ("objective", *path[1:]) if path[0] == own else ()
    else:
        inside = path
    above: Any = row
    while inside and above is not _MISSING:
        yield "method", above, *inside
        above, _ = _said(("method", above, "extends"), stated)
    if name[0] != "method":
        yield name
    elif name[2] in ("schedule", "recompute"):
        yield "training", name[2]


def _said(place: tuple[str, ...], stated: Sequence[Layer]) -> tuple[Any, str]:
    """(value, origin) of the first layer that states a setting; (_MISSING, "default") if none.

    A layer that replaced the setting's table leaves nothing of the layers below.
    """
    for origin, own, merged in stated:
        if _at(place, merged) is _MISSING:
            break
        value = _at(place, own)
        if value is not _MISSING:
            return value, f"{origin} [{'.'.join(place[:2])}]" if place[0] == "method" else origin
    return _MISSING, DEFAULT


def _at(place: tuple[str, ...], table: Mapping[str, Any]) -> Any:
    value: Any = table
    for part in place:
        value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
    return value


def _same(said: Any, value: Any) -> bool:
    return bool(json.loads(json.dumps(said, default=str)) == value)
