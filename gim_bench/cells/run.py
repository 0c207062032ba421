"""One cell, from its configuration to its record: build, fit, probe, measure, record."""

import shutil
from pathlib import Path

from gim_bench.cells.bench import Bench
from gim_bench.cells.build import models_of
from gim_bench.cells.cell import Cell
from gim_bench.cells.outcome import begun, done, failed
from gim_bench.cells.phases import (
    Abandoned,
    Watch,
    checkpoints_of,
    kept_outputs_folder,
    largest_batch,
    trained_and_probed,
)
from gim_bench.errors import TrainingError
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record, Status
from gim_bench.system.interrupts import time_limit


def run_cell(cell: Cell, bench: Bench, *, runs: RunsFolder, watch: Watch | None = None) -> Record:
    """The cell's record, which is on disk when this returns.

    Whatever goes wrong inside is a record of status "failed" with the reason, never an exception;
    an interruption passes through. A finished record stays until the new run has ended. `watch`
    hears of every epoch but the last, if the cell's one model is trained as a whole, and else of
    none.

    Raises: Abandoned where `watch` does, and nothing is left of the cell.
    """
    record = begun(cell, bench)
    before = runs.find(record.suite, record.method, seed=record.seed, key=record.key)
    if before is not None and before.status is Status.DONE:
        _clear(cell, bench, folder=runs.folder_of(record))  # a finished cell is run anew
    else:
        runs.save(record)
    try:
        with time_limit(bench.cell_timeout):
            models = models_of(cell, bench)
            watch = watch if len(models) == 1 else None
            finished = [
                trained_and_probed(cell, model, bench, record, runs=runs, watch=watch)
                for model in models
            ]
            record = done(record, finished, largest=largest_batch(cell, bench))
        resumable = False  # nothing is left to be resumed
    except Abandoned:
        runs.remove(record)
        raise
    except Exception as error:  # a cell that fails is a result; the suite goes on
        record = failed(record, error, runs=runs)
        resumable = not isinstance(error, TrainingError)  # which would come again
    if record.status is Status.DONE:
        runs.put_encoders(record)
    runs.save(record)
    if not resumable:
        _clear(cell, bench, folder=runs.folder_of(record))
    return record


def _clear(cell: Cell, bench: Bench, *, folder: Path) -> None:
    """Nothing is left of a training that is not to be gone on with."""
    for model in models_of(cell, bench):
        checkpoints_of(cell, model, bench, folder=folder).clear()
        shutil.rmtree(kept_outputs_folder(model, folder=folder), ignore_errors=True)


# -- the record ----------------------------------------------------------------------------------
