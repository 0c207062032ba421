"""What keeps the outputs of frozen units on disk, as a cell's settings ask."""

from pathlib import Path
from typing import Any

import torch

from gim_bench.cells.bench import Bench
from gim_bench.cells.build import Model
from gim_bench.cells.cell import Cell
from gim_bench.encoders.tiles import composed, reaches_of
from gim_bench.methods.stack import module_name
from gim_bench.registry import encoder as encoder_class
from gim_bench.settings.augmentations import LargeSettings
from gim_bench.training.kept_outputs import Keeper
from gim_bench.training.streamed_outputs import Streamer


def keeper_of(
    cell: Cell, model: Model, bench: Bench, *, folder: Path, epochs: int
) -> Keeper | Streamer | None:
    """The keeper of frozen units' outputs that the settings ask for; training has `epochs`.

    Outputs over large images and long recordings are streamed.
    """
    kept = cell.config.training.kept_outputs
    if kept is None:
        return None
    shared: dict[str, Any] = {
        "folder": kept_outputs_folder(model, folder=folder),
        "dtype": torch.bfloat16 if kept.precision == "bf16" else torch.float32,
        "progress": bench.progress,
    }
    if isinstance(cell.config.augmentation, LargeSettings):
        options = cell.config.encoder
        reaches = reaches_of(encoder_class(options.kind), options)
        from_inputs = {module_name(m): composed(reaches[: m + 1]) for m in range(len(reaches))}
        return Streamer(reaches=from_inputs, **shared)
    return Keeper(epochs=min(kept.epochs, epochs), **shared)


def kept_outputs_folder(model: Model, *, folder: Path) -> Path:
    return folder / f"{model.prefix}kept-outputs"
