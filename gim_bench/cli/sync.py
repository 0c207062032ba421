"""The command `sync`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gim_bench.cli.options import FAILED, RunsDirOption, SetOption, TrackingOption, tracker_for
from gim_bench.tracking.mirror import readers, sync_suite


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
    from gim_bench.records.folder import RunsFolder

    runs = RunsFolder(runs_dir)
    found = readers(suite, set_ or (), runs=runs)
    tracker = tracker_for(tracking_uri)
    tracker.patience_seconds = None  # nothing else waits
    try:
        for name, read in found.items():
            sync_suite(name, read, runs=runs, tracker=tracker)
    except TrackingError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from None
