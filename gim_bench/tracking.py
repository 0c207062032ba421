"""MLflow as a mirror of the records: an experiment per suite, a run per cell, a summary per method.

The record on disk is the truth. Whatever goes wrong here is one TrackingError, no cell is lost,
and the record can be mirrored again later: mirroring twice changes nothing, and so does mirroring
in several processes. Those that share a SQLite file take turns. A server has no lock to offer, so
there everyone looks again after every change, until nothing is left to do.
"""

import importlib
import importlib.util
import json
import logging
import math
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
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from gim_bench.contract import Record, Status
from gim_bench.errors import TrackingError
from gim_bench.locks import locked
from gim_bench.seals import digest
from gim_bench.statistics import by_settings, flatten, settings_of, summarise_metrics

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Run

DEFAULT_URI = "sqlite:///mlflow.db"  # what a bare `mlflow ui` in the same folder opens

CONNECT_SECONDS = 5
# What mirroring one cell may hold up a run, and how long processes wait for each other's.
PATIENCE_SECONDS = 120
LOCK_SECONDS = 120
LOOKS = 20  # at a store that other processes change at the same time
LOOK_AGAIN_SECONDS = 0.1  # longer each time
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
# Limits of MLflow's API.
METRICS_PER_BATCH = 1000
PARAMETERS_PER_BATCH = 100
PARAMETER_CHARACTERS = 6000
TAG_CHARACTERS = 5000

STATUS = {Status.RUNNING: "RUNNING", Status.DONE: "FINISHED", Status.FAILED: "FAILED"}
KEY = "gim_bench.key"
SETTINGS = "gim_bench.settings"
DIGEST = "gim_bench.digest"
ONE_EXPERIMENT = ("data_sha256", "git_commit")  # tags in which the seeds of a mean should agree
PARENT = "mlflow.parentRunId"  # under which MLflow's pages show a run's children


class Point(NamedTuple):
    """A metric's value at a step."""

    name: str
    value: float
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One MLflow run, in full: what it is found by, and what it holds."""

    name: str
    identity: dict[str, str]  # tags; at most one run in the experiment has them all
    tags: dict[str, str]
    params: Mapping[str, str]
    points: Sequence[Point]
    status: str
    started_ms: int | None
    finished_ms: int | None
    files: Mapping[str, str] = field(default_factory=dict)  # name: text
    curves: Sequence[Mapping[str, Any]] = ()  # the rows of a sweep, a table and a plot
    children: Sequence["Entry"] = ()

    def digest(self) -> str:
        """sha256 of everything in the entry."""
        return digest(asdict(self))


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
        if _scheme(self.uri) != "sqlite":
            return self.uri
        path = _sqlite_file(self.uri)
        return f"{path} {path.stat().st_ino}" if path.exists() else f"{path} missing"

    def check(self) -> None:
        """Answers within seconds, without importing MLflow; meant to be called before training.

        Raises: TrackingError in one line where the store cannot be used.
        """
        if importlib.util.find_spec("mlflow") is None:
            raise self._unusable("MLflow is not installed: pip install mlflow")
        scheme = _scheme(self.uri)
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
                self._client.log_figure(run_id, _plot(entry.curves), "curves.png")
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
        if _scheme(self.uri) != "sqlite":
            return None
        return (_sqlite_file(self.uri).parent / "mlartifacts" / experiment).as_uri()

    # -- checking --------------------------------------------------------------------------------

    def _check_sqlite(self) -> None:
        path = _sqlite_file(self.uri)
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
            raise self._unusable(f"{path}: {_reason(error)}") from None

    def _try_to_write(self, path: Path) -> None:
        """Raises: sqlite3.Error; TimeoutError where another process is writing."""
        with (
            locked(_lock_beside(path), timeout_seconds=CONNECT_SECONDS),
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
        scheme = _scheme(self.uri)
        if scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
            return  # only the proxy can tell
        try:
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise self._unusable(f"no answer from {host} port {port} ({_reason(error)})") from None

    def _unusable(self, reason: str) -> TrackingError:
        return TrackingError(
            f"cannot track to {_without_password(self.uri)!r}: {reason}; the records "
            f"stay on disk: run with --no-tracking, mirror them later with python -m gim_bench sync"
        )

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        """One process at a time at a SQLite file; whatever MLflow raises, as a TrackingError."""
        try:
            with _warnings_unheard():
                if _scheme(self.uri) in PORTS:
                    self._check_server(PORTS[_scheme(self.uri)])
                _import_mlflow()  # which takes seconds, so others should not have to wait for it
                with self._turn():
                    yield
        except TrackingError:
            raise
        except Exception as error:  # a mirror that breaks in any way must not cost a cell
            raise self._unusable(_reason(error)) from error

    def _turn(self) -> "AbstractContextManager[None]":
        """One process at a time where the store is a SQLite file, also when its tables are made."""
        if _scheme(self.uri) != "sqlite":
            return nullcontext()
        return locked(_lock_beside(_sqlite_file(self.uri)), timeout_seconds=LOCK_SECONDS)

    def _within_patience(self, work: Callable[[], bool]) -> bool:
        """What `work` returns or raises; TimeoutError where a server keeps it waiting.

        MLflow's limits are for one request. A server that answers each of them late, or asks to be
        asked again later, would hold up a run for as long as it likes.
        """
        if self.patience_seconds is None or _scheme(self.uri) == "sqlite":
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


def cell_entry(record: Record, *, folder: Path | None = None) -> Entry:
    """The MLflow run that mirrors `record`."""
    return Entry(
        name=f"{record.method} seed {record.seed}",
        identity={KEY: record.key, "kind": "cell"},
        tags=_tags(record) | {"seed": str(record.seed), "status": record.status.value},
        params=_params(record.config),
        points=[*_results(record), *_epoch_losses(record)],
        status=STATUS[record.status],
        started_ms=_milliseconds(record.provenance.get("started_at")),
        finished_ms=_milliseconds(record.provenance.get("finished_at")),
        files=_files(record, folder),
    )


def suite_entries(records: Sequence[Record], *, folder_of: Callable[[Record], Path]) -> list[Entry]:
    """Every MLflow run that a suite's records ask for; cells that are still running, none."""
    ended = [record for record in records if record.status is not Status.RUNNING]
    return [
        *(cell_entry(record, folder=folder_of(record)) for record in ended),
        *(sweep_entry(record) for record in ended if record.sweeps),
        *summary_entries(ended),
    ]


