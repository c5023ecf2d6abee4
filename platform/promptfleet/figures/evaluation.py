"""Accuracies on evaluation sets, and calibration."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from promptfleet.figures.style import BLUE, GREY, INK, annotate, as_label, dress, legend, line_styles, new_figure

_MOST_PANELS_IN_ROW = 4
_ORDER = ("local", "global", "others", "server", "harmonic_local_global")
_LABELS = {"harmonic_local_global": "local and\nglobal"}


def local_global_figure(accuracy: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Draw a dot per client and method: accuracy on its own test part, and on the test parts of all clients.

    accuracy: by method, local and global, a fraction per client; a cross marks the mean.
    """
    figure = new_figure(7.6, 5.4)
    axes = figure.subplots()
    for (method, (local, everywhere)), style in zip(accuracy.items(), line_styles(len(accuracy)), strict=True):
        color = style["color"]
        axes.scatter(local, everywhere, s=26, color=color, alpha=0.55, linewidth=0, zorder=3, label=as_label(method))
        mean = [np.mean(local)], [np.mean(everywhere)]
        axes.scatter(*mean, s=110, marker="P", color=color, edgecolor="white", zorder=4)
    values = [value for pair in accuracy.values() for part in pair for value in part]
    low = max(0.0, min(values) - 0.05)
    axes.plot([low, 1], [low, 1], color=GREY, linestyle=":", linewidth=1.2, label="equal on both")
    axes.set_xlim(low, 1.01)
    axes.set_ylim(low, 1.01)
    dress(
        axes,
        title="Models of clients on their own and on all test parts (cross: mean)",
        x="local: own test part (fraction correct)",
        y="global: test parts of all clients",
    )
    legend(axes, beside=True)
    return figure


def reliability_figure(bins: Mapping[str, Sequence[tuple[int, float, float]]], ece: Mapping[str, float]) -> Figure:
    """Draw accuracy against confidence, a panel per method; the dotted line is perfect calibration.

    bins: by method the count, mean confidence and accuracy of each bin; a bar is the share of the predictions in it.
    """
    rows = math.ceil(len(bins) / _MOST_PANELS_IN_ROW)
    columns = math.ceil(len(bins) / rows)
    figure = new_figure(0.6 + 3.0 * columns, 0.5 + 3.1 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (method, some) in zip(grid.flat, bins.items(), strict=False):
        counts, confidence, accuracy = (np.array(column) for column in zip(*some, strict=True))
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
        edges = (np.ceil(confidence * 10 - 1e-9) - 1) / 10
        axes.bar(edges + 0.05, counts / counts.sum(), width=0.09, color="#d6e6f2", zorder=1)
        axes.plot(confidence, accuracy, color=BLUE, linewidth=1.6, marker="o", ms=5, zorder=3)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        dress(axes, title=as_label(method))
        annotate(axes, 0.04, 0.95, f"ECE {ece[method]:.3f}", ha="left")
    for axes in grid.flat[len(bins) :]:
        axes.set_axis_off()
    for column in range(columns):
        used = [row for row in range(rows) if row * columns + column < len(bins)]
        grid[used[-1], column].tick_params(labelbottom=True)
    figure.supxlabel("confidence (bars: share of the predictions)", fontsize=10.5)
    figure.supylabel("accuracy", fontsize=10.5)
    return figure


def sets_figure(accuracy: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw a table of methods by evaluation sets; the darker, the better within the set.

    accuracy: by method and set, a fraction; a set that a method lacks shows a dash.
    """
    found = {name for sets in accuracy.values() for name in sets}
    names = sorted(found, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    values = np.array([[sets.get(name, np.nan) for name in names] for sets in accuracy.values()])
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    shade = (values - low) / np.where(high > low, high - low, 1)
    figure = new_figure(2.2 + 1.25 * len(names), 0.9 + 0.42 * len(accuracy))
    axes = figure.subplots()
    axes.imshow(np.nan_to_num(shade), cmap="Blues", vmin=0, vmax=1.6, aspect="auto")
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        annotate(
            axes,
            column,
            row,
            "-" if np.isnan(value) else f"{100 * value:.1f}",
            color=INK,
            fontweight="bold" if value == high[column] else "normal",
        )
    dress(axes, title="Test accuracy in % by evaluation set (bold: best of the set)", grid=None)
    axes.set_xticks(range(len(names)), [_LABELS.get(name) or as_label(name, 16) for name in names])
    axes.set_yticks(range(len(accuracy)), [as_label(method) for method in accuracy])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure
