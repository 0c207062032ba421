"""MLflow as a mirror of the records: an experiment per suite, a run per cell, a summary per method.

The record on disk is the truth. Whatever goes wrong here is one TrackingError, no cell is lost,
and the record can be mirrored again later: mirroring twice changes nothing, and so does mirroring
in several processes. Those that share a SQLite file take turns. A server has no lock to offer, so
there everyone looks again after every change, until nothing is left to do.
"""

import importlib
import importlib.util
import logging
import os
import socket
import sqlite3
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gim_bench.errors import TrackingError
from gim_bench.records.record import Record
from gim_bench.system.locks import locked
from gim_bench.tracking.addresses import (
    DEFAULT_URI,
    PORTS,
    lock_beside,
    reason_of,
    scheme_of,
    sqlite_file,
    without_password,
)
from gim_bench.tracking.entries import (
    DIGEST,
    PARENT,
    Entry,
    cell_entry,
    rate_plot,
    summary_entries,
    sweep_entry,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mlflow import MlflowClient
    from mlflow.entities import Run


CONNECT_SECONDS = 5
# What mirroring one cell may hold up a run, and how long processes wait for each other's.
PATIENCE_SECONDS = 120
LOCK_SECONDS = 120
LOOKS = 20  # at a store that other processes change at the same time
LOOK_AGAIN_SECONDS = 0.1  # longer each time
# Limits of MLflow's API.
METRICS_PER_BATCH = 1000
PARAMETERS_PER_BATCH = 100
PARAMETER_CHARACTERS = 6000
TAG_CHARACTERS = 5000


class Tracker:
    """Writes records to the MLflow store at `uri`; MLflow's own global settings stay untouched."""

    def __init__(
        self, uri: str = DEFAULT_URI, *, patience_seconds: float | None = PATIENCE_SECONDS
    ) -> None:
        """After `patience_seconds` a server's answer is not waited for any longer; None: always."""
        self.uri = uri
        self.patience_seconds = patience_seconds
        self.given_up = False  # nothing should be mirrored any more: an earlier try has failed
        self._experiments: dict[str, str] = {}

    @property
    def destination(self) -> str:
        """Which store this is: the address, and for a SQLite file the very file behind it."""
        if scheme_of(self.uri) != "sqlite":
            return self.uri
        path = sqlite_file(self.uri)
        return f"{path} {path.stat().st_ino}" if path.exists() else f"{path} missing"

    def check(self) -> None:
        """Answers within seconds, without importing MLflow; meant to be called before training.

        Raises: TrackingError in one line where the store cannot be used.
        """
        if importlib.util.find_spec("mlflow") is None:
            raise self._unusable("MLflow is not installed: pip install mlflow")
        scheme = scheme_of(self.uri)
        if scheme == "sqlite":
            self._check_sqlite()
        elif scheme in PORTS:
            self._check_server(PORTS[scheme])
        else:
            raise self._unusable("use sqlite:///FILE or http(s)://HOST:PORT")

    def mirror(self, record: Record, *, folder: Path | None = None) -> None:
        """The record as one MLflow run, made anew only where its content is not there already.

        `folder` is the cell's own; its `record.json` becomes an artifact. A run of the same key
        with other content (a cell that failed, then succeeded) is replaced: MLflow keeps the old
        one among its deleted runs.

        Raises: TrackingError.
        """
        self.put(record.suite, cell_entry(record, folder=folder))

    def summarise(self, suite: str, records: Sequence[Record]) -> None:
        """One run per method with mean, standard deviation and confidence interval over its seeds.

        Records of other settings are summed up in a run of their own. Raises: TrackingError.
        """
        for entry in summary_entries([record for record in records if record.suite == suite]):
            self.put(suite, entry)

    def mirror_sweeps(self, record: Record) -> None:
        """The record's sweeps as one MLflow run with the curves, and a child run for each trial.

        Raises: TrackingError.
        """
        self.put(record.suite, sweep_entry(record))

    def put(self, suite: str, entry: Entry) -> bool:
        """Leaves exactly one run with the entry's identity, holding it; False if it was there.

        Raises: TrackingError.
        """
        with self._in_one_line():
            return self._within_patience(lambda: self._put(suite, entry))

    # -- writing ---------------------------------------------------------------------------------

    @cached_property
    def _client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        for chatty in ("alembic", "mlflow.store.db.utils"):  # one line for each migration
            logging.getLogger(chatty).setLevel(logging.WARNING)
        return MlflowClient(tracking_uri=self.uri)

    def _put(self, suite: str, entry: Entry) -> bool:
        """Changes the store and looks again, until a look finds nothing to change.

        The new run is complete, marked by its digest, before an old one goes: an interruption
        leaves a run too many, which the next call removes. Processes at the same entry may take
        away each other's run, but the last one to do so looks afterwards.
        """
        experiment = self._experiment(suite)
        for look in range(LOOKS):
            if look > 1:  # others are at it, too
                time.sleep(LOOK_AGAIN_SECONDS * look)
            found = self._search(experiment, entry.identity)
            intact = [run for run in found if self._holds(run, entry)]
            if not intact:
                self._create(experiment, entry)
            elif len(found) == 1:
                return look > 0
            else:
                kept = min(intact, key=_age)
                for run in found:
                    if run is not kept:
                        self._delete(experiment, run.info.run_id)
        raise self._unusable(f"{entry.name!r} did not stay as it was written, {LOOKS} times")

    def _holds(self, run: "Run", entry: Entry) -> bool:
        """Whether the run is complete, and neither more nor less than the entry."""
        if run.data.tags.get(DIGEST) != entry.digest():
            return False
        # A request that was sent again, for want of an answer, may have made a child twice.
        children = self._children(run.info.experiment_id, run.info.run_id) if entry.children else []
        return len(children) == len(entry.children)

    def _search(self, experiment: str, tags: Mapping[str, str]) -> "list[Run]":
        """The active runs that have all these tags."""
        wanted = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
        page = self._client.search_runs([experiment], filter_string=wanted)
        found = list(page)
        while page.token:
            page = self._client.search_runs(
                [experiment], filter_string=wanted, page_token=page.token
            )
            found += page
        return found

    def _children(self, experiment: str, run_id: str) -> "list[Run]":
        return self._search(experiment, {PARENT: run_id})

    def _delete(self, experiment: str, run_id: str) -> None:
        """The run and its children."""
        for child in self._children(experiment, run_id):
            self._client.delete_run(child.info.run_id)
        self._client.delete_run(run_id)

    def _create(self, experiment: str, entry: Entry) -> None:
        """A new run that holds the entry, unless another process takes it away meanwhile."""
        from mlflow.exceptions import MlflowException

        run_id = self._begin(experiment, entry)
        try:
            self._fill(run_id, entry)
            for child in entry.children:
                self._fill(self._begin(experiment, child, parent=run_id), child)
            if entry.curves:
                columns = {name: [row[name] for row in entry.curves] for name in entry.curves[0]}
                self._client.log_table(run_id, columns, "curves.json")
                self._client.log_figure(run_id, rate_plot(entry.curves), "curves.png")
            self._client.set_tag(run_id, DIGEST, entry.digest())
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE" or self._is_active(run_id):
                raise
            # To one that was done earlier, this run looked like what an interruption leaves.
            self._delete(experiment, run_id)

    def _is_active(self, run_id: str) -> bool:
        return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")

    def _begin(self, experiment: str, entry: Entry, *, parent: str | None = None) -> str:
        """A new run with the entry's tags; its id."""
        tags = entry.tags | entry.identity | ({} if parent is None else {PARENT: parent})
        run = self._client.create_run(
            experiment,
            start_time=entry.started_ms,
            run_name=entry.name,
            tags={name: value[:TAG_CHARACTERS] for name, value in tags.items()},
        )
        return str(run.info.run_id)

    def _fill(self, run_id: str, entry: Entry) -> None:
        """Gives the run the entry's numbers and texts, and ends it."""
        from mlflow.entities import Metric, Param

        now = entry.finished_ms or int(time.time() * 1000)
        metrics = [Metric(point.name, point.value, now, point.step) for point in entry.points]
        params = [Param(name, value[:PARAMETER_CHARACTERS]) for name, value in entry.params.items()]
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_BATCH])
        for start in range(0, len(params), PARAMETERS_PER_BATCH):
            self._client.log_batch(run_id, params=params[start : start + PARAMETERS_PER_BATCH])
        for name, text in entry.files.items():
            self._client.log_text(run_id, text, name)
        if entry.status != "RUNNING":
            self._client.set_terminated(run_id, status=entry.status, end_time=now)

    def _experiment(self, suite: str) -> str:
        """Id of the suite's experiment, which is made where it is missing."""
        if suite not in self._experiments:
            self._experiments[suite] = self._find_or_create_experiment(f"gim_bench/{suite}")
        return self._experiments[suite]

    def _find_or_create_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return self._client.create_experiment(
                    name,
                    artifact_location=self._artifact_location(name),
                    # Opens the page on the table of runs, not on the one for language models.
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            except MlflowException:  # made by another process in the meantime
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            raise self._unusable(
                f"its experiment {name!r} was deleted: "
                f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
            )
        return experiment.experiment_id

    def _artifact_location(self, experiment: str) -> str | None:
        """Beside a SQLite file, where MLflow's own server keeps them; elsewhere its own choice."""
        if scheme_of(self.uri) != "sqlite":
            return None
        return (sqlite_file(self.uri).parent / "mlartifacts" / experiment).as_uri()

    # -- checking --------------------------------------------------------------------------------

    def _check_sqlite(self) -> None:
        path = sqlite_file(self.uri)
        try:
            if path.exists():
                self._try_to_write(path)
            elif not path.parent.is_dir():
                raise self._unusable(f"there is no folder {path.parent}")
            else:
                tempfile.TemporaryFile(dir=path.parent).close()
        except TimeoutError:
            pass  # another process is at it, so it can be used
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(f"{path}: {reason_of(error)}") from None

    def _try_to_write(self, path: Path) -> None:
        """Raises: sqlite3.Error; TimeoutError where another process is writing."""
        with (
            locked(lock_beside(path), timeout_seconds=CONNECT_SECONDS),
            closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)) as database,
        ):
            database.execute("BEGIN IMMEDIATE")
            # Closing undoes it. BEGIN alone succeeds on a file that cannot be written.
            database.execute("CREATE TABLE gim_bench_can_write (x)")

    def _check_server(self, default_port: int) -> None:
        try:
            address = urlsplit(self.uri)
            host, port = address.hostname or "", address.port or default_port
        except ValueError as error:  # a port that is no number
            raise self._unusable(str(error)) from None
        if not host:
            raise self._unusable("it names no host")
        scheme = scheme_of(self.uri)
        if scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
            return  # only the proxy can tell
        try:
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise self._unusable(
                f"no answer from {host} port {port} ({reason_of(error)})"
            ) from None

    def _unusable(self, reason: str) -> TrackingError:
        return TrackingError(
            f"cannot track to {without_password(self.uri)!r}: {reason}; the records "
            f"stay on disk: run with --no-tracking, mirror them later with python -m gim_bench sync"
        )

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        """One process at a time at a SQLite file; whatever MLflow raises, as a TrackingError."""
        try:
            with _warnings_unheard():
                if scheme_of(self.uri) in PORTS:
                    self._check_server(PORTS[scheme_of(self.uri)])
                _import_mlflow()  # which takes seconds, so others should not have to wait for it
                with self._turn():
                    yield
        except TrackingError:
            raise
        except Exception as error:  # a mirror that breaks in any way must not cost a cell
            raise self._unusable(reason_of(error)) from error

    def _turn(self) -> "AbstractContextManager[None]":
        """One process at a time where the store is a SQLite file, also when its tables are made."""
        if scheme_of(self.uri) != "sqlite":
            return nullcontext()
        return locked(lock_beside(sqlite_file(self.uri)), timeout_seconds=LOCK_SECONDS)

    def _within_patience(self, work: Callable[[], bool]) -> bool:
        """What `work` returns or raises; TimeoutError where a server keeps it waiting.

        MLflow's limits are for one request. A server that answers each of them late, or asks to be
        asked again later, would hold up a run for as long as it likes.
        """
        if self.patience_seconds is None or scheme_of(self.uri) == "sqlite":
            return work()
        outcome: Future[bool] = Future()
        threading.Thread(target=_settle, args=(outcome, work), daemon=True).start()
        try:
            return outcome.result(timeout=self.patience_seconds)
        except TimeoutError:
            if outcome.done():
                raise
            raise self._unusable(f"it took more than {self.patience_seconds:g} s") from None


def _settle(outcome: "Future[bool]", work: Callable[[], bool]) -> None:
    try:
        outcome.set_result(work())
    except BaseException as error:
        outcome.set_exception(error)


def _import_mlflow() -> None:
    """With limits that let a server which has gone away cost seconds, not MLflow's minutes."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # would wait for a network
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")
    importlib.import_module("mlflow")


@contextmanager
def _warnings_unheard() -> Iterator[None]:
    with warnings.catch_warnings():
        # MLflow 3.17 declares its tables with a strategy that SQLAlchemy 2.1 deprecates.
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy")
        # And chooses a table's columns in a way that pandas 3 deprecates.
        warnings.filterwarnings("ignore", message="For backward compatibility, 'str' dtypes")
        yield


def _age(run: "Run") -> tuple[int, str]:
    """What all processes order runs of the same content by, oldest first."""
    return run.info.start_time, run.info.run_id


# -- what a run holds ------------------------------------------------------------------------------


# -- addresses and errors --------------------------------------------------------------------------
