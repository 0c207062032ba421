"""The command `check`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gim_bench.cli.options import (
    RUNS_DIR,
    WRONG_USE,
    DataOption,
    OutputOption,
    RunsDirOption,
    SetOption,
    SuiteOption,
    words,
)
from gim_bench.cli.results import deliver, records_of
from gim_bench.errors import ConfigError, one_line
from gim_bench.system.streams import show

if TYPE_CHECKING:
    from gim_bench.check.judge import Verdict
    from gim_bench.records.record import Record
    from gim_bench.settings.schema import Suite

FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        help="text, md, comment, json or junit; the means alone as github-smaller, "
        "github-bigger or bencher.",
        autocompletion=words(
            "text", "md", "comment", "json", "junit", "github-smaller", "github-bigger", "bencher"
        ),
    ),
]

# Options that --update does not read, and those that --bisect, which runs cells anew, does not.
OF_VERDICT, OF_RECORDS = ("--format", "--output", "--history"), ("--data", "--runs-dir")


def check(
    suite: SuiteOption,
    against: Annotated[
        Path | None, typer.Option(help="Your own reference file instead of the shipped one.")
    ] = None,
    fmt: FormatOption = "text",
    output: OutputOption = None,
    history: Annotated[
        Path | None,
        typer.Option(help="A file of JSON lines: append the means of this check."),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Make these records the new reference.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="The reason for --update.")] = None,
    bisect: Annotated[
        str | None,
        typer.Option(help="A commit that was fine: run and check commits from there to HEAD."),
    ] = None,
    set_: SetOption = None,
    data: DataOption = None,
    runs_dir: RunsDirOption = RUNS_DIR,
) -> None:
    """Compare a suite's records with its reference: exit code 1 worse, 3 cannot be judged.

    With --bisect, commits of gim_bench are run and checked to find the first that is worse.
    """
    from gim_bench import check as room
    from gim_bench.settings.suites import load_suite

    room.check_format(fmt)
    given = {
        "--format": fmt != "text",
        "--output": output is not None,
        "--history": history is not None,
        "--data": data is not None,
        "--runs-dir": runs_dir != RUNS_DIR,
    }
    _check_together(given, update=update, reason=reason, bisect=bisect)
    loaded = load_suite(suite, overrides=set_ or ())
    path = against or room.reference_path(loaded.name)
    if bisect is not None:
        _bisect(bisect, suite, path, overrides=set_ or ())
        return
    if update:
        seen = room.update(
            path, records_of(loaded, runs_dir, data=data), suite=loaded, reason=reason or ""
        )
        print("\n".join([f"wrote {path}", *seen]), file=sys.stderr)
        return
    records, verdict = _judged(loaded, path, runs_dir, data=data)
    tracked = fmt in room.TRACKERS
    text = room.for_tracker(records, fmt) if tracked else room.render(verdict, fmt)
    deliver(text, output=output)
    whole = history is None or _is_added(history, records, verdict=verdict)
    raise typer.Exit(verdict.exit_code or (0 if whole else WRONG_USE))


def _check_together(
    given: Mapping[str, bool], *, update: bool, reason: str | None, bisect: str | None
) -> None:
    """Check that all options take part; `given` says which of a check's. Raises: ConfigError."""
    if reason is not None and not update:
        raise ConfigError("--reason is for a new reference: add --update, or leave it out")
    if update and bisect is not None:
        raise ConfigError("--bisect writes no reference: leave out --update")
    idle = OF_VERDICT if update else (*OF_VERDICT, *OF_RECORDS) if bisect is not None else ()
    for option in idle:
        if given[option]:
            asked = "--update" if update else "--bisect"
            raise ConfigError(f"{option} is for a check of records: leave it out with {asked}")


def _judged(
    suite: "Suite", reference: Path, runs_dir: Path, *, data: str | None
) -> "tuple[list[Record], Verdict]":
    """The records and the verdict on them; the command ends where they cannot be read."""
    from gim_bench import check as room
    from gim_bench.check.outcome import EXIT_CODES, Outcome

    known = room.read_reference(reference, suite=suite.name)
    try:
        records = records_of(suite, runs_dir, data=data, usual=known.data_sha256)
        return records, room.judge(records, known, suite=suite)
    except OSError as error:
        print(f"error: cannot judge: {one_line(str(error))}", file=sys.stderr)
        raise typer.Exit(EXIT_CODES[Outcome.UNJUDGED]) from None


def _is_added(history: Path, records: "Sequence[Record]", *, verdict: "Verdict") -> bool:
    """Add a check to a history; whether all methods have a line. The verdict stands in any case."""
    from gim_bench import check as room

    try:
        lines, notes = room.append(history, records, verdict=verdict)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    for note in notes:
        print(f"error: {note}", file=sys.stderr)
    if lines or not notes:
        print(f"appended {lines} line(s) to {history}", file=sys.stderr)
    return not notes


def _bisect(good: str, suite: str, reference: Path, *, overrides: Sequence[str]) -> None:
    """Print the first commit that is worse; exit code 1 if there is one."""
    from gim_bench.check.bisect import Trial, first_bad
    from gim_bench.check.outcome import EXIT_CODES, Outcome

    file = Path(suite)
    trial = Trial(
        suite=str(file.resolve()) if file.is_file() else suite,
        reference=reference.resolve(),
        overrides=overrides,
    )
    found = first_bad(good, trial, say=lambda line: print(line, file=sys.stderr))
    if found is None:
        show("nothing is worse at HEAD")
        return
    show(f"first worse commit: {found}")
    raise typer.Exit(EXIT_CODES[Outcome.WORSE])
