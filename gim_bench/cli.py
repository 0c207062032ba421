"""What users type. Results go to standard output, progress and errors to standard error."""

import io
import os
import sys
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from gim_bench.errors import BenchError, ConfigError, one_line
from gim_bench.interrupts import terminate_as_interrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from gim_bench.base import Base
    from gim_bench.config import CellConfig, Suite
    from gim_bench.contract import Dataset, Progress, Record
    from gim_bench.errors import TrackingError
    from gim_bench.run import Bench, Cell
    from gim_bench.store import RunsFolder
    from gim_bench.sweep import Plan, Pretraining, Studies
    from gim_bench.tracking import Tracker

app = typer.Typer(
    help="Gradient-isolated representation learning, measured beside its baselines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Fetch or check the data of a suite.", no_args_is_help=True)
app.add_typer(data_app, name="data")

FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130
LONGEST_SECONDS = 10**8  # three years; clocks cannot be set to any number

SuiteOption = Annotated[str, typer.Option("--suite", help="A shipped suite, or a TOML file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another value for a setting, as in training.epochs=10."),
]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Where the data set's files are.")
]
SkipOption = Annotated[
    bool,
    typer.Option(
        "--skip-bad-files", help="Leave out files that cannot be read; says how many. For speech."
    ),
]
RunsDirOption = Annotated[Path, typer.Option("--runs-dir", help="Where the records are.")]
MethodOption = Annotated[
    list[str] | None, typer.Option("--method", help="Only this method; may be repeated.")
]
SeedsOption = Annotated[int | None, typer.Option(min=1, help="How many seeds, from 0 on.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<number>.")]
TrackingOption = Annotated[
    str, typer.Option(envvar="MLFLOW_TRACKING_URI", help="The MLflow store to mirror to.")
]
NoTrackingOption = Annotated[bool, typer.Option("--no-tracking", help="Without MLflow.")]


def main() -> NoReturn:
    """The command line; an error of the user's is one line and exit code 2."""
    terminate_as_interrupt()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold what it cannot write
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except SystemExit as ending:
        # Typer makes an exit of Ctrl-C, and says nothing.
        if ending.__context__ is None or not isinstance(
            ending.__context__.__cause__, KeyboardInterrupt
        ):
            raise
        _say_interrupted()
    except KeyboardInterrupt:  # before Typer has begun, or after it has ended
        _say_interrupted()
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_USE)
    except OSError as error:  # a disk that is full or gone; records are written whole or not at all
        line = one_line(str(error))
        print(f"error: {line}; what was finished is kept, run the same again", file=sys.stderr)
        sys.exit(FAILED)
    except MemoryError as error:
        print(
            f"error: memory does not suffice ({error}): lower the sizes asked for", file=sys.stderr
        )
        sys.exit(FAILED)
    sys.exit(0)


def _say_interrupted() -> NoReturn:
    print("interrupted; what was finished is kept, run the same again", file=sys.stderr)
    sys.exit(INTERRUPTED)


# -- run -----------------------------------------------------------------------------------------


@app.command()
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
    from gim_bench.base import read_base
    from gim_bench.config import load_suite
    from gim_bench.display import progress_for
    from gim_bench.store import RunsFolder

    loaded = load_suite(suite, overrides=_overrides(set_, skip_bad_files=skip_bad_files))
    runs = RunsFolder(runs_dir)
    base = None if from_ is None else read_base(from_)
    if base is not None and seeds is not None:
        raise ConfigError(f"--from {from_} is of seed {base.record.seed}: leave out --seeds")
    tracker = None if no_tracking or plan or why else _tracker(tracking_uri)
    progress = progress_for()
    bench, configs = _bench(
        loaded,
        methods=method or ([] if base is None else [base.method]),
        device=device,
        data_dir=data_dir,
        progress=progress,
        base=base,
    )
    bench.checkpoint_seconds = checkpoint_every
    bench.cell_timeout = cell_timeout
    from gim_bench.plan import cells

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
    finished = {} if rerun else _finished(table, runs)
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


