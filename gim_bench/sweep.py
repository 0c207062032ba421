"""Sweeps: which learning rate a linear probe wants, tried by Optuna on frozen features.

A trial is one linear probe of one module of a finished cell: fitted, with one learning rate (and
weight decay), on the labels that the suite's own probe is fitted on, and scored on the share that
this one is validated on. A study holds the trials of one module; several processes may share it.
Only then is the test set read, once for each finished number of trials: for the best rate and for
the paper's.

Optuna's heartbeats do not work with `ask` and `tell`, and its queue is not safe on SQLite, so
whatever decides who tries what happens under a lock of the database.
"""

import math
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import optuna
import psutil
import sqlalchemy
from jaxtyping import Float
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from torch import Tensor

from gim_bench import seeding
from gim_bench.classifiers import (
    Labelled,
    LinearProbe,
    Tried,
    best_of,
    refit_linear,
    validate_linear,
)
from gim_bench.config import ProbeSettings
from gim_bench.contract import Learner, Progress, Record, Split, Target
from gim_bench.datasets.batches import Batches
from gim_bench.errors import ConfigError
from gim_bench.probe import Probe, Question, Reader, curve_name, labelled, metric_name, question
from gim_bench.run import Bench, Cell, Model, build, models_of
from gim_bench.statistics import finished_at
from gim_bench.store import RunsFolder

# Löwe et al. 2019, appendices A.1 and A.2: images and speakers; phones, a label for every step.
PAPER_RATE, PAPER_RATE_PER_STEP = 1e-3, 1e-4
GRID = tuple(float(f"{10 ** (half / 2):.6g}") for half in range(-10, 1))  # 1e-5 to 1
WEIGHT_DECAYS = (1e-6, 1.0)
BATCH = 16  # trials that are trained in one pass
STARTUP_TRIALS = 10  # at random before TPE; the rates that every study begins with count
WAIT_SECONDS = 0.5  # between looks at trials that another process is at
LOST_AFTER_SECONDS = 3600  # for a trial of another machine, whose processes cannot be seen
LOCK_SECONDS = 600
CLOCK_SECONDS = 2  # by which a process seems to have started earlier or later when clocks are set


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
    cell: Cell, record: Record, bench: Bench, *, runs: RunsFolder, studies: "Studies", plan: Plan
) -> Record:
    """The finished cell's record with its sweeps, which is on disk when this returns.

    Raises: ConfigError where the encoder or the study is not of this record, or is not there.
    """
    for model in models_of(cell, bench):
        frozen = Frozen(cell, record, model, bench, runs=runs)
        searches = _searches(frozen, studies=studies, plan=plan)
        with studies.locked("records"):
            found = _concluded(searches, frozen, known=frozen.newest().sweeps)
            newest = frozen.newest()  # `run`, which takes no lock, may have replaced it meanwhile
            record = replace(newest, sweeps={**newest.sweeps, **found})
            runs.save_sweeps(record)
    return record


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


def _searches(frozen: Frozen, *, studies: "Studies", plan: Plan) -> list[Search]:
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
    studies: "Studies",
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
    study.complete(
        plan.trials,
        evaluate,
        points=[{"learning_rate": rate} for rate in rates],
        space=space(rates, weight_decay=plan.weight_decay),
        title=f"{frozen.model.name}: {name}",
        progress=frozen.bench.progress,
    )
    return Search(
        name=f"{name}{ending}",
        study=study.name,
        target=target,
        module=module,
        task=task,
        tried=study.tried(),
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
    params: Sequence[Mapping[str, float]],
    *,
    task: Labelled,
    settings: ProbeSettings,
    stream: tuple[str, int],
    plan: Plan,
) -> list[Tried]:
    """One probe for each of the trials' parameters, all trained in one pass."""
    return validate_linear(
        task,
        learning_rates=[chosen["learning_rate"] for chosen in params],
        weight_decays=[chosen["weight_decay"] for chosen in params] if plan.weight_decay else None,
        settings=settings,
        stream=stream,
    )


Evaluate = Callable[[Sequence[Mapping[str, float]]], list[Tried]]


