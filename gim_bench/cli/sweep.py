"""The command `sweep`."""

from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gim_bench.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gim_bench.cells.bench import Bench
    from gim_bench.cells.cell import Cell
    from gim_bench.progress import Progress
    from gim_bench.records.folder import RunsFolder
    from gim_bench.records.record import Record
    from gim_bench.sweep import Plan, Pretraining, Studies
    from gim_bench.tracking.client import Tracker
from gim_bench.cli.options import (
    INTERRUPTED,
    DataDirOption,
    DeviceOption,
    MethodOption,
    NoTrackingOption,
    RunsDirOption,
    SeedsOption,
    SetOption,
    SkipOption,
    SuiteOption,
    TrackingOption,
    bench_for,
    overrides_of,
    tracker_for,
)
from gim_bench.cli.run import finished_in
from gim_bench.tracking.mirror import give_up, mirror_cell

TRIALS_OF_PROBES = 64


TRIALS_OF_CELLS = 20


class Modules(StrEnum):
    TOP = "top"
    ALL = "all"


def sweep(
    suite: SuiteOption,
    method: MethodOption = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            help="Train whole cells with other settings, as in training.learning_rate=1e-4..1e-2, "
            "training.epochs=2..8 or training.batch_size=16,32; may be repeated."
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of every probe, in all; with --space of every method and seed.  "
            "[default: 64, with --space 20]",
            show_default=False,
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="The database of trials: sqlite:///FILE or postgresql://HOST/NAME, which "
            "several processes may share.  [default: sweep.db beside the records]",
            show_default=False,
        ),
    ] = None,
    weight_decay: Annotated[
        bool, typer.Option("--weight-decay", help="Vary AdamW's weight decay, too.")
    ] = False,
    modules: Annotated[
        Modules | None, typer.Option(help="The top module's probe (the default), or all.")
    ] = None,
    seeds: SeedsOption = None,
    device: DeviceOption = "auto",
    set_: SetOption = None,
    data_dir: DataDirOption = None,
    skip_bad_files: SkipOption = False,
    runs_dir: RunsDirOption = Path("runs"),
    tracking_uri: TrackingOption = "sqlite:///mlflow.db",
    no_tracking: NoTrackingOption = False,
    json: Annotated[bool, typer.Option("--json", help="The curves instead of a table.")] = False,
) -> None:
    """Try learning rates of the linear probe on finished cells, or settings of training."""
    from gim_bench.cells.resolve import cells
    from gim_bench.cli.display import progress_for
    from gim_bench.records.folder import RunsFolder
    from gim_bench.report import render_spaces, render_sweeps
    from gim_bench.settings.suites import load_suite
    from gim_bench.sweep import Plan, Pretraining, Studies, parse_space

    overrides = overrides_of(set_, skip_bad_files=skip_bad_files)
    loaded = load_suite(suite, overrides=overrides)
    if loaded.probe is None:
        raise ConfigError(f"suite {loaded.name!r} has no [probe]: there is nothing to sweep")
    if space and (weight_decay or modules):
        raise ConfigError("--weight-decay and --modules are for probes: leave them out of --space")
    axes = parse_space(space or ())
    runs = RunsFolder(runs_dir)
    tracker = None if no_tracking else tracker_for(tracking_uri)
    bench, configs = bench_for(
        loaded,
        methods=method or [],
        device=device,
        data_dir=data_dir,
        progress=progress_for(),
        base=None,
    )
    seeds_asked = range(seeds or loaded.seeds)
    data_sha256 = bench.dataset.fingerprint()
    table = cells(loaded, configs, seeds=seeds_asked, data_sha256=data_sha256)
    database = storage or f"sqlite:///{runs.root / loaded.name / 'sweep.db'}"
    if axes:
        plan = Pretraining(
            suite=suite,
            overrides=overrides,
            axes=axes,
            trials=trials or TRIALS_OF_CELLS,
            apart=loaded.fresh_process,
        )
        for cell in table:
            plan.check(cell, bench)
        runs.check_writable()
        studies = Studies(database)
        found = _sweep_pretraining(
            table, bench, runs=runs, studies=studies, plan=plan, tracker=tracker
        )
        print(render_spaces(found, suite=loaded.name, as_json=json))
        return
    finished = finished_in(table, runs)
    _check_finished(table, finished, suite=suite)
    runs.check_writable()
    records = _sweep_all(
        table,
        finished,
        bench,
        runs=runs,
        studies=Studies(database),
        plan=Plan(
            trials=trials or TRIALS_OF_PROBES,
            all_modules=modules is Modules.ALL,
            weight_decay=weight_decay,
        ),
        tracker=tracker,
    )
    print(render_sweeps(records, suite=loaded.name, as_json=json))


def _check_finished(table: "Sequence[Cell]", finished: "dict[str, Record]", *, suite: str) -> None:
    missing = [cell.name for cell in table if cell.key not in finished]
    if missing:
        raise ConfigError(
            f"not finished with these settings: {', '.join(missing)}; first python -m gim_bench "
            f"run --suite {suite}, with the same --method, --seeds, --set and folders as here"
        )


def _sweep_all(
    table: "Sequence[Cell]",
    finished: "dict[str, Record]",
    bench: "Bench",
    *,
    runs: "RunsFolder",
    studies: "Studies",
    plan: "Plan",
    tracker: "Tracker | None",
) -> "list[Record]":
    """Every cell's record with its sweeps, each mirrored as soon as it is there."""
    from gim_bench.errors import TrackingError
    from gim_bench.sweep import sweep_cell

    records: list[Record] = []
    with _going_on_later(bench.progress):
        for cell in table:
            record = finished[cell.key]
            records.append(sweep_cell(cell, record, bench, runs=runs, studies=studies, plan=plan))
            if tracker is not None and not tracker.given_up:
                try:
                    tracker.mirror_sweeps(records[-1])
                except TrackingError as error:
                    give_up(tracker, error, progress=bench.progress)
    return records


def _sweep_pretraining(
    table: "Sequence[Cell]",
    bench: "Bench",
    *,
    runs: "RunsFolder",
    studies: "Studies",
    plan: "Pretraining",
    tracker: "Tracker | None",
) -> "list[dict[str, Any]]":
    """What was found for every cell's method and seed; the trials' records are mirrored."""
    from gim_bench.sweep import sweep_pretraining

    def mirror(record: "Record") -> None:
        if tracker is not None:
            mirror_cell(record, runs=runs, tracker=tracker, progress=bench.progress)

    with _going_on_later(bench.progress):
        return [
            sweep_pretraining(own, bench, runs=runs, studies=studies, plan=plan, mirror=mirror)
            for own in table
        ]


@contextmanager
def _going_on_later(progress: "Progress") -> "Iterator[None]":
    """Says that an interruption loses no trial, and ends with its exit code."""
    try:
        yield
    except KeyboardInterrupt:
        progress.say("interrupted: trials are kept; the same command goes on with the others")
        raise typer.Exit(INTERRUPTED) from None
