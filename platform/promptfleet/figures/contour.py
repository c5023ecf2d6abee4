"""Figure of a sweep's objective over its two most important keys."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from promptfleet.figures.key_axis import KeyAxis, key_axis
from promptfleet.figures.style import BLUE, INK, VERMILLION, as_label, dress, legend, new_figure
from promptfleet.trial_records import TrialRecord, best_trial

_LEAST = 4  # complete trials at different points
_MARGIN = 0.06
_JITTER = 0.03  # of the width, for trials with the same choice


def contour_figure(
    trials: Sequence[TrialRecord],
    space: Mapping[str, Mapping[str, Any]],
    importances: Mapping[str, float],
    *,
    log_scale: Collection[str] = (),
    objective: str = "validation accuracy",
) -> Figure | None:
    """Draw complete trials in the colour of their objective; between those of two numbers, its linear interpolation.

    Pruned trials are hollow. Return None with fewer than two keys of known importance, or fewer than four complete
    trials at different points.
    """
    names = sorted(importances, key=lambda name: -importances[name])[:2]
    shown = [one for one in trials if one.value is not None and all(name in one.params for name in names)]
    complete = [one for one in shown if one.state == "complete"]
    pruned = [one for one in shown if one.state == "pruned"]
    if len(names) < 2 or len({tuple(one.params[name] for name in names) for one in complete}) < _LEAST:
        return None
    x, y = (key_axis(name, shown, space[name], log_scale) for name in names)
    figure = new_figure(7.2, 5.2)
    axes = figure.subplots()
    values = [one.value for one in complete]
    if x.is_ordered and y.is_ordered:
        _fill(axes, *_places(complete, x, y), values)
    if pruned:
        look = {"facecolor": "white", "edgecolor": BLUE, "linewidth": 1.1, "zorder": 2}
        axes.scatter(*_places(pruned, x, y), s=26, label="pruned", **look)
    dots = {"c": values, "cmap": "viridis", "edgecolor": "white", "linewidth": 0.8, "zorder": 3}
    drawn = axes.scatter(*_places(complete, x, y), s=62, label="complete", **dots)
    best = best_trial(complete)
    if best is not None:
        ring = {"facecolor": "none", "edgecolor": VERMILLION, "linewidth": 2, "zorder": 4}
        axes.scatter(*_places([best], x, y), s=150, label=f"best: trial {best.number}", **ring)
    figure.colorbar(drawn, ax=axes, pad=0.02).set_label(as_label(objective, 50), fontsize=10.5, color=INK)
    dress(axes, title="Objective over the two most important keys", grid=None)
    axes.set_xlabel(as_label(x.name, 40), fontsize=10.5)
    axes.set_ylabel(as_label(y.name, 40), fontsize=10.5)
    axes.set_xticks(*x.ticks())
    axes.set_yticks(*y.ticks())
    axes.set_xlim(-_MARGIN, 1 + _MARGIN)
    axes.set_ylim(-_MARGIN, 1 + _MARGIN)
    legend(axes, loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=3)
    return figure


def _places(trials: Sequence[TrialRecord], x: KeyAxis, y: KeyAxis) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of trials; equal choices are drawn a little apart, in the order of their numbers."""
    columns = []
    for axis, step in ((x, 1), (y, 2)):
        at = np.array([axis.place(one.params[axis.name]) for one in trials])
        if not axis.is_ordered:
            at = at + _JITTER * np.array([(one.number * step % 5 - 2) / 2 for one in trials])
        columns.append(at)
    return columns[0], columns[1]


def _fill(axes: Axes, x: np.ndarray, y: np.ndarray, values: Sequence[float]) -> None:
    """Draw the interpolation between points, nothing where they lie on one line."""
    try:
        triangles = Triangulation(x, y)
    except (RuntimeError, ValueError):
        return
    if max(values) > min(values):
        axes.tricontourf(triangles, values, levels=12, cmap="viridis", alpha=0.45, zorder=0)
