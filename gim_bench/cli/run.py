"""The command `run`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gim_bench.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gim_bench.cells.bench import Bench
    from gim_bench.cells.cell import Cell
    from gim_bench.records.folder import RunsFolder
    from gim_bench.records.record import Record
    from gim_bench.settings.schema import Suite
    from gim_bench.tracking.client import Tracker
from gim_bench.cli.options import (
    FAILED,
    INTERRUPTED,
    LONGEST_SECONDS,
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
from gim_bench.tracking.mirror import mirror_cell, summarise


def run(
    suite: SuiteOption,
    method: MethodOption = None,
    seeds: SeedsOption = None,
    device: DeviceOption = "auto",
    set_: SetOption = None,
    data_dir: DataDirOption = None,
    skip_bad_files: SkipOption = False,
    runs_dir: RunsDirOption = Path("runs"),
    tracking_uri: TrackingOption = "sqlite:///mlflow.db",
    no_tracking: NoTrackingOption = False,
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="A finished cell's folder: train more modules on top of it."),
    ] = None,
    checkpoint_every: Annotated[
        float, typer.Option(min=0, help="Seconds of training between checkpoints.")
    ] = 60.0,
    cell_timeout: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=LONGEST_SECONDS,
            help="Seconds after which a cell is given up, to be tried next time.",
        ),
    ] = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Finished cells, too.")] = False,
    why: Annotated[
        bool, typer.Option("--why", help="Only say of every cell why it would be run, or not.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what would run, how long, how large.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="The records instead of tables.")] = False,
) -> None:
    """Run the cells of a suite that are not done yet, and print its table."""
    from gim_bench.cells.pretrained import read_base
    from gim_bench.cli.display import progress_for
    from gim_bench.records.folder import RunsFolder
    from gim_bench.settings.suites import load_suite

    loaded = load_suite(suite, overrides=overrides_of(set_, skip_bad_files=skip_bad_files))
    runs = RunsFolder(runs_dir)
    base = None if from_ is None else read_base(from_)
    if base is not None and seeds is not None:
        raise ConfigError(f"--from {from_} is of seed {base.record.seed}: leave out --seeds")
    tracker = None if no_tracking or plan or why else tracker_for(tracking_uri)
    progress = progress_for()
    bench, configs = bench_for(
        loaded,
        methods=method or ([] if base is None else [base.method]),
        device=device,
        data_dir=data_dir,
        progress=progress,
        base=base,
    )
    bench.checkpoint_seconds = checkpoint_every
    bench.cell_timeout = cell_timeout
    from gim_bench.cells.resolve import cells

    table = cells(
        loaded,
        configs,
        seeds=range(seeds or loaded.seeds) if base is None else [base.record.seed],
        data_sha256=bench.dataset.fingerprint(),
        base=base,
    )
    if why:
        _say_why(table, runs)
        return
    finished = {} if rerun else finished_in(table, runs)
    for config in configs.values():
        if base is not None:
            base.check(config, data_sha256=table[0].data_sha256)
        bench.check(config)
    if plan:
        _say_plan(table, finished, bench)
        return
    runs.check_writable()
    if finished:
        progress.say(
            f"{len(finished)} of {len(table)} cells are done already (--rerun runs them again)"
        )
    records = _run_all(
        table,
        bench,
        runs=runs,
        tracker=tracker,
        fresh_process=loaded.fresh_process,
        rerun=rerun,
    )
    tracked_to = None if tracker is None else tracker.uri
    _conclude(loaded, records, runs=runs, tracked_to=tracked_to, as_json=json)


def finished_in(table: "Sequence[Cell]", runs: "RunsFolder") -> "dict[str, Record]":
    """The records of the cells that are done, by key."""
    from gim_bench.cells.table import found
    from gim_bench.records.record import Status

    records = [found(cell, runs) for cell in table]
    return {r.key: r for r in records if r is not None and r.status is Status.DONE}


def _run_all(
    table: "Sequence[Cell]",
    bench: "Bench",
    *,
    runs: "RunsFolder",
    tracker: "Tracker | None",
    fresh_process: bool,
    rerun: bool,
) -> "list[Record]":
    """Every cell's record, in the table's order, each mirrored as soon as it is there."""
    from gim_bench.cells.fresh_process import run_apart
    from gim_bench.cells.run import run_cell
    from gim_bench.cells.table import run_table

    run = run_apart if fresh_process else run_cell
    records: dict[str, Record] = {}
    try:
        for record in run_table(table, bench, runs=runs, run=run, rerun=rerun):
            if record.error:
                name = f"{record.method} seed {record.seed}"
                bench.progress.say(f"{name} failed: {record.error}")
            records[record.key] = record
            if tracker is not None:
                mirror_cell(record, runs=runs, tracker=tracker, progress=bench.progress)
        ordered = [records[cell.key] for cell in table]
        if tracker is not None:
            suite = table[0].suite
            summarise(suite, runs=runs, tracker=tracker, progress=bench.progress)
    except KeyboardInterrupt:
        bench.progress.say(
            f"interrupted: {len(records)} of {len(table)} cells are done and kept; the same "
            f"command goes on where this one was"
        )
        raise typer.Exit(INTERRUPTED) from None
    return ordered


def _conclude(
    suite: "Suite",
    records: "list[Record]",
    *,
    runs: "RunsFolder",
    tracked_to: str | None,
    as_json: bool,
) -> None:
    """Prints the table, where everything is, and what failed; exit code 1 where something did."""
    from gim_bench.records.record import Status
    from gim_bench.report import render

    print(render(records, suite=suite, fmt="json" if as_json else "md"))
    if not as_json:
        print(f"Records: {runs.root / suite.name}")
        if tracked_to is not None:
            ui = "" if tracked_to == "sqlite:///mlflow.db" else f" --backend-store-uri {tracked_to}"
            print(f"MLflow:  mlflow ui{ui}")
    failed = [
        record
        for record in records
        # In a suite that measures memory, not to fit is what was measured.
        if record.status is Status.FAILED and (record.fits or not suite.fresh_process)
    ]
    if failed:
        names = ", ".join(f"{record.method} seed {record.seed}" for record in failed)
        print(f"error: {len(failed)} cell(s) failed: {names}", file=sys.stderr)
        raise typer.Exit(FAILED)


def _say_plan(table: "Sequence[Cell]", finished: "dict[str, Record]", bench: "Bench") -> None:
    """One line a cell, and the sum; seeds of a method cost the same, so each is timed once."""
    from gim_bench.cells.estimate import estimate
    from gim_bench.cli.display import duration

    estimates = {}
    total = 0.0
    for cell in table:
        if cell.key in finished:
            print(f"{cell.name:<28} done")
            continue
        name = cell.config.method.name
        if name not in estimates:
            estimates[name] = estimate(cell, bench)
        expected = estimates[name]
        total += expected.seconds
        size = (
            "unknown" if expected.peak_bytes is None else f"{expected.peak_bytes / 2**30:.1f} GiB"
        )
        print(
            f"{cell.name:<28} {expected.steps:>8,} steps  about {duration(expected.seconds):<12} "
            f"peak {size}"
        )
    waiting = sum(cell.key not in finished for cell in table)
    print(f"{waiting} of {len(table)} cells would run, about {duration(total)} on {bench.device}")


def _say_why(table: "Sequence[Cell]", runs: "RunsFolder") -> None:
    from gim_bench.cells.explain import why

    for cell in table:
        print(f"{cell.name:<28} {why(cell, runs)}")
