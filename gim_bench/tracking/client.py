"""The client of an MLflow store: an experiment per suite, a run per cell, a summary per method.

Records on disk are the truth and MLflow mirrors them. Any failure in here is one TrackingError, and
the record can be mirrored again later. Mirroring twice changes nothing, and neither does mirroring
from several processes: processes at the same SQLite file take turns. A server offers no lock, so
there each process looks again after its changes, until a look finds nothing to change.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from gim_bench.errors import TrackingError, class_and_first_line, first_line
from gim_bench.records.record import Record
from gim_bench.system.addresses import concealed
from gim_bench.system.locks import LOCK_SECONDS, locked
from gim_bench.tracking.addresses import (
    DEFAULT_URI,
    PORTS,
    for_mlflow,
    lock_beside,
    restore_command,
    scheme_of,
    store_file,
    unusable,
)
from gim_bench.tracking.entries import (
    CURVES,
    DIGEST,
    PARENT,
    PATCHES,
    PLACE,
    PLOT,
    RECORDS,
    Entry,
    cell_entry,
    rate_plot,
    summary_entries,
    sweep_entry,
)
from gim_bench.tracking.loading import import_mlflow, without_deprecations
from gim_bench.tracking.stores import (
    Found,
    check_server,
    check_store,
    move_artifacts,
    runs_in_file,
)

if TYPE_CHECKING:  # MLflow takes seconds to import
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

PATIENCE_SECONDS = 120.0
LOOKS = 20  # at a store that other processes change at the same time
LOOK_AGAIN_SECONDS = 0.1  # times the number of looks so far
# Limits of MLflow's API.
METRICS_PER_BATCH = 1000
PARAMETERS_PER_BATCH = 100
PARAMETER_CHARACTERS = 6000
TAG_CHARACTERS = 5000


class Tracker:
    """Writes records to the MLflow store at `uri`. MLflow's own global settings stay untouched."""

    def __init__(
        self, uri: str = DEFAULT_URI, *, patience_seconds: float | None = PATIENCE_SECONDS
    ) -> None:
        """`patience_seconds` limits how long one record waits for a server, or for its turn at a
        SQLite file. With None a server is waited for without limit.
        """
        self.uri = uri
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

    def mirror(self, record: Record, *, folder: Path | None = None) -> None:
        """Mirror a record as one MLflow run, unless the store holds the same content already.

        `folder` is the folder of the cell; its `record.json` becomes an artifact. A run of the same
        key with other content (a cell that failed, then succeeded) is replaced. MLflow keeps the
        old run among its deleted runs.

        Raises: TrackingError.
        """
        self.put(record.suite, cell_entry(record, folder=folder))

    def summarise(self, suite: str, records: Sequence[Record], *, place: str = "") -> None:
        """Mirror each method of a suite as one run: mean, deviation and interval over its seeds.

        Records of other settings, and other runs folders (`place`), have a summary of their own.

        Raises: TrackingError.
        """
        of_suite = [record for record in records if record.suite == suite]
        for entry in summary_entries(of_suite, place=place):
            self.put(suite, entry)

    def mirror_sweeps(self, record: Record) -> None:
        """Mirror the sweeps of a record as one run with the curves, and a child run for each trial.

        Raises: TrackingError.
        """
        self.put(record.suite, sweep_entry(record))

    def put(self, suite: str, entry: Entry) -> bool:
        """Leave exactly one run with the identity and the content of the entry.

        A run that another runs folder wrote later, or about more records, is left alone.

        Return whether the run, or an artifact of it, is new. Raises: TrackingError.
        """
        if self._is_there(suite, entry):
            return False
        with self._prepared():
            return self._within_patience(lambda: self._put(suite, entry))

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
        outcome: Future[bool] = Future()
        threading.Thread(target=_settle, args=(outcome, work), daemon=True).start()
        try:
            return outcome.result(timeout=self.patience_seconds)
        except TimeoutError:
            if outcome.done():  # `work` itself has raised
                raise
            reason = f"the server took more than {self.patience_seconds:g} s"
            raise unusable(self.uri, reason) from None

    @cached_property
    def _client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        for chatty in ("alembic", "mlflow.store.db.utils"):  # each migration, each try
            logging.getLogger(chatty).setLevel(logging.ERROR)
        return MlflowClient(tracking_uri=for_mlflow(self.uri))

    # -- reading ---------------------------------------------------------------------------------

    def _is_there(self, suite: str, entry: Entry) -> bool:
        """Whether a SQLite file holds the entry, or what the entry yields to.

        MLflow, which takes seconds to import, is not asked.
        """
        if scheme_of(self.uri) != "sqlite":
            return False
        file, experiment = store_file(self.uri), experiment_name(suite)
        present = runs_in_file(file, experiment=experiment, tags=entry.identity)
        if any(entry.yields_to(run) for run in present):
            return True
        mine = [run for run in present if entry.replaces(run)]
        if [run.tags.get(DIGEST) for run in mine] != [entry.digest()]:
            return False
        (run,) = mine
        children = runs_in_file(file, experiment=experiment, tags={PARENT: run.run_id})
        folder = _local_path(run.artifact_uri)
        return len(children) == len(entry.children) and all(
            folder is not None and (folder / name).is_file() for name in entry.artifacts
        )

    # -- writing ---------------------------------------------------------------------------------

    def _put(self, suite: str, entry: Entry) -> bool:
        """Change the store and look again, until a look finds nothing to change.

        A new run is complete and marked by its digest before an old run is deleted. So an
        interruption leaves a run too many, which the next call removes. Processes that write the
        same entry may delete each other's run; the last one to delete looks again afterwards.
        """
        experiment = self._experiment(suite)
        for look in range(LOOKS):
            if look > 1:  # other processes are changing the same runs
                time.sleep(LOOK_AGAIN_SECONDS * look)
            present = self._search(experiment, entry.identity)
            if any(entry.yields_to(run) for run in present):
                return False
            mine = [run for run in present if entry.replaces(run)]
            intact = [run for run in mine if self._holds(experiment, run, entry)]
            if not intact:
                self._create(experiment, entry)
            elif len(mine) == 1:
                return self._supply(intact[0].run_id, entry) or look > 0
            else:
                kept = min(intact, key=_age)
                for run in mine:
                    if run is not kept:
                        self._delete(experiment, run.run_id)
        raise unusable(self.uri, f"{entry.name!r} did not stay as it was written, {LOOKS} times")

    def _holds(self, experiment: str, run: Found, entry: Entry) -> bool:
        """Whether the run is complete, but for artifacts, and holds exactly the entry."""
        if run.tags.get(DIGEST) != entry.digest():
            return False
        # A request that was repeated because its answer was late may have made a child twice.
        children = self._children(experiment, run.run_id) if entry.children else []
        return len(children) == len(entry.children)

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
                run.info.artifact_uri,
                run.data.tags,
            )
            for run in runs
        ]

    def _children(self, experiment: str, run_id: str) -> list[Found]:
        return self._search(experiment, {PARENT: run_id})

    def _delete(self, experiment: str, run_id: str) -> None:
        """Delete a run and its children."""
        for child in self._children(experiment, run_id):
            self._client.delete_run(child.run_id)
        self._client.delete_run(run_id)

    def _create(self, experiment: str, entry: Entry) -> None:
        """Create a run that holds the entry, unless another process deletes the run meanwhile.

        A run that is begun and fails is removed.
        """
        from mlflow.exceptions import MlflowException

        run_id = self._begin(experiment, entry)
        try:
            self._fill(run_id, entry)
            for child in entry.children:
                self._fill(self._begin(experiment, child, parent=run_id), child)
            self._supply(run_id, entry)
            self._client.set_tag(run_id, DIGEST, entry.digest())
        except BaseException as error:
            # A process that was ready earlier may have taken this run for a broken one.
            is_lost = (
                isinstance(error, MlflowException)
                and error.error_code == "INVALID_PARAMETER_VALUE"
                and not self._is_active(run_id)
            )
            with suppress(Exception):  # a store that is away has failed before
                self._delete(experiment, run_id)
            if not is_lost:
                raise

    def _supply(self, run_id: str, entry: Entry) -> bool:
        """Write the artifacts that the run lacks; artifacts out of reach cost no number.

        Return whether any was written.
        """
        if self.artifacts_away or not entry.artifacts:
            return False
        try:
            missing = set(entry.artifacts) - self._artifacts(run_id)
            for name in missing & set(entry.files):
                self._client.log_text(run_id, entry.files[name], name)
            for path in entry.pictures:
                if f"{PATCHES}/{path.name}" in missing:
                    self._client.log_artifact(run_id, str(path), artifact_path=PATCHES)
            if CURVES in missing:
                columns = {name: [row[name] for row in entry.curves] for name in entry.curves[0]}
                self._client.log_table(run_id, columns, CURVES)
            if PLOT in missing:
                self._client.log_figure(run_id, rate_plot(entry.curves), PLOT)
        except Exception as error:  # of the library of any kind of artifact store
            self.artifacts_away = concealed(class_and_first_line(error), self.uri)
            return False
        return bool(missing)

    def _artifacts(self, run_id: str) -> set[str]:
        """The names of the artifacts that a run has, those in the folder of patches included."""
        found = {item.path for item in self._client.list_artifacts(run_id)}
        if PATCHES in found:
            found |= {item.path for item in self._client.list_artifacts(run_id, PATCHES)}
        return found

    def _is_active(self, run_id: str) -> bool:
        return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")

    def _begin(self, experiment: str, entry: Entry, *, parent: str | None = None) -> str:
        """Create a run with the tags of the entry, and return its id."""
        tags = entry.tags | entry.identity | ({} if parent is None else {PARENT: parent})
        if entry.records:
            tags |= {RECORDS: " ".join(entry.records), PLACE: entry.place}
        run = self._client.create_run(
            experiment,
            start_time=entry.started_ms,
            run_name=entry.name,
            tags={name: value[:TAG_CHARACTERS] for name, value in tags.items()},
        )
        return str(run.info.run_id)

    def _fill(self, run_id: str, entry: Entry) -> None:
        """Log the numbers and settings of the entry, and end the run."""
        from mlflow.entities import Metric, Param

        now = entry.finished_ms or int(time.time() * 1000)
        metrics = [Metric(point.name, point.value, now, point.step) for point in entry.points]
        params = [Param(name, value[:PARAMETER_CHARACTERS]) for name, value in entry.params.items()]
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_BATCH])
        for start in range(0, len(params), PARAMETERS_PER_BATCH):
            self._client.log_batch(run_id, params=params[start : start + PARAMETERS_PER_BATCH])
        if entry.status != "RUNNING":
            self._client.set_terminated(run_id, status=entry.status, end_time=now)

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

        Artifacts that stayed where they were, and places that people chose, are left alone.
        """
        wanted, held = self._artifact_location(experiment.name), experiment.artifact_location
        old, new = _local_path(held), _local_path(wanted or "")
        if old is None or new is None or old.parts[-3:] != new.parts[-3:]:
            return
        if not old.exists() or (new.exists() and not new.samefile(old)):
            move_artifacts(store_file(self.uri), old=held, new=str(wanted))

    def _artifact_location(self, experiment: str) -> str | None:
        """For SQLite the folder that MLflow's own server uses; elsewhere MLflow's own choice."""
        if scheme_of(self.uri) != "sqlite":
            return None
        return (store_file(self.uri).parent / "mlartifacts" / experiment).as_uri()


def _settle(outcome: "Future[bool]", work: Callable[[], bool]) -> None:
    try:
        outcome.set_result(work())
    except BaseException as error:
        outcome.set_exception(error)


def experiment_name(suite: str) -> str:
    return f"gim_bench/{suite}"


def _local_path(uri: str) -> Path | None:
    """The path that a file address names; None if artifacts lie elsewhere."""
    split = urlsplit(uri)
    return Path(url2pathname(split.path)) if split.scheme == "file" else None


def _age(run: Found) -> tuple[int, str]:
    """The order of runs with the same content, oldest first, in which all processes agree."""
    return run.started_ms, run.run_id
