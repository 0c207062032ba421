"""The files of the site: pages, copies of records, a style sheet and a script."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gim_bench.check.history import Entry
from gim_bench.errors import ConfigError
from gim_bench.records.folder import RECORD, RunsFolder
from gim_bench.records.protocols import ReadAsSuite
from gim_bench.records.record import Record, Status
from gim_bench.records.statistics import finished_at
from gim_bench.report.build import rows_of
from gim_bench.report.columns import Row
from gim_bench.report.document import Document
from gim_bench.report.protocols import rows_under
from gim_bench.report.published import load
from gim_bench.report.suite_like import SuiteLike
from gim_bench.report.webpage import SCRIPT, Surroundings, as_html, style
from gim_bench.site.checks import checks_page
from gim_bench.site.front import SubmissionLine, SuiteLine, front_page
from gim_bench.site.leaderboard import Standing, leaderboard
from gim_bench.site.links import linked, relative
from gim_bench.site.records import Listed, list_page, method_page, record_page
from gim_bench.site.submissions import Refused, Submission
from gim_bench.site.verification import Standing as Verified
from gim_bench.site.verification import standing_of
from gim_bench.system.atomic import whole_of, write_atomically

FRONT, BOARD, CHECKS = "index.html", "leaderboard.html", "checks.html"
STYLE_SHEET, SORTING = "style.css", "sort.js"
MANIFEST = "site.json"  # the files of the site, which the next build replaces
HISTORY = "history.jsonl"
OURS = "measured here"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfSuite:
    """The records of a suite, and the report on them."""

    suite: SuiteLike
    about: str  # in one line
    records: Sequence[Record]
    runs: RunsFolder
    report: Document
    results: ReadAsSuite  # of further protocols


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """All that a site is made of."""

    suites: Sequence[OfSuite]
    who: str  # whose records the suites are
    submissions: Sequence[Submission] = ()
    refused: Sequence[Refused] = ()
    history: Sequence[Entry] = ()
    runs_in_mlflow: Mapping[str, str] = field(default_factory=dict)  # addresses by key of the cell
    links: Mapping[str, str] = field(default_factory=dict)  # of the navigation, beside the pages
    notes: Sequence[str] = ()


class _Site:
    """Files by their places, which are written at the end."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.files: dict[str, bytes] = {
            STYLE_SHEET: style().encode(),
            SORTING: SCRIPT.encode(),
        }
        self.standings: list[Standing] = []
        self._navigation = {"Suites": FRONT, "Leaderboard": BOARD}
        if content.history:
            self._navigation["Checks over time"] = CHECKS

    def add(
        self, page: str, document: Document, *, beside: Mapping[str, str] | None = None
    ) -> None:
        """Add a page; `beside` are further places of its navigation."""
        places = {**self._navigation, **(beside or {})}
        within = Surroundings(
            style=relative(STYLE_SHEET, page=page),
            script=relative(SORTING, page=page),
            navigation=[
                *((text, relative(place, page=page)) for text, place in places.items()),
                *((text, _address(to, page=page)) for text, to in self.content.links.items()),
            ],
        )
        # Names of files may hold bytes that are no text.
        self.files[page] = as_html(document, within=within).encode(errors="backslashreplace")

    def add_records(
        self,
        records: Sequence[Record],
        *,
        suite: str,
        runs: RunsFolder,
        root: str,
        who: str,
        runs_in_mlflow: Mapping[str, str],
    ) -> dict[str, str]:
        """Add the pages of records below `root`; returns the page of each method's numbers.

        The page of a method with one finished seed is the page of that record.
        """
        beside = {suite: f"{root}/index.html", "Records": f"{root}/records.html"}
        cells = [
            Listed(
                record=record,
                who=who,
                page=f"{root}/{record.method}/seed-{record.seed}-{record.key[:8]}.html",
                content=(runs.folder_of(record) / RECORD).read_bytes(),
                run=runs_in_mlflow.get(record.key, ""),
            )
            for record in records
        ]
        for cell in cells:
            self.files[cell.json] = cell.content
            self.add(cell.page, record_page(cell), beside=beside)
        listing = f"{root}/records.html"
        self.add(listing, list_page(cells, suite=suite, page=listing), beside=beside)
        pages = {}
        for row in rows_of(records, (), predictions=lambda _: None):
            own = [cell for cell in cells if any(cell.record is r for r in row.records)]
            own.sort(key=lambda cell: cell.record.seed)
            pages[row.method] = own[0].page if own else listing
            if len(own) > 1:
                pages[row.method] = f"{root}/{row.method}/index.html"
                document = method_page(own, page=pages[row.method])
                self.add(pages[row.method], document, beside=beside)
        return pages


