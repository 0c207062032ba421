"""Methods, encoders and data sets, found through entry points: any installed package adds its own.

An entry point of the group `gim_bench.methods`, `gim_bench.encoders` or `gim_bench.datasets` names
a table of {name: "module:Class"}. Listing them imports no class, and so no torch.

A checkout that is not installed has no metadata: then the entry points of its pyproject.toml count
beside those of installed packages, so that `python -m gim_bench` runs where the checkout lies.
"""

import ast
import importlib
import importlib.util
import itertools
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gim_bench.errors import ConfigError, class_and_first_line, unknown_name
from gim_bench.texts import read_toml

PACKAGE = "gim-bench"
CHECKOUT = Path(__file__).parents[1]  # of a package that is not installed

if TYPE_CHECKING:
    from gim_bench.contract import Dataset, Encoder, Learner


@cache
def methods() -> Mapping[str, str]:
    """{name: "module:Class"} of every installed method. Raises: ConfigError."""
    return _merged("gim_bench.methods")


@cache
def encoders() -> Mapping[str, str]:
    """{kind: "module:Class"} of every installed encoder. Raises: ConfigError."""
    return _merged("gim_bench.encoders")


@cache
def datasets() -> Mapping[str, str]:
    """{name: "module:Class"} of every installed data set. Raises: ConfigError."""
    return _merged("gim_bench.datasets")


def method(name: str, *, where: str = "") -> "type[Learner]":
    """The class of the method `name`. Raises: ConfigError listing the known methods."""
    from gim_bench.contract import Learner, Traits

    cls: type[Learner] = _load("method", name, table=methods(), base=Learner, where=where)
    if not isinstance(getattr(cls, "traits", None), Traits):
        raise ConfigError(
            f"the method {name!r} ({methods()[name]}) declares no traits: add traits = Traits(…)"
        )
    return cls


def encoder(kind: str, *, where: str = "") -> "type[Encoder]":
    """The class of the encoder `kind`. Raises: ConfigError listing the known encoders."""
    from gim_bench.contract import Encoder

    return _load("encoder", kind, table=encoders(), base=Encoder, where=where)


def dataset(name: str, *, where: str = "") -> "type[Dataset]":
    """The class of the data set `name`. Raises: ConfigError listing the known data sets."""
    from gim_bench.contract import Dataset

    return _load("dataset", name, table=datasets(), base=Dataset, where=where)


def brought_by(kind: str, name: str) -> str:
    """Name and version of the distribution that brought a "method", an "encoder" or a "dataset".

    Empty where no installed distribution is known to have brought it.
    """
    for point in entry_points(group=f"gim_bench.{kind}s"):
        if point.dist is not None and name in _table(point):
            return f"{point.dist.name} {point.dist.version}"
    return ""


def plugins() -> list[str]:
    """Name and version of every installed distribution that brings plug-ins, but for this one."""
    kinds = ("methods", "encoders", "datasets")
    points = [point for kind in kinds for point in entry_points(group=f"gim_bench.{kind}")]
    brought = [point.dist for point in points if point.dist is not None]
    return sorted({f"{dist.name} {dist.version}" for dist in brought if dist.name != PACKAGE})


def summary(target: str) -> str:
    """First line of the docstring of "module:Class", read from its source without importing it."""
    module, _, name = target.partition(":")
    try:
        spec = importlib.util.find_spec(module)
        tree = ast.parse(Path(str(spec and spec.origin)).read_text(encoding="utf-8"))
    except (ImportError, OSError, SyntaxError, ValueError):
        return f"cannot be imported from {target}"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return f"there is no class {name!r} in {module}"


def _merged(group: str) -> dict[str, str]:
    """The tables of all entry points of a group, as one table. Raises: ConfigError."""
    merged: dict[str, str] = {}
    owners: dict[str, str] = {}
    points = itertools.chain(entry_points(group=group), _of_checkout(group))
    for point in sorted(points, key=lambda point: point.value):
        for name, target in _table(point).items():
            if name in merged and merged[name] != target:
                raise ConfigError(
                    f"{name!r} is registered twice in {group}: by {owners[name]} and by "
                    f"{point.value}; uninstall or rename either"
                )
            merged[name], owners[name] = target, point.value
    if not merged:
        raise ConfigError(
            f"nothing is registered in {group}: install the project (pip install .), which "
            f"registers its methods, encoders and data sets"
        )
    return merged


def _of_checkout(group: str) -> Iterator[EntryPoint]:
    """The entry points of a group in the checkout's pyproject.toml, if nothing is installed."""
    try:
        distribution(PACKAGE)
    except PackageNotFoundError:
        path = CHECKOUT / "pyproject.toml"
        project = read_toml(path, noun="project file").get("project", {}) if path.exists() else {}
        if project.get("name") == PACKAGE:
            for name, value in project["entry-points"].get(group, {}).items():
                yield EntryPoint(name, value, group)


def _table(point: Any) -> Mapping[str, str]:
    """The table that an entry point names. Raises: ConfigError.

    `point` has no common type: after an import of the backport `importlib_metadata`, which MLflow
    needs, the standard library returns that package's EntryPoint.
    """
    try:
        table = point.load()
    except Exception as error:  # whatever another package raises when it is imported
        reason = class_and_first_line(error)
        raise ConfigError(
            f"the entry point {point.value} ({point.group}) cannot be loaded: {reason}; repair or "
            f"uninstall the package that declares it"
        ) from None
    targets = table.values() if isinstance(table, Mapping) else [None]
    if not all(isinstance(target, str) and ":" in target for target in targets):
        raise ConfigError(
            f"the entry point {point.value} ({point.group}) must name a table of "
            f'{{name: "module:Class"}}'
        )
    return table


def load(kind: str, name: str, *, target: str, base: type) -> type:
    """The class at "module:Class". Raises: ConfigError unless it is a child of `base`."""
    module, _, attribute = target.partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever another package raises when it is imported
        reason = class_and_first_line(error)
        raise ConfigError(f"the {kind} {name!r} cannot be loaded: {reason}") from None
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ConfigError(f"the {kind} {name!r} ({target}) is not a {base.__name__}")
    return cls


def _load(kind: str, name: str, *, table: Mapping[str, str], base: type, where: str) -> type:
    if name not in table:
        raise ConfigError(unknown_name(kind, name, known=table, where=where))
    return load(kind, name, target=table[name], base=base)
