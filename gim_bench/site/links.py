"""Links of the pages: addresses relative to a page, and numbers of a report to their records."""

import posixpath
import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from gim_bench.report.document import Block, Document, Table

NUMBER = re.compile(r"(± ?|[-+])?\d")
OF_OTHERS = {"paper", "elsewhere", "released code"}  # headings of columns with published numbers


def relative(target: str, *, page: str) -> str:
    """The address of a file of the site, as a link on `page` has it.

    >>> relative("style.css", page="suites/tiny/index.html")
    '../../style.css'
    """
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


def linked(
    document: Document, *, methods: Mapping[str, str], otherwise: str, papers: Collection[str] = ()
) -> Document:
    """The document, in which every number of a table is a link to its records.

    A row that names one method of `methods` has the address of the method; other rows, such as
    those of differences, have `otherwise`. Numbers in columns named after `papers` have no record.
    """

    def block(found: Block) -> Block:
        if not isinstance(found, Table):
            return found
        own = [column.heading not in {*OF_OTHERS, *papers} for column in found.columns]
        return replace(found, links=[_links(row, own, methods, otherwise) for row in found.rows])

    return replace(
        document,
        summary=[block(each) for each in document.summary],
        sections=[replace(s, blocks=[block(b) for b in s.blocks]) for s in document.sections],
    )


def _links(
    row: Collection[str], own: Collection[bool], methods: Mapping[str, str], otherwise: str
) -> list[str]:
    named = {cell for cell in row if cell in methods}
    address = methods[named.pop()] if len(named) == 1 else otherwise
    return [
        address if of_record and (NUMBER.match(cell) or cell in methods) else ""
        for cell, of_record in zip(row, own, strict=True)
    ]