def _overrides(set_: list[str] | None, *, skip_bad_files: bool) -> list[str]:
    return [*(set_ or ()), *(["dataset.skip_bad_files=true"] if skip_bad_files else ())]


def _bench(
    suite: "Suite",
    *,
    methods: "Sequence[str]",
    device: str,
    data_dir: Path | None,
    progress: "Progress",
    base: "Base | None",
) -> "tuple[Bench, dict[str, CellConfig]]":
    """The suite's data on its device, and the configurations of its methods; all checked."""
    from gim_bench.devices import resolve_device
    from gim_bench.plan import configs
    from gim_bench.run import Bench

    resolved = resolve_device(device)
    configured = configs(suite, methods=methods, device=resolved, base=base)
    dataset = _dataset(suite, data_dir=data_dir, progress=progress)
    return Bench(dataset, device=resolved, progress=progress), configured


def _dataset(suite: "Suite", *, data_dir: Path | None, progress: "Progress") -> "Dataset":
    from gim_bench.plan import dataset_of

    kind, options = dataset_of(suite)
    if data_dir is not None and not kind.needs_data_dir:
        raise ConfigError(
            f"the data set {suite.dataset.name!r} of suite {suite.name!r} takes no --data-dir; "
            f"for your own images use --suite folder, for recordings --suite folder-audio"
        )
    return kind(options=options, data_dir=data_dir, cache_dir=cache_dir(), progress=progress)


