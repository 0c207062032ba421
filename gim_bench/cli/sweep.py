"""The command `sweep`."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gim_bench.cli.options import (
    FAILED,
    RUNS_DIR,
    DataDirOption,
    DeviceOption,
    MethodOption,
    NoTrackingOption,
    QuietOption,
    RunsDirOption,
    SeedsOption,
    SetOption,
    SkipOption,
    SuiteOption,
    TrackingOption,
    WorkersOption,
    overrides_of,
    tracker_for,
)
from gim_bench.errors import ConfigError
from gim_bench.progress import Progress
from gim_bench.records.record import Record
from gim_bench.system.addresses import sqlite_address
from gim_bench.system.atomic import write_atomically
from gim_bench.system.interrupts import INTERRUPTED
from gim_bench.system.streams import show
from gim_bench.tracking import DEFAULT_URI

if TYPE_CHECKING:
    from gim_bench.cells.cell import Cell
    from gim_bench.cli.workload import Workload
    from gim_bench.settings.schema import Suite
    from gim_bench.sweep import Pretraining, ProbeTrials, Studies
    from gim_bench.tracking import Tracker

TRIALS_OF_PROBES = 64


class Modules(StrEnum):
    TOP = "top"
    ALL = "all"


SpaceOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Train whole cells with other settings, as in training.learning_rate=1e-4..1e-2, "
        "training.epochs=2..8 or training.batch_size=16,32; may be repeated."
    ),
]
TrialsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Trials of each probe; with --space, of each method and seed.  "
        f"[default: {TRIALS_OF_PROBES}, with --space 20, of lists all combinations]",
        show_default=False,
    ),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        help="The database of trials: sqlite:///FILE or postgresql://HOST/NAME, which several "
        "processes may share.  [default: sweep.db beside the records]",
        show_default=False,
    ),
]
WeightDecayOption = Annotated[
    bool, typer.Option("--weight-decay", help="Vary the weight decay of AdamW, too.")
]
ModulesOption = Annotated[
    Modules | None, typer.Option(help="The probe of the top module (the default), or all probes.")
]
EvidenceOption = Annotated[
    Path | None,
    typer.Option(
        help="Write the learning rate that is best for each row, over all seeds, to this JSON "
        "file: the evidence that a suite names as `tuned`.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the trials instead of a table.")]


def sweep(
    suite: SuiteOption,
    method: MethodOption = None,
    space: SpaceOption = None,
    trials: TrialsOption = None,
    storage: StorageOption = None,
    evidence: EvidenceOption = None,
    weight_decay: WeightDecayOption = False,
    modules: ModulesOption = None,
    workers: WorkersOption = None,
    seeds: SeedsOption = None,
    device: DeviceOption = "auto",
    set_: SetOption = None,
    data_dir: DataDirOption = None,
    skip_bad_files: SkipOption = False,
    runs_dir: RunsDirOption = RUNS_DIR,
    tracking_uri: TrackingOption = DEFAULT_URI,
    no_tracking: NoTrackingOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Try rates or penalties of the linear probe on finished cells, or settings of training."""
    from gim_bench.cli.workload import workload_of
    from gim_bench.report import render_spaces, render_sweeps
    from gim_bench.settings.suites import load_suite
    from gim_bench.sweep import Pretraining, ProbeTrials, parse_space

    if space and (weight_decay or modules):
        raise ConfigError("--weight-decay and --modules are for probes: leave them out of --space")
    every = modules is Modules.ALL
    overrides = overrides_of(set_, skip_bad_files=skip_bad_files)
    loaded = _with_probe(load_suite(suite, overrides=overrides))
    axes = parse_space(space or ())
    tracker = None if no_tracking else tracker_for(tracking_uri, runs_dir=runs_dir)
    work = workload_of(
        loaded,
        methods=method or (),
        seeds=seeds,
        device=device,
        data_dir=data_dir,
        runs_dir=runs_dir,
        quiet=quiet,
    )
    database = storage or sqlite_address(runs_dir / loaded.name / "sweep.db")
    if axes or evidence:
        apart = loaded.fresh_process
        plan = Pretraining(suite=suite, overrides=overrides, axes=axes, trials=trials, apart=apart)
        cells = work.cells if method else _trained(work.cells)
        swept = _swept_training(
            work, plan, cells, database, tracker=tracker, evidence=evidence, workers=workers
        )
        show(render_spaces(swept, suite=loaded.name, as_json=json))
        _exit_if_failed(swept)
        return
    _say_alone(work, workers)
    number = trials or TRIALS_OF_PROBES
    probes = ProbeTrials(trials=number, all_modules=every, weight_decay=weight_decay)
    found = _swept_probes(work, probes, database=database, tracker=tracker)
    show(render_sweeps(found, suite=loaded.name, as_json=json))


def _exit_if_failed(swept: Sequence[Mapping[str, Any]]) -> None:
    """End with exit code 1 if every trial of a method and seed has failed."""
    failed = [f"{one['method']} seed {one['seed']}" for one in swept if one["best"] is None]
    if failed:
        print(f"error: no trial was completed: {', '.join(failed)}", file=sys.stderr)
        raise typer.Exit(FAILED)


