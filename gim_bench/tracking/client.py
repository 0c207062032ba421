"""The client of an MLflow store: an experiment per suite, a run per cell, a summary per method.

Records on disk are the truth and MLflow mirrors them. Any failure in here is one TrackingError, and
the record can be mirrored again later. Mirroring twice changes nothing, and neither does mirroring
from several processes: processes at the same SQLite file take turns. A server offers no lock, so
there each process looks again after its changes, until a look finds nothing to change.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gim_bench.errors import class_and_first_line
from gim_bench.records.live import Attempt
from gim_bench.records.record import Record
from gim_bench.system.addresses import concealed
from gim_bench.tracking.addresses import scheme_of, store_file, unusable
from gim_bench.tracking.artifacts import names_in, repository_of, write_artifacts
from gim_bench.tracking.connection import Store, experiment_name, local_path
from gim_bench.tracking.entries import (
    ATTEMPT,
    CURVES,
    DIGEST,
    PARENT,
    PLACE,
    RECORDS,
    SENT,
    Entry,
    cell_entry,
    summary_entries,
    sweep_entry,
)
from gim_bench.tracking.modules import SOURCE_TYPE, ModuleModel
from gim_bench.tracking.stores import Found, runs_in_file

if TYPE_CHECKING:  # MLflow takes seconds to import
    from mlflow.entities import RunInfo
    from mlflow.exceptions import MlflowException

T = TypeVar("T")

LOOKS = 20  # at a store that other processes change at the same time
LOOK_AGAIN_SECONDS = 0.1  # times the number of looks so far
# Limits of MLflow's API.
METRICS_PER_BATCH = 900  # a thousand with the parameters
PARAMETERS_PER_BATCH = 100
PARAMETER_CHARACTERS = 6000
TAG_CHARACTERS = 5000


class Tracker(Store):
    """Writes records to an MLflow store."""

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
        for entry in summary_entries(of_suite, place=place, complete=self.complete):
            self.put(suite, entry)

    def mirror_sweeps(self, record: Record, *, folder: Path | None = None) -> None:
        """Mirror the sweeps of a record as one run with the curves, and a child run for each trial.

        `folder` is the folder of the cell.

        Raises: TrackingError.
        """
        self.put(record.suite, sweep_entry(record, folder=folder))

    def put(self, suite: str, entry: Entry) -> bool:
        """Leave exactly one run with the identity and the content of the entry.

        A run that another runs folder wrote later, or about more records, is left alone.

        Return whether the run, or an artifact of it, is new. Raises: TrackingError.
        """
        if self._is_there(suite, entry):
            return False
        with self._prepared():
            return self._within_patience(lambda: self._put(suite, entry))

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
        folder = local_path(run.artifact_uri)
        try:
            return len(children) == len(entry.children) and all(
                folder is not None and (folder / name).is_file() for name in entry.artifacts
            )
        except OSError:  # artifacts out of reach
            return False

    # -- writing ---------------------------------------------------------------------------------

    def _put(self, suite: str, entry: Entry) -> bool:
        """Change the store and look again, until a look finds nothing to change.

        A new run is complete and marked by its digest before an old run is deleted. So an
        interruption leaves a run too many, which the next call removes. Processes that write the
        same entry may delete each other's run; the last one to delete looks again afterwards.
        """
        experiment = self._experiment(suite)
        written = ""  # the run that this call has written, with its artifacts
        for look in range(LOOKS):
            if look > 1:  # other processes are changing the same runs
                time.sleep(LOOK_AGAIN_SECONDS * look)
            present = self._search(experiment, entry.identity)
            if any(entry.yields_to(run) for run in present):
                return False
            mine = [run for run in present if entry.replaces(run)]
            intact = [run for run in mine if self._holds(experiment, run, entry)]
            if not intact:
                begun = [run for run in mine if entry.completes(run)]
                if begun:
                    written = self._complete(experiment, min(begun, key=_age), entry)
                else:
                    written = self._create(experiment, entry)
            elif len(mine) == 1:
                (run,) = intact
                return run.run_id == written or self._supply(run, entry) or look > 0
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

    def _delete(self, experiment: str, run_id: str) -> None:
        """Delete a run with its children and its models."""
        self._delete_models(experiment, run_id)
        for child in self._children(experiment, run_id):
            self._client.delete_run(child.run_id)
        self._client.delete_run(run_id)

    def _create(self, experiment: str, entry: Entry) -> str:
        """Create a run that holds the entry, unless another process deletes the run meanwhile.

        A run that is begun and fails is removed. Return the id of the run.
        """
        from mlflow.exceptions import MlflowException

        run = self._begin(experiment, entry)
        run_id: str = run.run_id
        try:
            if entry.attempt is not None:
                self._catch_up(run_id, entry.attempt)
            self._log_data(run_id, entry)
            self._fill(run_id, entry, models=self._create_models(experiment, run_id, entry))
            children = (partial(self._add, experiment, run_id, child) for child in entry.children)
            self._at_once(list(children))
            self._supply(run, entry, is_new=True)
            self._client.set_tag(run_id, DIGEST, entry.digest())
        except BaseException as error:
            # A process that was ready earlier may have taken this run for a broken one.
            is_lost = isinstance(error, MlflowException) and self._is_lost(run_id, error)
            with suppress(Exception):  # a store that is away has failed before
                self._delete(experiment, run_id)
            if not is_lost:
                raise
        return run_id

    def _add(self, experiment: str, parent: str, child: Entry) -> None:
        """Create a child of a run."""
        self._fill(self._begin(experiment, child, parent=parent).run_id, child)

    def _complete(self, experiment: str, run: Found, entry: Entry) -> str:
        """Complete a run that was begun as the cell trained, unless another process deletes it.

        A run that fails half-way is completed by the next call: points are logged once.

        Return the id of the run.
        """
        from mlflow.entities import RunTag
        from mlflow.exceptions import MlflowException

        assert entry.attempt is not None
        tags = [RunTag(name, value[:TAG_CHARACTERS]) for name, value in entry.tags.items()]
        try:
            self._client.log_batch(run.run_id, tags=tags)
            self._catch_up(run.run_id, entry.attempt, sent=int(run.tags.get(SENT, 0)))
            self._log_data(run.run_id, entry)
            self._delete_models(experiment, run.run_id)  # of a call that failed
            models = self._create_models(experiment, run.run_id, entry)
            self._fill(run.run_id, entry, models=models)
            self._supply(run, entry)
            self._client.set_tag(run.run_id, DIGEST, entry.digest())
        except MlflowException as error:
            if not self._is_lost(run.run_id, error):
                raise
        return run.run_id

    def _catch_up(self, run_id: str, attempt: Attempt, *, sent: int = 0) -> None:
        """Log the points after the first `sent`."""
        while sent < len(attempt.points):
            sent = self._log_points(run_id, attempt, sent=sent)

    def _is_lost(self, run_id: str, error: "MlflowException") -> bool:
        """Whether an error says that the run has been deleted."""
        return error.error_code == "INVALID_PARAMETER_VALUE" and not self._is_active(run_id)

    def _log_data(self, run_id: str, entry: Entry) -> None:
        """Log the data set as an input of the run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        if (data := entry.data) is None:
            return
        dataset = Dataset(data.name, data.digest, SOURCE_TYPE, data.source, profile=data.profile)
        context = InputTag("mlflow.data.context", data.context)
        try:
            self._client.log_inputs(run_id, [DatasetInput(dataset, [context])])
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
            # Another process has entered the data set between MLflow's look and its insertion.
            self._client.log_inputs(run_id, [DatasetInput(dataset, [context])])

    def _create_models(
        self, experiment: str, run_id: str, entry: Entry
    ) -> Mapping[str, ModuleModel]:
        """Create a model for each module; return the modules by the ids of their models.

        A server of MLflow 2 knows no models: runs there are without.
        """
        from mlflow.exceptions import MlflowException

        try:
            made = self._at_once([self._creation(experiment, run_id, m) for m in entry.modules])
        except MlflowException as error:
            if error.error_code != "ENDPOINT_NOT_FOUND":
                raise
            return {}
        return dict(zip(made, entry.modules, strict=True))

    def _creation(self, experiment: str, run_id: str, module: ModuleModel) -> Callable[[], str]:
        """A call that creates a module's model and returns its id."""
        create = partial(
            self._client.create_logged_model,
            experiment,
            module.name,
            source_run_id=run_id,
            tags=dict(module.tags),
            params=dict(module.params),
            model_type="module",
        )
        return lambda: str(create().model_id)

    def _delete_models(self, experiment: str, run_id: str) -> None:
        """Delete the models of a run, where there are any, as another process may do meanwhile."""
        from mlflow.exceptions import MlflowException

        wanted = f"source_run_id = '{run_id}'"
        try:
            for model in self._client.search_logged_models([experiment], filter_string=wanted):
                self._client.delete_logged_model(model.model_id)
        except MlflowException as error:
            if error.error_code not in {"ENDPOINT_NOT_FOUND", "RESOURCE_DOES_NOT_EXIST"}:
                raise

    def _supply(self, run: "RunInfo | Found", entry: Entry, *, is_new: bool = False) -> bool:
        """Write the artifacts that the run lacks; artifacts out of reach cost no number.

        A run that `is_new` lacks all of them. Return whether any was written.
        """
        from mlflow.exceptions import MlflowException

        if self.artifacts_away or not entry.artifacts:
            return False
        try:
            kept = repository_of(run.artifact_uri, store=self.uri)
            missing = set(entry.artifacts) - (set() if is_new else names_in(kept))
            with tempfile.TemporaryDirectory() as folder:
                paths = write_artifacts(entry, missing, folder=Path(folder))
                self._at_once([partial(kept.log_artifact, str(p), to) for p, to in paths])
            if CURVES in missing:
                columns = {name: [row[name] for row in entry.curves] for name in entry.curves[0]}
                self._client.log_table(run.run_id, columns, CURVES)
        except Exception as error:  # of the library of any kind of artifact store
            if isinstance(error, MlflowException) and self._is_lost(run.run_id, error):
                return False
            self.artifacts_away = concealed(class_and_first_line(error), self.uri)
            return False
        return bool(missing)

    def _is_active(self, run_id: str) -> bool:
        return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")

    def _begin(self, experiment: str, entry: Entry, *, parent: str | None = None) -> "RunInfo":
        """Create a run with the tags of the entry."""
        tags = entry.tags | entry.identity | ({} if parent is None else {PARENT: parent})
        if entry.records:
            tags |= {RECORDS: " ".join(entry.records), PLACE: entry.place}
        if entry.attempt is not None:
            tags |= {ATTEMPT: entry.attempt.name}
        if entry.place:
            tags |= {PLACE: entry.place}
        return self._client.create_run(
            experiment,
            start_time=entry.started_ms,
            run_name=entry.name,
            tags={name: value[:TAG_CHARACTERS] for name, value in tags.items()},
        ).info

    def _fill(
        self, run_id: str, entry: Entry, *, models: Mapping[str, ModuleModel] | None = None
    ) -> None:
        """Log the numbers and settings of the entry and of its models, and end the run.

        The metrics of a model are metrics of the run, too, at the step that is the module's number.
        """
        from mlflow.entities import LoggedModelOutput, Metric, Param

        models = models or {}
        now = entry.finished_ms or int(time.time() * 1000)
        of_data: dict[str, str] = {}
        if entry.data is not None:
            of_data = {"dataset_name": entry.data.name, "dataset_digest": entry.data.digest}
        metrics = [
            Metric(name, value, now, module.number, model_id=model, run_id=run_id, **of_data)
            for model, module in models.items()
            for name, value in module.metrics.items()
        ]
        live = () if entry.attempt is None else entry.attempt.points
        there = {(point.name, point.step) for point in live}
        metrics += [
            Metric(name, value, now, step)
            for name, value, step in entry.points
            if (name, step) not in there
        ]
        params = [Param(name, value[:PARAMETER_CHARACTERS]) for name, value in entry.params.items()]
        for some, settings in zip_longest(
            _in_parts(metrics, METRICS_PER_BATCH), _in_parts(params, PARAMETERS_PER_BATCH)
        ):
            self._client.log_batch(run_id, metrics=some or (), params=settings or ())
        if models:
            # MLflow's tab of models has the models that are ready.
            ready = [partial(self._client.finalize_logged_model, m, "READY") for m in models]
            outputs = [LoggedModelOutput(model, each.number) for model, each in models.items()]
            self._at_once([*ready, partial(self._client.log_outputs, run_id, outputs)])
        if entry.status != "RUNNING":
            self._client.set_terminated(run_id, status=entry.status, end_time=now)


def _in_parts(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """The items in order, in parts of at most so many."""
    return (items[start : start + most] for start in range(0, len(items), most))


def _age(run: Found) -> tuple[int, str]:
    """The order of runs with the same content, oldest first, in which all processes agree."""
    return run.started_ms, run.run_id
