"""Figures as SVG within a page: no file, no font, no script."""

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gim_bench.report.document import Curve, Figure, Panel

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLUMNS = 3  # panels beside each other
PANEL_INCHES = (3.2, 2.4)
LEGEND_INCHES = 0.8
# Ten colours that colour-blind readers tell apart (Petroff 2021, arXiv:2107.02270). With nine
# markers, ninety methods all look different.
PALETTE = "petroff10"
MARKERS = "os^Dv<>PX"
MOST_MARKERS = 12  # along one curve
INK = "0.25"
SVG = {"svg.fonttype": "none"}  # text stays text, to be searched and read aloud
ONE_SEED: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.5}
NO_METADATA: dict[str, None] = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def as_svg(figure: Figure) -> str:
    """The figure as an <svg> element; the same figure gives the same bytes."""
    from matplotlib import style

    file = io.StringIO()
    with style.context(["default", SVG | {"svg.hashsalt": figure.title}]):
        draw(figure).savefig(file, format="svg", metadata=NO_METADATA)
    _, element, content = file.getvalue().partition("<svg")
    # Groups have the same names in every figure, and nothing refers to them.
    return re.sub(r'<g id="[^"]*">', "<g>", element + content)


def draw(figure: Figure) -> "Canvas":
    """The figure on matplotlib's canvas."""
    from matplotlib.figure import Figure as Canvas

    columns = min(COLUMNS, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    width, height = PANEL_INCHES
    canvas = Canvas(figsize=(COLUMNS * width, rows * height + LEGEND_INCHES), layout="constrained")
    axes = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for place, panel in zip(axes.flat, figure.panels, strict=False):
        _draw_panel(place, panel, figure)
    for place in axes.flat[len(figure.panels) :]:
        place.remove()
    canvas.supylabel(figure.y_label, fontsize="medium")
    canvas.legend(handles=_legend(figure), loc="outside lower center", ncols=5, frameon=False)
    return canvas


def _draw_panel(axes: "Axes", panel: Panel, figure: Figure) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(panel.title, fontsize="medium")
    axes.set_xlabel(figure.x_label)
    axes.tick_params(labelbottom=True)  # in the upper rows, too
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")
    if figure.log_x:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if figure.log_y:
        axes.set_yscale("log")
    for level in figure.levels.values():
        axes.axhline(level, color=INK, linestyle=":")
    for curve in panel.curves:
        _draw_curve(axes, curve, look=_look(curve.method, figure.methods))


def _draw_curve(axes: "Axes", curve: Curve, *, look: dict[str, Any]) -> None:
    """The mean, and a thin line for each of several seeds."""
    style = "--" if curve.validation else "-"
    for points in curve.seeds if len(curve.seeds) > 1 else ():
        axes.plot(*zip(*points, strict=True), color=look["color"], linestyle=style, **ONE_SEED)
    mean = curve.mean()
    every = math.ceil(len(mean) / MOST_MARKERS)
    axes.plot(*zip(*mean, strict=True), **look, linestyle=style, markevery=every)


def _look(method: str, methods: Sequence[str]) -> dict[str, Any]:
    from matplotlib import color_sequences

    number, colours = list(methods).index(method), color_sequences[PALETTE]
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
    drawn = {curve.method for curve in curves}
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
    lines += [Line2D([], [], label=name, color=INK, linestyle=":") for name in figure.levels]
    return lines
