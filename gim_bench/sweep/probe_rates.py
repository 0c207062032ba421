"""The hyperparameter of a linear probe, chosen by Optuna on the features of finished cells.

A trial is one linear probe of one module of a finished cell. A trial of a logistic regression has
one penalty; a trial of Adam has one learning rate, and perhaps a weight decay. The probe is fitted
on the labels that the suite's own probe is fitted on, and scored on the share of labels that the
suite's own probe is validated on. A study holds the trials of one module; several processes may
share a study. The test set is read afterwards, once for each finished number of trials: for the
best trial, and for the paper's rate or the best penalty of the suite's own grid.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import Trial

from gim_bench.cells.bench import Bench
from gim_bench.cells.build import models_of
from gim_bench.cells.cell import Cell
from gim_bench.contract import Target
from gim_bench.errors import ConfigError
from gim_bench.probing.classifiers import Labelled
from gim_bench.probing.linear import Tried, best_of, grid_of, refit_linear, validate_linear
from gim_bench.probing.probe import curve_name
from gim_bench.probing.reading import Probe, metric_name
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record
from gim_bench.settings.probing import AdamProbeSettings, ProbeSettings
from gim_bench.sweep.frozen import Frozen, alone_at
from gim_bench.sweep.studies import Outcome, SharedStudy, Studies

# Löwe et al. 2019, appendices A.1 and A.2: images and speakers; phones, a label for every step.
PAPER_RATE, PAPER_RATE_PER_STEP = 1e-3, 1e-4
GRID = tuple(float(f"{10 ** (half / 2):.6g}") for half in range(-10, 1))  # 1e-5 to 1
PENALTIES = tuple(float(f"{10 ** (half / 2):.6g}") for half in range(-12, 3))  # 1e-6 to 10
WEIGHT_DECAYS = (1e-6, 1.0)
BATCH = 16  # trials that are trained in one pass
# The name of a trial's hyperparameter, by the kind of the probe.
LEARNING_RATE, PENALTY = "learning_rate", "penalty"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTrials:
    """The trials of every cell."""

    trials: int  # of each study
    all_modules: bool = False  # False: the top module alone
    weight_decay: bool = False


def paper_rate(target: Target) -> float:
    """The learning rate of the paper's probe of such a target."""
    return PAPER_RATE_PER_STEP if target.per_step else PAPER_RATE


def sweep_cell(
    cell: Cell,
    record: Record,
    bench: Bench,
    *,
    runs: RunsFolder,
    studies: Studies,
    plan: ProbeTrials,
) -> Record:
    """The finished cell's record with its sweeps; the record is on disk when this returns.

    Raises: ConfigError where the encoder or the study is missing or belongs to another record,
    where a logistic regression should have a weight decay, or where the probe is fitted on
    augmented copies, whose features are not kept.
    """
    settings = cell.config.probe
    if plan.weight_decay and not isinstance(settings, AdamProbeSettings):
        raise ConfigError(
            f"{cell.name} is probed by logistic regression, which has a penalty and no weight "
            f"decay: leave out --weight-decay"
        )
    if settings is not None and settings.augment:
        raise ConfigError(
            f"{cell.name} is probed on augmented copies, whose features are not kept for a sweep: "
            f"run and sweep it with --set probe.augment=0"
        )
    for model in models_of(cell, bench):
        frozen = Frozen(cell, record, model, bench, runs=runs)
        searches = [
            _search(frozen, asked.target, module, task, studies=studies, plan=plan)
            for (asked, module), task in frozen.tasks(all_modules=plan.all_modules).items()
        ]
        with alone_at(cell, runs):
            found = _concluded(searches, frozen, known=frozen.newest().sweeps)
            newest = frozen.newest()  # notices a claim that was lost meanwhile
            record = replace(newest, sweeps={**newest.sweeps, **found})
            runs.save_sweeps(record)
    return record


# -- searching -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A study that is done: the trials, and the task of their probes."""

    name: str  # in the record
    study: str
    target: Target
    module: str
    task: Labelled
    tried: Sequence[Tried]  # in the order of the trials


