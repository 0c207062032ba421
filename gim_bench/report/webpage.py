"""The report as one self-contained HTML page: no script, no font, no network."""

from base64 import b64encode
from html import escape

from gim_bench.report.document import Block, Bullets, Column, Document, Figure, Picture, Table
from gim_bench.report.figures import as_svg

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
       color: light-dark(#1b1b1b, #e6e6e6); background: light-dark(#ffffff, #16181c); }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: left; }
th { border-bottom-width: 2px; vertical-align: bottom; }
tbody tr:hover { background: var(--soft); }
figure { margin: 1.5rem 0; }
figcaption { font-weight: 600; margin-bottom: .5rem; }
figure svg, figure img { max-width: 100%; height: auto; }
.number { text-align: right; white-space: nowrap; }
"""


def as_html(document: Document) -> str:
    """The document as a page; every text in it is escaped."""
    title = escape(document.title)
    body = [f"<h1>{title}</h1>", *map(_block, document.summary)]
    for section in document.sections:
        body += [f"<h2>{escape(section.title)}</h2>", *map(_block, section.blocks)]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style></head>",
            "<body>",
            *body,
            "</body></html>\n",
        ]
    )


def _block(block: Block) -> str:
    match block:
        case Table():
            return _table(block)
        case Figure():
            caption = f"<figcaption>{escape(block.title)}</figcaption>"
            return f"<figure>{caption}\n{as_svg(block)}</figure>"
        case Picture():
            source = f"data:image/png;base64,{b64encode(block.content).decode()}"
            image = f'<img src="{source}" alt="{escape(block.alt)}">'
            return f"<figure><figcaption>{escape(block.title)}</figcaption>\n{image}</figure>"
        case Bullets():
            items = "\n".join(f"<li>{escape(item)}</li>" for item in block.items)
            return f"<ul>\n{items}\n</ul>"
        case str():
            return f"<p>{escape(block)}</p>"


def _table(table: Table) -> str:
    heading = "".join(_cell("th", c.heading, c) for c in table.columns)
    rows = (
        "".join(_cell("td", cell, column) for cell, column in zip(row, table.columns, strict=True))
        for row in table.rows
    )
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table>\n<thead><tr>{heading}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(tag: str, text: str, column: Column) -> str:
    return f"<{tag}{' class=number' if column.numeric else ''}>{escape(text)}</{tag}>"