class Studies:
    """The studies of one database, SQLite or PostgreSQL, that several processes may work at."""

    def __init__(self, url: str) -> None:
        """Raises: ConfigError where the database cannot be used."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.url = url
        # RuntimeError: tables of another version of Optuna; ValueError: a port that is no number.
        with self._in_one_line(RuntimeError, ValueError):
            self._address = sqlalchemy.make_url(url)
            if self._address.get_backend_name() not in {"sqlite", "postgresql"}:
                raise self._unusable("use sqlite:///FILE or postgresql://HOST/NAME")
            if self._address.get_backend_name() == "sqlite" and not self._file:
                raise self._unusable("it names no file; use sqlite:///FILE")
            self._engine = sqlalchemy.create_engine(self._address, poolclass=sqlalchemy.NullPool)
            with self.locked("trials"):  # or two processes would both make the tables
                self._storage = RDBStorage(url)

    def open(self, name: str, attributes: Mapping[str, Any]) -> "SharedStudy":
        """The study of that name, made where it is missing.

        Raises: ConfigError where it is one of another encoder.
        """
        with self._locked_trials():
            study = optuna.create_study(
                storage=self._storage, study_name=name, direction="maximize", load_if_exists=True
            )
            for attribute, value in attributes.items():
                if study.user_attrs.setdefault(attribute, value) != value:
                    raise ConfigError(
                        f"the study {name!r} in {self._shown} was begun with another {attribute}: "
                        f"the cell has been run again since; delete it with optuna delete-study, "
                        f"or name another database with --storage"
                    )
                study.set_user_attr(attribute, value)
        return SharedStudy(study, locked=self._locked_trials)

    @property
    def _file(self) -> str:
        return "" if self._address.database in (None, ":memory:") else str(self._address.database)

    @contextmanager
    def locked(self, what: Literal["trials", "records"]) -> Iterator[None]:
        """One process at a time within the block; a process that dies lets go.

        Records have a lock of their own, for a test set may take longer than trials can wait.
        Raises: ConfigError where the lock cannot be had; what the block raises stays as it is.
        """
        held = ExitStack()
        with self._in_one_line():
            held.enter_context(self._lock(what))
        try:
            yield
        finally:
            with self._in_one_line():
                held.close()

    @contextmanager
    def _locked_trials(self) -> Iterator[None]:
        """For a block that does nothing but ask the database, whose errors are one line."""
        with self.locked("trials"), self._in_one_line():
            yield

    @contextmanager
    def _lock(self, what: str) -> Iterator[None]:
        if self._address.get_backend_name() == "postgresql":
            with self._engine.begin() as connection:
                number = seeding.derive("sweep", what)
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({number})")
                yield
            return
        Path(self._file).parent.mkdir(parents=True, exist_ok=True)
        # Beside the database: a file of SQLite's own, which locks alike on every system.
        file = f"{self._file}.{what}.lock"
        other = sqlite3.connect(file, timeout=LOCK_SECONDS, isolation_level=None)
        with closing(other):
            other.execute("BEGIN EXCLUSIVE")
            yield

    @property
    def _shown(self) -> str:
        return self._address.render_as_string(hide_password=True)

    def _unusable(self, reason: str) -> ConfigError:
        shown = self.url.rpartition("@")[2]  # no password
        return ConfigError(f"cannot keep trials in --storage {shown!r}: {reason}")

    @contextmanager
    def _in_one_line(self, *others: type[Exception]) -> Iterator[None]:
        """Whatever the database raises within, and `others`, as a ConfigError."""
        reported: tuple[type[Exception], ...] = (
            SQLAlchemyError,
            StorageInternalError,
            sqlite3.Error,
            OSError,
            *others,
        )
        try:
            yield
        except ImportError as error:
            driver = "pip install 'gim-bench[postgres]'"
            raise self._unusable(f"{error}; for PostgreSQL {driver}") from None
        except reported as error:
            raise self._unusable(str(error).strip().splitlines()[0]) from None


class SharedStudy:
    """A study whose trials are claimed, given back and told under a lock.

    Within the lock, a trial that is RUNNING belongs to who claimed it: no two processes evaluate
    the same one, and RUNNING and COMPLETE trials together are never more than were asked for.
    """

    def __init__(
        self, study: optuna.Study, *, locked: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._study = study
        self._locked = locked
        self.name = study.study_name

    def tried(self) -> list[Tried]:
        """What came of the trials that are complete, in their order."""
        with self._locked():
            complete = self._trials(TrialState.COMPLETE)
        return [
            Tried(
                learning_rate=trial.params["learning_rate"],
                weight_decay=trial.params.get("weight_decay", 0.0),
                accuracy=float(trial.value or 0.0),
                loss=float(trial.user_attrs["validation_loss"]),
            )
            for trial in complete
        ]

    def complete(
        self,
        trials: int,
        evaluate: Evaluate,
        *,
        points: Sequence[Mapping[str, float]],
        space: Mapping[str, BaseDistribution],
        title: str,
        progress: Progress,
    ) -> None:
        """Returns once `trials` are complete, whoever did them; `points` are the first ones."""
        with self._locked():
            for point in points[:trials]:
                self._study.enqueue_trial(dict(point), skip_if_exists=True)
        shown = 0
        with progress.task(title, total=trials, unit="trial") as task:
            while True:
                claimed = self._claim(trials, space=space)
                if claimed:
                    self._work_off(claimed, evaluate)
                done = len(self.tried())
                task.advance(done - shown)
                shown = done
                if done >= trials:
                    return
                if not claimed:  # another process is at the last ones, or has died over them
                    time.sleep(WAIT_SECONDS)

    def _claim(self, trials: int, *, space: Mapping[str, BaseDistribution]) -> list[Trial]:
        """A batch of trials that are now this process's, none where nothing is left to do."""
        with self._locked():
            self._give_back([t for t in self._trials(TrialState.RUNNING) if _is_lost(t)])
            live = len(self._trials(TrialState.RUNNING, TrialState.COMPLETE))
            self._study.sampler = _sampler(self.name, len(self._study.get_trials(deepcopy=False)))
            claimed = []
            for _ in range(min(BATCH, trials - live)):
                trial = self._study.ask(dict(space))
                trial.set_user_attr("owner", _owner())
                claimed.append(trial)
            return claimed

    def _work_off(self, claimed: Sequence[Trial], evaluate: Evaluate) -> None:
        try:
            found = evaluate([trial.params for trial in claimed])
        except BaseException:  # an interruption too leaves the trials to whoever goes on
            mine = {trial.number for trial in claimed}
            with self._locked():
                self._give_back([t for t in self._trials(TrialState.RUNNING) if t.number in mine])
            raise
        with self._locked():
            # Not all of them, where it took so long that some were given back.
            still = {trial.number for trial in self._trials(TrialState.RUNNING)}
            for trial, tried in zip(claimed, found, strict=True):
                if trial.number in still:
                    loss = tried.loss if math.isfinite(tried.loss) else math.inf
                    trial.set_user_attr("validation_loss", loss)
                    self._study.tell(trial, tried.accuracy)

    def _give_back(self, lost: Sequence[FrozenTrial]) -> None:
        """Trials that nobody is at count as failed, and their parameters are tried again."""
        again = {trial.user_attrs.get("retry_of") for trial in self._study.get_trials()}
        for trial in lost:
            params = trial.system_attrs.get("fixed_params", trial.params)
            # In this order: whoever dies between the two neither loses nor doubles a trial.
            if params and trial.number not in again:
                self._study.enqueue_trial(params, user_attrs={"retry_of": trial.number})
            self._study.tell(trial.number, state=TrialState.FAIL)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)