def cache_dir() -> Path:
    """Decoded images and checksums: $GIM_BENCH_CACHE, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("GIM_BENCH_CACHE") or platformdirs.user_cache_dir("gim-bench"))


def _tracker(uri: str) -> "Tracker":
    from gim_bench.tracking import Tracker

    tracker = Tracker(uri)
    tracker.check()
    return tracker


def _finished(table: "Sequence[Cell]", runs: "RunsFolder") -> "dict[str, Record]":
    """The records of the cells that are done, by key."""
    from gim_bench.contract import Status
    from gim_bench.table import found

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
    from gim_bench.apart import run_apart
    from gim_bench.run import run_cell
    from gim_bench.table import run_table

    run = run_apart if fresh_process else run_cell
    records: dict[str, Record] = {}
    try:
        for record in run_table(table, bench, runs=runs, run=run, rerun=rerun):
            if record.error:
                name = f"{record.method} seed {record.seed}"
                bench.progress.say(f"{name} failed: {record.error}")
            records[record.key] = record
            if tracker is not None:
                _mirror(record, runs=runs, tracker=tracker, progress=bench.progress)
        ordered = [records[cell.key] for cell in table]
        if tracker is not None:
            suite = table[0].suite
            _summarise(suite, runs=runs, tracker=tracker, progress=bench.progress)
    except KeyboardInterrupt:
        bench.progress.say(
            f"interrupted: {len(records)} of {len(table)} cells are done and kept; the same "
            f"command goes on where this one was"
        )
        raise typer.Exit(INTERRUPTED) from None
    return ordered


def _mirror(
    record: "Record", *, runs: "RunsFolder", tracker: "Tracker", progress: "Progress"
) -> None:
    """The record as an MLflow run, unless it is there already."""
    folder = runs.folder_of(record)
    with _noted([record], folder=folder, runs=runs, tracker=tracker, progress=progress) as needed:
        if needed:
            tracker.mirror(record, folder=folder)


def _summarise(suite: str, *, runs: "RunsFolder", tracker: "Tracker", progress: "Progress") -> None:
    """Summary runs of all that is finished in the suite, unless they are there already."""
    from gim_bench.statistics import by_settings

    folder = runs.root / suite
    summed, found = None, by_settings(runs.records(suite))
    while found != summed:  # a process beside this one may finish a cell meanwhile
        records = [record for alike in found for record in alike]
        with _noted(records, folder=folder, runs=runs, tracker=tracker, progress=progress) as new:
            if new:
                tracker.summarise(suite, records)
        summed, found = found, by_settings(runs.records(suite))


@contextmanager
def _noted(
    records: "Sequence[Record]",
    *,
    folder: Path,
    runs: "RunsFolder",
    tracker: "Tracker",
    progress: "Progress",
) -> "Iterator[bool]":
    """Whether the block must mirror; a store that is away costs one line a run, never a cell."""
    from gim_bench.errors import TrackingError

    mirrored = runs.is_mirrored(records, folder=folder, to=tracker.destination)
    needed = not mirrored and not tracker.given_up
    try:
        yield needed
    except TrackingError as error:
        _give_up(tracker, error, progress=progress)
    else:
        if needed:
            runs.note_mirrored(records, folder=folder, to=tracker.destination)


def _give_up(tracker: "Tracker", error: "TrackingError", *, progress: "Progress") -> None:
    """Its time-outs are paid once, not at every cell."""
    tracker.given_up = True
    progress.say(f"not mirrored: {error}; the rest of this run is left for that, too")


def _conclude(
    suite: "Suite",
    records: "list[Record]",
    *,
    runs: "RunsFolder",
    tracked_to: str | None,
    as_json: bool,
) -> None:
    """Prints the table, where everything is, and what failed; exit code 1 where something did."""
    from gim_bench.contract import Status
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
    from gim_bench.display import duration
    from gim_bench.plan import estimate

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
    from gim_bench.why import why

    for cell in table:
        print(f"{cell.name:<28} {why(cell, runs)}")


# -- sweep ---------------------------------------------------------------------------------------


TRIALS_OF_PROBES = 64
TRIALS_OF_CELLS = 20


class Modules(StrEnum):
    TOP = "top"
    ALL = "all"


@app.command()
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
    from gim_bench.config import load_suite
    from gim_bench.display import progress_for
    from gim_bench.plan import cells
    from gim_bench.report import render_spaces, render_sweeps
    from gim_bench.store import RunsFolder
    from gim_bench.sweep import Plan, Pretraining, Studies, parse_space

    overrides = _overrides(set_, skip_bad_files=skip_bad_files)
    loaded = load_suite(suite, overrides=overrides)
    if loaded.probe is None:
        raise ConfigError(f"suite {loaded.name!r} has no [probe]: there is nothing to sweep")
    if space and (weight_decay or modules):
        raise ConfigError("--weight-decay and --modules are for probes: leave them out of --space")
    axes = parse_space(space or ())
    runs = RunsFolder(runs_dir)
    tracker = None if no_tracking else _tracker(tracking_uri)
    bench, configs = _bench(
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
    finished = _finished(table, runs)
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
                    _give_up(tracker, error, progress=bench.progress)
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
            _mirror(record, runs=runs, tracker=tracker, progress=bench.progress)

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


# -- sync ----------------------------------------------------------------------------------------


@app.command()
def sync(
    suite: Annotated[
        str | None,
        typer.Option(help="A shipped suite, or a TOML file.  [default: all that have records]"),
    ] = None,
    set_: SetOption = None,
    runs_dir: RunsDirOption = Path("runs"),
    tracking_uri: TrackingOption = "sqlite:///mlflow.db",
) -> None:
    """Bring MLflow up to date with the records: cells, sweeps and summaries."""
    from gim_bench.errors import TrackingError
    from gim_bench.store import RunsFolder

    runs = RunsFolder(runs_dir)
    readers = _readers(suite, set_ or (), runs=runs)
    tracker = _tracker(tracking_uri)
    tracker.patience_seconds = None  # nothing else waits
    try:
        for name, read in readers.items():
            _sync_suite(name, read, runs=runs, tracker=tracker)
    except TrackingError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from None


def _readers(
    suite: str | None, overrides: "Sequence[str]", *, runs: "RunsFolder"
) -> "Mapping[str, Callable[[], list[Record]]]":
    """What reads the records of each suite: all of them, with `--set` those with these settings.

    Raises: ConfigError where there is no record.
    """
    from gim_bench.config import load_suite

    if suite is None and overrides:
        raise ConfigError("--set is for the settings of one suite: add --suite")
    if suite is None:
        readers = {name: partial(runs.records, name) for name in runs.suites()}
    else:
        loaded = load_suite(suite, overrides=overrides)
        readers = {loaded.name: partial(_records_to_sync, loaded, runs, overrides)}
    if not any(read() for read in readers.values()):
        which = "" if suite is None else f" of suite {suite!r}"
        with_ = " with these settings" if overrides else ""
        raise ConfigError(
            f"no records{which}{with_} in {runs.root}: name the folder with --runs-dir"
        )
    return readers


def _records_to_sync(
    suite: "Suite", runs: "RunsFolder", overrides: "Sequence[str]"
) -> "list[Record]":
    from gim_bench.plan import describes

    return [
        record
        for record in runs.records(suite.name)
        if not overrides or describes(suite, record.config)
    ]


def _sync_suite(
    suite: str, read: "Callable[[], list[Record]]", *, runs: "RunsFolder", tracker: "Tracker"
) -> None:
    """Prints a line for every run that is new in MLflow, and how many were there."""
    from gim_bench.tracking import suite_entries

    written: dict[tuple[str, ...], bool] = {}  # by identity
    synced, records = None, read()
    while records != synced:  # a process beside this one may finish a cell meanwhile
        for entry in suite_entries(records, folder_of=runs.folder_of):
            identity = tuple(entry.identity.values())
            new = tracker.put(suite, entry)
            written[identity] = new or written.get(identity, False)
            if new:
                print(f"{suite}: new in MLflow: {entry.name}")
        synced, records = records, read()
    new_runs = sum(written.values())
    print(f"{suite}: {new_runs} new in MLflow, {len(written) - new_runs} there already")


# -- report --------------------------------------------------------------------------------------


@app.command()
def report(
    suite: SuiteOption,
    fmt: Annotated[str, typer.Option("--format", help="md, html, json or csv.")] = "md",
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Only this metric; may be repeated.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="A file instead of the terminal.")] = None,
    set_: SetOption = None,
    runs_dir: RunsDirOption = Path("runs"),
) -> None:
    """Print the table of a suite from its records."""
    from gim_bench.config import load_suite
    from gim_bench.report import render

    loaded = load_suite(suite, overrides=set_ or ())
    records = _records_of(loaded, runs_dir)
    if not records:
        raise ConfigError(
            f"no records of suite {loaded.name!r} with these settings in {runs_dir}: first run "
            f"python -m gim_bench run --suite {suite}, or name the folder with --runs-dir"
        )
    _hand_over(render(records, suite=loaded, fmt=fmt, metrics=metric or ()), output=output)


def _records_of(suite: "Suite", runs_dir: Path) -> "list[Record]":
    """The suite's records with its own settings; says how many others there are."""
    from gim_bench.plan import describes
    from gim_bench.store import RunsFolder

    runs = RunsFolder(runs_dir)
    found = runs.records(suite.name)
    if damaged := runs.unreadable(suite.name):
        print(
            f"left out: {len(damaged)} record(s) that were altered, cut off or written by another "
            f"version, such as {damaged[0]}; run --suite {suite.name} makes those anew that its "
            f"settings still ask for",
            file=sys.stderr,
        )
    records = [record for record in found if describes(suite, record.config)]
    if len(records) < len(found):
        print(
            f"left out: {len(found) - len(records)} record(s) with other settings (name them "
            f"with --set to see them)",
            file=sys.stderr,
        )
    return records


