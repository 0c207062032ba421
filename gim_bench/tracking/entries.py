"""The content of MLflow runs: of a record, of its sweeps, or of the seeds of a method."""

import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from gim_bench.records.live import Attempt, read_live
from gim_bench.records.metrics import hyperparameter_of
from gim_bench.records.patches import pictures_of
from gim_bench.records.protocols import ProtocolResult, results_of
from gim_bench.records.record import Record, Status
from gim_bench.records.statistics import (
    Complete,
    by_settings,
    flatten,
    settings_of,
    summarise_metrics,
)
from gim_bench.seals import digest, sha256_of
from gim_bench.tracking.description import described
from gim_bench.tracking.modules import DataInput, ModuleModel, data_of, modules_of
from gim_bench.tracking.plots import figures_of, varied_by
from gim_bench.tracking.stores import Found

STATUS = {Status.RUNNING: "RUNNING", Status.DONE: "FINISHED", Status.FAILED: "FAILED"}

# Names of tags.
KEY = "gim_bench.key"
SETTINGS = "gim_bench.settings"
DIGEST = "gim_bench.digest"
NOTE = "mlflow.note.content"  # the description on a run's page, in Markdown
PARENT = "mlflow.parentRunId"  # MLflow's pages show children below their parent
RECORDS = "gim_bench.records"  # the records that a summary covers
PLACE = "gim_bench.runs"  # the machine, and the folder of a summary's records or of a cell
ATTEMPT = "gim_bench.attempt"  # the attempt at a cell whose points a run has
SENT = "gim_bench.points_sent"  # how many points of the attempt a run has
# Names of artifacts: the folder of pictures, and the trials of a sweep.
PATCHES, CURVES = "patches", "curves.json"
ORIGIN = ("data_sha256", "results_version")  # which the seeds of a mean share
ONE_EXPERIMENT = ("git_commit",)  # the seeds of a mean should agree in these


