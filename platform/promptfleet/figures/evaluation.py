"""Accuracies on all evaluation sets as a table, and calibration."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from promptfleet.figures.panels import panels
from promptfleet.figures.style import BLUE, GREY, INK, annotate, as_label, dress, new_figure

_MOST_PANELS_IN_ROW = 6


def reliability_figure(bins: Mapping[str, Sequence[tuple[int, float, float]]], ece: Mapping[str, float]) -> Figure:
    """Draw accuracy against confidence, a panel per method; the dotted line is perfect calibration.

    bins: by method the count, mean confidence and accuracy of each bin. A bar, and the size of a dot, is the share of
    the predictions in it.
    """
    side = 3.0 if len(bins) <= _MOST_PANELS_IN_ROW else 2.1
    labels = {"x": "confidence (bars: share of the predictions)", "y": "accuracy"}
    figure, grid = panels(len(bins), side=side, most_columns=_MOST_PANELS_IN_ROW, **labels)
    for axes, (method, some) in zip(grid, bins.items(), strict=True):
        counts, confidence, accuracy = (np.array(column) for column in zip(*some, strict=True))
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
        edges = (np.ceil(confidence * 10 - 1e-9) - 1) / 10
        axes.bar(edges + 0.05, counts / counts.sum(), width=0.09, color="#d6e6f2", zorder=1)
        axes.plot(confidence, accuracy, color=BLUE, linewidth=1.2, zorder=3)
        axes.scatter(confidence, accuracy, s=6 + 120 * counts / counts.sum(), color=BLUE, linewidth=0, zorder=3)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(-0.02, 1.04)
        dress(axes, title=as_label(method))
        readable = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        annotate(axes, 0.04, 0.94, f"ECE {ece[method]:.3f}", ha="left", bbox=readable, zorder=4)
    return figure


def sets_figure(accuracy: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> Figure:
    """Draw a table of methods by the evaluation sets ``names``; the darker, the better within the set.

    accuracy: by method and set, a fraction; a set that a method lacks shows a dash.
    """
    values = np.array([[sets.get(name, np.nan) for name in names] for sets in accuracy.values()])
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    shade = (values - low) / np.where(high > low, high - low, 1)
    figure = new_figure(2.4 + 0.95 * len(names), 1.3 + 0.3 * len(accuracy))
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
    axes.set_xticks(range(len(names)), [_in_lines(name) for name in names])
    axes.tick_params(labeltop=True, labelbottom=False)
    axes.set_yticks(range(len(accuracy)), [as_label(method) for method in accuracy])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def _in_lines(name: str) -> str:
    return fill(as_label(name.replace("_", " ").replace("/", "/ "), 40), 11, break_long_words=False)
