"""The command `report`."""

from typing import Annotated

import typer

from gim_bench.cli.options import (
    RUNS_DIR,
    DataOption,
    OutputOption,
    RunsDirOption,
    SetOption,
    SuiteOption,
    words,
)
from gim_bench.cli.results import deliver, found_records, report_sources, with_folder
from gim_bench.errors import ConfigError
from gim_bench.records.metrics import METRICS


def report(
    suite: SuiteOption,
    fmt: Annotated[
        str,
        typer.Option(
            "--format",
            help="md, html, json, csv or latex.",
            autocompletion=words("md", "html", "json", "csv", "latex"),
        ),
    ] = "md",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", help="Only this metric; may be repeated.", autocompletion=words(*METRICS)
        ),
    ] = None,
    output: OutputOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    runs_dir: RunsDirOption = RUNS_DIR,
) -> None:
    """Print the table of a suite from its records."""
    from gim_bench.records.folder import RunsFolder
    from gim_bench.report import render
    from gim_bench.report.changes import changed_settings
    from gim_bench.settings.suites import load_suite

    loaded = load_suite(suite, overrides=set_ or ())
    found = found_records(loaded, runs_dir, data=data)
    if not found.records:
        raise ConfigError(
            f"no records of suite {loaded.name!r} with these settings in {runs_dir}: first run "
            f"python -m gim_bench run {with_folder(loaded, runs_dir).options}, or name the folder "
            f"with --runs-dir"
        )
    changes = changed_settings(loaded, file=load_suite(suite)) if set_ else ""
    runs = RunsFolder(runs_dir)
    sources = report_sources(loaded, found, runs=runs, notes=[changes], metrics=metric or ())
    text = render(found.records, fmt=fmt, metrics=metric or (), **sources)
    deliver(text, output=output)
