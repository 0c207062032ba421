"""Sweeps of the settings of training: every trial is a whole cell.

A trial is the cell of `run` with the same values behind `--set`; it has the cell's key and record.
The value of a trial is the validation accuracy of its linear probe, at the top module and the best
rate. The test set decides nothing: each record has read the test set once, as every record has.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

from optuna.pruners import MedianPruner
from optuna.trial import FrozenTrial, Trial, TrialState

from gim_bench.cells.bench import Bench
from gim_bench.cells.cell import Cell
from gim_bench.cells.fresh_process import run_apart
from gim_bench.cells.outcome import NOT_WRITTEN
from gim_bench.cells.phases import Abandoned
from gim_bench.cells.resolve import configs
from gim_bench.cells.run import run_cell
from gim_bench.cells.table import run_table
from gim_bench.contract import GradientFlow
from gim_bench.errors import BenchError, ConfigError
from gim_bench.probing.probe import chosen_accuracy
from gim_bench.progress import Silence
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record, Status
from gim_bench.seals import digest
from gim_bench.settings.schema import CellConfig, Suite
from gim_bench.settings.suites import load_suite, setting_value
from gim_bench.sweep.spaces import Axis
from gim_bench.sweep.studies import Outcome, SharedStudy, Studies
from gim_bench.system.atomic import write_atomically

TRIALS = 20
COMPLETE_BEFORE_PRUNING = 4  # trials with an accuracy after the same epoch
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """The trials of every method and seed."""

    suite: str  # a name or TOML file
    overrides: Sequence[str]  # --set
    axes: Sequence[Axis]
    trials: int | None  # of each study; None: all of a grid, TRIALS of another space
    apart: bool  # every cell in a process of its own, as the suite asks; no trial is pruned then

    def of_row(self, row: str, *, suite: Suite) -> "Pretraining":
        """The plan for a row: settings that the row has otherwise than the suite vary there."""
        table = suite.method.get(row, {})
        return replace(self, axes=[axis.of_row(row, table=table) for axis in self.axes])

    @property
    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the choices; empty for ranges, and where fewer are asked for."""
        if not all(axis.is_list for axis in self.axes):
            return []
        choices = product(*(axis.ends for axis in self.axes))
        names = [axis.name for axis in self.axes]
        found = [dict(zip(names, combination, strict=True)) for combination in choices]
        return found if self.trials is None or self.trials >= len(found) else []

    @property
    def count(self) -> int:
        """The number of trials."""
        return len(self.grid) or self.trials or TRIALS

    @property
    def space(self) -> dict[str, str]:
        """The ranges and choices by setting, as the user typed them."""
        return {axis.name: axis.text for axis in self.axes}

    def point(self, own: Cell) -> dict[str, Any]:
        """The suite's own cell as the parameters of a trial. Raises: ConfigError."""
        return {axis.name: axis.point(own.config) for axis in self.axes}

    def overrides_of(self, params: Mapping[str, Any]) -> list[str]:
        """The values of `--set` that run a trial."""
        return [axis.override(params[axis.name]) for axis in self.axes]

    def cell(self, own: Cell, overrides: Sequence[str], bench: Bench) -> Cell:
        """The suite's own cell with other settings.

        Raises: ConfigError or DataError if the settings make no cell.
        """
        config = self._config(own, overrides, bench)
        bench.check(config)
        return replace(own, config=config)

    def at_ends(self, axis: Axis, own: Cell, bench: Bench) -> list[Cell]:
        """The cells at the ends or choices of an axis; the other axes are as the suite has them.

        Raises: ConfigError or DataError if the settings make no cell.
        """
        return [self.cell(own, [axis.override(end)], bench) for end in axis.ends]

    def check_unchanged(self, own: Cell, bench: Bench) -> None:
        """Check that the suite's file is as it was when the sweep began.

        Raises: ConfigError if the file has changed.
        """
        if self._config(own, [], bench) != own.config:
            raise ConfigError(
                f"the suite {self.suite} was changed during its sweep, so its trials no longer "
                f"compare: change the suite back, or start another sweep of the changed suite"
            )

    def _config(self, own: Cell, overrides: Sequence[str], bench: Bench) -> CellConfig:
        name = own.config.method.name
        suite = load_suite(self.suite, overrides=[*self.overrides, *overrides])
        return configs(suite, methods=[name], device=bench.device)[name]

    def check(self, own: Cell, bench: Bench) -> None:
        """Check that the ends of the space make cells, and that the suite's own is within.

        Raises: ConfigError or DataError.
        """
        name = own.config.method.name
        if not is_trained(own):
            raise ConfigError(
                f"{name} trains nothing by gradients, so --space varies nothing: name the "
                f"methods that do, as in --method gim"
            )
        for axis in self.axes:
            ends = self.at_ends(axis, own, bench)
            axis.point(own.config)
            if all(cell.config == own.config for cell in ends):
                raise ConfigError(
                    f"--space {axis.name} changes nothing for {name}: leave {name} out, with "
                    f"--method for each of the others"
                )