class Point(NamedTuple):
    """A metric's value at a step."""

    name: str
    value: float
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The whole content of one MLflow run."""

    name: str
    identity: dict[str, str]  # tags; at most one run of the experiment has all of them
    tags: dict[str, str]
    params: Mapping[str, str]
    points: Sequence[Point]
    status: str
    started_ms: int | None
    finished_ms: int | None
    files: Mapping[str, str] = field(default_factory=dict)  # name: text
    pictures: Sequence[Path] = ()  # files, for the folder `patches`
    curves: Sequence[Mapping[str, Any]] = ()  # trials of a sweep, for a table and a plot
    children: Sequence["Entry"] = ()
    records: Sequence[str] = ()  # that a summary covers
    data: DataInput | None = None
    modules: Sequence[ModuleModel] = ()
    # Of these records, or of the cell; the same records at another place are the same summary.
    place: str = ""
    # What was measured while the cell trained, and is no longer measured.
    attempt: Attempt | None = None

    @property
    def artifacts(self) -> list[str]:
        """The names of all artifacts."""
        pictures = [f"{PATCHES}/{path.name}" for path in self.pictures]
        return [*self.files, *pictures, *((CURVES,) if self.curves else ()), *figures_of(self)]

    def replaces(self, run: Found) -> bool:
        """Whether a run with the same identity is an earlier state of the entry.

        A summary replaces the summaries of its own runs folder, and those of fewer records.
        """
        if is_live(run):  # such a run of another folder is another process's
            return self._begins_with(run) or run.tags.get(PLACE) == self.place
        if not self.records:
            return True
        covered = set(run.tags.get(RECORDS, "").split())
        return run.tags.get(PLACE) == self.place or covered <= set(self.records)

    def completes(self, run: Found) -> bool:
        """Whether a run holds the beginning of the entry, written while the cell trained."""
        attempt = self.attempt
        return attempt is not None and is_live(run) and run.tags[ATTEMPT] == attempt.name

    def _begins_with(self, run: Found) -> bool:
        """Whether a live run has points of the entry's attempt, as they were measured.

        The cell may have ended on another machine than the one where it began.
        """
        attempt = self.attempt
        return attempt is not None and attempt.name.startswith(run.tags[ATTEMPT])

    def yields_to(self, run: Found) -> bool:
        """Whether a run with the same identity, of another runs folder, makes the entry needless.

        Such a run is of a record of the same cell that ended later, or a summary of more records.
        """
        if run.tags.get(PLACE) == self.place:  # of this folder; its clock may have gone back
            return False
        if not self.records:
            return DIGEST in run.tags and (run.ended_ms or 0) > (self.finished_ms or math.inf)
        return set(self.records) < set(run.tags.get(RECORDS, "").split())

    def digest(self) -> str:
        """The sha256 of the whole entry but its place, the contents of its pictures included."""
        table = asdict(self)
        del table["place"], table["attempt"]
        pictures = {path.name: sha256_of(path) for path in table.pop("pictures")}
        return digest(table | ({"pictures": pictures} if pictures else {}))


def is_live(run: Found) -> bool:
    """Whether a run is of a cell that trains, or that was killed as it trained."""
    return ATTEMPT in run.tags and DIGEST not in run.tags


def cell_entry(record: Record, *, folder: Path | None = None) -> Entry:
    """The MLflow run that mirrors `record`."""
    points = [*_results(record), *_epoch_losses(record), *_inside(record)]
    finished_ms = _milliseconds(record.provenance.get("finished_at"))
    attempt = None if folder is None else read_live(folder)
    # Points after the record's end are of a cell that runs again, whose MLflow run is another.
    again = attempt is not None and _began_after(attempt, finished_ms)
    return Entry(
        name=f"{record.method} seed {record.seed}",
        identity={KEY: record.key, "kind": "cell"},
        tags=_tags(record) | {"seed": str(record.seed), "status": record.status.value},
        params=_params(record.config),
        points=points,
        data=data_of(record),
        modules=modules_of(record),
        status=STATUS[record.status],
        started_ms=_milliseconds(record.provenance.get("started_at")),
        finished_ms=finished_ms,
        files=_files(record, folder),
        pictures=_pictures(record, folder),
        place="" if folder is None or again else place_of(folder),
        attempt=None if attempt is None or again else _uncontradicted(attempt, points),
    )


def _began_after(attempt: Attempt, finished_ms: int | None) -> bool:
    """Whether the first point of the attempt is later than the second in which a record ended."""
    if finished_ms is None or not attempt.points:
        return False
    return attempt.points[0].milliseconds // 1000 > finished_ms // 1000


def _uncontradicted(attempt: Attempt, points: Sequence[Point]) -> Attempt:
    """The attempt without its points that contradict the record's.

    A run that has such points cannot be completed: the rest is an attempt with another name.
    """
    known = {(point.name, point.step): point.value for point in points}
    kept = [p for p in attempt.points if known.get((p.name, p.step), p.value) == p.value]
    if len(kept) == len(attempt.points):
        return attempt
    return replace(attempt, name=f"{attempt.name}-corrected", points=kept)


def suite_entries(
    records: Sequence[Record],
    *,
    folder_of: Callable[[Record], Path],
    place: str = "",
    complete: Complete = dict,
) -> list[Entry]:
    """The MLflow runs that mirror the records of a suite. Cells that are running have no run."""
    ended = [record for record in records if record.status is not Status.RUNNING]
    return [
        *(cell_entry(record, folder=folder_of(record)) for record in ended),
        *(sweep_entry(record, folder=folder_of(record)) for record in ended if record.sweeps),
        *(e for record in ended for e in protocol_entries(record, folder=folder_of(record))),
        *summary_entries(ended, place=place, complete=complete),
    ]


def place_of(folder: Path) -> str:
    """The machine and a folder: the runs folder of a summary's records, or that of a cell."""
    return f"{platform.node()}:{folder.resolve()}"


def summary_entries(
    records: Sequence[Record], *, place: str = "", complete: Complete = dict
) -> list[Entry]:
    """An entry for each method and each of its settings, in the order of the records.

    MLflow lists the newest runs first. Summaries are as new as the newest finished record.
    """
    groups = by_settings(records, complete=complete)
    newest = _newest([record for alike in groups for record in alike])
    return [
        replace(summary_entry(alike, place=place), started_ms=newest, finished_ms=newest)
        for alike in groups
    ]


