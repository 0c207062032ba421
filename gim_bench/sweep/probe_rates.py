"""Which learning rate a linear probe wants, tried by Optuna on the features of finished cells.

A trial is one linear probe of one module of a finished cell: fitted, with one learning rate (and
weight decay), on the labels that the suite's own probe is fitted on, and scored on the share that
this one is validated on. A study holds the trials of one module; several processes may share it.
Only then is the test set read, once for each finished number of trials: for the best rate and for
the paper's.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import takewhile
from typing import Any

from jaxtyping import Float
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import Trial
from torch import Tensor

from gim_bench.cells.bench import Bench
from gim_bench.cells.build import Model, build, models_of
from gim_bench.cells.cell import Cell
from gim_bench.contract import Learner, Split, Target
from gim_bench.datasets.batches import Batches
from gim_bench.errors import ConfigError
from gim_bench.probing.classifiers import (
    Labelled,
    LinearProbe,
    Tried,
    best_of,
    refit_linear,
    validate_linear,
)
from gim_bench.probing.probe import (
    Probe,
    Question,
    Reader,
    curve_name,
    labelled,
    metric_name,
    question,
)
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record
from gim_bench.records.statistics import finished_at
from gim_bench.settings.schema import ProbeSettings
from gim_bench.sweep.studies import WAIT_SECONDS, Outcome, SharedStudy, Studies

# Löwe et al. 2019, appendices A.1 and A.2: images and speakers; phones, a label for every step.
PAPER_RATE, PAPER_RATE_PER_STEP = 1e-3, 1e-4
GRID = tuple(float(f"{10 ** (half / 2):.6g}") for half in range(-10, 1))  # 1e-5 to 1
WEIGHT_DECAYS = (1e-6, 1.0)
BATCH = 16  # trials that are trained in one pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is tried for every cell."""

    trials: int  # of each study
    all_modules: bool = False  # not the top one alone
    weight_decay: bool = False


def paper_rate(target: Target) -> float:
    """The learning rate that the paper's probe of such a target has."""
    return PAPER_RATE_PER_STEP if target.per_step else PAPER_RATE


def sweep_cell(
    cell: Cell, record: Record, bench: Bench, *, runs: RunsFolder, studies: Studies, plan: Plan
) -> Record:
    """The finished cell's record with its sweeps, which is on disk when this returns.

    Raises: ConfigError where the encoder or the study is not of this record, or is not there.
    """
    for model in models_of(cell, bench):
        frozen = Frozen(cell, record, model, bench, runs=runs)
        searches = _searches(frozen, studies=studies, plan=plan)
        with _alone_at(cell, runs):
            found = _concluded(searches, frozen, known=frozen.newest().sweeps)
            newest = frozen.newest()  # a claim that was lost meanwhile is noticed
            record = replace(newest, sweeps={**newest.sweeps, **found})
            runs.save_sweeps(record)
    return record


@contextmanager
def _alone_at(cell: Cell, runs: RunsFolder) -> Iterator[None]:
    """Waits for who else is at the cell, and runs it again or sweeps it, too."""
    while True:
        method = cell.config.method.name
        with runs.claimed(cell.suite, method, seed=cell.seed, key=cell.key) as claim:
            if claim is not None:
                yield
                return
        time.sleep(WAIT_SECONDS)


# -- what is frozen ------------------------------------------------------------------------------


