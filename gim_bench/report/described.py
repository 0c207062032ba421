"""Figures in words, for those who do not see them."""

from collections.abc import Iterator

from gim_bench.report.document import Curve, Figure, Panel


def described(figure: Figure) -> str:
    """The axes of a figure, and for each panel its levels and the points or ends of its curves."""
    axes = f"{figure.title}. Across: {figure.x_label}; up: {figure.y_label}."
    return " ".join([axes, *(_panel(panel) for panel in figure.panels)])


def _panel(panel: Panel) -> str:
    levels = [f"{name} {_number(value)}" for name, value in panel.levels.items()]
    return f"{panel.title}: {'; '.join([*levels, *_dots(panel), *map(_curve, panel.curves)])}."


def _dots(panel: Panel) -> Iterator[str]:
    for dot in panel.dots:
        across = _number(dot.x) + (f" ± {_number(dot.x_half)}" if dot.x_half else "")
        up = _number(dot.y) + (f" ± {_number(dot.y_half)}" if dot.y_half else "")
        yield f"{dot.method} {up} at {across}"


def _curve(curve: Curve) -> str:
    """The first and the last point of the mean curve."""
    (x, y), *others = curve.mean()
    called = f"{curve.method}, validation" if curve.validation else curve.method
    if not others:
        return f"{called} {_number(y)} at {_number(x)}"
    last_x, last_y = others[-1]
    return f"{called} from {_number(y)} at {_number(x)} to {_number(last_y)} at {_number(last_x)}"


def _number(value: float) -> str:
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
