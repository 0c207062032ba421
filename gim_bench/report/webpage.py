"""The report as an HTML page: no font, no network, and no script but the sorting.

A page is self-contained, or shares style and script with the other pages of a site. The page
follows the reader's light or dark scheme, and fits a telephone of 360 pixels.
"""

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import count

from gim_bench.report.colours import DARK, INKS, LIGHT, themed, variables
from gim_bench.report.described import described
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
from gim_bench.report.figures import COLUMNS, as_svg

STYLE = """
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto;
       padding: 0 1rem; color: {ink}; background: {paper}; overflow-wrap: break-word; }}
h1, h2 {{ line-height: 1.2; }}
h2 {{ margin-top: 2.2rem; }}
.answer {{ border-left: .25rem solid currentColor; padding-left: 1rem; max-width: 60rem; }}
.answer h2 {{ font-size: 1.1rem; margin: 1.2rem 0 0; }}
.answer p {{ margin: .2rem 0; }}
.verdict {{ font-weight: 600; }}
code {{ font-size: .9em; }}
a {{ color: inherit; }}
table a {{ text-decoration-style: dotted; }}
nav ul {{ display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: 0; padding: 0;
         list-style: none; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .35rem .8rem; border-bottom: 1px solid #8888; text-align: left; }}
thead th {{ border-bottom-width: 2px; vertical-align: bottom; }}
tbody th {{ font-weight: inherit; }}
tbody td:not(.number) {{ min-width: 6rem; }}
tbody tr:hover {{ background: #8882; }}
th button {{ font: inherit; color: inherit; background: none; border: 0; padding: 0;
            text-align: inherit; cursor: pointer; }}
th[aria-sort=ascending] button::after {{ content: " ▲"; }}
th[aria-sort=descending] button::after {{ content: " ▼"; }}
figure {{ margin: 1.5rem 0; }}
figcaption {{ font-weight: 600; margin-bottom: .5rem; }}
figure svg, figure img {{ max-width: 100%; height: auto; }}
.number {{ text-align: right; white-space: nowrap; }}
.narrow {{ display: none; }}
@media (max-width: 40rem) {{ .wide {{ display: none; }} .narrow {{ display: inline; }} }}
:root {{ {light} }}
svg text {{ fill: currentColor; }}
@media (prefers-color-scheme: dark) {{
  body {{ color: {dark_ink}; background: {dark_paper}; }}
  :root {{ {dark} }}
}}
"""
# Sorts a table by the first number of a column's cells, or by their text, where a heading is
# pressed; pressed again, the other way round. Cells without a number come last.
SCRIPT = r"""
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((heading, place) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    const numeric = heading.classList.contains("number");
    const value = (row) => {
      const text = row.cells[place].textContent;
      if (!numeric) return text;
      const found = text.replaceAll(",", "").match(/[-+]?\d+(\.\d+)?(e[-+]?\d+)?/);
      return found ? Number(found[0]) : null;
    };
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === null || y === null) return (x === null) - (y === null);
        const order = numeric ? x - y : x.localeCompare(y, "en", { numeric: true });
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Files and links that the pages of a site share, as addresses relative to the page."""

    style: str
    script: str
    navigation: Sequence[tuple[str, str]]  # (text, address)


def as_html(document: Document, *, within: Surroundings | None = None) -> str:
    """The document as a page; every text in it is escaped.

    The page holds its style and its script, unless it lies `within` a site.
    """
    title = escape(document.title)
    page = _Page()
    body = [f"<h1>{title}</h1>", *(page.block(b, under=document.title) for b in document.summary)]
    for section in document.sections:
        blocks = (page.block(block, under=section.title) for block in section.blocks)
        body += [f"<h2>{escape(section.title)}</h2>", *blocks]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{title}</title>",
            f'<link rel="stylesheet" href="{within.style}"></head>'
            if within
            else f"<style>{style()}</style></head>",
            f"<body>{_navigation(within.navigation) if within else ''}<main>",
            *body,
            "</main>",
            f'<script src="{within.script}"></script>' if within else f"<script>{SCRIPT}</script>",
            "</body></html>\n",
        ]
    )


def style() -> str:
    """The style sheet of all pages."""
    return STYLE.format(
        ink=INKS[LIGHT],
        paper=LIGHT,
        light=variables(LIGHT),
        dark_ink=INKS[DARK],
        dark_paper=DARK,
        dark=variables(DARK),
    )


def _navigation(links: Sequence[tuple[str, str]]) -> str:
    items = "".join(f"<li>{_link(escape(text), address)}</li>" for text, address in links)
    return f'<nav aria-label="Site"><ul>{items}</ul></nav>\n'


def _link(html: str, address: str) -> str:
    return f'<a href="{escape(address)}">{html}</a>' if address else html


class _Page:
    """The blocks of a page; tables are numbered, so that each has a name of its own."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def block(self, block: Block, *, under: str) -> str:
        """The block as HTML, below a heading."""
        match block:
            case Answer():
                return _answer(block)
            case Table():
                return _table(block, name=f"Table {next(self._numbers)}: {under}")
            case Figure():
                return _figure(block)
            case Picture():
                source = f"data:image/png;base64,{b64encode(block.content).decode()}"
                image = f'<img src="{source}" alt="{escape(block.alt)}">'
                return f"<figure><figcaption>{escape(block.title)}</figcaption>\n{image}</figure>"
            case Bullets():
                items = "\n".join(f"<li>{escape(item)}</li>" for item in block.items)
                return f"<ul>\n{items}\n</ul>"
            case str():
                return f"<p>{escape(block)}</p>"


def _answer(answer: Answer) -> str:
    verdict, _, rest = answer.paragraph().partition(". ")
    text = re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(rest))
    return (
        f'<div class="answer"><h2>{escape(answer.question)}</h2>\n'
        f'<p><span class="verdict">{escape(verdict)}.</span> {text}</p></div>'
    )


def _figure(figure: Figure) -> str:
    """The figure for wide pages, and with a panel below the other for narrow ones."""
    caption = f"<figcaption>{escape(figure.title)}</figcaption>"
    about = f'role="img" aria-label="{escape(described(figure))}"'
    drawn = [
        themed(as_svg(figure, columns=columns, transparent=True)).replace(
            "<svg", f'<svg class="{name}" {about}', 1
        )
        for name, columns in (("wide", COLUMNS), ("narrow", 1))
    ]
    return "\n".join(["<figure>", caption, *drawn, "</figure>"])


def _table(table: Table, *, name: str) -> str:
    heading = "".join(_cell("th", c.heading, c, scope="col") for c in table.columns)
    links = table.links or [[""] * len(table.columns)] * len(table.rows)
    rows = zip(table.rows, links, strict=True)
    body = "\n".join(f"<tr>{_row(row, of_row, table)}</tr>" for row, of_row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(name)}"><table>\n'
        f"<thead><tr>{heading}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _row(cells: Sequence[str], links: Sequence[str], table: Table) -> str:
    """The cells of a row; the first is a heading if the column holds words."""
    first = "td" if table.columns[0].numeric else "th"
    return "".join(
        _cell(first if place == 0 else "td", cell, column, scope="row", link=link)
        for place, (cell, link, column) in enumerate(zip(cells, links, table.columns, strict=True))
    )


def _cell(tag: str, text: str, column: Column, *, scope: str, link: str = "") -> str:
    of_heading = f" scope={scope}" if tag == "th" else ""
    kind = " class=number" if column.numeric else ""
    return f"<{tag}{of_heading}{kind}>{_link(escape(text), link)}</{tag}>"
