"""The command `run`."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gim_bench.cli.launch import Cluster, Launch, cluster_of, launch, left_of, records_on
from gim_bench.cli.options import (
    FAILED,
    RUNS_DIR,
    DataDirOption,
    DeviceOption,
    DevicesOption,
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
    words,
)
from gim_bench.cli.ranks import placed
from gim_bench.errors import ConfigError
from gim_bench.records.record import Record, Status
from gim_bench.system.interrupts import INTERRUPTED
from gim_bench.system.streams import show
from gim_bench.tracking import DEFAULT_URI

if TYPE_CHECKING:
    from gim_bench.cells.shares import Share
    from gim_bench.cli.workload import Workload
    from gim_bench.tracking import Tracker

LONGEST_SECONDS = 10**8  # three years: a clock cannot be set to any number


def moment(text: str) -> datetime:
    """The time of `--since`, which is in UTC without a zone. Raises: ConfigError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"--since {text!r} is no time: write it as in --since 2026-11-27T14:00:00+00:00"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


FromOption = Annotated[
    Path | None,
    typer.Option("--from", help="The folder of a finished cell: train more modules on top."),
]
CheckpointOption = Annotated[
    float, typer.Option(min=0, help="Seconds of training between checkpoints.")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        min=1,
        max=LONGEST_SECONDS,
        help="Seconds after which a cell fails; the next run resumes it.",
    ),
]
LimitOption = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        max=10**6,
        help="GB of memory that the process of a cell may hold: the system refuses more.",
    ),
]
LiveOption = Annotated[
    float,
    typer.Option(
        min=0, help="Seconds between points of a cell that trains, on disk and in MLflow."
    ),
]
LauncherOption = Annotated[
    str,
    typer.Option(
        help="local: processes here. slurm: submit workers to a Slurm cluster, return. ray: run "
        "workers as tasks of a Ray cluster.",
        autocompletion=words("local", "slurm", "ray"),
    ),
]
LauncherOptionsOption = Annotated[
    Path | None, typer.Option(help="A TOML file of what each worker on the cluster asks for.")
]
SinceOption = Annotated[
    datetime | None,
    typer.Option(
        parser=moment,
        metavar="TIME",
        help="Run no cell again that has ended after this time (ISO 8601).",
    ),
]
RerunOption = Annotated[bool, typer.Option("--rerun", help="Run finished cells again, too.")]
WhyOption = Annotated[
    bool, typer.Option("--why", help="Run nothing; print why each cell would run or not.")
]
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Run nothing; print the time and memory of each cell.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print records instead of tables.")]