class Frozen:
    """A model of a finished cell, rebuilt with its weights only when something must be read."""

    def __init__(
        self, cell: Cell, record: Record, model: Model, bench: Bench, *, runs: RunsFolder
    ) -> None:
        assert cell.config.probe is not None
        self.cell = cell
        self.record = record
        self.model = model
        self.bench = bench
        self.runs = runs
        self.settings: ProbeSettings = cell.config.probe
        self.encoder = f"{model.prefix}encoder"
        self.encoder_sha256 = runs.encoder_sha256(record, name=self.encoder)

    @property
    def identity(self) -> dict[str, str | int]:
        """All that its features come from."""
        return {
            "key": self.record.key,
            "suite": self.record.suite,
            "method": self.record.method,
            "seed": self.record.seed,
            "data_sha256": self.cell.data_sha256,
            "encoder_sha256": self.encoder_sha256,
        }

    def newest(self) -> Record:
        """The record as it now is on disk.

        Raises: ConfigError where it is no longer that of the run whose features these are.
        """
        swept = self.record
        found = self.runs.find(swept.suite, swept.method, seed=swept.seed, key=swept.key)
        if (
            found is None
            or finished_at(found) != finished_at(swept)
            or self.runs.encoder_sha256(found, name=self.encoder) != self.encoder_sha256
        ):
            raise ConfigError(
                f"cannot keep the sweep of {swept.suite}/{swept.method} seed {swept.seed}: the "
                f"cell in {self.runs.folder_of(swept)} was run again or removed in the meantime; "
                f"sweep it again once its run is done"
            )
        return found

    @cached_property
    def _reader(self) -> Reader:
        learner: Learner = build(self.cell, self.bench, target=self.model.target)
        try:
            learner.encoder.load_state_dict(self.runs.read_encoder(self.record, name=self.encoder))
        except RuntimeError as error:
            raise ConfigError(
                f"the encoder in {self.runs.folder_of(self.record)} is not the cell's "
                f"({str(error).splitlines()[-1].strip()}): run the cell again with --rerun"
            ) from None
        return Reader(
            learner.eval(),
            precision=self.cell.config.training.precision,
            title=self.model.name,
            progress=self.bench.progress,
        )

    def modules(self, target: Target, *, all_modules: bool) -> list[str]:
        """Those that were probed for the target, lowest first; or the top one alone."""
        names = (name.rpartition("/")[2] for name in self.record.probe_curves)
        curves = self.record.probe_curves
        found = [module for module in dict.fromkeys(names) if curve_name(target, module) in curves]
        return found if all_modules else found[-1:]

    def tasks(self, *, all_modules: bool) -> dict[tuple[Question, str], Labelled]:
        """By question and module; features that are not on disk are extracted, and kept there."""
        train = self.bench.batches(self.cell, Split.TRAIN)
        wanted = [
            (question(train, target, settings=self.settings), module)
            for target in self.model.probed
            for module in self.modules(target, all_modules=all_modules)
        ]
        found = {(asked, module): self._kept(asked, module) for asked, module in wanted}
        missing = [place for place, features in found.items() if features is None]
        if missing:
            found |= self._extracted(train, missing)
        return {
            (asked, module): labelled(features.to(self.bench.device), asked)
            for (asked, module), features in found.items()
            if features is not None
        }

    def _kept(self, asked: Question, module: str) -> Float[Tensor, "n d"] | None:
        return self.runs.read_features(
            self.record, name=f"{asked.target.name}-{module}", encoder=self.encoder_sha256
        )

    def _extracted(
        self, train: Batches, missing: Sequence[tuple[Question, str]]
    ) -> dict[tuple[Question, str], Float[Tensor, "n d"]]:
        """All that is missing, from one pass over the training split; kept on disk, too."""
        questions = list(dict.fromkeys(asked for asked, _ in missing))
        modules = {module for _, module in missing}
        features = self._reader.features_of(train, questions, modules=modules)
        for asked, module in missing:
            self.runs.save_features(
                self.record,
                features[asked, module],
                name=f"{asked.target.name}-{module}",
                encoder=self.encoder_sha256,
            )
        return {place: features[place] for place in missing}

    def test_accuracies(self, probes: Sequence[Probe]) -> dict[str, float]:
        """Percent correct, by metric and module, from one pass over the test set."""
        test = self.bench.batches(self.cell, Split.TEST)
        return self._reader.accuracies(test, probes, self.model.probed)


# -- searching -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A study that is done: what was tried, on what."""

    name: str  # in the record
    study: str
    target: Target
    module: str
    task: Labelled
    tried: Sequence[Tried]  # in the order of the trials


def _searches(frozen: Frozen, *, studies: Studies, plan: Plan) -> list[Search]:
    """Every study of the model, with as many trials as were asked for."""
    return [
        _search(frozen, asked.target, module, task, studies=studies, plan=plan)
        for (asked, module), task in frozen.tasks(all_modules=plan.all_modules).items()
    ]


def _search(
    frozen: Frozen,
    target: Target,
    module: str,
    task: Labelled,
    *,
    studies: Studies,
    plan: Plan,
) -> Search:
    record, name = frozen.record, curve_name(target, module)
    ending = "/weight_decay" if plan.weight_decay else ""
    cell = f"{record.suite}/{record.method}/seed-{record.seed}-{record.key[:8]}"
    rates = first_rates(target, frozen.settings)
    evaluate = partial(
        _evaluate, task=task, settings=frozen.settings, stream=frozen.cell.stream, plan=plan
    )
    study = studies.open(
        f"{cell}/{target.name}/{module}{ending}",
        frozen.identity | {"target": target.name, "module": module},
    )
    title = f"{frozen.model.name}: {name}"
    with frozen.bench.progress.task(title, total=plan.trials, unit="trial") as task_shown:
        study.complete(
            plan.trials,
            evaluate,
            points=[{"learning_rate": rate} for rate in rates],
            space=space(rates, weight_decay=plan.weight_decay),
            batch=BATCH,
            advance=task_shown.advance,
        )
    return Search(
        name=f"{name}{ending}",
        study=study.name,
        target=target,
        module=module,
        task=task,
        tried=tried_in(study),
    )


def first_rates(target: Target, settings: ProbeSettings) -> list[float]:
    """What every study begins with: the paper's rate, the suite's, and a grid; none twice."""
    return list(dict.fromkeys([paper_rate(target), *settings.learning_rates, *GRID]))


def space(rates: Sequence[float], *, weight_decay: bool) -> dict[str, BaseDistribution]:
    """What a trial chooses from: all that lies between the rates, on a logarithmic scale."""
    found: dict[str, BaseDistribution] = {
        "learning_rate": FloatDistribution(min(rates), max(rates), log=True)
    }
    if weight_decay:
        found["weight_decay"] = FloatDistribution(*WEIGHT_DECAYS, log=True)
    return found


