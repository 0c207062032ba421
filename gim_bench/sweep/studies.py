"""Studies: trials in a database that several processes share; no trial is lost or doubled.

Optuna's heartbeats do not work with `ask` and `tell`, and its queue is not safe on SQLite. So every
decision about who tries what is made under a lock of the database.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.pruners import BasePruner, NopPruner
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from gim_bench import seeding
from gim_bench.errors import ConfigError, first_line
from gim_bench.system.addresses import concealed, masked, parse, sqlite_file
from gim_bench.system.locks import locked
from gim_bench.system.processes import Owner

STARTUP_TRIALS = 10  # at random before TPE; the first points of a study are among them
WAIT_SECONDS = 0.5  # between looks at trials that another process is at
LOST_AFTER_SECONDS = 3600  # for a trial of another machine, whose processes cannot be seen
RENEW_SECONDS = 600  # between the times at which a process renews its claims
POSTGRESQL_DRIVER = "psycopg"  # of the extra `postgres`
BOOKKEEPING = {"owner", "begun", "retry_of"}  # attributes of a trial, not of its outcome


class Studies:
    """The studies of one database, SQLite or PostgreSQL; several processes may work at a study."""

    def __init__(self, url: str) -> None:
        """Raises: ConfigError where the database cannot be used."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.url = url
        # RuntimeError: tables of another version of Optuna; ValueError: a port that is no number.
        with self._in_one_line(RuntimeError, ValueError):
            address = parse(url)
            if address.drivername == "postgresql":  # SQLAlchemy 2.0 would take another driver
                address = address.set(drivername=f"postgresql+{POSTGRESQL_DRIVER}")
            if address.get_backend_name() not in {"sqlite", "postgresql"}:
                raise self._unusable("use sqlite:///FILE or postgresql://HOST/NAME")
            self._file = sqlite_file(address)
            if address.get_backend_name() == "sqlite" and not self._file:
                raise self._unusable("it names no file; use sqlite:///FILE")
            self._engine = sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool)
            with self._locked():  # or two processes would both make the tables
                self._storage = RDBStorage(
                    address.render_as_string(hide_password=False),
                    engine_kwargs={"poolclass": sqlalchemy.NullPool},  # no connection stays open
                )

    def open(
        self, name: str, attributes: Mapping[str, Any], *, pruner: BasePruner | None = None
    ) -> "SharedStudy":
        """The study of that name; a missing study is made.

        Raises: ConfigError if the study has other attributes, such as another encoder.
        """
        with self._locked_trials():
            study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                pruner=pruner or NopPruner(),
            )
            for attribute, value in attributes.items():
                if study.user_attrs.setdefault(attribute, value) != value:
                    raise ConfigError(
                        f"the study {name!r} in {masked(self.url)} was begun with another "
                        f"{attribute}: the cell has been run again since; delete the study with "
                        f"optuna delete-study, or name another database with --storage"
                    )
                study.set_user_attr(attribute, value)
        return SharedStudy(study, locked=self._locked_trials)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """A lock of the database, for the block; a process that dies releases the lock.

        Raises: ConfigError if the lock cannot be acquired. Errors of the block pass unchanged.
        """
        held = ExitStack()
        with self._in_one_line():
            held.enter_context(self._lock())
        try:
            yield
        finally:
            with self._in_one_line():
                held.close()

    @contextmanager
    def _locked_trials(self) -> Iterator[None]:
        """A lock for a block that only queries the database; the database's errors are one line."""
        with self._locked(), self._in_one_line():
            yield

    @contextmanager
    def _lock(self) -> Iterator[None]:
        if self._file is None:
            with self._engine.begin() as connection:
                number = seeding.derive("sweep", "trials")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({number})")
                yield
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._file.with_name(f"{self._file.name}.trials.lock")):
            yield

    def _unusable(self, reason: str) -> ConfigError:
        return ConfigError(f"cannot keep trials in --storage {masked(self.url)!r}: {reason}")

    @contextmanager
    def _in_one_line(self, *others: type[Exception]) -> Iterator[None]:
        """Errors of the database within the block, and `others`, as a ConfigError."""
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
            raise self._unusable(concealed(first_line(error), self.url)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a trial."""

    value: float | None = None  # None: the trial is not complete
    state: TrialState = TrialState.COMPLETE
    # Kept with the trial; "error" is the reason of a trial that failed.
    attributes: Mapping[str, Any] = field(default_factory=dict)


Evaluate = Callable[[Sequence[Trial]], Sequence[Outcome]]


class SharedStudy:
    """A study whose trials are claimed, given back and told under a lock.

    A trial that is RUNNING belongs to the process that claimed it: no two processes evaluate the
    same trial. Trials that are RUNNING or settled are never more than were asked for.
    """

    def __init__(
        self, study: optuna.Study, *, locked: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._study = study
        self._locked = locked
        self.name = study.study_name

    def settled(self) -> list[FrozenTrial]:
        """The trials that count, in their order; a trial that was given back does not count."""
        with self._locked():
            return [trial for trial in self._trials() if _is_settled(trial)]

    def complete(
        self,
        trials: int,
        evaluate: Evaluate,
        *,
        points: Sequence[Mapping[str, Any]],
        space: Mapping[str, BaseDistribution],
        batch: int,
        advance: Callable[[int], None],
        wait: bool = True,
    ) -> None:
        """Work off trials until `trials` of them are settled, by this or any other process.

        Without `wait`, until other processes are at all that are left.

        `points` are the parameters of the first trials. `evaluate` takes up to `batch` trials at
        once, and `advance` the number of trials settled since the last call.
        """
        with self._locked():
            for point in points[:trials]:
                self._study.enqueue_trial(dict(point), skip_if_exists=True)
        shown = 0
        while True:
            claimed = self._claim(trials, space=space, batch=batch)
            if claimed:
                self._work_off(claimed, evaluate)
            done = len(self.settled())
            advance(done - shown)
            shown = done
            if done >= trials or not (claimed or wait):
                return
            if not claimed:  # another process works at the last trials, or died over them
                time.sleep(WAIT_SECONDS)

    def outcome_of_twin(self, claimed: Trial) -> Outcome | None:
        """The outcome of a settled trial with the same parameters; None if there is no such trial.

        Waits for a trial with the same parameters that another process evaluates.
        """
        while True:
            with self._locked():
                twins = [
                    trial
                    for trial in self._trials()
                    if trial.number != claimed.number and trial.params == claimed.params
                ]
                for twin in filter(_is_settled, twins):
                    complete = twin.state is TrialState.COMPLETE
                    kept = {n: x for n, x in twin.user_attrs.items() if n not in BOOKKEEPING}
                    return Outcome(
                        value=twin.value if complete else None, state=twin.state, attributes=kept
                    )
                running = [twin for twin in twins if twin.state is TrialState.RUNNING]
                if not any("begun" in twin.user_attrs and not _is_lost(twin) for twin in running):
                    claimed.set_user_attr("begun", True)
                    return None
            time.sleep(WAIT_SECONDS)

    def is_hopeless(self, claimed: Trial, value: float, *, step: int) -> bool:
        """Whether the study's pruner gives up the trial, whose value after `step` is `value`."""
        with self._locked():
            if not self._is_running(claimed):
                return False
            claimed.report(value, step)
            return bool(claimed.should_prune())

    def _claim(
        self, trials: int, *, space: Mapping[str, BaseDistribution], batch: int
    ) -> list[Trial]:
        """A batch of trials for this process; empty if no trial is left to claim."""
        with self._locked():
            self._give_back([t for t in self._trials(TrialState.RUNNING) if _is_lost(t)])
            found = self._trials()
            live = sum(t.state is TrialState.RUNNING or _is_settled(t) for t in found)
            self._study.sampler = _sampler(self.name, len(found))
            claimed = []
            for _ in range(min(batch, trials - live)):
                trial = self._study.ask(dict(space))
                trial.set_user_attr("owner", _owner())
                claimed.append(trial)
            return claimed

    def _work_off(self, claimed: Sequence[Trial], evaluate: Evaluate) -> None:
        try:
            with self._renewed(claimed):
                found = evaluate(claimed)
        except BaseException:  # after an interruption, too, others may go on with the trials
            mine = {trial.number for trial in claimed}
            with self._locked():
                self._give_back([t for t in self._trials(TrialState.RUNNING) if t.number in mine])
            raise
        with self._locked():
            for trial, outcome in zip(claimed, found, strict=True):
                if self._is_running(trial):
                    for name, value in outcome.attributes.items():
                        trial.set_user_attr(name, value)
                    self._study.tell(trial, outcome.value, state=outcome.state)

    @contextmanager
    def _renewed(self, claimed: Sequence[Trial]) -> Iterator[None]:
        """Within the block the claims are renewed, so that other machines see them alive."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(RENEW_SECONDS):
                # A database that is away is reported when the outcomes are told.
                with suppress(ConfigError), self._locked():
                    for trial in filter(self._is_running, claimed):
                        trial.set_user_attr("owner", _owner())

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _give_back(self, lost: Sequence[FrozenTrial]) -> None:
        """Fail trials that lost their process, so that their parameters are tried again."""
        again = {trial.user_attrs.get("retry_of") for trial in self._study.get_trials()}
        for trial in lost:
            params = trial.system_attrs.get("fixed_params", trial.params)
            # In this order, a process that dies between the two neither loses nor doubles a trial.
            # A trial with the reason of its failure is settled.
            if params and trial.number not in again and "error" not in trial.user_attrs:
                self._study.enqueue_trial(params, user_attrs={"retry_of": trial.number})
            self._study.tell(trial.number, state=TrialState.FAIL)

    def _is_running(self, trial: Trial) -> bool:
        """Whether the trial is still this process's; False after it was given back as lost.

        Call under the lock.
        """
        return any(t.number == trial.number for t in self._trials(TrialState.RUNNING))

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)


def _is_settled(trial: FrozenTrial) -> bool:
    """Whether the trial counts: complete, pruned, or failed for a reason of its own."""
    failed = trial.state is TrialState.FAIL and "error" in trial.user_attrs
    return failed or trial.state in {TrialState.COMPLETE, TrialState.PRUNED}


def _sampler(study: str, trials: int) -> optuna.samplers.TPESampler:
    """TPE with every option that matters, as Optuna's defaults change between versions."""
    return optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS,
        n_ei_candidates=24,
        multivariate=True,
        group=False,
        constant_liar=True,  # the trials of a batch keep away from each other
        seed=seeding.derive("sweep", study, trials) % 2**32,
    )


def _owner() -> dict[str, Any]:
    """The identity of this process, and the time."""
    return {**Owner.here().as_dict(), "claimed": time.time()}


def _is_lost(trial: FrozenTrial) -> bool:
    """Whether the process of a RUNNING trial is gone. Call under the lock."""
    told = trial.user_attrs.get("owner")
    owner = Owner.read(told)
    if told is None or owner is None:  # the process died within the lock, before it left its name
        return True
    gone = owner.is_gone()
    # Not Optuna's datetime_start, which is in the time zone of the other machine.
    return bool(time.time() - told["claimed"] > LOST_AFTER_SECONDS) if gone is None else gone
