"""Hyperparameters of the probes, chosen on examples that the encoder was not trained on.

An encoder that learns from labels has seen those of the validation share, and would choose
hyperparameters that suit training examples. So such a method is trained twice: first without the
validation examples, to choose; then on everything, for the test set (docs/decisions/0021).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gim_bench.cells.bench import Bench
from gim_bench.cells.build import Model, planned_steps
from gim_bench.cells.cell import Cell
from gim_bench.contract import Learner, Split
from gim_bench.datasets.batches import Batches
from gim_bench.probing.linear import Tried
from gim_bench.probing.probe import Choice, Choices, choose, chosen_accuracy, curves_of
from gim_bench.progress import Progress, Silence

# Called with the number of an epoch and the validation accuracy after it: percent, of the top
# module at its best rate. May raise Abandoned.
Watch = Callable[[int, float], None]


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


def labelled(cell: Cell, bench: Bench, split: Split) -> Batches:
    """A labelled split as the cell's probes read it."""
    assert cell.config.probe is not None
    return bench.batches(cell, split, whole=cell.config.probe.whole_recordings)


def chosen(
    cell: Cell,
    model: Model,
    learner: Learner,
    *,
    train: Batches,
    title: str,
    progress: Progress,
    top_only: bool = False,
) -> Choices:
    """What validation chooses for the cell's probes of a learner; `train` is as `labelled` has it.

    Validation draws from no generator of training.
    """
    assert cell.config.probe is not None
    return choose(
        learner,
        train=train,
        targets=model.probed,
        settings=cell.config.probe,
        precision=cell.config.training.precision,
        title=title,
        progress=progress,
        top_only=top_only,
    )


def validating(
    cell: Cell, model: Model, learner: Learner, bench: Bench, *, watch: Watch
) -> Callable[[int], None]:
    """A function that validates the learner after an epoch and tells `watch`."""
    train = labelled(cell, bench, Split.TRAIN)

    def on_epoch(epoch: int) -> None:
        title = f"{model.name}, epoch {epoch}"
        choices = chosen(
            cell, model, learner, train=train, title=title, progress=Silence(), top_only=True
        )
        watch(epoch, chosen_accuracy(curves_of(choices)))

    return on_epoch