def _hand_over(text: str, *, output: Path | None) -> None:
    """Prints the text, or writes it to a file. Raises: ConfigError where that fails."""
    if output is None:
        print(text)
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {output} ({error.strerror}): choose another") from None
    print(f"wrote {output}", file=sys.stderr)


# -- check ---------------------------------------------------------------------------------------


@app.command()
def check(
    suite: SuiteOption,
    against: Annotated[
        Path | None, typer.Option(help="A reference file of your own, not the shipped one.")
    ] = None,
    fmt: Annotated[str, typer.Option("--format", help="text, md, json or junit.")] = "text",
    output: Annotated[Path | None, typer.Option(help="A file instead of the terminal.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Make these records the new reference.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why, with --update.")] = None,
    set_: SetOption = None,
    runs_dir: RunsDirOption = Path("runs"),
) -> None:
    """Compare a suite's records with its reference: exit code 1 worse, 3 cannot be judged."""
    from gim_bench import regression
    from gim_bench.config import load_suite

    regression.check_format(fmt)
    if reason is not None and not update:
        raise ConfigError("--reason is for a new reference: add --update, or leave it out")
    loaded = load_suite(suite, overrides=set_ or ())
    path = against or regression.reference_path(loaded.name)
    records = _records_of(loaded, runs_dir)
    if update:
        regression.update(path, records, suite=loaded, reason=reason or "")
        print(f"wrote {path}", file=sys.stderr)
        return
    reference = regression.read_reference(path, suite=loaded.name)
    verdict = regression.judge(records, reference, suite=loaded)
    _hand_over(regression.render(verdict, fmt), output=output)
    raise typer.Exit(verdict.exit_code)


