"""A connection to an MLflow store: taking turns, limits of time, experiments, searches."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from gim_bench.errors import TrackingError, first_line
from gim_bench.records.live import Attempt
from gim_bench.records.statistics import Complete
from gim_bench.system.addresses import concealed
from gim_bench.system.locks import LOCK_SECONDS, locked
from gim_bench.tracking.addresses import (
    DEFAULT_URI,
    PORTS,
    for_mlflow,
    lock_beside,
    pages_at,
    restore_command,
    scheme_of,
    store_file,
    unusable,
)
from gim_bench.tracking.entries import KEY, PARENT, SENT
from gim_bench.tracking.loading import import_mlflow, without_deprecations
from gim_bench.tracking.stores import Found, check_server, check_store, move_artifacts

if TYPE_CHECKING:  # MLflow takes seconds to import
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

PATIENCE_SECONDS = 120.0
POINTS_PER_CALL = 900  # MLflow takes a thousand metrics and tags at once
CALLS_AT_ONCE = 8  # MLflow's client keeps ten connections
T = TypeVar("T")


class Store:
    """The MLflow store at `uri`. MLflow's own global settings stay untouched."""

    def __init__(
        self,
        uri: str = DEFAULT_URI,
        *,
        patience_seconds: float | None = PATIENCE_SECONDS,
        complete: Complete = dict,
    ) -> None:
        """`patience_seconds` limits how long one record waits for a server, or for its turn at a
        SQLite file. With None a server is waited for without limit. `complete` is of `by_settings`.
        """
        self.uri = uri
        self.complete = complete
        self.patience_seconds = patience_seconds
        self.given_up = False  # set by whoever mirrors nothing more after an error
        self.artifacts_away = ""  # the reason why artifacts are not tried any more
        self._experiments: dict[str, str] = {}

    def check(self) -> None:
        """Check that the store can be used. Of a SQLite file MLflow is not imported.

        Raises: TrackingError in one line.
        """
        check_store(self.uri)
        if scheme_of(self.uri) != "sqlite":
            with self._prepared():
                self._within_patience(self._answers)

    def _answers(self) -> bool:
        """Raises: TrackingError if it is another program that answers."""
        try:
            self._client.search_experiments(max_results=1)
            found = self._client.get_experiment_by_name(experiment_name("none"))
        except Exception as error:
            reason = concealed(first_line(error), self.uri)
        else:
            if found is None or found.name == experiment_name("none"):
                return True
            reason = "it finds an experiment that was not asked for"
        raise unusable(self.uri, f"it does not answer as MLflow's API does ({reason})")

    # -- conditions of writing -------------------------------------------------------------------

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """Import MLflow and wait for this process's turn. Any error becomes a TrackingError."""
        try:
            with without_deprecations():
                if scheme_of(self.uri) in PORTS:
                    check_server(self.uri)
                import_mlflow()  # takes seconds, so before the turn, which others wait for
                with self._turn():
                    yield
        except TrackingError:
            raise
        except Exception as error:  # a mirror that breaks in any way must not cost a cell
            raise unusable(self.uri, error) from None

    def _turn(self) -> AbstractContextManager[None]:
        """One process at a time at a SQLite file, also while its tables are made."""
        if scheme_of(self.uri) != "sqlite":
            return nullcontext()
        seconds = LOCK_SECONDS if self.patience_seconds is None else self.patience_seconds
        return locked(lock_beside(store_file(self.uri)), timeout_seconds=seconds)

    def _within_patience(self, work: Callable[[], bool]) -> bool:
        """Return the result of `work`, or raise its error.

        MLflow limits the time of one request. A server that answers each request late, or asks
        for another try later, could hold up a run without limit.

        Raises: TrackingError if a server takes longer than the patience.
        """
        if self.patience_seconds is None or scheme_of(self.uri) == "sqlite":
            return work()
        outcome = _begun(work)
        try:
            return outcome.result(timeout=self.patience_seconds)
        except TimeoutError:
            if outcome.done():  # `work` itself has raised
                raise
            reason = f"the server took more than {self.patience_seconds:g} s"
            raise unusable(self.uri, reason) from None

    def _at_once(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """The results of independent calls, which a slow server answers at the same time."""
        if scheme_of(self.uri) == "sqlite":
            return [call() for call in calls]
        results: list[T] = []
        for start in range(0, len(calls), CALLS_AT_ONCE):
            outcomes = [_begun(call) for call in calls[start : start + CALLS_AT_ONCE]]
            wait(outcomes)  # no call is under way any more when an error is raised
            results.extend(outcome.result() for outcome in outcomes)
        return results

    @cached_property
    def _client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        for chatty in ("alembic", "mlflow.store.db.utils"):  # each migration, each try
            logging.getLogger(chatty).setLevel(logging.ERROR)
        return MlflowClient(tracking_uri=for_mlflow(self.uri))

    # -- reading ---
    def _search(self, experiment: str, tags: Mapping[str, str]) -> list[Found]:
        """The active runs that have all these tags."""
        wanted = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
        page = self._client.search_runs([experiment], filter_string=wanted)
        runs = list(page)
        while page.token:
            page = self._client.search_runs(
                [experiment], filter_string=wanted, page_token=page.token
            )
            runs += page
        return [
            Found(
                run.info.run_id,
                run.info.start_time,
                run.info.end_time,
                run.info.status,
                run.info.artifact_uri,
                run.data.tags,
            )
            for run in runs
        ]

    def _children(self, experiment: str, run_id: str) -> list[Found]:
        return self._search(experiment, {PARENT: run_id})

    def pages_of_cells(self, suite: str) -> dict[str, str]:
        """The page of each cell's run on a server, by the key of the cell.

        Empty where the store has nothing of the suite. Raises: TrackingError.
        """
        with self._prepared():
            experiment = self._client.get_experiment_by_name(experiment_name(suite))
            if experiment is None:
                return {}
            place = f"{pages_at(self.uri)}/#/experiments/{experiment.experiment_id}/runs"
            runs = self._search(experiment.experiment_id, {"kind": "cell"})
            return {run.tags[KEY]: f"{place}/{run.run_id}" for run in runs if KEY in run.tags}

    # -- cells that train ------------------------------------------------------------------------

    def _log_points(self, run_id: str, attempt: Attempt, *, sent: int) -> int:
        """Log the next points after the first `sent`, in one call; return how many are there."""
        from mlflow.entities import Metric, RunTag

        points = attempt.points[sent : sent + POINTS_PER_CALL]
        sent += len(points)
        self._client.log_batch(
            run_id,
            metrics=[Metric(p.name, p.value, p.milliseconds, p.step) for p in points],
            tags=[RunTag(SENT, str(sent))],
        )
        return sent

    # -- experiments -----------------------------------------------------------------------------

    def _experiment(self, suite: str) -> str:
        """The id of the suite's experiment, which is created if missing."""
        if suite not in self._experiments:
            self._experiments[suite] = self._find_or_create_experiment(experiment_name(suite))
        return self._experiments[suite]

    def _find_or_create_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return self._client.create_experiment(
                    name,
                    artifact_location=self._artifact_location(name),
                    # Opens the page on the table of runs, not on the page for language models.
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            except MlflowException:  # another process has created the experiment meanwhile
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            restore = restore_command(self.uri, experiment_id=experiment.experiment_id)
            raise unusable(self.uri, f"its experiment {name!r} was deleted; first run {restore}")
        self._follow_artifacts(experiment)
        return experiment.experiment_id

    def _follow_artifacts(self, experiment: "Experiment") -> None:
        """Keep the artifacts beside a SQLite file that was moved or copied with its folder.

        Artifacts that stayed where they were or are out of reach, and places that people chose, are
        left alone.
        """
        wanted, held = self._artifact_location(experiment.name), experiment.artifact_location
        old, new = local_path(held), local_path(wanted or "")
        if old is None or new is None or old.parts[-3:] != new.parts[-3:]:
            return
        try:
            moved = not old.exists() or (new.exists() and not new.samefile(old))
        except OSError:
            return
        if moved:
            move_artifacts(store_file(self.uri), old=held, new=str(wanted))

    def _artifact_location(self, experiment: str) -> str | None:
        """For SQLite the folder that MLflow's own server uses; elsewhere MLflow's own choice."""
        if scheme_of(self.uri) != "sqlite":
            return None
        return (store_file(self.uri).parent / "mlartifacts" / experiment).as_uri()


def _begun(work: Callable[[], T]) -> "Future[T]":
    """The outcome of `work`, which a thread begins; no program waits for the thread at its end."""
    outcome: Future[T] = Future()

    def settle() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=settle, daemon=True).start()
    return outcome


def experiment_name(suite: str) -> str:
    return f"gim_bench/{suite}"


def local_path(uri: str) -> Path | None:
    """The path that a file address names; None if artifacts lie elsewhere."""
    split = urlsplit(uri)
    return Path(url2pathname(split.path)) if split.scheme == "file" else None
