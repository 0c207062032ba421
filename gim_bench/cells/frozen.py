"""The weights of a finished cell: what is kept beside its record, and learners made from it.

Files of each model: `encoder`; `heads`, where frozen features may pass through a part of a head;
and both once more as `selection_encoder` and `selection_heads`, where a training of its own has
chosen the probes' hyperparameters.
"""

from collections.abc import Iterable

from torch import nn

from gim_bench.cells.bench import Bench
from gim_bench.cells.build import Model, build
from gim_bench.cells.cell import Cell
from gim_bench.contract import Learner
from gim_bench.errors import ConfigError
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record

SELECTION = "selection_"  # the first training's files


def keep(
    learner: Learner, model: Model, record: Record, *, runs: RunsFolder, kind: str = ""
) -> dict[str, str]:
    """Save the weights that frozen features depend on; returns {file name: sha256}.

    `kind` is "" or SELECTION. Raises: OSError.
    """
    files: dict[str, str] = {}
    for part, module in _parts(learner):
        name = f"{model.prefix}{kind}{part}"
        files |= runs.save_encoder(record, module.state_dict(), name=name)
    return files


def files_of(record: Record) -> dict[str, str]:
    """The files of weights of a record, with their sha256."""
    return {name: sha256 for name, sha256 in record.files.items() if name.endswith(".safetensors")}


def has_selection(record: Record, model: Model) -> bool:
    """Whether the encoder that has chosen hyperparameters is kept: older records have none."""
    return f"{model.prefix}{SELECTION}encoder.safetensors" in record.files


def frozen(
    cell: Cell, record: Record, model: Model, bench: Bench, *, runs: RunsFolder, kind: str = ""
) -> Learner:
    """The learner of a finished model, in eval mode; with SELECTION that of the first training.

    Raises: ConfigError if a file is missing or is not the cell's.
    """
    learner = build(cell, bench, target=model.target)
    folder = runs.folder_of(record)
    for part, module in _parts(learner):
        name = f"{model.prefix}{kind}{part}"
        if part == "heads" and f"{name}.safetensors" not in record.files:
            raise ConfigError(
                f"the heads of {cell.name} were not kept with the record in {folder}, which is "
                f"older: run the cell again with --rerun"
            )
        try:
            module.load_state_dict(runs.read_encoder(record, name=name))
        except RuntimeError as error:
            raise ConfigError(
                f"the encoder in {folder} is not the cell's "
                f"({str(error).splitlines()[-1].strip()}): run the cell again with --rerun"
            ) from None
    return learner.eval()


def _parts(learner: Learner) -> Iterable[tuple[str, nn.Module]]:
    """(name, module) of everything that is kept; heads without weights are not."""
    yield "encoder", learner.encoder
    heads = learner.read_heads()
    if heads.state_dict():
        yield "heads", heads