def _search(
    frozen: Frozen,
    target: Target,
    module: str,
    task: Labelled,
    *,
    studies: Studies,
    plan: ProbeTrials,
) -> Search:
    """The study of one module, with as many trials as `plan` asks for."""
    record, name = frozen.record, curve_name(target.name, module)
    ending = "/weight_decay" if plan.weight_decay else ""
    hyperparameter = hyperparameter_of(frozen.settings)
    first = first_values(target, frozen.settings)

    def evaluate(claimed: Sequence[Trial]) -> list[Outcome]:
        """One probe for each of the trials' parameters, all trained in one pass."""
        params = [trial.params for trial in claimed]
        decays = [chosen["weight_decay"] for chosen in params] if plan.weight_decay else None
        tried = validate_linear(
            task,
            grid=[chosen[hyperparameter] for chosen in params],
            weight_decays=decays,
            settings=frozen.settings,
            stream=frozen.cell.stream,
        )
        return [outcome(found) for found in tried]

    cell = f"{record.suite}/{record.method}/seed-{record.seed}-{record.key[:8]}"
    study = studies.open(
        f"{cell}/{target.name}/{module}{ending}",
        frozen.identity | {"target": target.name, "module": module},
    )
    title = f"{frozen.model.name}: {name}"
    with frozen.bench.progress.task(title, total=plan.trials, unit="trial") as task_shown:
        study.complete(
            plan.trials,
            evaluate,
            points=[{hyperparameter: value} for value in first],
            space=space(first, hyperparameter=hyperparameter, weight_decay=plan.weight_decay),
            batch=BATCH,
            advance=task_shown.advance,
        )
    return Search(
        name=f"{name}{ending}",
        study=study.name,
        target=target,
        module=module,
        task=task,
        tried=tried_in(study, hyperparameter=hyperparameter),
    )


def hyperparameter_of(settings: ProbeSettings) -> str:
    """The name of the hyperparameter that trials vary."""
    return LEARNING_RATE if isinstance(settings, AdamProbeSettings) else PENALTY


def first_values(target: Target, settings: ProbeSettings) -> list[float]:
    """The first values of every study, each once: the paper's rate, the suite's grid, and a grid.

    A penalty has no value of the paper's.
    """
    if isinstance(settings, AdamProbeSettings):
        return list(dict.fromkeys([paper_rate(target), *settings.learning_rates, *GRID]))
    return list(dict.fromkeys([*settings.penalties, *PENALTIES]))


def space(
    values: Sequence[float], *, hyperparameter: str, weight_decay: bool
) -> dict[str, BaseDistribution]:
    """The space of a trial: everything between the values, on a logarithmic scale."""
    found: dict[str, BaseDistribution] = {
        hyperparameter: FloatDistribution(min(values), max(values), log=True)
    }
    if weight_decay:
        found["weight_decay"] = FloatDistribution(*WEIGHT_DECAYS, log=True)
    return found


def outcome(tried: Tried) -> Outcome:
    """The result of a probe, as a study keeps it."""
    loss = tried.loss if math.isfinite(tried.loss) else math.inf
    return Outcome(value=tried.accuracy, attributes={"validation_loss": loss})


def tried_in(study: SharedStudy, *, hyperparameter: str) -> list[Tried]:
    """The results of the complete trials, in their order."""
    return [
        Tried(
            hyperparameter=trial.params[hyperparameter],
            weight_decay=trial.params.get("weight_decay", 0.0),
            accuracy=float(trial.value or 0.0),
            loss=float(trial.user_attrs["validation_loss"]),
        )
        for trial in study.settled()
    ]


# -- results ---------------------------------------------------------------------------------------


