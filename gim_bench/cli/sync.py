"""The command `sync`."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from gim_bench.cli.options import (
    FAILED,
    RUNS_DIR,
    RunsDirOption,
    SetOption,
    TrackingOption,
)
from gim_bench.errors import ConfigError, TrackingError
from gim_bench.records.record import Record
from gim_bench.system.streams import show
from gim_bench.tracking import DEFAULT_URI

if TYPE_CHECKING:
    from gim_bench.records.folder import RunsFolder
    from gim_bench.tracking import Tracker

Wanted = Callable[[Record], bool]


def sync(
    suite: Annotated[
        str | None,
        typer.Option(help="A shipped suite, or a TOML file.  [default: all that have records]"),
    ] = None,
    set_: SetOption = None,
    runs_dir: RunsDirOption = RUNS_DIR,
    tracking_uri: TrackingOption = DEFAULT_URI,
) -> None:
    """Bring MLflow up to date with the records: cells, sweeps, protocols and summaries."""
    from gim_bench.cells.defaults import settings_by_name
    from gim_bench.records.folder import RunsFolder
    from gim_bench.tracking import Tracker

    runs = RunsFolder(runs_dir)
    suites, wanted = _selection(suite, overrides=set_ or (), runs=runs)
    # Nothing else waits.
    tracker = Tracker(tracking_uri, patience_seconds=None, complete=settings_by_name)
    tracker.check()
    try:
        whole = [_sync(name, wanted=wanted, runs=runs, tracker=tracker) for name in suites]
    except TrackingError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from None
    if not all(whole):
        raise typer.Exit(FAILED)


def _sync(suite: str, *, wanted: Wanted, runs: "RunsFolder", tracker: "Tracker") -> bool:
    """Print a line for each new MLflow run, and how many there were already.

    Return whether the store has the artifacts, too.
    """
    from gim_bench.tracking import sync
    from gim_bench.tracking.entries import Entry

    def announce(entry: Entry) -> None:
        show(f"{suite}: new in MLflow: {entry.name}")

    synced = sync(suite, runs=runs, tracker=tracker, wanted=wanted, announce=announce)
    show(f"{suite}: {len(synced.new)} new in MLflow, {len(synced.unchanged)} there already")
    if synced.artifacts_away:
        print(
            f"{suite}: mirrored without artifacts, which are out of reach "
            f"({synced.artifacts_away}); the same command tries again",
            file=sys.stderr,
        )
    return not synced.artifacts_away


def _selection(
    suite: str | None, *, overrides: Sequence[str], runs: "RunsFolder"
) -> tuple[Sequence[str], Wanted]:
    """The suites to sync, and which of their records: with `--set` those with these settings.

    Standard error says how many damaged records are left out.
    Raises: ConfigError if there is no such record.
    """
    if suite is None and overrides:
        raise ConfigError("--set is for the settings of one suite: add --suite")
    from gim_bench.records.folder import left_out

    suites, wanted = (runs.suites(), _any) if suite is None else _of_suite(suite, overrides)
    for name in suites:
        if damaged := runs.unreadable(name):
            print(left_out(damaged), file=sys.stderr)
    if not any(wanted(record) for name in suites for record in runs.records(name)):
        which = "" if suite is None else f" of suite {suite!r}"
        settings = " with these settings" if overrides else ""
        raise ConfigError(
            f"no records{which}{settings} in {runs.root}: name the folder with --runs-dir"
        )
    return suites, wanted


def _of_suite(suite: str, overrides: Sequence[str]) -> tuple[Sequence[str], Wanted]:
    from gim_bench.settings.suites import load_suite

    loaded = load_suite(suite, overrides=overrides)
    if not overrides:
        return [loaded.name], _any
    from gim_bench.cells.resolve import describer  # imports PyTorch

    described = describer(loaded)
    return [loaded.name], lambda record: described(record.config)


def _any(_: Record) -> bool:
    return True