def is_trained(cell: Cell) -> bool:
    """Whether settings of training change anything in the cell."""
    return cell.config.method.gradient_flow != GradientFlow.NONE


def work_off(
    sweeps: Iterable[tuple[Cell, Pretraining]],
    bench: Bench,
    *,
    runs: RunsFolder,
    studies: Studies,
    mirror: Callable[[Record], None],
) -> None:
    """Run the trials of all sweeps that no other process is at, without waiting for those.

    A sweep is the suite's own cell and what is varied. `mirror` is called with the record of every
    trial. Raises: ConfigError if the database fails.
    """
    for own, plan in sweeps:
        study = _study(own, studies, plan=plan)
        _complete(study, own, bench, runs=runs, plan=plan, mirror=mirror, wait=False)


def unsettled(
    sweeps: Iterable[tuple[Cell, Pretraining]], bench: Bench, studies: Studies
) -> list[Cell]:
    """At least a cell for every trial that is not settled, the ends of the space among them."""
    cells = []
    for own, plan in sweeps:
        left = plan.count - len(_study(own, studies, plan=plan).settled())
        if left > 0:  # below 0 where an earlier sweep asked for more trials
            ends = [cell for axis in plan.axes for cell in plan.at_ends(axis, own, bench)]
            cells += [*ends, *[own] * left]
    return cells


def sweep_pretraining(
    own: Cell,
    bench: Bench,
    *,
    runs: RunsFolder,
    studies: Studies,
    plan: Pretraining,
    mirror: Callable[[Record], None],
) -> dict[str, Any]:
    """The results of the trials around the suite's own cell; they are on disk at the return.

    Waits for trials that other processes are at. `mirror` is called with the record of every trial
    that runs here. Raises: ConfigError if the database fails.
    """
    study = _study(own, studies, plan=plan)
    _complete(study, own, bench, runs=runs, plan=plan, mirror=mirror, wait=True)
    found = {
        **_attributes(own, plan),
        "study": study.name,
        **_result(study.settled(), own, runs=runs, plan=plan),
    }
    path = runs.root / own.suite / own.config.method.name / f"space-{_digits(own, plan)}.json"
    write_atomically(path, (json.dumps(found, indent=2) + "\n").encode())
    return found


def _study(own: Cell, studies: Studies, *, plan: Pretraining) -> SharedStudy:
    name = f"{own.suite}/{own.config.method.name}/seed-{own.seed}/space-{_digits(own, plan)}"
    return studies.open(name, _attributes(own, plan), pruner=None if plan.grid else pruner())


def _attributes(own: Cell, plan: Pretraining) -> dict[str, Any]:
    """What the study is about: a study of the same name and of something else is refused."""
    return {
        "suite": own.suite,
        "method": own.config.method.name,
        "seed": own.seed,
        "key": own.key,
        "space": plan.space,
    }


def _digits(own: Cell, plan: Pretraining) -> str:
    """The hash of the cell and the space; trials drawn from lists are no part of their grid."""
    drawn = all(axis.is_list for axis in plan.axes) and not plan.grid
    return digest({"key": own.key, "space": plan.space} | ({"drawn": True} if drawn else {}))[:8]


def _complete(
    study: SharedStudy,
    own: Cell,
    bench: Bench,
    *,
    runs: RunsFolder,
    plan: Pretraining,
    mirror: Callable[[Record], None],
    wait: bool,
) -> None:
    """Work off the study's trials; with `wait`, until those of other processes are settled, too."""
    evaluation = _Evaluation(own, bench, runs=runs, study=study, plan=plan, mirror=mirror)
    point = plan.point(own)
    study.complete(
        plan.count,
        evaluation.outcomes,
        points=[point, *(other for other in plan.grid if other != point)],
        space={axis.name: axis.distribution for axis in plan.axes},
        batch=1,
        advance=Silence().advance,  # cells show their own progress
        wait=wait,
    )


def pruner() -> MedianPruner:
    """Gives up a trial that is below the median of the complete trials after the same epoch.

    After the first epoch no trial is given up: the rates that are fastest there are not the best
    later.
    """
    return MedianPruner(
        n_startup_trials=COMPLETE_BEFORE_PRUNING,
        n_warmup_steps=2,
        interval_steps=1,
        n_min_trials=COMPLETE_BEFORE_PRUNING,
    )