def _newest(records: Sequence[Record]) -> int | None:
    """When the last of the records ended, in milliseconds since 1970."""
    ends = [_milliseconds(record.provenance.get("finished_at")) for record in records]
    return max((end for end in ends if end is not None), default=None)


def summary_entry(records: Sequence[Record], *, place: str = "") -> Entry:
    """The MLflow run that summarises the finished records of one method, one record per seed."""
    first, n = records[0], len(records)
    # The record of the earliest version: a summary stays the same as the package learns settings.
    oldest = min(records, key=lambda record: len(flatten(record.config)))
    seeds = ", ".join(str(record.seed) for record in sorted(records, key=lambda r: r.seed))
    flat, tags = [_params(record.config) for record in records], [_tags(r) for r in records]
    return Entry(
        name=f"{first.method} summary, n={n}",
        identity={
            "suite": first.suite,
            "method": first.method,
            "kind": "summary",
            SETTINGS: digest(settings_of(oldest)),
            **{name: tags[0][name] for name in ORIGIN if name in tags[0]},
        },
        tags=_common(tags)
        | {"seeds": seeds, "mixed": _mixed(tags)}
        | {NOTE: described(first, seeds=max(record.seed for record in records) + 1)},
        params=_common(flat),
        points=_summary_points(records),
        records=sorted(map(_identity, records)),
        place=place,
        data=data_of(first),
        status="FINISHED",
        started_ms=_newest(records),
        finished_ms=_newest(records),
    )


def sweep_entry(record: Record, *, folder: Path | None = None) -> Entry:
    """The MLflow run that mirrors the sweeps of `record`. The trials are its children."""
    rows = [
        {"probe": name, "trial": number, **tried}
        for name, swept in record.sweeps.items()
        for number, tried in enumerate(swept.get("curve", ()))
    ]
    finished_ms = _milliseconds(record.provenance.get("finished_at"))
    return Entry(
        name=f"{record.method} seed {record.seed} sweep",
        identity={KEY: record.key, "kind": "sweep"},
        tags=_tags(record) | {"seed": str(record.seed)},
        params=_params(record.config),
        points=_sweep_points(record),
        status="FINISHED",
        started_ms=finished_ms,
        finished_ms=finished_ms,
        curves=rows,
        place="" if folder is None else place_of(folder),
        children=[_trial_entry(record, row) for row in rows],
    )


def protocol_entries(record: Record, *, folder: Path) -> list[Entry]:
    """An entry for each protocol under which the cell in `folder` has numbers."""
    found = results_of(record, folder=folder).values()
    place = place_of(folder)
    return [_protocol_entry(record, result, place=place) for result in found if result.metrics]


def _protocol_entry(record: Record, result: ProtocolResult, *, place: str) -> Entry:
    """The MLflow run of an encoder under one protocol, with the metrics that its cell has too."""
    # The machine and the code are those that read the encoder.
    read = replace(
        record,
        metrics=result.metrics,
        provenance={**record.provenance, **result.provenance},
        protocol=f"Under the protocol {result.protocol}. {result.reason}".strip(),
    )
    settings = {"protocol": result.protocol, **result.settings, "chosen": result.chosen}
    return Entry(
        name=f"{record.method} seed {record.seed} under {result.protocol}",
        identity={KEY: record.key, "kind": "protocol", "protocol": result.protocol},
        tags=_tags(read) | {"seed": str(record.seed)},
        params=_params(settings),
        points=_results(read),
        status="FINISHED",
        started_ms=_milliseconds(result.provenance.get("finished_at")),
        finished_ms=_milliseconds(result.provenance.get("finished_at")),
        place=place,
    )


def _trial_entry(record: Record, row: Mapping[str, Any]) -> Entry:
    measured = ("validation_accuracy", "validation_loss")
    tags = {"suite": record.suite, "method": record.method, "seed": str(record.seed)}
    return Entry(
        name=f"{row['probe']} {row[varied_by(row)]:.2g}",
        identity={KEY: record.key, "kind": "probe_trial"},
        tags=tags | {"module": row["probe"]},
        params={
            name: str(row[name])
            for name in ("trial", "learning_rate", "weight_decay", "penalty")
            if name in row
        },
        points=[Point(name, row[name], 0) for name in measured if row[name] is not None],
        status="FINISHED",
        started_ms=None,
        finished_ms=None,
    )


