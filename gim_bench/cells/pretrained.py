"""A finished cell's encoder as a base: its modules stay as they are, others are trained on top."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gim_bench.cells.defaults import settings_by_name
from gim_bench.contract import GradientFlow
from gim_bench.errors import ConfigError
from gim_bench.methods.stack import module_name
from gim_bench.records.folder import RECORD
from gim_bench.records.record import Record, Status
from gim_bench.records.sealed import read_record
from gim_bench.registry import encoder as encoder_class
from gim_bench.seals import sha256_of
from gim_bench.settings.schema import CellConfig

WEIGHTS = "encoder.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A finished cell with the sha256 and the number of modules of its encoder's weights."""

    record: Record
    folder: Path
    sha256: str
    modules: int

    @property
    def method(self) -> str:
        """The method that trained the base."""
        return str(self.record.config["method"]["like"])

    @property
    def top(self) -> str:
        """Name of its topmost module."""
        return module_name(self.modules - 1)

    def check(self, config: CellConfig, *, data_sha256: str) -> None:
        """Raises: ConfigError where the new cell has other data, no module to add, or a base that
        was trained on labels or examples that are to be unseen.
        """
        ours = {**_shared(config.as_dict()), "data sha256": data_sha256}
        found = self.record.provenance.get("data_sha256")
        theirs = {**_shared(self.record.config), "data sha256": found}
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                raise ConfigError(
                    f"--from {self.folder}: its {name} is {theirs.get(name)}, this suite's is "
                    f"{ours.get(name)}: use a base that was trained alike"
                )
        self._check_unseen(config)
        if config.method.gradient_flow != GradientFlow.ISOLATED:
            raise ConfigError(
                f"--from {self.folder}: the method {config.method.like!r} trains no module apart "
                f"from the others: use one whose modules are isolated, such as gim_iterative"
            )
        if config.method.units is not None:
            raise ConfigError(
                f"--from {self.folder}: the row groups modules into {config.method.units} units, "
                f"and modules on a base are trained one by one: leave out units"
            )
        blocks, below = (_blocks(c["encoder"]) for c in (config.as_dict(), self.record.config))
        if blocks[: len(below)] != below:
            raise ConfigError(
                f"--from {self.folder}: its modules have {below} blocks, this encoder's {blocks}: "
                f"leave those of the lower ones as they are, and add to them"
            )
        encoder = encoder_class(config.encoder.kind)
        modules = len(encoder.rows(config.encoder, shape=config.augmentation.shape))
        if modules <= self.modules:
            raise ConfigError(
                f"--from {self.folder}: it has all {self.modules} modules of this encoder: add "
                f"one, as in --set encoder.blocks=[3,4,6,3]"
            )

    def _check_unseen(self, config: CellConfig) -> None:
        """Raises: ConfigError where the base was trained on what the new cell takes as unseen."""
        before = settings_by_name(self.record.config)
        theirs, ours = before["training.held_out"], config.training.held_out
        if ours and ours != theirs:
            raise ConfigError(
                f"--from {self.folder}: its training.held_out is {theirs}, this suite's is {ours}: "
                f"examples that it was trained on would be held out: set it to {theirs}, or to 0"
            )
        if not self.record.knows_labels:
            return
        theirs = before.get("probe.labelled_fraction", 1.0)
        ours = 1.0 if config.probe is None else config.probe.labelled_fraction
        if ours != theirs:
            raise ConfigError(
                f"--from {self.folder}: its encoder was trained on labels, and its "
                f"probe.labelled_fraction is {theirs}, this suite's is {ours}: use a base that was "
                f"trained alike, or without labels"
            )
        if config.probe is not None and config.probe.unseen_validation:
            raise ConfigError(
                f"--from {self.folder}: its encoder was trained on the labels that are to choose "
                f"the probe's hyperparameters unseen: use a base that was trained without labels, "
                f"or set probe.unseen_validation=false"
            )

    def load_into(self, encoder: nn.Module) -> None:
        """Gives the lowest modules the base's weights.

        Each process that trains reads them itself. Raises: ConfigError if they are not there, are
        others, or do not fit.
        """
        from safetensors.torch import load_file

        file = self.folder / WEIGHTS
        if not file.is_file() or sha256_of(file) != self.sha256:
            raise ConfigError(
                f"--from {self.folder}: {platform.node()} does not have its {WEIGHTS} there as the "
                f"command found it: name a folder that all machines see"
            )
        weights = load_file(file)
        try:
            encoder.load_state_dict({**encoder.state_dict(), **weights})
        except RuntimeError as error:
            raise ConfigError(
                f"--from {self.folder}: its {WEIGHTS} does not fit this encoder "
                f"({str(error).splitlines()[-1].strip()}): use a cell that was trained alike"
            ) from None


def read_base(folder: Path) -> Base:
    """The finished cell in that folder. Raises: ConfigError where there is none with an encoder."""
    from safetensors import SafetensorError, safe_open

    record = read_record(folder / RECORD)
    if record is None or record.status is not Status.DONE:
        found = "no readable record" if record is None else f"a cell that is {record.status}"
        raise ConfigError(
            f"--from {folder} holds {found}: name the folder of a finished cell, as in "
            f"runs/<suite>/<method>/seed-0-1a2b3c4d"
        )
    if not isinstance(record.config.get("method", {}).get("like"), str):
        raise ConfigError(
            f"--from {folder}: its record does not say what it was trained by: use a cell that "
            f"this version has run"
        )
    try:
        sha256 = sha256_of(folder / WEIGHTS)
        with safe_open(folder / WEIGHTS, framework="numpy") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"--from {folder}: cannot read its {WEIGHTS} ({error}): use a cell that trained one "
            f"encoder"
        ) from None
    if record.files.get(WEIGHTS) != sha256:
        raise ConfigError(
            f"--from {folder}: its {WEIGHTS} was altered since its record was written: run the "
            f"cell again"
        )
    modules = {name.split(".")[1] for name in names if name.startswith("stages.")}
    if not modules:
        raise ConfigError(
            f"--from {folder}: its {WEIGHTS} holds no modules: use a cell that trained one encoder"
        )
    return Base(record=record, folder=folder, sha256=sha256, modules=len(modules))


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a base and the cell on top must share, by dotted name."""
    sections = ("dataset.", "augmentation.", "encoder.")
    found = settings_by_name(config)
    found.pop("encoder.blocks", None)  # there are to be more of them
    return {name: value for name, value in found.items() if name.startswith(sections)}


def _blocks(encoder: Mapping[str, Any]) -> list[int]:
    """Blocks of each module; empty for an encoder without blocks."""
    blocks = encoder.get("blocks") or ()
    return list(blocks) if isinstance(blocks, (list, tuple)) else [blocks]