# -- one trial -------------------------------------------------------------------------------------


class _Evaluation:
    """Runs the cells of a study's trials."""

    def __init__(
        self,
        own: Cell,
        bench: Bench,
        *,
        runs: RunsFolder,
        study: SharedStudy,
        plan: Pretraining,
        mirror: Callable[[Record], None],
    ) -> None:
        self.own = own
        self.bench = bench
        self.runs = runs
        self.study = study
        self.plan = plan
        self.mirror = mirror

    def outcomes(self, claimed: Sequence[Trial]) -> list[Outcome]:
        """The outcome of each trial; a trial with the parameters of another is not run again."""
        return [self.study.outcome_of_twin(trial) or self._outcome(trial) for trial in claimed]

    def _outcome(self, trial: Trial) -> Outcome:
        overrides = self.plan.overrides_of(trial.params)
        self.bench.progress.say(f"{self.own.name}: trial with {' '.join(overrides)}")
        self.plan.check_unchanged(self.own, self.bench)
        try:
            cell = self.plan.cell(self.own, overrides, self.bench)
        except BenchError as error:  # settings that do not go together
            return Outcome(state=TrialState.FAIL, attributes={"error": str(error)})
        try:
            record = self._record(cell, trial)
        except Abandoned:
            return Outcome(state=TrialState.PRUNED, attributes={"key": cell.key})
        self.mirror(record)
        if (record.error or "").startswith(NOT_WRITTEN):  # the disk is to blame, not the settings
            raise OSError(f"{self.own.name}: {record.error}")
        if record.status is not Status.DONE:
            attributes = {"key": record.key, "error": record.error}
            return Outcome(state=TrialState.FAIL, attributes=attributes)
        accuracy = chosen_accuracy(record.probe_curves)
        return Outcome(value=accuracy, attributes={"key": record.key})

    def _record(self, cell: Cell, trial: Trial) -> Record:
        """The record of the cell, from disk if the cell is done.

        Raises: Abandoned if the trial is pruned.
        """

        def watch(epoch: int, accuracy: float) -> None:
            if self.study.is_hopeless(trial, accuracy, step=epoch):
                self.bench.progress.say(f"pruned after epoch {epoch}, at {accuracy:.1f} %")
                raise Abandoned

        # A grid is compared over seeds, for which it is to be complete.
        watched = partial(run_cell, watch=None if self.plan.grid else watch)
        run = run_apart if self.plan.apart else watched
        (record,) = run_table([cell], self.bench, runs=self.runs, run=run)
        return record


# -- results ---------------------------------------------------------------------------------------


def _result(
    trials: Sequence[FrozenTrial], own: Cell, *, runs: RunsFolder, plan: Pretraining
) -> dict[str, Any]:
    """The trials as the file holds them: docs/sweep.md."""
    rows = [_row(number, trial, plan=plan) for number, trial in enumerate(trials, start=1)]
    rows = [_as_done(row, own, runs) if row["state"] == "failed" else row for row in rows]
    point = plan.point(own)
    complete = [row for row in rows if row["validation_accuracy"] is not None]
    (first, *_) = (row for row, trial in zip(rows, trials, strict=True) if trial.params == point)
    # The first among equals: the suite's own wins over trials that are no better.
    best = max(complete, key=lambda row: row["validation_accuracy"], default=None)
    return {"best": best, "own": first, "trials": rows}


def _as_done(row: dict[str, Any], own: Cell, runs: RunsFolder) -> dict[str, Any]:
    """A failed trial's row, as complete if its cell was run again since and is done."""
    if row["key"] is None:
        return row
    record = runs.find(own.suite, own.config.method.name, seed=own.seed, key=row["key"])
    if record is None or record.status is not Status.DONE:
        return row
    accuracy = chosen_accuracy(record.probe_curves)
    return {**row, "state": "complete", "validation_accuracy": accuracy, "error": None}


def _row(number: int, trial: FrozenTrial, *, plan: Pretraining) -> dict[str, Any]:
    overrides = plan.overrides_of(trial.params)
    values = (setting_value(override.partition("=")[2]) for override in overrides)
    return {
        "trial": number,
        "state": STATES[trial.state],
        "settings": dict(zip(plan.space, values, strict=True)),
        "set": overrides,
        "validation_accuracy": trial.value if trial.state is TrialState.COMPLETE else None,
        "by_epoch": [[epoch, value] for epoch, value in sorted(trial.intermediate_values.items())],
        "key": trial.user_attrs.get("key"),
        "error": trial.user_attrs.get("error"),
    }
