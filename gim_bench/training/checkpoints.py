"""Checkpoints of a training, in the cell's folder: the last two, each with its checksum."""

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gim_bench.progress import Progress
from gim_bench.seals import sha256_of
from gim_bench.system.atomic import atomically

KEPT = 2
# At the end of an epoch a checkpoint is due after this share of the usual time.
AT_EPOCH_ENDS = 0.1
DIGEST = 16  # hexadecimal digits of the sha256 that stand in a file's name


class Checkpoints:
    """Checkpoints of one model, written whole or not at all; damaged ones are skipped."""

    def __init__(
        self, folder: Path, *, made_by: str, every_seconds: float, progress: Progress
    ) -> None:
        """A checkpoint is due after `every_seconds`, at the end of an epoch after a tenth of it.

        `made_by` names cell and code. Checkpoints of another cell or other code are skipped.
        """
        self.folder = folder
        self.made_by = made_by
        self.every_seconds = every_seconds
        self.progress = progress
        self._saved_at = time.monotonic()

    def due(self, *, epoch_ended: bool) -> bool:
        wait = self.every_seconds * (AT_EPOCH_ENDS if epoch_ended else 1)
        return time.monotonic() - self._saved_at >= wait

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a `state` of tensors, numbers, strings, lists and mappings.

        If the disk refuses, a line says so and training goes on without the checkpoint.
        """
        self._saved_at = time.monotonic()
        try:
            self._write({"made_by": self.made_by, "state": dict(state)})
        except OSError as error:
            self.progress.say(f"no checkpoint was written, training goes on without it: {error}")

    def _write(self, content: Mapping[str, Any]) -> None:
        paths = self._paths()
        number = int(paths[-1].stem.split("-")[1]) + 1 if paths else 1
        for begun in self.folder.glob("*checkpoint-*.part*"):  # left by a process that was killed
            begun.unlink(missing_ok=True)
        part = self.folder / f"checkpoint-{number:06}.part"
        try:
            with atomically(part) as file:
                torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # PyTorch wraps it
                raise error.__context__ from None
            raise
        part.rename(part.with_name(f"checkpoint-{number:06}-{_digest(part)}.pt"))
        for old in paths[: 1 - KEPT]:
            old.unlink(missing_ok=True)

    def newest(self) -> dict[str, Any] | None:
        """The newest state that is whole and of this code; None without such a state."""
        for path in reversed(self._paths()):
            found = _read(path)
            if found is None:
                self.progress.say(f"{path} is damaged: training does not resume from it")
            elif found["made_by"] != self.made_by:
                self.progress.say(f"{path} is of other code: training does not resume from it")
            else:
                return found["state"]
        return None

    def clear(self) -> None:
        """Remove all checkpoints."""
        for path in self.folder.glob("*checkpoint-*"):
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"checkpoint-{'[0-9]' * 6}-*.pt"))


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a checkpoint; None if it is not what was written."""
    try:
        if not path.stem.endswith(f"-{_digest(path)}"):
            return None
        with warnings.catch_warnings(action="ignore"):  # about foreign pickles
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # damaged pickles raise nearly anything
        return None
    return found if isinstance(found, dict) and found.keys() == {"made_by", "state"} else None


def _digest(path: Path) -> str:
    return sha256_of(path)[:DIGEST]
