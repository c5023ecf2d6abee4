"""Two accuracies of each client against each other: own and all test parts, base and new classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptfleet.figures.panels import panels
from promptfleet.figures.style import BLUE, FAINT, GREY, VERMILLION, as_label, dress, legend, line_styles, new_figure

Pairs = Mapping[str, tuple[Sequence[float], Sequence[float]]]
_TOGETHER = 6  # methods that one pair of axes can hold
_MOST_COLUMNS = 6
_BEHIND = "#cfcfcf"


def local_global_figure(accuracy: Pairs) -> Figure:
    """Draw a dot per client and method: accuracy on its own test part, and on the test parts of all clients.

    accuracy: by method, local and global, a fraction per client; a cross marks the mean. More than six methods get a
    panel each, with all the others in grey.
    """
    return _pairs_figure(
        accuracy,
        title="Own against all test parts, a dot per client (cross: mean)",
        x="local: own test part (fraction correct)",
        y="global: test parts of all clients",
    )


def base_new_figure(accuracy: Pairs) -> Figure:
    """Draw a dot per client and method: accuracy among base classes, and among new ones, with equal harmonic means.

    accuracy: as for ``local_global_figure``. A thin line joins points of the same harmonic mean.
    """
    return _pairs_figure(
        accuracy,
        title="Base against new classes, a dot per client (cross: mean)",
        x="base: classes of the training (fraction correct)",
        y="new: classes never seen",
        harmonic=True,
    )


def _pairs_figure(accuracy: Pairs, *, title: str, x: str, y: str, harmonic: bool = False) -> Figure:
    limits = _limits(accuracy)
    if len(accuracy) > _TOGETHER:
        return _in_panels(accuracy, limits, title=title, x=x, y=y, harmonic=harmonic)
    figure = new_figure(7.6, 5.4)
    axes = figure.subplots()
    _guides(axes, limits, harmonic=harmonic, labelled=True)
    for (method, (first, second)), style in zip(accuracy.items(), line_styles(len(accuracy)), strict=True):
        axes.scatter(
            first, second, s=26, color=style["color"], alpha=0.55, linewidth=0, zorder=3, label=as_label(method)
        )
        _cross(axes, first, second, style["color"])
    dress(axes, title=title, x=x, y=y)
    legend(axes, beside=True)
    return figure


def _in_panels(
    accuracy: Pairs, limits: Sequence[tuple[float, float]], *, title: str, x: str, y: str, harmonic: bool
) -> Figure:
    figure, grid = panels(len(accuracy), side=2.1, most_columns=_MOST_COLUMNS, x=x, y=y)
    everybody = [np.concatenate([pair[index] for pair in accuracy.values()]) for index in (0, 1)]
    for axes, (method, (first, second)) in zip(grid, accuracy.items(), strict=True):
        _guides(axes, limits, harmonic=harmonic, labelled=False)
        axes.scatter(*everybody, s=5, color=_BEHIND, linewidth=0, zorder=2, rasterized=True)
        axes.scatter(first, second, s=16, color=BLUE, alpha=0.7, linewidth=0, zorder=3)
        _cross(axes, first, second, VERMILLION, size=50)
        dress(axes, title=as_label(method))
    title = f"{title}; lines: equal harmonic mean" if harmonic else title
    figure.suptitle(title, fontsize=11.5, x=0.01, ha="left")
    return figure


def _cross(axes: Axes, first: Sequence[float], second: Sequence[float], color: str, size: int = 110) -> None:
    mean = [np.mean(first)], [np.mean(second)]
    axes.scatter(*mean, s=size, marker="P", color=color, edgecolor="white", zorder=4)


def _limits(accuracy: Pairs) -> list[tuple[float, float]]:
    """Return the range of each axis: a little more than that of its values."""
    ranges = []
    for index in (0, 1):
        values = np.concatenate([pair[index] for pair in accuracy.values()])
        low, high = float(values.min()), float(values.max())
        margin = 0.06 * max(high - low, 0.1)
        ranges.append((max(-0.02, low - margin), min(1.02, high + margin)))
    return ranges


def _guides(axes: Axes, limits: Sequence[tuple[float, float]], *, harmonic: bool, labelled: bool) -> None:
    """Draw the line of equal accuracies, or those of equal harmonic means, and set the limits of the axes."""
    (left, right), (bottom, top) = limits
    if harmonic:
        across, up = np.meshgrid(np.linspace(max(left, 1e-3), right, 80), np.linspace(max(bottom, 1e-3), top, 80))
        means = 2 * across * up / (across + up)
        lines = axes.contour(across, up, means, levels=np.arange(0.1, 1, 0.1), colors=FAINT, linewidths=1, zorder=1)
        axes.plot([], [], color=FAINT, label="equal harmonic mean")
        if labelled:
            axes.clabel(lines, fmt="%.1f", fontsize=8.5, colors=GREY)
    else:
        label = "equal on both" if labelled else None
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2, label=label, zorder=1)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
