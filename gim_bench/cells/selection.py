"""Hyperparameters of the probes, chosen on examples that the encoder was not trained on.

An encoder that learns from labels has seen those of the validation share, and would choose
hyperparameters that suit training examples. So such a method is trained twice: first without the
validation examples, to choose; then on everything, for the test set (docs/decisions/0021).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gim_bench.cells.bench import Bench
from gim_bench.cells.build import Model, planned_steps
from gim_bench.cells.cell import Cell
from gim_bench.probing.linear import Tried
from gim_bench.probing.probe import Choice, Choices


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Chosen hyperparameters, and the wall seconds of the training and the probes behind them.

    `files` are those of the encoder that has chosen, with their sha256.
    """

    choices: Choices
    seconds: float
    files: Mapping[str, str]

    def as_state(self) -> dict[str, Any]:
        """The selection as mappings, lists and numbers."""
        rows = [
            {"target": target, "module": module, **asdict(choice)}
            for (target, module), choice in self.choices.items()
        ]
        return {"choices": rows, "seconds": self.seconds, "files": dict(self.files)}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "Selection":
        """The selection that `as_state` made the state of."""
        choices = {
            (row["target"], row["module"]): Choice(
                linear=Tried(**row["linear"]),
                tried=[Tried(**each) for each in row["tried"]],
                ridge_penalty=row["ridge_penalty"],
            )
            for row in state["choices"]
        }
        return cls(choices=choices, seconds=state["seconds"], files=state["files"])


def is_selected_apart(cell: Cell, bench: Bench) -> bool:
    """Whether the hyperparameters of the cell's probes need a training of their own."""
    probe = cell.config.probe
    return probe is not None and probe.unseen_validation and learns_from_labels(cell, bench)


def learns_from_labels(cell: Cell, bench: Bench) -> bool:
    """Whether the cell itself trains modules on labels."""
    return cell.config.method.uses_labels and planned_steps(cell, bench) > 0


def selection_folder(model: Model, *, folder: Path) -> Path:
    """The folder of the first training's checkpoints and kept outputs, within the cell's folder."""
    return folder / f"{model.prefix}selection"
