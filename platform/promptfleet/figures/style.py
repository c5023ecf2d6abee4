"""One look for all figures: colours that every reader can distinguish, sizes that fit a small screen."""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator

from promptfleet.escaping import printable

# Okabe and Ito's colours, for classes Paul Tol's "muted" scheme, for domains his "light" one: safe for colour-blind
# readers.
BLUE, ORANGE, VERMILLION, GREEN = "#0072B2", "#E69F00", "#D55E00", "#009E73"
LINE_COLORS = (BLUE, VERMILLION, GREEN, "#CC79A7", ORANGE, "#56B4E9", "#1a1a1a", "#8C6D31")
INK, GREY, FAINT = "#1a1a1a", "#6b6b6b", "#d9d9d9"
CLASS_COLORS = (
    "#332288",
    "#88CCEE",
    "#44AA99",
    "#117733",
    "#999933",
    "#DDCC77",
    "#CC6677",
    "#882255",
    "#AA4499",
    "#BBBBBB",
)
DOMAIN_COLORS = (
    "#77AADD",
    "#EE8866",
    "#EEDD88",
    "#FFAABB",
    "#99DDFF",
    "#44BB99",
    "#BBCC33",
    "#AAAA00",
    "#DDDDDD",
)
_DASHES = ("-", "--", "-.", ":")
DPI = 150
_MOST_TICKS = 6  # on a logarithmic axis
_TITLE, _LABEL, _TICK, _SMALL = 11.5, 10.5, 9.5, 8.5


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of ``width`` by ``height`` inches that arranges its own margins."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def dress(axes: Axes, *, title: str = "", x: str = "", y: str = "", grid: str | None = "both") -> None:
    """Set title, axis labels (with units) and a quiet frame; grid is "x", "y", "both" or None."""
    axes.set_title(title, fontsize=_TITLE, color=INK, loc="left")
    axes.set_xlabel(x, fontsize=_LABEL, color=INK)
    axes.set_ylabel(y, fontsize=_LABEL, color=INK)
    axes.tick_params(labelsize=_TICK, colors=INK, length=3)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if grid:
        axes.grid(axis=grid, color=FAINT, linewidth=0.6)


def legend(axes: Axes, *, beside: bool = False, title: str | None = None, **options) -> None:
    """Draw the legend, inside the axes or to the right of them."""
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0} if beside else {"loc": "best"}
    drawn = axes.legend(fontsize=_SMALL, title=title, title_fontsize=_SMALL, framealpha=0.9, **{**place, **options})
    drawn.get_frame().set_edgecolor(FAINT)


def annotate(axes: Axes, x: float, y: float, text: str, **options) -> None:
    """Write small text at a point of the axes."""
    axes.text(x, y, text, fontsize=_SMALL, **{"ha": "center", "va": "center", "color": INK, **options})


def whole_numbers(axis: Axis) -> None:
    """Set ticks at whole numbers only."""
    axis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))


def log_ticks(low: float, high: float, least: int = 3) -> list[float]:
    """Return round numbers from low to high for a logarithmic axis: powers of ten, and as few between them as needed.

    low is positive. Fewer than ``least`` if low and high are nearly the same.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), range(1, 10), range(10, 100)):
        unit = 1 if max(digits) < 10 else 10
        ticks = [float(f"{digit / unit * 10.0**decade:.6g}") for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= least:
            break
    return ticks[:: math.ceil(len(ticks) / _MOST_TICKS) or 1]


def spaced_ticks(count: int, most: int) -> list[int]:
    """Return 0, step, 2 step, ... below ``count``: at most ``most`` of them, step being 1, 2, 5, 10, 20, 50, ..."""
    steps = (base * 10**power for power in range(9) for base in (1, 2, 5))
    step = next(step for step in steps if math.ceil(count / step) <= most)
    return list(range(0, count, step))


def class_colors(count: int) -> Sequence[str | tuple[float, float, float, float]]:
    """Return a colour per class: distinct ones up to ten, repeated (with hatching) up to twenty, then a scale."""
    if count <= 2 * len(CLASS_COLORS):
        return [CLASS_COLORS[label % len(CLASS_COLORS)] for label in range(count)]
    return [colormaps["viridis"](label / (count - 1)) for label in range(count)]


def domain_colors(count: int) -> Sequence[str | tuple[float, float, float, float]]:
    """Return a colour per domain: distinct ones up to nine, then a scale."""
    if count <= len(DOMAIN_COLORS):
        return DOMAIN_COLORS[:count]
    return [colormaps["cividis"](domain / (count - 1)) for domain in range(count)]


def line_styles(count: int) -> list[dict[str, Any]]:
    """Return a colour and a dash per line: eight colours that every reader can distinguish, then the same dashed."""
    return [
        {"color": LINE_COLORS[line % len(LINE_COLORS)], "linestyle": _DASHES[line // len(LINE_COLORS) % len(_DASHES)]}
        for line in range(count)
    ]


def as_label(text: str, length: int = 24) -> str:
    """Return ``text`` as a label that shows it as it is, of at most ``length`` characters.

    matplotlib would read dollars as a formula, and leave texts that begin with an underscore out of legends. Characters
    that the fonts lack are escaped.
    """
    text = printable(text)
    if not text.isascii():
        drawable = _drawable(tuple(FontProperties().get_family()))
        text = "".join(char if ord(char) in drawable else ascii(char)[1:-1] for char in text)
    text = text if len(text) <= length else f"{text[: length - 1]}…"
    return f"{' ' if text.startswith('_') else ''}{text}".replace("$", r"\$")


@cache
def _drawable(families: tuple[str, ...]) -> frozenset[int]:
    """Return the code points of the characters that any of the fonts has."""
    drawable: set[int] = set()
    for family in families:
        with suppress(ValueError):  # it is not installed
            drawable |= (
                get_font(findfont(FontProperties(family=[family]), fallback_to_default=False)).get_charmap().keys()
            )
    return frozenset(drawable)
