"""Run one cell: build, train, probe, measure, record."""

import shutil
from dataclasses import replace
from pathlib import Path

from gim_bench.cells.bench import Bench
from gim_bench.cells.build import models_of
from gim_bench.cells.cell import Cell
from gim_bench.cells.keeping import kept_outputs_folder
from gim_bench.cells.largest_batch import largest_batch
from gim_bench.cells.outcome import begun, done, failed, predictions_of
from gim_bench.cells.phases import (
    Abandoned,
    checkpoints_of,
    trained_and_probed,
)
from gim_bench.cells.selection import Watch, selection_folder
from gim_bench.errors import TrainingError
from gim_bench.records.folder import RECORD, RunsFolder
from gim_bench.records.live import LIVE
from gim_bench.records.record import Record, Status
from gim_bench.system.interrupts import time_limit


def run_cell(cell: Cell, bench: Bench, *, runs: RunsFolder, watch: Watch | None = None) -> Record:
    """Run the cell, write its record to disk, and return the record.

    An error inside gives a record of status "failed" with the reason, never an exception; an
    interruption passes through. A finished record stays on disk until the new run has ended, which
    resumes after an interruption.
    `watch` is called after every epoch but the last, if the cell has one model that is trained as a
    whole.

    Raises: Abandoned where `watch` raises it; nothing is left of the cell then.
    """
    record = begun(cell, bench)
    before = runs.find(record.suite, record.method, seed=record.seed, key=record.key)
    folder = runs.folder_of(record)
    if before is None or before.status is not Status.DONE:
        runs.save(record)
    elif not _is_begun(folder):
        _clear(cell, bench, folder=folder)
        (folder / LIVE).unlink(missing_ok=True)
    try:
        with time_limit(bench.cell_timeout):
            models = models_of(cell, bench)
            watch = watch if len(models) == 1 else None
            finished = [
                trained_and_probed(cell, model, bench, record, runs=runs, watch=watch)
                for model in models
            ]
            probed = cell.config.probe is not None
            files = runs.save_predictions(record, predictions_of(finished)) if probed else {}
            known = {**record.provenance, "data_counts": bench.counts()}
            record = replace(record, provenance=known)
            record = done(record, finished, largest=largest_batch(cell, bench), files=files)
        resumable = False
    except Abandoned:
        runs.remove(record)
        raise
    except Exception as error:  # a cell that fails is a result; the suite goes on
        record = failed(record, error, runs=runs)
        resumable = not isinstance(error, TrainingError)  # a TrainingError would come again
    if record.status is Status.DONE:
        runs.put_encoders(record)
    runs.save(record)
    if not resumable:
        _clear(cell, bench, folder=folder)
    return record


def _is_begun(folder: Path) -> bool:
    """Whether the finished cell is being run again: a checkpoint is newer than the record.

    A process that was killed before it cleared its checkpoints left older ones.
    """
    written = (folder / RECORD).stat().st_mtime_ns
    return any(path.stat().st_mtime_ns > written for path in folder.rglob("checkpoint-*.pt"))


def _clear(cell: Cell, bench: Bench, *, folder: Path) -> None:
    """Remove checkpoints and kept outputs of a cell that will not be resumed."""
    for model in models_of(cell, bench):
        checkpoints_of(cell, model, bench, folder=folder).clear()
        for place in (kept_outputs_folder, selection_folder):
            shutil.rmtree(place(model, folder=folder), ignore_errors=True)
