"""A report before it has a format: sections of plain paragraphs, lists and tables."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    heading: str
    numeric: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Bullets:
    items: Sequence[str]


Block = str | Bullets | Table  # a plain string is a paragraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    title: str
    summary: Sequence[Block]
    sections: Sequence[Section]