def _evaluate(
    claimed: Sequence[Trial],
    *,
    task: Labelled,
    settings: ProbeSettings,
    stream: tuple[str, int],
    plan: Plan,
) -> list[Outcome]:
    """One probe for each of the trials' parameters, all trained in one pass."""
    params = [trial.params for trial in claimed]
    tried = validate_linear(
        task,
        learning_rates=[chosen["learning_rate"] for chosen in params],
        weight_decays=[chosen["weight_decay"] for chosen in params] if plan.weight_decay else None,
        settings=settings,
        stream=stream,
    )
    return [outcome(found) for found in tried]


def outcome(tried: Tried) -> Outcome:
    """What a study keeps of a probe."""
    loss = tried.loss if math.isfinite(tried.loss) else math.inf
    return Outcome(value=tried.accuracy, attributes={"validation_loss": loss})


def tried_in(study: SharedStudy) -> list[Tried]:
    """What came of the trials that are complete, in their order."""
    return [
        Tried(
            learning_rate=trial.params["learning_rate"],
            weight_decay=trial.params.get("weight_decay", 0.0),
            accuracy=float(trial.value or 0.0),
            loss=float(trial.user_attrs["validation_loss"]),
        )
        for trial in study.settled()
    ]


# -- what came of it -----------------------------------------------------------------------------


def _concluded(
    searches: Sequence[Search], frozen: Frozen, *, known: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """By name in the record; where `known` holds all of the trials nothing is tested again."""
    new = [search for search in searches if not _is_known(search, known)]
    roles = {search.name: _roles(search, frozen) for search in new}
    probes = [
        Probe(search.target, search.module, role, _refitted(search, tried, frozen))
        for search in new
        for role, tried in roles[search.name].items()
    ]
    accuracies = frozen.test_accuracies(probes) if probes else {}
    return {
        search.name: _result(
            search,
            roles[search.name],
            accuracies,
            test_reads=_test_reads(known.get(search.name)) + 1,
        )
        for search in new
    }


def _test_reads(found: Mapping[str, Any] | None) -> int:
    """How often the test set was read for what the record holds of a probe, if anything."""
    return 0 if found is None else int(found.get("test_reads", 1))


def _is_known(search: Search, known: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the trials are all in the record already, maybe beside later ones."""
    curve = known.get(search.name, {}).get("curve", [])
    return all(row in curve for row in _curve(search.tried))


def _roles(search: Search, frozen: Frozen) -> dict[str, Tried]:
    """The two that are tested: the best on validation, and the paper's rate without decay.

    The latter is tried here where no trial was just that: where all of them have a decay.
    """
    rate = paper_rate(search.target)
    for tried in search.tried:
        if (tried.learning_rate, tried.weight_decay) == (rate, 0.0):
            return {"best": best_of(search.tried), "paper": tried}
    (paper,) = validate_linear(
        search.task,
        learning_rates=[rate],
        settings=frozen.settings,
        stream=frozen.cell.stream,
    )
    return {"best": best_of(search.tried), "paper": paper}


def _refitted(search: Search, tried: Tried, frozen: Frozen) -> LinearProbe:
    return refit_linear(search.task, tried, settings=frozen.settings, stream=frozen.cell.stream)


def _result(
    search: Search,
    roles: Mapping[str, Tried],
    accuracies: Mapping[str, float],
    *,
    test_reads: int,
) -> dict[str, Any]:
    """What the record holds of a study: docs/sweep.md."""
    tested = {
        role: {
            "learning_rate": tried.learning_rate,
            "weight_decay": tried.weight_decay,
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
        "decades_within_one_point": decades_within(search.tried, points=1.0),
        "curve": _curve(search.tried),
    }


def _curve(tried: Sequence[Tried]) -> list[dict[str, float | None]]:
    """In the order of the trials, as it stands in the record."""
    return [
        {
            "learning_rate": found.learning_rate,
            "weight_decay": found.weight_decay,
            "validation_accuracy": found.accuracy,
            "validation_loss": found.loss if math.isfinite(found.loss) else None,
        }
        for found in tried
    ]


def decades_within(tried: Sequence[Tried], *, points: float) -> float | None:
    """Width, in powers of ten, of the unbroken range of rates about the best one whose accuracy is
    no more than `points` below its own; None where the weight decay was varied as well.
    """
    if any(found.weight_decay for found in tried):
        return None
    best = best_of(tried)
    curve = sorted(tried, key=lambda found: found.learning_rate)
    place = curve.index(best)

    def near(found: Tried) -> bool:
        # Shares of a hundred are rounded: 63.4 is one point below 64.4, by the numbers it is more.
        return best.accuracy - found.accuracy <= points + 1e-9

    *_, highest = takewhile(near, curve[place:])
    *_, lowest = takewhile(near, reversed(curve[: place + 1]))
    return math.log10(highest.learning_rate / lowest.learning_rate)
