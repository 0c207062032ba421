"""The commands `report` and `check`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gim_bench.errors import ConfigError

if TYPE_CHECKING:
    from gim_bench.records.record import Record
    from gim_bench.settings.schema import Suite
from gim_bench.cli.options import RunsDirOption, SetOption, SuiteOption


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
    from gim_bench.report import render
    from gim_bench.settings.suites import load_suite

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
    from gim_bench.cells.resolve import describes
    from gim_bench.records.folder import RunsFolder

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
    from gim_bench import check as regression
    from gim_bench.settings.suites import load_suite

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
