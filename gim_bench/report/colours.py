"""Colours of figures in a page: readable on its light and on its dark background.

Figures are drawn in the colours of matplotlib's palette, in black and in gray. A page replaces
these by variables of CSS, which a dark page sets anew.
"""

import re

LIGHT, DARK = "#ffffff", "#16181c"  # backgrounds of a page
INKS = {LIGHT: "#1b1b1b", DARK: "#e6e6e6"}
CONTRAST = 3.0  # of graphics, by WCAG 2.1, 1.4.11
PALETTE = "petroff10"
GRAYS = ("#000000", "#404040", "#262626")  # matplotlib's black, INK, and ticks
_HEX = re.compile(r"#[0-9a-fA-F]{6}\b")


def palette() -> list[str]:
    """Ten colours that colour-blind readers tell apart.

    Source: Petroff 2021, arXiv:2107.02270.
    """
    from matplotlib import color_sequences
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in color_sequences[PALETTE]]


def themed(svg: str) -> str:
    """The figure with variables of CSS in place of the palette and of black."""
    names = {colour: f"var(--c{n})" for n, colour in enumerate(palette())}
    names |= dict.fromkeys(GRAYS, "currentColor")
    return _HEX.sub(lambda found: names.get(found[0].lower(), found[0]), svg)


def variables(background: str) -> str:
    """The palette as variables of CSS, each colour with contrast enough on the background."""
    return " ".join(
        f"--c{n}: {readable(colour, background)};" for n, colour in enumerate(palette())
    )


def readable(colour: str, background: str) -> str:
    """The colour, mixed with the page's ink until it stands out from the background."""
    for percent in range(0, 101, 5):
        mixed = _mixed(colour, INKS[background], percent / 100)
        if contrast(mixed, background) >= CONTRAST:
            return mixed
    raise AssertionError(background)  # ink itself stands out


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, from 1 to 21. Source: WCAG 2.1, contrast ratio."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    channels = [value / 255 for value in bytes.fromhex(colour[1:])]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _mixed(colour: str, ink: str, share: float) -> str:
    pairs = zip(bytes.fromhex(colour[1:]), bytes.fromhex(ink[1:]), strict=True)
    return "#" + bytes(round(a + (b - a) * share) for a, b in pairs).hex()
