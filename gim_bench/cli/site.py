"""The command `site`."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gim_bench.cli.options import RUNS_DIR, RunsDirOption
from gim_bench.cli.results import found_records, report_sources
from gim_bench.errors import ConfigError
from gim_bench.settings.shipped import shipped_suites

if TYPE_CHECKING:
    from gim_bench.records.folder import RunsFolder
    from gim_bench.settings.schema import Suite
    from gim_bench.site.build import OfSuite
    from gim_bench.site.submissions import Refused, Submission

WHO = "gim_bench"
LinkOption = Annotated[
    list[str] | None,
    typer.Option(
        help="A link on every page, as in Documentation=docs/index.html; may be repeated."
    ),
]


def site(
    output: Annotated[Path, typer.Option(help="The folder of the site.")] = Path("site"),
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="A shipped suite, or a TOML file; may be repeated.  [default: all shipped suites "
            "that have records]",
            show_default=False,
        ),
    ] = None,
    submissions: Annotated[
        Path | None, typer.Option(help="The folder with the records of others.")
    ] = None,
    history: Annotated[
        Path | None, typer.Option(help="The history that check --history appends to.")
    ] = None,
    who: Annotated[str, typer.Option(help="Whose records those of --runs-dir are.")] = WHO,
    tracking_uri: Annotated[
        str | None, typer.Option(help="An MLflow server: records are linked to its runs.")
    ] = None,
    link: LinkOption = None,
    runs_dir: RunsDirOption = RUNS_DIR,
) -> None:
    """Write a static site: a page for each suite, a leaderboard, and every record."""
    from gim_bench.check.history import read_history
    from gim_bench.records.folder import RunsFolder
    from gim_bench.settings.suites import load_suite
    from gim_bench.site.build import Content, build_site

    runs = RunsFolder(runs_dir)
    there = runs.suites()
    named = suite or [name for name in there if name in shipped_suites()]
    loaded = _of_different_names([load_suite(name) for name in named])
    unknown = [name for name in there if name not in {each.name for each in loaded}]
    notes = [
        f"the records of suite {name!r}, whose settings are not known: name its file with --suite"
        for name in (unknown if suite is None else ())
    ]
    sent, refused = _sent_to(submissions, loaded) if submissions else ([], [])
    suites = [made for each in loaded if (made := _of_suite(each, runs))]
    if not (suites or sent or refused):
        raise ConfigError(
            f"no records in {runs_dir}: name the folder with --runs-dir, or a file of a suite of "
            f"your own with --suite"
        )
    for line in [*(f"left out: {note}" for note in notes), *(each.line for each in refused)]:
        print(line, file=sys.stderr)
    content = Content(
        suites=suites,
        who=who,
        submissions=sent,
        refused=refused,
        history=read_history(history) if history else (),
        runs_in_mlflow=_runs_in_mlflow(tracking_uri, suites) if tracking_uri else {},
        notes=notes,
        links=dict(map(_link, link or ())),
    )
    files = build_site(content, output=output)
    print(f"wrote {files} files to {output}: open {output / 'index.html'}", file=sys.stderr)


def _of_different_names(suites: "Sequence[Suite]") -> "Sequence[Suite]":
    """The suites. Raises: ConfigError if two have one name."""
    for name, times in Counter(each.name for each in suites).items():
        if times > 1:
            raise ConfigError(
                f"--suite names suite {name!r} {times} times: name it once, and give each suite of "
                f"your own another name"
            )
    return suites


def _sent_to(folder: Path, suites: "Sequence[Suite]") -> "tuple[list[Submission], list[Refused]]":
    """The submissions in a folder, and those that are refused: for other settings, too.

    Settings are compared where the suite is one of `suites` or is shipped.
    """
    from gim_bench.settings.suites import load_suite
    from gim_bench.site.submissions import misfit, submissions_in

    found, refused = submissions_in(folder)
    known = {each.name: each for each in suites}
    sent = []
    for each in found:
        suite = known.get(each.suite)
        if suite is None and each.suite in shipped_suites():
            suite = load_suite(each.suite)
        unfit = None if suite is None else misfit(each, suite)
        if unfit is None:
            sent.append(each)
        else:
            refused.append(unfit)
    return sent, refused


def _link(text: str) -> tuple[str, str]:
    """The words and the address of a link. Raises: ConfigError."""
    words, _, address = text.partition("=")
    scheme, colon, _ = address.partition("://")
    if not (words and address) or (colon and scheme not in {"http", "https"}):
        raise ConfigError(
            f"--link {text!r} is no link: write it as in --link Documentation=docs/index.html, or "
            f"with an address that begins with https://"
        )
    return words, address


def _of_suite(suite: "Suite", runs: "RunsFolder") -> "OfSuite | None":
    """The records of a suite with its report; None, after a line, without any of its settings."""
    from gim_bench.records.protocols import ReadAsSuite
    from gim_bench.report import build
    from gim_bench.site.build import OfSuite

    found = found_records(suite, runs.root, data=None)
    if not found.records:
        where = f"in {runs.root} with its settings"
        print(f"left out: suite {suite.name!r}, which has no records {where}", file=sys.stderr)
        return None
    sources = report_sources(suite, found, runs=runs)
    return OfSuite(
        suite=suite,
        about=suite.summary,
        records=found.records,
        runs=runs,
        report=build(found.records, **sources),
        results=ReadAsSuite(sources["results"], describes=sources["describes"]),
    )


def _runs_in_mlflow(uri: str, suites: "list[OfSuite]") -> dict[str, str]:
    """The page of each cell's run, by key. Raises: ConfigError; TrackingError."""
    from gim_bench.system.addresses import masked
    from gim_bench.tracking import Tracker

    if not uri.startswith(("http://", "https://")):
        raise ConfigError(
            f"--tracking-uri {masked(uri)!r} has no pages to link to: name an MLflow server by its "
            f"address, with http:// or https://"
        )
    tracker = Tracker(uri)
    tracker.check()
    found = [tracker.pages_of_cells(of_suite.suite.name) for of_suite in suites]
    return {key: page for pages in found for key, page in pages.items()}