def summary_entries(records: Sequence[Record]) -> list[Entry]:
    """One for each method and its settings, in the order of the records."""
    return [summary_entry(alike) for alike in by_settings(records)]


def summary_entry(records: Sequence[Record]) -> Entry:
    """The MLflow run that sums up one method's finished `records`, one for each seed."""
    first, n = records[0], len(records)
    seeds = ", ".join(str(record.seed) for record in sorted(records, key=lambda r: r.seed))
    flat, tags = [_params(record.config) for record in records], [_tags(r) for r in records]
    ends = [_milliseconds(record.provenance.get("finished_at")) for record in records]
    finished_ms = max((end for end in ends if end is not None), default=None)
    return Entry(
        name=f"{first.method} summary, n={n}",
        identity={
            "suite": first.suite,
            "method": first.method,
            "kind": "summary",
            SETTINGS: digest(settings_of(first)),
        },
        tags=_common(tags) | {"seeds": seeds, "mixed": _mixed(tags)},
        params=_common(flat),
        points=_summary_points(records),
        status="FINISHED",
        started_ms=finished_ms,  # sorted by time, as MLflow does, it stands above its cells
        finished_ms=finished_ms,
    )


def sweep_entry(record: Record) -> Entry:
    """The MLflow run that mirrors the sweeps of `record`; its children are the trials."""
    rows = [
        {"probe": name, "trial": number, **tried}
        for name, found in record.sweeps.items()
        for number, tried in enumerate(found.get("curve", ()))
    ]
    return Entry(
        name=f"{record.method} seed {record.seed} sweep",
        identity={KEY: record.key, "kind": "sweep"},
        tags=_tags(record) | {"seed": str(record.seed)},
        params=_params(record.config),
        points=_sweep_points(record),
        status="FINISHED",
        started_ms=None,
        finished_ms=None,
        curves=rows,
        children=[_trial_entry(record, row) for row in rows],
    )


def _trial_entry(record: Record, row: Mapping[str, Any]) -> Entry:
    measured = ("validation_accuracy", "validation_loss")
    tags = {"suite": record.suite, "method": record.method, "seed": str(record.seed)}
    return Entry(
        name=f"{row['probe']} {row['learning_rate']:.2g}",
        identity={KEY: record.key, "kind": "probe_trial"},
        tags=tags | {"module": row["probe"]},
        params={name: str(row[name]) for name in ("trial", "learning_rate", "weight_decay")},
        points=[Point(name, row[name], 0) for name in measured if row[name] is not None],
        status="FINISHED",
        started_ms=None,
        finished_ms=None,
    )


def _sweep_points(record: Record) -> list[Point]:
    """The best rate and the paper's of every probe, and what they reach."""
    return [
        Point(f"{role}/{measured}/{name}", value, 0)
        for name, found in record.sweeps.items()
        for role in ("best", "paper")
        for measured, value in found[role].items()
    ]