def _sweep_points(record: Record) -> list[Point]:
    """The best trial of every probe and the trial beside it, with their accuracies."""
    return [
        Point(f"{role}/{measured}/{name}", value, 0)
        for name, swept in record.sweeps.items()
        for role in ("best", "paper", "suite")
        if role in swept
        for measured, value in swept[role].items()
    ]


def _tags(record: Record) -> dict[str, str]:
    """Tags to group and filter by. Seeds share them unless the machine or the code changed."""
    method: Mapping[str, Any] = record.config.get("method", {})
    source = record.provenance
    on_gpu = (source.get("device") or record.config.get("device")) == "cuda"
    tags = {
        "suite": record.suite,
        "method": record.method,
        "dataset": record.dataset,
        "objective": method.get("objective"),
        "gradient_flow": method.get("gradient_flow"),
        "trains_on": method.get("trains_on"),
        "data_sha256": source.get("data_sha256"),
        "results_version": source.get("results_version"),
        "git_commit": source.get("git_commit"),
        "git_dirty": source.get("git_dirty"),
        "hardware": source.get("gpu") if on_gpu else source.get("cpu"),
        "device": source.get("device"),
        "precision": source.get("precision"),
        "host": source.get("host"),
        # MLflow's pages show these names in columns of their own.
        "mlflow.source.name": "gim_bench",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": source.get("git_commit"),
        NOTE: described(record, seeds=record.seed + 1),
    }
    return {name: _text(value) for name, value in tags.items() if value not in (None, "")}


def _params(config: Mapping[str, Any]) -> dict[str, str]:
    return {name: _text(value) for name, value in flatten(config).items()}


def _results(record: Record) -> list[Point]:
    return [Point(name, v, 0) for name, v in record.metrics.items() if math.isfinite(v)]


def _epoch_losses(record: Record) -> list[Point]:
    """The finite losses of each epoch. MLflow would draw infinity as 1.8e308."""
    return [
        Point(f"epoch_loss/{unit}", loss, int(epoch["epoch"]))
        for epoch in record.losses
        for unit, loss in epoch.items()
        if unit != "epoch" and math.isfinite(loss)
    ]


def _inside(record: Record) -> list[Point]:
    """Measures of the encoder before training, step 0, and after each epoch."""
    return [
        Point(f"inside/{name}", value, int(row["epoch"]))
        for row in record.inside
        for name, value in row.items()
        if name != "epoch"
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
        varied = hyperparameter_of(record.config).replace(" ", "_")
        files["probe_curves.csv"] = "\n".join(
            [f"module,{varied},validation_accuracy_percent", *rows, ""]
        )
    return files


def _pictures(record: Record, folder: Path | None) -> Sequence[Path]:
    drawn = None if folder is None else pictures_of(record, folder=folder)
    return () if drawn is None else drawn.files


def _mixed(tables: Sequence[dict[str, str]]) -> str:
    """The tags of `ONE_EXPERIMENT` in which the tables differ, or "nothing"."""
    values = {name: {table.get(name) for table in tables} for name in ONE_EXPERIMENT}
    return ", ".join(name for name, several in values.items() if len(several) > 1) or "nothing"


def _common(tables: Sequence[dict[str, str]]) -> dict[str, str]:
    """The items that all tables share."""
    first, *others = tables
    return {name: v for name, v in first.items() if all(t.get(name) == v for t in others)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _identity(record: Record) -> str:
    """A record's cell and the time at which it ended, in few characters: tags are short."""
    return f"{record.key[:8]}.{(_milliseconds(record.provenance.get('finished_at')) or 0) // 1000}"


def _milliseconds(moment: Any) -> int | None:
    """Milliseconds since 1970 of an ISO 8601 time, or None if there is no time."""
    return None if not moment else int(datetime.fromisoformat(str(moment)).timestamp() * 1000)
