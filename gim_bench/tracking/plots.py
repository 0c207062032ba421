"""Figures that are artifacts of runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gim_bench.tracking.modules import BY_MODULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gim_bench.tracking.entries import Entry

FIGURES = "figures"  # a folder
# Names of the artifacts.
RATES, LOSSES, MODULES = "curves.png", f"{FIGURES}/losses.png", f"{FIGURES}/by_module.png"


def figures_of(entry: "Entry") -> dict[str, Callable[[], "Figure"]]:
    """Functions that draw the figures of a run, by the name of the artifact."""
    losses = _curves(entry, prefix="epoch_loss/")
    accuracies = _by_module(entry, suffix="accuracy")
    figures: dict[str, Callable[[], Figure]] = {}
    if entry.curves:
        figures[RATES] = lambda: rate_plot(entry.curves)
    if losses:
        figures[LOSSES] = lambda: _lines(losses, x="epoch", y="loss")
    if accuracies:
        figures[MODULES] = lambda: _lines(accuracies, x="module", y="accuracy on the test set, %")
    return figures


def _curves(entry: "Entry", *, prefix: str) -> dict[str, list[tuple[int, float]]]:
    """The points of each metric whose name begins with the prefix, by the rest of the name."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for name, value, step in entry.points:
        if name.startswith(prefix):
            curves.setdefault(name.removeprefix(prefix), []).append((step, value))
    return curves


def _by_module(entry: "Entry", *, suffix: str) -> dict[str, list[tuple[int, float]]]:
    """The values of each metric of modules whose name ends so, by number of the module."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for module in entry.modules:
        for name, value in module.metrics.items():
            if name.endswith(suffix):
                curves.setdefault(name.removeprefix(f"{BY_MODULE}/"), []).append(
                    (module.number, value)
                )
    return curves


def rate_plot(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """A plot of validation accuracy against rate or penalty, with a line for each probe."""
    varied = [varied_by(row) for row in rows]
    curves = {
        name: sorted(
            (row[rate], row["validation_accuracy"])
            for row, rate in zip(rows, varied, strict=True)
            if row["probe"] == name
        )
        for name in dict.fromkeys(row["probe"] for row in rows)
    }
    x = " or ".join(dict.fromkeys(rate.replace("_", " ") for rate in varied))
    return _lines(curves, x=x, y="validation accuracy, %", xscale="log")


def varied_by(row: Mapping[str, Any]) -> str:
    """The name of the hyperparameter that a trial of a probe varies."""
    return "penalty" if "penalty" in row else "learning_rate"


def _lines(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, xscale: str = "linear"
) -> "Figure":
    """A figure with a line for each curve."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes: Axes = figure.add_subplot(xscale=xscale, xlabel=x, ylabel=y)
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker=".", label=name)
    if xscale == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure
