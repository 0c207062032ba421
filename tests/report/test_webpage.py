"""The page of a report: valid, accessible in light and dark, narrow and wide, and sortable."""

from contextlib import ExitStack
from dataclasses import replace

import pytest

from gim_bench.report.colours import CONTRAST, DARK, INKS, LIGHT, contrast, palette, readable
from gim_bench.report.described import described
from gim_bench.report.document import (
    Answer,
    Bullets,
    Column,
    Curve,
    Document,
    Dot,
    Figure,
    Panel,
    Picture,
    Section,
    Table,
)
from gim_bench.report.webpage import Surroundings, as_html
from tests.browser import errors_of_html, opened_browser
from tests.browser import opened as opened_file

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c02"
    "0000000b4944415478da6364f80f00010501012718e3660000000049454e44ae426082"
)

TABLE = Table(
    columns=[Column(heading="method", numeric=False), Column(heading="accuracy")],
    rows=[
        ["gim", "9.5 ± 1.0"],
        ["cpc", "1,010.0"],
        ["pixels", "–"],
        ["supervised_with_a_long_name", "-3.0"],
    ],
)
CURVES = Figure(
    title="Loss",
    panels=[
        Panel(
            title="module 1",
            curves=[Curve(method="gim", seeds=[[(1, 2.5), (5, 2.0)]])],
            levels={"chance": 2.75},
        )
    ],
    methods=["gim"],
    x_label="epochs",
    y_label="nats",
)
DOTS = Figure(
    title="Accuracy over time",
    panels=[Panel(title="linear probe", dots=[Dot(method="gim", x=10, y=60, y_half=2.5)])],
    methods=["gim", "cpc"],
    x_label="time, s",
    y_label="accuracy, %",
    log_x=True,
)


@pytest.fixture(scope="module")
def document():
    """Every kind of block, some of them twice."""
    answer = Answer(
        question="Does it work?", verdict="Not known", sentences=["Run `python -m gim_bench run`"]
    )
    picture = Picture(title="Patches", alt="What neuron 1 sees", content=PIXEL, file="patches.png")
    return Document(
        title="Suite quickstart",
        summary=[answer, DOTS, Bullets(["Protocol: none"])],
        sections=[
            Section(title="Tables", blocks=[TABLE, "A remark.", TABLE]),
            Section(title="Figures", blocks=[CURVES, replace(DOTS, title="Another"), picture]),
        ],
    )


@pytest.fixture(scope="module")
def page(document):
    return as_html(document)


@pytest.fixture(scope="module")
def page_of_site(document):
    """The same as a page of a site, with links in its first table."""
    links = [["gim.html", "gim.html"], *[["", ""]] * (len(TABLE.rows) - 1)]
    sections = [Section(title="Tables", blocks=[replace(TABLE, links=links)]), document.sections[1]]
    within = Surroundings(
        style="../style.css", script="../sort.js", navigation=[("R & D", "../index.html")]
    )
    return as_html(replace(document, sections=sections), within=within)


# -- without a browser -----------------------------------------------------------------------------


def test_text_in_figures_has_the_ink_of_the_page(page):
    """matplotlib names no colour for black text, which a dark page would not show."""
    assert "svg text { fill: currentColor; }" in page


def test_the_page_is_parsed_without_an_error(page):
    html5lib = pytest.importorskip("html5lib", reason="html5lib is not installed")
    html5lib.HTMLParser(strict=True).parse(page)


def test_pages_pass_the_checker_of_html(page, page_of_site, tmp_path):
    """The Nu HTML checker, with its rules on elements, attributes and style."""
    files = {"report.html": page, "site.html": page_of_site}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert errors_of_html(*(tmp_path / name for name in files)) == ""


def test_a_page_of_a_site_holds_neither_style_nor_script(page_of_site):
    assert '<link rel="stylesheet" href="../style.css">' in page_of_site
    assert '<script src="../sort.js"></script>' in page_of_site
    assert "<style>" not in page_of_site.partition("<main>")[0]


