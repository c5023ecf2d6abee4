"""Which client holds which labels."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from promptfleet.tracking.figures.style import (
    CLASS_COLORS,
    class_colors,
    dress,
    legend,
    new_figure,
    shorten,
    spaced_ticks,
)

_MOST_CLIENTS = 100
_MOST_NAMED = 2 * len(CLASS_COLORS)  # classes with a legend entry each; more share a colour scale


def partition_figure(label_counts: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Stacked bars, one per client, of its samples by class.

    label_counts is ``[clients][classes]``. Of more than 100 clients, 100 at equal distances are shown.
    """
    counts = np.asarray(label_counts)
    clients = np.arange(len(counts))
    if len(clients) > _MOST_CLIENTS:
        clients = np.linspace(0, len(counts) - 1, _MOST_CLIENTS).round().astype(int)
    figure = new_figure(9.5, float(np.clip(1.6 + 0.3 * len(clients), 3.4, 9.0)))
    axes = figure.subplots()
    _draw_bars(axes, counts[clients], class_names)
    shown = "" if len(clients) == len(counts) else f" ({len(clients)} of {len(counts)} clients)"
    dress(axes, title=f"Samples of each client by class{shown}", x="samples (all parts)", y="client", grid="x")
    ticks = spaced_ticks(len(clients), most=26)
    axes.set_yticks(ticks, [str(clients[tick]) for tick in ticks])
    axes.set_ylim(len(clients) - 0.5, -0.5)
    if len(class_names) > _MOST_NAMED:
        _draw_scale(figure, axes, class_names)
    else:
        legend(axes, beside=True, title="class")
    return figure


def _draw_bars(axes: Axes, counts: np.ndarray, class_names: Sequence[str]) -> None:
    rows = np.arange(len(counts))
    edge = 0.4 if len(counts) <= 40 and len(class_names) <= _MOST_NAMED else 0.0
    start = np.zeros(len(counts))
    for label, color in enumerate(class_colors(len(class_names))):
        again = len(CLASS_COLORS) <= label < _MOST_NAMED and len(class_names) <= _MOST_NAMED
        axes.barh(
            rows,
            counts[:, label],
            left=start,
            height=0.82,
            color=color,
            edgecolor="white",
            linewidth=edge,
            hatch="////" if again else None,
            label=shorten(class_names[label]),
        )
        start += counts[:, label]


def _draw_scale(figure: Figure, axes: Axes, class_names: Sequence[str]) -> None:
    last = len(class_names) - 1
    scale = figure.colorbar(ScalarMappable(Normalize(0, last), colormaps["viridis"]), ax=axes, pad=0.02)
    ticks = spaced_ticks(len(class_names), most=12)
    scale.set_ticks(ticks, labels=[f"{tick}  {shorten(class_names[tick])}" for tick in ticks])
    scale.ax.tick_params(labelsize=8.5)
    scale.ax.invert_yaxis()
    scale.ax.set_title("class", fontsize=8.5)
