"""Reading suites: TOML files, what they extend, and `--set`."""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from gim_bench.errors import ConfigError, unknown_name
from gim_bench.settings.base import Model
from gim_bench.settings.complaints import first_complaint
from gim_bench.settings.keys import with_todays_names
from gim_bench.settings.probing import implied_kind, of_kind, probe_laid_over
from gim_bench.settings.schema import Suite
from gim_bench.settings.shipped import shipped_suites
from gim_bench.texts import read_toml


def load_suite(name_or_path: str, *, overrides: Sequence[str] = ()) -> Suite:
    """The suite of that name, or the one in that TOML file, with `--set` values laid over it.

    Raises: ConfigError for an unknown suite, an unreadable file, an unknown key or a wrong type.
    """
    files = _chain(_suite_path(name_or_path))
    table: dict[str, Any] = reduce(laid_over, map(_named, reversed(files.values())))
    if len(files) > 1:  # another experiment than the paper's, unless its own file says otherwise
        own = next(iter(files.values()))
        table |= {"published": own.get("published", []), "tuned": own.get("tuned")}
    table = reduce(_with, overrides, table)
    origin = " over ".join(path.name for path in files) + (" with --set" if overrides else "")
    if isinstance(rows := table.get("method"), dict):
        table["method"] = {name: _extended_row(name, rows, origin=origin) for name in rows}
    sets = (part for override in overrides for part in ("--set", override))
    suite = parse(Suite, table, origin=origin).asked_by("--suite", name_or_path, *sets)
    # A suite that was changed is another experiment than the paper's. Protocols change no cell.
    harmless = ("published", "tuned", "protocols.")
    changed = any(not override.startswith(harmless) for override in overrides)
    return suite.model_copy(update={"published": (), "tuned": None}) if changed else suite


class Layer(NamedTuple):
    """A file of a suite, or a `--set`."""

    origin: str
    own: Mapping[str, Any]  # what the layer says
    merged: Mapping[str, Any]  # with all layers below, as far as nothing replaces them


def layers(name_or_path: str, *, overrides: Sequence[str] = ()) -> list[Layer]:
    """All that a suite is made of: each `--set`, the last first, then its files.

    Raises: ConfigError as `load_suite` does.
    """
    found, merged = list[Layer](), dict[str, Any]()
    for path, table in reversed(_chain(_suite_path(name_or_path)).items()):
        merged = laid_over(merged, own := _named(table))
        found.append(Layer(path.name, own, merged))
    for override in overrides:
        merged = _with(merged, override)
        found.append(Layer("--set", _with({}, override), merged))
    return found[::-1]


def _chain(path: Path) -> dict[Path, dict[str, Any]]:
    """Tables of the file, of the suite that it `extends`, and so on down."""
    files: dict[Path, dict[str, Any]] = {}
    while (file := path.resolve()) not in files:
        files[file] = read_toml(path, noun="suite")
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


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged; all else, lists too, is `above`'s where it says anything.

    A table of another kind replaces the one below: their settings have nothing in common. The kind
    of a data set is its name. A probe of another kind inherits the settings that all probes share.

    >>> laid_over({"a": {"x": 1, "y": 2}, "b": [1, 2]}, {"a": {"y": 3}, "b": [4]})
    {'a': {'x': 1, 'y': 3}, 'b': [4]}
    >>> laid_over({"a": {"kind": "crop", "crop": 32}}, {"a": {"kind": "window"}})
    {'a': {'kind': 'window'}}
    """
    if above.get("kind", below.get("kind")) != below.get("kind"):
        return dict(above)
    merged = {**below, **above}
    for name, table in above.items():
        under = below.get(name)
        if isinstance(table, dict) and isinstance(under, dict):
            if name == "probe" and any(map(implied_kind, (under, table))):
                merged[name] = probe_laid_over(under, table)
                continue
            other = name == "dataset" and table.get("name", under.get("name")) != under.get("name")
            merged[name] = table if other else laid_over(under, table)
    return merged


def _extended_row(
    name: str, rows: Mapping[str, Any], *, origin: str, above: Sequence[str] = ()
) -> Any:
    """The table of a row, laid over the table of the row that it `extends`, and so on down.

    `above` are the rows that extend this row. Raises: ConfigError.
    """
    where = f"{origin}, [method.{name}], extends"
    if not isinstance(rows[name], dict) or "extends" not in rows[name]:
        return rows[name]
    own = dict(rows[name])
    base = own.pop("extends")
    if not isinstance(base, str) or base not in rows:
        raise ConfigError(unknown_name("table of a row", str(base), known=rows, where=where))
    above = [*above, name]
    if base in above:
        circle = " over ".join([*above, base])
        raise ConfigError(f"{where}: a circle ({circle}): one row must stand by itself")
    below = _extended_row(base, rows, origin=origin, above=above)
    return laid_over({"like": base} | below, own)


def parse(
    model: type[Model],
    table: Mapping[str, Any],
    *,
    origin: str,
    name: str = "",
    beside: Sequence[str] = (),
) -> Model:
    """`table` as a `model`; `name` is the dotted name of the table, "" for a whole suite.

    `beside` names settings that the file may have in the same table.

    Raises: ConfigError in one line where the table does not fit.
    """
    try:
        # Through JSON, because strict validation then takes arrays as tuples and strings as enums.
        return model.model_validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        raise ConfigError(
            first_complaint(error, model, origin=origin, table=name, beside=beside)
        ) from None
    except RecursionError:
        raise ConfigError(f"{origin}: tables or lists are nested too deep: flatten them") from None


def _named(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a suite and the tables of its rows, with today's names of all settings."""
    found = with_todays_names(table)
    rows = found.get("method")
    if isinstance(rows, dict):
        found["method"] = {
            name: with_todays_names(row) if isinstance(row, dict) else row
            for name, row in rows.items()
        }
    return found


def _suite_path(name_or_path: str, *, beside: Path = Path(), where: str = "--suite") -> Path:
    """The suite's file; paths are relative to the folder `beside`."""
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        path = beside / os.path.expanduser(name_or_path)  # noqa: PTH111 - of a user without a home
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


def _with(table: Mapping[str, Any], override: str) -> dict[str, Any]:
    """The table of a suite with `a.b=value` laid over it, with today's names of all settings."""
    found = deepcopy(dict(table))
    _lay_over(found, override)
    found = _named(found)
    if override.partition("=")[0].strip() == "probe.kind":
        found["probe"] = of_kind(found["probe"]["kind"], found["probe"])
    return found


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
    """The value of `--set NAME=text`: a value in TOML, or else the text itself.

    >>> setting_value("1e-3"), setting_value("joint")
    (0.001, 'joint')
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
