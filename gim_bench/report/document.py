"""A report before it has a format: sections of plain paragraphs, lists, tables and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

Points = Sequence[tuple[float, float]]  # (x, y), in the order of x


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    heading: str
    numeric: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    # Address that a page of a site links each cell to, "" for no link; empty: no cell has a link.
    links: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, slots=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The curve of one method in a panel, seed by seed."""

    method: str
    seeds: Sequence[Points]
    validation: bool = False  # on held-out examples, beside the curve on the examples trained on

    def mean(self) -> Points:
        """At every x, the mean over the seeds that have a point there."""
        values: dict[float, list[float]] = {}
        for points in self.seeds:
            for x, y in points:
                values.setdefault(x, []).append(y)
        return [(x, fmean(values[x])) for x in sorted(values)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """The point of one method in a panel, with the half widths of its intervals where known."""

    method: str
    x: float
    y: float
    x_half: float | None = None
    y_half: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    title: str
    curves: Sequence[Curve] = ()
    dots: Sequence[Dot] = ()
    levels: Mapping[str, float] = field(default_factory=dict)  # horizontal lines, by their meaning


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Panels side by side with the same axes and one legend."""

    title: str
    panels: Sequence[Panel]
    methods: Sequence[str]  # of the whole report: a method looks the same in every figure
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A PNG file that lies on disk; a page holds the file itself."""

    title: str
    alt: str  # what the picture shows, for those who do not see it
    content: bytes
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A question of the reader, its answer in a few words, and the sentences that prove it."""

    question: str
    verdict: str
    sentences: Sequence[str]

    def paragraph(self) -> str:
        """The verdict and all sentences, with a full stop each; commands are in backticks."""
        return " ".join(f"{text}." for text in (self.verdict, *self.sentences))


Block = str | Answer | Bullets | Table | Figure | Picture  # a plain string is a paragraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    title: str
    summary: Sequence[Block]
    sections: Sequence[Section]