def _concluded(
    searches: Sequence[Search], frozen: Frozen, *, known: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """The results by name in the record, without searches whose trials are all in `known`.

    The test set is read once for all of the results, and not at all without a new one.
    """
    curves = {name: found.get("curve", []) for name, found in known.items()}
    varied = hyperparameter_of(frozen.settings)
    new = [
        search
        for search in searches
        if any(row not in curves.get(search.name, []) for row in _curve(search.tried, varied))
    ]
    roles = {search.name: _roles(search, frozen) for search in new}
    stream = frozen.cell.stream
    probes: list[Probe] = []
    unconverged: dict[str, list[str]] = {search.name: [] for search in new}
    for search in new:
        for role, tried in roles[search.name].items():
            probe, converged = refit_linear(
                search.task, tried, settings=frozen.settings, stream=stream
            )
            probes.append(Probe(search.target, search.module, role, probe))
            if not converged:
                unconverged[search.name].append(role)
    accuracies = frozen.test_accuracies(probes) if probes else {}
    results: dict[str, Mapping[str, Any]] = {}
    for search in new:
        # Records from before the reads were counted hold the result of one.
        earlier = known[search.name].get("test_reads", 1) if search.name in known else 0
        results[search.name] = _result(
            search,
            roles[search.name],
            accuracies,
            unconverged=unconverged[search.name],
            hyperparameter=varied,
            test_reads=int(earlier) + 1,
        )
    return results


def _roles(search: Search, frozen: Frozen) -> dict[str, Tried]:
    """The two probes that are tested: the best on validation, and the paper's rate without decay.

    A logistic regression stands beside the best penalty of the suite's own grid. Values that no
    trial of the study had are tried here: the paper's rate if all trials have a decay, and
    penalties of the suite if there were fewer trials.
    """
    settings = frozen.settings
    role, values = "suite", list(grid_of(settings))
    if isinstance(settings, AdamProbeSettings):
        role, values = "paper", [paper_rate(search.target)]
    own = [t for t in search.tried if t.hyperparameter in values and not t.weight_decay]
    tried = {t.hyperparameter for t in own}
    if missing := [value for value in values if value not in tried]:
        own += validate_linear(
            search.task, grid=missing, settings=settings, stream=frozen.cell.stream
        )
    return {"best": best_of(search.tried), role: best_of(own)}


def _result(
    search: Search,
    roles: Mapping[str, Tried],
    accuracies: Mapping[str, float],
    *,
    unconverged: Sequence[str],
    hyperparameter: str,
    test_reads: int,
) -> dict[str, Any]:
    """The record's entry of a study: docs/sweep.md."""
    tested = {
        role: {
            **_values(tried, hyperparameter),
            "validation_accuracy": tried.accuracy,
            "test_accuracy": accuracies[f"{metric_name(search.target, role)}/{search.module}"],
        }
        for role, tried in roles.items()
    }
    return {
        "study": search.study,
        "target": search.target.name,
        "module": search.module,
        "trials": len(search.tried),
        "test_reads": test_reads,
        **tested,
        **({"unconverged": unconverged} if unconverged else {}),
        "decades_within_one_point": decades_within(search.tried, points=1.0),
        "curve": _curve(search.tried, hyperparameter),
    }


def _values(tried: Tried, hyperparameter: str) -> dict[str, float]:
    """The hyperparameters of a trial by their names; only Adam has a weight decay."""
    decay = {"weight_decay": tried.weight_decay} if hyperparameter == LEARNING_RATE else {}
    return {hyperparameter: tried.hyperparameter, **decay}


def _curve(tried: Sequence[Tried], hyperparameter: str) -> list[dict[str, float | None]]:
    """The trials in their order, as the record holds them."""
    return [
        {
            **_values(found, hyperparameter),
            "validation_accuracy": found.accuracy,
            "validation_loss": found.loss if math.isfinite(found.loss) else None,
        }
        for found in tried
    ]


def decades_within(tried: Sequence[Tried], *, points: float) -> float | None:
    """Width of the range of hyperparameters that are as good as the best, in powers of ten.

    The range is unbroken, and its accuracies are at most `points` below the best. None if the
    weight decay was varied as well.
    """
    if any(found.weight_decay for found in tried):
        return None
    best = best_of(tried)
    curve = sorted(tried, key=lambda found: found.hyperparameter)
    place = curve.index(best)

    def near(found: Tried) -> bool:
        # Percentages are rounded: 63.4 is one point below 64.4, in floating point a little more.
        return best.accuracy - found.accuracy <= points + 1e-9

    *_, highest = takewhile(near, curve[place:])
    *_, lowest = takewhile(near, reversed(curve[: place + 1]))
    return math.log10(highest.hyperparameter / lowest.hyperparameter)