def run(
    suite: SuiteOption,
    method: MethodOption = None,
    seeds: SeedsOption = None,
    device: DeviceOption = "auto",
    devices: DevicesOption = None,
    set_: SetOption = None,
    data_dir: DataDirOption = None,
    skip_bad_files: SkipOption = False,
    runs_dir: RunsDirOption = RUNS_DIR,
    tracking_uri: TrackingOption = DEFAULT_URI,
    no_tracking: NoTrackingOption = False,
    from_: FromOption = None,
    checkpoint_every: CheckpointOption = 60.0,
    cell_timeout: TimeoutOption = None,
    live_every: LiveOption = 10.0,
    workers: WorkersOption = None,
    memory_limit: LimitOption = None,
    launcher: LauncherOption = "local",
    launcher_options: LauncherOptionsOption = None,
    since: SinceOption = None,
    rerun: RerunOption = False,
    why: WhyOption = False,
    plan: PlanOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run the unfinished cells of a suite and print its table."""
    from gim_bench.cells.pretrained import read_base
    from gim_bench.cli.workload import workload_of
    from gim_bench.settings.suites import load_suite

    looks = _only_looks(plan=plan, why=why, as_json=json)
    with placed(
        device, devices=devices, launcher=launcher, data_dir=data_dir, joins=not looks
    ) as place:
        cluster = cluster_of(launcher, file=launcher_options, device=device)
        loaded = load_suite(suite, overrides=overrides_of(set_, skip_bad_files=skip_bad_files))
        uri = None if no_tracking or looks else tracking_uri
        tracker = _tracker(uri, runs_dir=runs_dir, since=since)
        work = workload_of(
            loaded,
            methods=method or (),
            seeds=seeds,
            device=place.device if cluster is None else cluster.device_here,
            data_dir=data_dir,
            runs_dir=runs_dir,
            base=None if from_ is None else read_base(from_),
            quiet=quiet,
            ranks=place.ranks,
            tasks_on=None if cluster is None else cluster.device,
        )
        work.bench.devices = place.devices
        work.bench.every(checkpoint_every, live_seconds=live_every)
        work.bench.limit(cell_timeout, memory_gb=memory_limit)
        asked = Launch(suite=suite, workers=workers, since=since, rerun=rerun, plan=plan)
        if why:
            _print_reasons(work, rerun=rerun)
        else:
            _run_checked(work, cluster, asked=asked, tracker=tracker, as_json=json)


def _only_looks(*, plan: bool, why: bool, as_json: bool) -> bool:
    """Whether nothing is run. Raises: ConfigError for records of a command that runs nothing."""
    if as_json and (plan or why):
        raise ConfigError(
            f"{'--why' if why else '--plan'} runs nothing, and --json prints records of what ran: "
            f"leave one of them out; report --format json prints the records that are there"
        )
    return plan or why


def _tracker(uri: str | None, *, runs_dir: Path, since: datetime | None) -> "Tracker | None":
    """The tracker at a store; None without one.

    A launcher starts its workers, which have a `since`, again and again, also while the server is
    away: they do without. Raises: TrackingError.
    """
    if uri is None:
        return None
    return tracker_for(uri, runs_dir=runs_dir, may_be_away=since is not None)


def _run_checked(
    work: "Workload",
    cluster: Cluster | None,
    *,
    asked: Launch,
    tracker: "Tracker | None",
    as_json: bool,
) -> None:
    """Check the cells, and run them on this machine or by the cluster."""
    if asked.plan:
        work.runs.check_place()
    work.check()
    if cluster is None:
        _run_here(work, asked=asked, tracker=tracker, as_json=as_json)
    else:
        _launch(work, cluster, asked=asked, tracker=tracker, as_json=as_json)


def _run_here(work: "Workload", *, asked: Launch, tracker: "Tracker | None", as_json: bool) -> None:
    """Run the cells on this machine and print the results; with `asked.plan`, only the plan."""
    from gim_bench.cli.workload import done_among

    known = work.records()
    finished = {} if asked.rerun else done_among(known)
    share = work.share(finished, workers=asked.workers)
    if asked.plan:
        _print_plan(work, finished, share=share)
        return
    cells = work.run(share, records=known, rerun=asked.rerun, since=asked.since)
    records = _run_cells(work, cells, finished=len(finished), tracker=tracker)
    _print_results(work, records, tracker=tracker, as_json=as_json)
    _exit_if_failed(work, records)


def _print_reasons(work: "Workload", *, rerun: bool) -> None:
    """A line for each cell: why it would run or not."""
    from gim_bench.cells.explain import why

    work.runs.check_place()
    for cell in work.cells:
        show(f"{cell.name:<28} {why(cell, work.runs, rerun=rerun)}")


def _print_plan(work: "Workload", finished: Mapping[str, Record], *, share: "Share") -> None:
    """A line for each cell and the sum. Seeds of a method cost the same, so one seed is timed."""
    from gim_bench.cells.estimate import estimate
    from gim_bench.cli.display import duration
    from gim_bench.records.folder import left_out

    if damaged := work.runs.unreadable(work.suite.name):
        work.progress.say(left_out(damaged))
    estimates = {}
    seconds = 0.0
    waiting = 0
    for cell in work.cells:
        if cell.key in finished:
            show(f"{cell.name:<28} done")
            continue
        name = cell.config.method.name
        if name not in estimates:
            estimates[name] = estimate(cell, work.bench)
        cost = estimates[name]
        seconds += cost.seconds
        waiting += 1
        peak = "unknown" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**30:.1f} GiB"
        over = work.bench.memory_limit is not None and not cost.fits(work.bench.memory_limit)
        show(
            f"{cell.name:<28} {cost.steps:>8,} steps  about {duration(cost.seconds):<12} "
            f"peak {peak}{', does not fit' if over else ''}"
            f"{'; ' if cost.remark else ''}{cost.remark}"
        )
    show(
        f"{waiting} of {len(work.cells)} cells would run, about "
        f"{duration(seconds / share.workers)} on {work.bench.device}, by {share}"
    )


def _run_cells(
    work: "Workload", cells: Iterable[Record], *, finished: int, tracker: "Tracker | None"
) -> list[Record]:
    """Run the cells, and mirror each record at once. Return the records in the cells' order.

    `cells` yields the record of every cell once it is there; `finished` were done before.
    """
    from gim_bench.tracking import followed, mirror_cell, summarise

    work.runs.check_writable()
    if finished:
        work.progress.say(
            f"{finished} of {len(work.cells)} cells are done already (--rerun runs them again)"
        )
    records: dict[str, Record] = {}
    live = (
        nullcontext()
        if tracker is None
        else followed(
            work.suite.name,
            uri=tracker.uri,
            runs=work.runs,
            every_seconds=work.bench.live_seconds,
            progress=work.progress,
        )
    )
    try:
        with live:
            for record in cells:
                records[record.key] = record
                if record.error:
                    work.progress.say(f"{record.method} seed {record.seed} failed: {record.error}")
                if tracker is not None:
                    mirror_cell(record, runs=work.runs, tracker=tracker, progress=work.progress)
        if tracker is not None:
            summarise(work.suite.name, runs=work.runs, tracker=tracker, progress=work.progress)
    except KeyboardInterrupt:
        work.progress.say(
            f"interrupted: {len(records)} of {len(work.cells)} cells are done and kept; the same "
            f"command resumes"
        )
        raise typer.Exit(INTERRUPTED) from None
    return [records[cell.key] for cell in work.cells]


def _launch(
    work: "Workload",
    cluster: Cluster,
    *,
    asked: Launch,
    tracker: "Tracker | None",
    as_json: bool,
) -> None:
    """Have a cluster run the cells; where that has ended, print the results."""
    asked = replace(asked, since=asked.since or datetime.now(UTC))
    try:
        launch(work, cluster, asked=asked, tracker=tracker)
    except KeyboardInterrupt:
        work.progress.say("interrupted: the same command resumes")
        raise typer.Exit(INTERRUPTED) from None
    if cluster.is_slurm or asked.plan:
        return
    records = records_on(work, cluster)
    _print_results(work, records, tracker=tracker, as_json=as_json)
    _exit_if_failed(work, records)
    if left := left_of(work, cluster, asked=asked):
        folder = work.runs.root / work.suite.name / "ray"
        print(f"error: {left} cell(s) were not run to their end: see {folder}", file=sys.stderr)
        raise typer.Exit(FAILED)


def _print_results(
    work: "Workload", records: Sequence[Record], *, tracker: "Tracker | None", as_json: bool
) -> None:
    """Print the records, or a report of them and where everything is."""
    from gim_bench.cells.resolve import describer
    from gim_bench.cli.results import for_intervals, with_folder
    from gim_bench.report import render
    from gim_bench.tracking.addresses import page_of

    text = render(
        records,
        suite=with_folder(work.suite, work.runs.root),
        describes=describer(work.suite),
        fmt="json" if as_json else "md",
        predictions=for_intervals(work.runs),
    )
    show(text)
    if as_json:
        return
    show(f"Records: {work.runs.root / work.suite.name}")
    if tracker is not None and not tracker.given_up:
        show(f"MLflow:  {page_of(tracker.uri)}")


def _exit_if_failed(work: "Workload", records: Sequence[Record]) -> None:
    """End with exit code 1 if a cell has failed.

    In a suite that measures memory, a cell that does not fit is a result and not a failure.
    """
    failed = [
        f"{record.method} seed {record.seed}"
        for record in records
        if record.status is Status.FAILED and (record.fits or not work.suite.fresh_process)
    ]
    if failed:
        print(f"error: {len(failed)} cell(s) failed: {', '.join(failed)}", file=sys.stderr)
        raise typer.Exit(FAILED)