# -- list ----------------------------------------------------------------------------------------


class Listed(StrEnum):
    SUITES = "suites"
    METHODS = "methods"
    DATASETS = "datasets"


@app.command("list")
def list_(what: Listed) -> None:
    """List what can be named: suites, methods or datasets."""
    rows = _suite_rows() if what is Listed.SUITES else _plugin_rows(what)
    width = max(len(name) for name, _ in rows)
    for name, summary in rows:
        print(f"{name:<{width}}  {summary}".rstrip())


def _suite_rows() -> list[tuple[str, str]]:
    import tomllib

    from gim_bench.config import shipped_suites

    return [
        (name, tomllib.loads(path.read_text(encoding="utf-8"))["summary"])
        for name, path in shipped_suites().items()
    ]


def _plugin_rows(what: Listed) -> list[tuple[str, str]]:
    from gim_bench import registry

    table = registry.methods() if what is Listed.METHODS else registry.datasets()
    return [(name, registry.summary(target)) for name, target in sorted(table.items())]


# -- data ----------------------------------------------------------------------------------------


@data_app.command()
def prepare(
    suite: SuiteOption,
    data_dir: DataDirOption = None,
    set_: SetOption = None,
    skip_bad_files: SkipOption = False,
) -> None:
    """Download or decode the data of a suite."""
    overrides = _overrides(set_, skip_bad_files=skip_bad_files)
    _data_of(suite, overrides=overrides, data_dir=data_dir).prepare()
    print(f"the data of suite {suite!r} is ready")


@data_app.command()
def verify(
    suite: SuiteOption,
    data_dir: DataDirOption = None,
    set_: SetOption = None,
    skip_bad_files: SkipOption = False,
) -> None:
    """Check every file of a suite's data."""
    overrides = _overrides(set_, skip_bad_files=skip_bad_files)
    _data_of(suite, overrides=overrides, data_dir=data_dir).verify()
    print(f"the data of suite {suite!r} is intact")


def _data_of(suite: str, *, overrides: "Sequence[str]", data_dir: Path | None) -> "Dataset":
    from gim_bench.config import load_suite
    from gim_bench.display import progress_for

    loaded = load_suite(suite, overrides=overrides)
    return _dataset(loaded, data_dir=data_dir, progress=progress_for())