def _sampler(study: str, trials: int) -> optuna.samplers.TPESampler:
    """Optuna's defaults change between versions, so all that matters is said."""
    return optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS,
        n_ei_candidates=24,
        multivariate=True,
        group=False,
        constant_liar=True,  # the trials of a batch keep away from each other
        seed=seeding.derive("sweep", study, trials) % 2**32,
    )


def _owner() -> dict[str, Any]:
    """This process, told from any other that has or had its number, and the time."""
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "pid": process.pid,
        "started": process.create_time(),
        "claimed": time.time(),
    }


def _is_lost(trial: FrozenTrial) -> bool:
    """Whether nobody is at a trial that is RUNNING; asked under the lock."""
    owner = trial.user_attrs.get("owner")
    if owner is None:  # died before it could say so: that is done under the lock, too
        return True
    if owner["host"] != socket.gethostname():
        # Not Optuna's datetime_start, which is in the time zone of the other machine.
        return bool(time.time() - owner["claimed"] > LOST_AFTER_SECONDS)
    try:
        process = psutil.Process(owner["pid"])
        started, status = process.create_time(), process.status()
    except psutil.NoSuchProcess:
        return True
    # A zombie is dead, though its parent has not asked for its exit status.
    return status == psutil.STATUS_ZOMBIE or abs(started - owner["started"]) > CLOCK_SECONDS


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
        return found.accuracy >= best.accuracy - points

    *_, highest = takewhile(near, curve[place:])
    *_, lowest = takewhile(near, reversed(curve[: place + 1]))
    return math.log10(highest.learning_rate / lowest.learning_rate)
