"""The first page of the site: suites, submissions and where they stand."""

from collections.abc import Sequence
from typing import NamedTuple

from gim_bench.report.document import Bullets, Column, Document, Section, Table
from gim_bench.site.links import relative

TITLE = "Benchmark of gradient-isolated representation learning"
ABOUT = (
    "A page for each suite: does local learning work, what does it cost, what does it save. Every "
    "number in a table is a link to the records that it was made from."
)


class SuiteLine(NamedTuple):
    """A suite on the first page."""

    name: str
    summary: str
    methods: int
    cells: int
    newest: str  # when its last cell finished, ISO 8601
    page: str


class SubmissionLine(NamedTuple):
    """A submission on the first page."""

    who: str
    suite: str
    cells: int
    state: str
    page: str  # of its records; empty unless it is listed


def front_page(
    suites: Sequence[SuiteLine],
    submissions: Sequence[SubmissionLine],
    *,
    page: str,
    notes: Sequence[str],
) -> Document:
    """Suites and submissions, a row each; `notes` say what is left out."""
    sections = [
        Section(title="Suites", blocks=[_suites(suites, page=page)] if suites else []),
        Section(
            title="Records of others",
            blocks=[_submissions(submissions, page=page)] if submissions else [],
        ),
        Section(title="Left out", blocks=[Bullets(notes)] if notes else []),
    ]
    return Document(title=TITLE, summary=[ABOUT], sections=[s for s in sections if s.blocks])


def _suites(suites: Sequence[SuiteLine], *, page: str) -> Table:
    headings = ("suite", "about", "methods", "cells", "newest")
    return Table(
        columns=[Column(heading=h, numeric=h in {"methods", "cells"}) for h in headings],
        rows=[[s.name, s.summary, str(s.methods), str(s.cells), s.newest[:10]] for s in suites],
        links=[[relative(s.page, page=page), "", "", "", ""] for s in suites],
    )


def _submissions(submissions: Sequence[SubmissionLine], *, page: str) -> Table:
    headings = ("who", "suite", "cells", "state")
    return Table(
        columns=[Column(heading=h, numeric=h == "cells") for h in headings],
        rows=[[s.who, s.suite, str(s.cells), s.state] for s in submissions],
        links=[[relative(s.page, page=page) if s.page else "", "", "", ""] for s in submissions],
    )