def build_site(content: Content, *, output: Path) -> int:
    """Write the site; returns the number of its files.

    Files of an earlier site in that folder are replaced or removed, and no others. Raises:
    ConfigError for a folder with other files; OSError.
    """
    earlier = _earlier(output)
    site = _Site(content)
    suites = [_add_suite(site, of_suite) for of_suite in content.suites]
    submissions = [*_add_submissions(site), *map(_refusal, content.refused)]
    site.add(BOARD, leaderboard(site.standings, page=BOARD))
    if content.history:
        site.add(CHECKS, checks_page(content.history))
        lines = [entry.model_dump_json() for entry in content.history]
        site.files[HISTORY] = "".join(f"{line}\n" for line in lines).encode()
    site.add(FRONT, front_page(suites, submissions, page=FRONT, notes=content.notes))
    _write(site.files, output=output, earlier=earlier)
    return len(site.files)


def _address(to: str, *, page: str) -> str:
    """A link from a page to a whole address, or to a place within the site."""
    return to if "://" in to else relative(to, page=page)


def _add_suite(site: _Site, of_suite: OfSuite) -> SuiteLine:
    suite, records = of_suite.suite, of_suite.records
    root = f"suites/{suite.name}"
    page, who = f"{root}/index.html", site.content.who
    pages = site.add_records(
        records,
        suite=suite.name,
        runs=of_suite.runs,
        root=root,
        who=who,
        runs_in_mlflow=site.content.runs_in_mlflow,
    )
    document = linked(
        of_suite.report,
        methods={method: relative(place, page=page) for method, place in pages.items()},
        otherwise="records.html",
        papers=load(suite.published),
    )
    site.add(page, document, beside={"Records": f"{root}/records.html"})
    rows = rows_of(records, suite.methods, predictions=of_suite.runs.predictions)
    for row in (row for row in rows if row.records):
        under = {row.records[0].protocol: row, **rows_under(row, of_suite.results)}
        for protocol, read in under.items():
            if read.records:
                site.standings.append(
                    Standing(
                        suite=suite.name,
                        protocol=protocol,
                        who=who,
                        row=read,
                        page=pages[row.method],
                        verified=OURS,
                    )
                )
    return SuiteLine(
        name=suite.name,
        summary=of_suite.about,
        methods=len(pages),
        cells=sum(record.status is Status.DONE for record in records),
        newest=max(map(finished_at, records)),
        page=page,
    )


def _add_submissions(site: _Site) -> Iterator[SubmissionLine]:
    """A line for each submission; the pages and standings of those that are verified."""
    for submission in site.content.submissions:
        standing = standing_of(submission)
        root = f"submissions/{submission.name}"
        page = f"{root}/index.html" if standing.listed else ""
        if standing.listed:
            runs = RunsFolder(submission.root)
            pages = site.add_records(
                submission.records,
                suite=submission.suite,
                runs=runs,
                root=root,
                who=submission.who,
                runs_in_mlflow={},  # a cell of ours has the same key, and a run of its own
            )
            for row in rows_of(submission.records, (), predictions=lambda _: None):
                site.standings.append(_sent(submission, row, pages[row.method], standing))
            site.files[page] = site.files[f"{root}/records.html"]
        yield SubmissionLine(
            who=submission.who,
            suite=submission.suite,
            cells=len(submission.records),
            state=standing.reason,
            page=page,
        )


def _sent(submission: Submission, row: Row, page: str, verified: Verified) -> Standing:
    return Standing(
        suite=submission.suite,
        protocol=row.records[0].protocol,
        who=submission.who,
        row=row,
        page=page,
        verified=verified.of_row(row.method),
    )


def _refusal(refused: Refused) -> SubmissionLine:
    return SubmissionLine(
        who=refused.who,
        suite=refused.suite,
        cells=refused.cells,
        state=f"refused: {refused.reason}",
        page="",
    )


def _earlier(output: Path) -> list[Path]:
    """The files of the site that lies in a folder. Raises: ConfigError for a folder of others."""
    manifest = output / MANIFEST
    if not output.exists() or (
        output.is_dir() and all(whole_of(path) == manifest for path in output.iterdir())
    ):
        return []
    try:
        names = json.loads(manifest.read_bytes())["files"]
        paths = [output / str(name) for name in names]
    except (OSError, ValueError, TypeError, KeyError):
        raise ConfigError(
            f"{output} holds files that are no site of this command: choose an empty folder with "
            f"--output"
        ) from None
    return [path for path in paths if path.resolve().is_relative_to(output.resolve())]


def _write(files: Mapping[str, bytes], *, output: Path, earlier: Sequence[Path]) -> None:
    """Write all files, and remove those of the earlier site that have no successor.

    The manifest comes first and names the files of both, so that a build which was killed, or found
    no room, is repeated. It does not name their part files, which a later build removes.
    """
    old = {path.relative_to(output).as_posix() for path in earlier}
    names = {*files, MANIFEST}
    write_atomically(output / MANIFEST, _manifest(old | names))
    for name, content in files.items():
        write_atomically(output / name, content)
    for name in old - names:
        (output / name).unlink(missing_ok=True)
    for path in list(output.rglob(".*")):
        whole = whole_of(path)
        if whole is not None and whole.relative_to(output).as_posix() in old | names:
            path.unlink(missing_ok=True)
    write_atomically(output / MANIFEST, _manifest(names))


def _manifest(names: Collection[str]) -> bytes:
    return json.dumps({"files": sorted(names)}, indent=1).encode()