def test_cells_and_navigation_of_a_site_are_links(page_of_site):
    assert '<th scope=row><a href="gim.html">gim</a></th>' in page_of_site
    assert '<td class=number><a href="gim.html">9.5 ± 1.0</a></td>' in page_of_site
    assert "<td class=number>1,010.0</td>" in page_of_site
    assert '<li><a href="../index.html">R &amp; D</a></li>' in page_of_site


def test_commands_in_answers_stand_as_code(page):
    assert (
        '<span class="verdict">Not known.</span> Run <code>python -m gim_bench run</code>.' in page
    )


def test_the_first_cell_of_a_row_is_its_heading(page):
    assert "<th scope=row>gim</th><td class=number>9.5 ± 1.0</td>" in page
    assert "<th scope=col>method</th><th scope=col class=number>accuracy</th>" in page


def test_a_figure_is_described_with_its_numbers():
    assert described(DOTS) == (
        "Accuracy over time. Across: time, s; up: accuracy, %. linear probe: gim 60 ± 2.5 at 10."
    )
    assert described(CURVES) == (
        "Loss. Across: epochs; up: nats. module 1: chance 2.75; gim from 2.5 at 1 to 2 at 5."
    )


@pytest.mark.parametrize("background", [LIGHT, DARK])
def test_every_colour_of_a_figure_stands_out_from_the_page(background):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    colours = [readable(colour, background) for colour in palette()]
    assert min(contrast(colour, background) for colour in colours) >= CONTRAST
    assert len(set(colours)) == len(colours)
    assert contrast(INKS[background], background) > 7


def test_figures_have_no_colour_of_their_own(page):
    """Neither black, nor the palette: a dark page would hide some of them."""
    figures = page.partition("<main>")[2]
    assert "currentColor" in figures
    assert "var(--c0)" in figures
    assert not any(colour in figures for colour in (*palette(), "#000000", "#ffffff"))


# -- in a browser ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with opened_browser() as chromium:
        yield chromium


@pytest.fixture
def opened(browser, page, tmp_path):
    """Opens the page in a window; the network is cut off."""
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    with ExitStack() as windows:
        yield lambda *, width=1200, scheme="light": windows.enter_context(
            opened_file(browser, file, width=width, scheme=scheme)
        )


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_passes_the_check_of_accessibility(scheme, width, opened):
    """Contrast, alternative texts, headings of tables, reach by keyboard: all rules of axe."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(opened(width=width, scheme=scheme)).response
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found["violations"]] == []
    assert {"color-contrast", "svg-img-alt", "image-alt"} <= {p["id"] for p in found["passes"]}


@pytest.mark.slow
def test_nothing_but_tables_is_wider_than_a_telephone(opened):
    window = opened(width=360)
    assert window.evaluate("document.documentElement.scrollWidth") == 360
    shown = "[...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width)"
    classes = window.evaluate(f"{shown}.map(s => s.getAttribute('class'))")
    assert set(classes) == {"narrow"}


@pytest.mark.slow
def test_a_dark_page_is_dark(opened):
    colours = {
        scheme: opened(scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    }
    assert colours == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 28)"}


@pytest.mark.slow
def test_a_table_is_sorted_by_a_click_and_by_the_keyboard(opened):
    window = opened()

    def column(place):
        cells = "[...document.querySelector('table').tBodies[0].rows]"
        return window.evaluate(f"{cells}.map(row => row.cells[{place}].textContent)")

    by_accuracy = window.get_by_role("button", name="accuracy").first
    by_accuracy.click()
    assert column(1) == ["-3.0", "9.5 ± 1.0", "1,010.0", "–"]
    by_accuracy.press("Enter")
    assert column(1) == ["1,010.0", "9.5 ± 1.0", "-3.0", "–"]
    headings = "[...document.querySelectorAll('th[aria-sort]')].map(h => h.ariaSort)"
    assert window.evaluate(headings) == ["descending"]
    window.get_by_role("button", name="method").first.click()
    assert column(0) == ["cpc", "gim", "pixels", "supervised_with_a_long_name"]
