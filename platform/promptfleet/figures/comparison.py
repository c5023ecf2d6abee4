"""Figures of methods side by side: accuracy by round, and its spread over clients."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptfleet.figures.panels import panels
from promptfleet.figures.style import (
    BLUE,
    INK,
    VERMILLION,
    annotate,
    as_label,
    dress,
    line_styles,
    new_figure,
    whole_numbers,
)

_TOGETHER = 5  # lines that one pair of axes can hold
_MOST_COLUMNS = 5
_BEHIND = "#cfcfcf"
_ACCURACY = "mean test accuracy over clients"


def method_lines_figure(
    mean: Mapping[str, Sequence[float]], std: Mapping[str, Sequence[float]], rounds: Sequence[int], *, seeds: int
) -> Figure:
    """Draw mean test accuracy by round, one line per method, the best first; the band is one std over seeds.

    mean and std: by method, a fraction per entry of ``rounds``. More than five methods get a panel each, with all the
    others in grey.
    """
    figure = (_together if len(mean) <= _TOGETHER else _panels)(mean, std, rounds)
    band = f"; band: standard deviation over {seeds} seeds" if seeds > 1 else ""
    figure.suptitle(f"Test accuracy by communication round{band}", fontsize=11.5, x=0.01, ha="left")
    return figure


def client_boxes_figure(accuracy: Mapping[str, Sequence[float]], *, seeds: int) -> Figure:
    """Draw a box of all clients' test accuracies per method, in the given order from the top; the diamond is the mean.

    accuracy: by method, a fraction per client and seed.
    """
    figure = new_figure(8.0, 1.5 + 0.42 * len(accuracy))
    axes = figure.subplots()
    rows = range(len(accuracy))
    axes.boxplot(
        list(accuracy.values()),
        positions=rows,
        orientation="horizontal",
        widths=0.62,
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": "#d6e6f2", "edgecolor": BLUE},
        medianprops={"color": BLUE, "linewidth": 2},
        whiskerprops={"color": BLUE},
        capprops={"color": BLUE},
    )
    for row, values in zip(rows, accuracy.values(), strict=True):
        offsets = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else [0.0]
        axes.scatter(values, row + np.asarray(offsets), s=7, color=INK, alpha=0.35, linewidth=0, zorder=3)
        axes.scatter([np.mean(values)], [row], s=42, marker="D", color=VERMILLION, edgecolor="white", zorder=4)
        annotate(axes, 1.015, row, f"{np.mean(values):.3f}", ha="left", transform=axes.get_yaxis_transform())
    of = f"{len(next(iter(accuracy.values()))) // seeds} clients x {seeds} seed{'s' if seeds > 1 else ''}"
    dress(axes, title=f"Test accuracy of every client ({of}); diamond: mean", x="test accuracy after the last round")
    axes.set_yticks(rows, [as_label(method, 28) for method in accuracy])
    axes.set_ylim(len(accuracy) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    return figure


def _together(mean: Mapping[str, Sequence[float]], std: Mapping[str, Sequence[float]], rounds: Sequence[int]) -> Figure:
    figure = new_figure(8.5, 4.6)
    axes = figure.subplots()
    for method, style in zip(mean, line_styles(len(mean)), strict=True):
        _line(axes, rounds, mean[method], std[method], label=f"{as_label(method)}  {mean[method][-1]:.3f}", **style)
    dress(axes, x="communication round", y=_ACCURACY)
    whole_numbers(axes.xaxis)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9.5, frameon=False)
    return figure


def _panels(mean: Mapping[str, Sequence[float]], std: Mapping[str, Sequence[float]], rounds: Sequence[int]) -> Figure:
    figure, grid = panels(len(mean), side=2.3, most_columns=_MOST_COLUMNS, x="communication round", y=_ACCURACY)
    for axes, method in zip(grid, mean, strict=True):
        for values in mean.values():
            axes.plot(rounds, values, color=_BEHIND, linewidth=0.9, zorder=1)
        _line(axes, rounds, mean[method], std[method], color=BLUE)
        dress(axes, title=f"{as_label(method, 15)}  {mean[method][-1]:.3f}")
        whole_numbers(axes.xaxis)
    return figure


def _line(
    axes: Axes, rounds: Sequence[int], mean: Sequence[float], std: Sequence[float], *, color: str, **options
) -> None:
    middle, spread = np.asarray(mean), np.asarray(std)
    axes.fill_between(rounds, middle - spread, middle + spread, color=color, alpha=0.18, linewidth=0, zorder=2)
    axes.plot(rounds, middle, color=color, linewidth=2, zorder=3, marker="o" if len(mean) == 1 else None, **options)
