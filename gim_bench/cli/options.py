"""Options that several commands share, and exit codes."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gim_bench import registry
from gim_bench.errors import TrackingError, UnwritableError
from gim_bench.settings.shipped import shipped_suites
from gim_bench.system.addresses import sqlite_address
from gim_bench.tracking.addresses import DEFAULT_RUNS_DIR, DEFAULT_URI

if TYPE_CHECKING:
    from gim_bench.tracking import Tracker

FAILED = 1
WRONG_USE = 2
LOST = 74  # results that could not be written; EX_IOERR of sysexits.h
CLOSED_PIPE = 141  # 128 and the number of SIGPIPE, as shells have it

RUNS_DIR = DEFAULT_RUNS_DIR


def suites(beginning: str) -> list[str]:
    return [name for name in shipped_suites() if name.startswith(beginning)]


def words(*known: str) -> Callable[[str], list[str]]:
    """Completion of an option that takes one of these words."""

    def completed(beginning: str) -> list[str]:
        return [word for word in known if word.startswith(beginning)]

    return completed


def method_names(beginning: str) -> list[str]:
    return [name for name in sorted(registry.methods()) if name.startswith(beginning)]


SuiteOption = Annotated[
    str,
    typer.Option("--suite", help="A shipped suite, or a TOML file.", autocompletion=suites),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another value for a setting, as in training.epochs=10."),
]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="The folder of the data set's files.")
]
SkipOption = Annotated[
    bool,
    typer.Option("--skip-bad-files", help="Leave out and count unreadable files. For speech."),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="The first digits of the sha256 of the records' data, where there are records of "
        "several.  [default: the data that was finished last]",
        show_default=False,
    ),
]
RunsDirOption = Annotated[Path, typer.Option("--runs-dir", help="The folder of the records.")]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method", help="Only this method; may be repeated.", autocompletion=method_names
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        envvar="GIM_BENCH_WORKERS",
        help="Processes that share the cells; by default as many as serve.",
    ),
]
SeedsOption = Annotated[int | None, typer.Option(min=1, help="How many seeds, from 0 on.")]
DeviceOption = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda or cuda:<number>.", autocompletion=words("auto", "cpu", "cuda")
    ),
]
DevicesOption = Annotated[
    str | None,
    typer.Option(
        "--devices",
        help="The device of each worker of a pipeline, in order, as in cuda:0,cuda:1.  "
        "[default: those of --device, in turn]",
        show_default=False,
    ),
]
TrackingOption = Annotated[
    str, typer.Option(envvar="MLFLOW_TRACKING_URI", help="The MLflow store to mirror to.")
]
NoTrackingOption = Annotated[bool, typer.Option("--no-tracking", help="Run without MLflow.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show no progress; notes and failures stay.")
]
OutputOption = Annotated[Path | None, typer.Option(help="A file instead of the terminal.")]


def overrides_of(set_: list[str] | None, *, skip_bad_files: bool) -> list[str]:
    """The values of `--set`, and the setting that `--skip-bad-files` stands for."""
    return [*(set_ or ()), *(["dataset.skip_bad_files=true"] if skip_bad_files else ())]


def tracker_for(uri: str, *, runs_dir: Path, may_be_away: bool = False) -> "Tracker | None":
    """A tracker at a store that can be used.

    None, after a line, if nobody named a store and the default cannot be written here; with
    `may_be_away`, if no store can be used.

    Raises: TrackingError with the way to do without.
    """
    from gim_bench.cells.defaults import settings_by_name
    from gim_bench.cli.display import progress_for
    from gim_bench.tracking import Tracker
    from gim_bench.tracking.addresses import sync_command

    tracker = Tracker(uri, complete=settings_by_name)
    try:
        tracker.check()
    except TrackingError as error:
        is_unwritable = uri == DEFAULT_URI and isinstance(error, UnwritableError)
        beside = sqlite_address(runs_dir.absolute() / "mlflow.db")
        later = sync_command(beside if is_unwritable else uri, runs_dir=runs_dir)
        if is_unwritable or may_be_away:
            progress_for().say(f"not mirrored: {error}; later run {later}")
            return None
        raise TrackingError(f"{error}; run with --no-tracking, and later {later}") from None
    return tracker
