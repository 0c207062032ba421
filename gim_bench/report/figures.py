"""Figures as SVG within a page: no file, no font, no script."""

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gim_bench.report.colours import palette
from gim_bench.report.document import Curve, Dot, Figure, Panel, Points

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLUMNS = 3  # panels beside each other
PANEL_INCHES = (3.2, 2.4)
ALONE_INCHES = (6.4, 3.6)  # of a single panel, where the page is wide
LEGEND_ROW_INCHES = 0.22
# A column of the legend: the line before a name with the space around it, and a letter.
LEGEND_COLUMN_INCHES, LEGEND_LETTER_INCHES = 0.75, 0.08
# With ten colours and nine markers, ninety methods all look different.
MARKERS = "os^Dv<>PX"
MOST_MARKERS = 12  # along one curve
INK = "0.25"
SVG = {"svg.fonttype": "none"}  # text stays text, to be searched
ONE_SEED: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.5}
NO_METADATA: dict[str, None] = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def as_svg(figure: Figure, *, columns: int = COLUMNS, transparent: bool = False) -> str:
    """The figure as an <svg> element; the same figure gives the same bytes."""
    from matplotlib import style

    file = io.StringIO()
    salt = {"svg.hashsalt": f"{figure.title} {columns}"}
    with style.context(["default", SVG | salt]):
        drawn = draw(figure, columns=columns)
        drawn.savefig(file, format="svg", metadata=NO_METADATA, transparent=transparent)
    _, element, content = file.getvalue().partition("<svg")
    # Groups have the same names in every figure, and nothing refers to them.
    return re.sub(r'<g id="[^"]*">', "<g>", element + content)


def draw(figure: Figure, *, columns: int = COLUMNS) -> "Canvas":
    """The figure on matplotlib's canvas, with at most so many panels beside each other."""
    from matplotlib.figure import Figure as Canvas

    columns = min(columns, COLUMNS)
    beside = min(columns, len(figure.panels))
    rows = math.ceil(len(figure.panels) / beside)
    alone = columns > 1 and len(figure.panels) == 1
    width, height = ALONE_INCHES if alone else PANEL_INCHES
    width *= 1 if alone else columns
    handles = _legend(figure)
    longest = max(len(str(handle.get_label())) for handle in handles)
    column_inches = LEGEND_COLUMN_INCHES + LEGEND_LETTER_INCHES * longest
    ncols = max(1, int(width / column_inches))
    legend_inches = LEGEND_ROW_INCHES * (1 + math.ceil(len(handles) / ncols))
    canvas = Canvas(figsize=(width, rows * height + legend_inches), layout="constrained")
    axes = canvas.subplots(rows, beside, sharex=True, sharey=True, squeeze=False)
    for place, panel in zip(axes.flat, figure.panels, strict=False):
        _draw_panel(place, panel, figure)
    for place in axes.flat[len(figure.panels) :]:
        place.remove()
    for first in axes[:, 0]:
        first.set_ylabel(figure.y_label)
    canvas.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False)
    return canvas


def _draw_panel(axes: "Axes", panel: Panel, figure: Figure) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(panel.title, fontsize="medium")
    axes.set_xlabel(figure.x_label)
    axes.tick_params(labelbottom=True)  # in the upper rows, too
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)
    for level in panel.levels.values():
        axes.axhline(level, color=INK, linestyle=":")
    for curve in panel.curves:
        _draw_curve(axes, curve, log_y=figure.log_y, look=_look(curve.method, figure.methods))
    for dot in panel.dots:
        _draw_dot(axes, dot, look=_look(dot.method, figure.methods))
    if figure.log_x:
        axes.set_xscale("log")
    elif panel.curves:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if figure.log_y:
        axes.set_yscale("log")
    _plain_ticks(axes)


def _plain_ticks(axes: "Axes") -> None:
    """Numbers in full beside a logarithmic axis of less than three decades, not powers of ten."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

    for axis, scale, (low, high) in (
        (axes.xaxis, axes.get_xscale(), axes.get_xlim()),
        (axes.yaxis, axes.get_yscale(), axes.get_ylim()),
    ):
        if scale == "log" and high < 1000 * low:
            few = LogLocator(subs=(1, 2, 5) if high < 20 * low else (1,))
            axis.set_major_locator(few if high > 4 * low else MaxNLocator(nbins=5))
            axis.set_major_formatter(FormatStrFormatter("%g"))
            axis.set_minor_locator(NullLocator())


def _draw_curve(axes: "Axes", curve: Curve, *, log_y: bool, look: dict[str, Any]) -> None:
    """The mean, and a thin line for each of several seeds."""

    def plot(points: Points, **line: Any) -> None:
        # A logarithmic axis has no place for an error of 0.
        if placed := [(x, y) for x, y in points if y > 0 or not log_y]:
            axes.plot(*zip(*placed, strict=True), linestyle=style, **line)

    style = "--" if curve.validation else "-"
    for points in curve.seeds if len(curve.seeds) > 1 else ():
        plot(points, color=look["color"], **ONE_SEED)
    mean = curve.mean()
    plot(mean, **look, markevery=math.ceil(len(mean) / MOST_MARKERS))


def _draw_dot(axes: "Axes", dot: Dot, *, look: dict[str, Any]) -> None:
    """A marker, with a bar for each interval."""
    shown = {**look, "markersize": 6, "linestyle": "none", "elinewidth": 1}
    axes.errorbar(dot.x, dot.y, xerr=dot.x_half or None, yerr=dot.y_half or None, **shown)


def _look(method: str, methods: Sequence[str]) -> dict[str, Any]:
    number, colours = list(methods).index(method), palette()
    return {
        "color": colours[number % len(colours)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 3.5,
        "linewidth": 1.5,
    }


def _legend(figure: Figure) -> "list[Artist]":
    """A line for each method with a curve, then the meaning of dashed, thin and dotted lines."""
    from matplotlib.lines import Line2D

    curves = [curve for panel in figure.panels for curve in panel.curves]
    dots = [dot for panel in figure.panels for dot in panel.dots]
    drawn = {curve.method for curve in curves} | {dot.method for dot in dots}
    lines: list[Artist] = [
        Line2D([], [], label=method.replace("$", r"\$"), **_look(method, figure.methods))
        for method in figure.methods
        if method in drawn
    ]
    if any(curve.validation for curve in curves):
        lines += [Line2D([], [], label="training", color=INK)]
        lines += [Line2D([], [], label="validation", color=INK, linestyle="--")]
    if any(len(curve.seeds) > 1 for curve in curves):
        lines += [Line2D([], [], label="one seed", color=INK, **ONE_SEED)]
    levels = dict.fromkeys(name for panel in figure.panels for name in panel.levels)
    lines += [Line2D([], [], label=name, color=INK, linestyle=":") for name in levels]
    if any(dot.x_half or dot.y_half for dot in dots):
        lines += [Line2D([], [], label="95 % intervals", color=INK, linewidth=1)]
    return lines
