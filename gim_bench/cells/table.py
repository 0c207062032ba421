"""The cells of a suite. Several processes may share them: the first to claim a cell runs it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from gim_bench.cells.bench import Bench
from gim_bench.cells.cell import Cell
from gim_bench.cells.defaults import agrees
from gim_bench.progress import Progress
from gim_bench.records.claims import owner_of
from gim_bench.records.folder import DAMAGED, RunsFolder
from gim_bench.records.record import Record, Status
from gim_bench.records.statistics import ended_after

WAIT_SECONDS = 0.5  # between looks at cells that other processes run
RunCell = Callable[..., Record]


def run_table(
    table: Sequence[Cell],
    bench: Bench,
    *,
    runs: RunsFolder,
    run: RunCell,
    rerun: bool = False,
    before: Mapping[str, Record | None] | None = None,
    tell: bool = True,
) -> Iterator[Record]:
    """Yield the record of every cell as soon as it is there; cells of other processes come last.

    A finished cell is not run again, unless `rerun` asks for it. A cell that another process ends
    in the meantime is not run again in any case: `before` has the records of the time when the
    command began, by key, which is now by default. With `tell`, a line says who runs a cell that
    is waited for. Raises: OSError.
    """
    if before is None:
        before = records_of(table, runs)
    waiting = list(table)
    told: set[str] = set()
    while waiting:
        for cell in list(waiting):
            record = _ended(cell, runs, before=before[cell.key], rerun=rerun)
            if record is None:
                record = _run(cell, bench, runs, run, before=before[cell.key], rerun=rerun)
            if record is not None:
                waiting.remove(cell)
                yield record
            elif tell and cell.key not in told:
                told.add(cell.key)
                _tell(cell, runs, progress=bench.progress)
        if waiting:
            time.sleep(WAIT_SECONDS)


def records_of(table: Sequence[Cell], runs: RunsFolder) -> dict[str, Record | None]:
    """The cells' records, by key; None where a cell has none."""
    return {cell.key: found(cell, runs) for cell in table}


def records_before(
    records: Mapping[str, Record | None], *, since: datetime | None
) -> dict[str, Record | None]:
    """The records as they were at the time `since`, which is now by default.

    A record that was written later stands for no record: the cell has ended since.
    """
    return {
        key: None if record is not None and ended_after(record, since) else record
        for key, record in records.items()
    }


def found(cell: Cell, runs: RunsFolder) -> Record | None:
    """The cell's record on disk; None if there is no intact record of these settings.

    A record may have the cell's key and another value of a setting: a package changed the default
    of a setting that is in no key at its default. Such a record is of other settings.
    """
    record = runs.find(cell.suite, cell.config.method.name, seed=cell.seed, key=cell.key)
    if record is None or not agrees(record.config, cell.config.as_dict()):
        return None
    return record


def _ended(cell: Cell, runs: RunsFolder, *, before: Record | None, rerun: bool) -> Record | None:
    """The cell's record, if the cell needs no run."""
    if before is not None and before.status is Status.DONE and not rerun:
        return before
    record = found(cell, runs)
    if record is None or record.status is Status.RUNNING:
        return None
    if record.status is Status.DONE and not rerun:
        return record
    if before is not None:  # a sweep that was added since is no run
        before = replace(before, sweeps=record.sweeps)
    return record if record != before else None


def _run(
    cell: Cell,
    bench: Bench,
    runs: RunsFolder,
    run: RunCell,
    *,
    before: Record | None,
    rerun: bool,
) -> Record | None:
    """Run the cell and return its record; None if another process runs the cell or took it over."""
    identity: dict[str, Any] = {
        "method": cell.config.method.name,
        "seed": cell.seed,
        "key": cell.key,
    }
    claim = None
    try:
        with runs.claimed(cell.suite, **identity) as claim:
            if claim is None:
                return None
            # Another process may have ended the cell between the look at its record and the claim.
            if ended := _ended(cell, runs, before=before, rerun=rerun):
                return ended
            if runs.is_damaged(cell.suite, **identity):
                bench.progress.say(f"{cell.name} runs again: {DAMAGED}")
            return run(cell, bench, runs=runs)
    except KeyboardInterrupt:  # may arrive as late as the release of the claim
        if claim is None or not claim.is_lost:
            raise
    bench.progress.say(
        f"{cell.name} was taken over by another process, which found this one silent for minutes"
    )
    return None


def _tell(cell: Cell, runs: RunsFolder, *, progress: Progress) -> None:
    folder = runs.folder(cell.suite, cell.config.method.name, seed=cell.seed, key=cell.key)
    owner = owner_of(folder)
    who = "another process" if owner is None else f"process {owner.pid} on {owner.host}"
    progress.say(f"{cell.name}: {who} is at it")
