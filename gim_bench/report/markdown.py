"""GitHub-flavoured Markdown with aligned tables, which a terminal shows as well."""

import re
from collections.abc import Iterable, Sequence

from gim_bench.report.document import (
    Answer,
    Block,
    Bullets,
    Column,
    Document,
    Figure,
    Picture,
    Table,
)


def as_markdown(document: Document) -> str:
    """The document as Markdown, ending in one newline."""
    parts = [f"# {document.title}", *map(_block, document.summary)]
    for section in document.sections:
        parts += [f"## {section.title}", *map(_block, section.blocks)]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Answer():
            return f"**{_plain(block.question)}** {_plain(block.paragraph())}"
        case Table():
            return _table(block)
        case Figure():
            return _plain(f"Figure (drawn by --format html): {block.title}")
        case Picture():
            return _plain(f"Picture: {block.title} (file: {block.file})")
        case Bullets():
            return "\n".join(f"- {_plain(item)}" for item in block.items)
        case str():
            return _plain(block)


def _table(table: Table) -> str:
    cells = [[column.heading for column in table.columns], *table.rows]
    escaped = [[_escaped(_plain(cell), "|") for cell in row] for row in cells]
    widths = [max(3, *map(len, column)) for column in zip(*escaped, strict=True)]
    heading, *rows = (_line(row, table.columns, widths) for row in escaped)
    rule = "|".join(
        "-" * (width + 1) + ":" if column.numeric else "-" * (width + 2)
        for column, width in zip(table.columns, widths, strict=True)
    )
    return "\n".join([heading, f"|{rule}|", *rows])


def _line(row: Sequence[str], columns: Sequence[Column], widths: Iterable[int]) -> str:
    padded = (
        cell.rjust(width) if column.numeric else cell.ljust(width)
        for cell, column, width in zip(row, columns, widths, strict=True)
    )
    return f"| {' | '.join(padded)} |"


def _plain(text: str) -> str:
    """The text on one line, without a "<" that Markdown would take for HTML."""
    return _escaped(" ".join(text.split()), "<")


def _escaped(text: str, character: str) -> str:
    """The text with a backslash before the character, and before each backslash in front of it.

    Otherwise a backslash of the text itself would undo the escape.
    """
    return re.sub(rf"(\\*){re.escape(character)}", rf"\1\1\\{character}", text)