def _plot(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Validation accuracy against the learning rate, a line for each probe."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="validation accuracy, %")
    for name in dict.fromkeys(row["probe"] for row in rows):
        curve = sorted(
            (row["learning_rate"], row["validation_accuracy"])
            for row in rows
            if row["probe"] == name
        )
        axes.plot(*zip(*curve, strict=True), marker=".", label=name)
    axes.legend()
    return figure


def _tags(record: Record) -> dict[str, str]:
    """What to group and filter by, the same for every seed unless the machine has changed."""
    method: Mapping[str, Any] = record.config.get("method", {})
    found = record.provenance
    on_gpu = (found.get("device") or record.config.get("device")) == "cuda"
    tags = {
        "suite": record.suite,
        "method": record.method,
        "dataset": record.dataset,
        "objective": method.get("objective"),
        "gradient_flow": method.get("gradient_flow"),
        "trains_on": method.get("trains_on"),
        "data_sha256": found.get("data_sha256"),
        "git_commit": found.get("git_commit"),
        "git_dirty": found.get("git_dirty"),
        "hardware": found.get("gpu") if on_gpu else found.get("cpu"),
        "device": found.get("device"),
        "precision": found.get("precision"),
        "host": found.get("host"),
        # Names that MLflow's pages show in columns of their own.
        "mlflow.source.name": "gim_bench",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": found.get("git_commit"),
        "mlflow.note.content": "\n\n".join(filter(None, [record.protocol, record.error])),
    }
    return {name: _text(value) for name, value in tags.items() if value not in (None, "")}


def _params(config: Mapping[str, Any]) -> dict[str, str]:
    return {name: _text(value) for name, value in flatten(config).items()}


def _results(record: Record) -> list[Point]:
    return [Point(name, v, 0) for name, v in record.metrics.items() if math.isfinite(v)]


def _epoch_losses(record: Record) -> list[Point]:
    """Finite losses only: MLflow would draw infinity as 1.8e308."""
    return [
        Point(f"epoch_loss/{unit}", loss, int(epoch["epoch"]))
        for epoch in record.losses
        for unit, loss in epoch.items()
        if unit != "epoch" and math.isfinite(loss)
    ]


def _summary_points(records: Sequence[Record]) -> list[Point]:
    points = [Point("n", len(records), 0)]
    for name, summary in summarise_metrics(records).items():
        points.append(Point(name, summary.mean, 0))
        if summary.std is not None and summary.ci95 is not None:
            points.append(Point(f"{name}/std", summary.std, 0))
            points.append(Point(f"{name}/ci95", summary.ci95, 0))
    return points


def _files(record: Record, folder: Path | None) -> dict[str, str]:
    files = {}
    if folder is not None and (folder / "record.json").is_file():
        files["record.json"] = (folder / "record.json").read_text(encoding="utf-8")
    if record.probe_curves:
        rows = [
            f"{module},{rate},{accuracy}"
            for module, curve in record.probe_curves.items()
            for rate, accuracy in curve
        ]
        files["probe_curves.csv"] = "\n".join(
            ["module,learning_rate,validation_accuracy_percent", *rows, ""]
        )
    return files


def _mixed(tables: Sequence[dict[str, str]]) -> str:
    """Which of data and code the tables do not agree on: a mean over both is of no experiment."""
    found = {name: {table.get(name) for table in tables} for name in ONE_EXPERIMENT}
    return ", ".join(name for name, values in found.items() if len(values) > 1) or "nothing"


def _common(tables: Sequence[dict[str, str]]) -> dict[str, str]:
    """What all tables agree on."""
    first, *others = tables
    return {name: v for name, v in first.items() if all(t.get(name) == v for t in others)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _milliseconds(moment: Any) -> int | None:
    """Milliseconds since 1970 of an ISO 8601 time; None where there is none."""
    return None if not moment else int(datetime.fromisoformat(str(moment)).timestamp() * 1000)


# -- addresses and errors --------------------------------------------------------------------------


def _scheme(uri: str) -> str:
    """Lower case, without a database driver: "postgresql" for postgresql+psycopg2://host/name."""
    scheme, separator, _ = uri.partition(":")
    return scheme.partition("+")[0].lower() if separator else ""


def _sqlite_file(uri: str) -> Path:
    """The file that a SQLite address names, absolute. Raises: TrackingError where it names none."""
    path = uri.partition(":///")[2].partition("?")[0]
    if path in ("", ":memory:"):
        raise TrackingError(
            f"cannot track to {uri!r}: it names no file; use sqlite:///FILE, or --no-tracking"
        )
    return Path(path).absolute()


def _lock_beside(path: Path) -> Path:
    return path.resolve().with_name(f"{path.resolve().name}.lock")


def _without_password(uri: str) -> str:
    credentials, at, rest = uri.rpartition("@")
    return f"{credentials.partition('://')[0]}://…@{rest}" if at else uri


def _reason(error: Exception) -> str:
    """The first line of what `error` says, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
