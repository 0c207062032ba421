"""Protocol tags of published numbers, and the settings that a record needs to fit them.

A number names a word for each dimension of its protocol. `results/published/tags` explains every
word, in one file for each dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gim_bench.cells.defaults import settings_by_name
from gim_bench.errors import ConfigError, unknown_name
from gim_bench.records.record import Record
from gim_bench.records.statistics import flatten
from gim_bench.texts import read_toml

DIMENSIONS = ("encoder", "labels", "head", "data", "augmentation")
UNKNOWN = "unknown"  # the word for a part of a protocol that was not read
OFF = "none"  # how files write the value of a setting that is switched off


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """One dimension of a number's protocol.

    `requires` holds the settings of a record that fits. None: no record of this package fits.
    """

    dimension: str
    means: str
    requires: Mapping[str, Any] | None

    def misfit(self, settings: Mapping[str, Any], *, table: str) -> str:
        """How the settings of a record differ from this tag; empty where they fit."""
        if self.means == UNKNOWN:
            return f"{self.dimension}: not known of {table}"
        if self.requires is None:
            return f"{self.dimension}: {table} has {self.means}, which is not implemented here"
        for name, needed in self.requires.items():
            value = settings.get(name, "absent")
            if (OFF if value is None else value) != needed:
                return f"{self.dimension}: {name} is {value}, where {table} has {self.means}"
        return ""


def read_tags(words: Mapping[str, str], *, folder: Path, where: str) -> tuple[Tag, ...]:
    """The tags of a number from its words by dimension, in the order of DIMENSIONS.

    A number without words has no tags. Raises: ConfigError for an unknown dimension or word, or
    where a number has words for some dimensions only.
    """
    for dimension in words:
        if dimension not in DIMENSIONS:
            raise ConfigError(unknown_name("tag", dimension, known=DIMENSIONS, where=where))
    if words and (missing := [name for name in DIMENSIONS if name not in words]):
        raise ConfigError(
            f"{where} has no tag {', '.join(missing)}: name one, or {UNKNOWN!r} where the protocol "
            f"is not known"
        )
    return tuple(
        _tag(dimension, words[dimension], folder=folder, where=where)
        for dimension in DIMENSIONS
        if dimension in words
    )


def misfits(records: Sequence[Record], tags: Sequence[Tag], *, table: str) -> str:
    """Every tag that any of the records does not fit, with the reason; empty where all fit."""
    if not tags:
        return ""
    found: dict[str, str] = {}
    for settings in map(settings_of, records):
        for tag in tags:
            if reason := tag.misfit(settings, table=table):
                found.setdefault(tag.dimension, reason)
    return "; ".join(found[tag.dimension] for tag in tags if tag.dimension in found)


def settings_of(record: Record) -> Mapping[str, Any]:
    """The settings of a record by dotted name, and the sizes of its data, "data.examples.train".

    A probe without a kind is Adam's.
    """
    sizes = flatten({"data": record.provenance.get("data_counts", {})})
    return {"probe.kind": "adam", **settings_by_name(record.config), **sizes}


def _tag(dimension: str, word: str, *, folder: Path, where: str) -> Tag:
    if word == UNKNOWN:
        return Tag(dimension=dimension, means=UNKNOWN, requires=None)
    known = _vocabulary(folder / f"{dimension}.toml")
    if word not in known:
        raise ConfigError(unknown_name(dimension, word, known=[*known, UNKNOWN], where=where))
    entry = known[word]
    return Tag(dimension=dimension, means=entry["means"], requires=entry.get("requires"))


@cache
def _vocabulary(path: Path) -> Mapping[str, Any]:
    return read_toml(path, noun="vocabulary of tags")
