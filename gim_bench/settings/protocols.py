"""Protocols: ways to read a finished encoder, each with a name.

The cell's own protocol is `[probe]`. Further protocols are no part of a cell and of no key: a
protocol is added to a suite without training anything again.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any, Literal

from gim_bench.errors import ConfigError, unknown_name
from gim_bench.settings.base import Settings
from gim_bench.settings.probing import (
    ALL_KINDS,
    AnyProbeSettings,
    ProbeSettings,
    probe_laid_over,
)
from gim_bench.settings.schema import Suite
from gim_bench.settings.suites import laid_over, parse


class Reading(StrEnum):
    """Part of a frozen learner that a probe reads."""

    FEATURES = "features"  # what the cell's own probe reads: pooled encodings, as a rule
    GRID = "grid"  # all encodings of a module's grid, one after the other; of images
    HEAD = "head"  # the output of a module's head before its loss


class ProtocolSettings(Settings):
    """What a suite may say under `[protocols.<name>]`."""

    summary: str
    modules: Literal["top", "all"] = "top"
    reads: Reading = Reading.FEATURES
    probe: dict[str, Any] = {}  # laid over the cell's own [probe]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A protocol with the settings of its probe on one cell."""

    name: str
    modules: Literal["top", "all"]
    reads: Reading
    probe: AnyProbeSettings

    def as_dict(self) -> dict[str, Any]:
        probe = self.probe.model_dump(mode="json")
        return {"modules": self.modules, "reads": self.reads.value, "probe": probe}

    @property
    def group(self) -> dict[str, Any]:
        """Settings that decide features and labels: protocols with the same share the passes."""
        return self.probe.model_dump(mode="json", include=SHARED)


UNSEEN = "unseen_validation"
SHARED = {
    "validation_fraction",
    "fitted_steps",
    "precision",
    "augment",
    "labelled_fraction",
    "whole_recordings",
}


def protocols_of(suite: Suite, names: Sequence[str] = ()) -> dict[str, ProtocolSettings]:
    """The protocols of these names; without names, the package's and those of the suite.

    Raises: ConfigError for an unknown name or a setting that makes no sense.
    """
    origin = f"suite {suite.name}"
    tables = laid_over(_shipped(), suite.protocols)
    for name in names:
        if name not in tables:
            raise ConfigError(unknown_name("protocol", name, known=tables, where="--protocol"))
    return {
        name: parse(ProtocolSettings, tables[name], origin=origin, name=f"protocols.{name}")
        for name in names or tables
    }


def resolved(name: str, settings: ProtocolSettings, *, own: ProbeSettings) -> Protocol:
    """The protocol on a cell with the probe `own`. Raises: ConfigError.

    The probe is the cell's own, with what the protocol says laid over it. Logistic regression has
    the defaults of its kind, as in a row, over a cell of another kind that leaves a setting out.
    """
    probe: AnyProbeSettings = own
    if settings.probe:
        where = f"protocols.{name}.probe"
        if UNSEEN in settings.probe:
            raise ConfigError(
                f"{where}.{UNSEEN}: the training of a cell decides with which encoder "
                f"hyperparameters are chosen: set probe.{UNSEEN}"
            )
        below = own.model_dump(mode="json")
        table = probe_laid_over(below, settings.probe)
        if own.kind != table["kind"] == "logistic_regression":
            said = own.model_dump(mode="json", exclude_unset=True)
            table = probe_laid_over(said, settings.probe) | {UNSEEN: below[UNSEEN]}
        if table["kind"] not in ALL_KINDS:
            raise ConfigError(
                unknown_name("kind of probe", table["kind"], known=ALL_KINDS, where=where)
            )
        probe = parse(ALL_KINDS[table["kind"]], table, origin="suite", name=where)
    return Protocol(name=name, modules=settings.modules, reads=settings.reads, probe=probe)


@cache
def _shipped() -> Mapping[str, Any]:
    file = resources.files("gim_bench") / "settings" / "protocols.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))