def _say_alone(work: "Workload", workers: int | None) -> None:
    """Say that there are no workers for probes, where some are asked for."""
    if workers not in (None, 1):
        work.progress.say(
            f"{workers} workers (--workers or GIM_BENCH_WORKERS) are for --space: this process "
            f"sweeps the probes"
        )


def _with_probe(suite: "Suite") -> "Suite":
    """The suite. Raises: ConfigError if it has no probe."""
    if suite.probe is None:
        raise ConfigError(f"suite {suite.name!r} has no [probe]: there is nothing to sweep")
    return suite


def _trained(cells: Sequence["Cell"]) -> Sequence["Cell"]:
    """The cells in which something is trained; all of them if there is no such cell."""
    from gim_bench.sweep import is_trained

    return [cell for cell in cells if is_trained(cell)] or cells


def _swept_probes(
    work: "Workload",
    plan: "ProbeTrials",
    *,
    database: str,
    tracker: "Tracker | None",
) -> list[Record]:
    """Sweep the probes of each cell, mirror its sweeps at once, and return the records.

    Raises: ConfigError if a cell is not finished.
    """
    from gim_bench.sweep import Studies, sweep_cell
    from gim_bench.tracking import mirror_sweeps

    finished = work.finished()
    missing = [cell.name for cell in work.cells if cell.key not in finished]
    if missing:
        raise ConfigError(
            f"not finished with these settings: {', '.join(missing)}; first python -m gim_bench "
            f"run {work.suite.options}, with the same --method, --seeds and folders as here"
        )
    work.runs.check_writable()
    work.share_of(work.cells, workers=1, alone=True)
    studies = Studies(database)
    records = []
    with _resumable(work.progress):
        for cell in work.cells:
            record = sweep_cell(
                cell, finished[cell.key], work.bench, runs=work.runs, studies=studies, plan=plan
            )
            records.append(record)
            if tracker is not None:
                mirror_sweeps(record, runs=work.runs, tracker=tracker, progress=work.progress)
    return records


def _swept_training(
    work: "Workload",
    plan: "Pretraining",
    cells: Sequence["Cell"],
    database: str,
    *,
    tracker: "Tracker | None",
    evidence: Path | None,
    workers: int | None,
) -> list[dict[str, Any]]:
    """Sweep the training of each cell, mirror the cells of its trials, and return the trials.

    Evidence for the rows' learning rates is written to `evidence`. Raises: ConfigError.
    """
    from gim_bench.sweep import (
        Studies,
        check_file,
        check_unseen,
        evidence_of,
        rates_of,
        sweep_pretraining,
    )
    from gim_bench.tracking import mirror_cell

    mirrored = set()

    def mirror(record: Record) -> None:
        if tracker is not None and record.key not in mirrored:
            mirror_cell(record, runs=work.runs, tracker=tracker, progress=work.progress)
            mirrored.add(record.key)

    rates = None
    if evidence is not None:
        rates = rates_of(plan)
        check_unseen(cells)
        check_file(evidence, cells)
    plans = [plan.of_row(cell.config.method.name, suite=work.suite) for cell in cells]
    for cell, of_row in zip(cells, plans, strict=True):
        of_row.check(cell, work.bench)
    work.runs.check_writable()
    studies = Studies(database)
    sweeps = list(zip(cells, plans, strict=True))
    with _resumable(work.progress):
        _work_off(work, sweeps, studies=studies, mirror=mirror, workers=workers)
        swept = [
            sweep_pretraining(
                cell, work.bench, runs=work.runs, studies=studies, plan=of_row, mirror=mirror
            )
            for cell, of_row in sweeps
        ]
        tried = {row["key"] for found in swept for row in found["trials"]}
        records = [r for r in work.runs.records(work.suite.name) if r.key in tried]
        for record in records:  # of a process that may have ended before it was mirrored
            mirror(record)
    if evidence is not None and rates is not None:
        found = evidence_of(swept, cells, rates=rates, records=records)
        write_atomically(evidence, (found.model_dump_json(indent=2) + "\n").encode())
    return swept


def _work_off(
    work: "Workload",
    sweeps: "Sequence[tuple[Cell, Pretraining]]",
    *,
    studies: "Studies",
    mirror: Callable[[Record], None],
    workers: int | None,
) -> None:
    """Run the trials that are left, by workers where they serve.

    Trials that are drawn depend on those that are known, so by default one process draws them.
    """
    from gim_bench.sweep import unsettled, work_off, work_off_by_workers

    if workers is None and not all(plan.grid for _, plan in sweeps):
        workers = 1
    waiting = unsettled(sweeps, work.bench, studies)
    work.check_workers(workers, cells=waiting)
    share = work.share_of(waiting, workers=workers, alone=work.take_turns(waiting))
    if share.workers == 1:
        work_off(sweeps, work.bench, runs=work.runs, studies=studies, mirror=mirror)
        return
    work.progress.say(str(share))
    work_off_by_workers(
        sweeps, work.bench, runs=work.runs, studies=studies, share=share, mirror=mirror
    )


@contextmanager
def _resumable(progress: Progress) -> Iterator[None]:
    """End an interrupted block with its exit code, and say that no trial is lost."""
    try:
        yield
    except KeyboardInterrupt:
        progress.say("interrupted: finished trials are kept; the same command resumes")
        raise typer.Exit(INTERRUPTED) from None
