"""Figure of parallel coordinates: a line per trial through the values of its keys to its objective."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from promptfleet.figures.key_axis import KeyAxis, key_axis
from promptfleet.figures.style import FAINT, GREY, INK, VERMILLION, annotate, as_label, new_figure
from promptfleet.trial_records import TrialRecord, best_trial

_MOST_KEYS = 10
_CURVE = np.linspace(0.0, 1.0, 50)


def parallel_figure(
    trials: Sequence[TrialRecord],
    space: Mapping[str, Mapping[str, Any]],
    *,
    log_scale: Collection[str] = (),
    objective: str = "validation accuracy",
    importances: Mapping[str, float] | None = None,
) -> Figure | None:
    """Draw complete trials in the colour of their objective, pruned ones faintly, and the best one in red.

    A key that a trial does not have leaves a gap in its line. Of more than ten keys, those of the highest
    ``importances`` are drawn, otherwise the first ones. Return None with fewer than two complete trials or keys.
    """
    complete = [one for one in trials if one.state == "complete" and one.value is not None]
    pruned = [one for one in trials if one.state == "pruned" and one.value is not None]
    ranked = sorted(space, key=lambda name: -(importances or {}).get(name, 0.0))[:_MOST_KEYS]
    found = [key_axis(name, trials, space[name], log_scale) for name in space if name in ranked]
    axes_of_keys = [axis for axis in found if axis is not None]
    if len(complete) < 2 or len(axes_of_keys) < 2:
        return None
    values = [one.value for one in complete]
    scale = KeyAxis(objective, (), min(values), max(values))
    figure = new_figure(max(7.0, 1.8 * len(axes_of_keys) + 2.6), 4.6)
    axes = figure.subplots()
    colors = ScalarMappable(Normalize(scale.low, scale.high), colormaps["viridis"])
    for one in pruned:
        _line(axes, one, [*axes_of_keys], color=FAINT, linewidth=1.0, zorder=1)
    best = best_trial(trials)
    for one in sorted(complete, key=lambda one: one.value):
        is_best = best is not None and one.number == best.number
        look = {"color": VERMILLION, "linewidth": 2.4, "zorder": 4} if is_best else {"linewidth": 1.4, "zorder": 2}
        _line(axes, one, [*axes_of_keys, scale], **{"color": colors.to_rgba(one.value), **look})
        if is_best:
            places = _places(one, [*axes_of_keys, scale])
            at = [column for column, place in enumerate(places) if place is not None]
            axes.plot(at, [places[column] for column in at], "o", color=VERMILLION, ms=6, zorder=7)
    for column, axis in enumerate([*axes_of_keys, scale]):
        _rule(axes, column, axis)
    axes.set_xlim(-0.25, len(axes_of_keys) + 0.35)
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([])
    axes.set_xticks(
        range(len(axes_of_keys) + 1), [as_label(axis.name, 24) for axis in axes_of_keys] + [as_label(objective, 36)]
    )
    axes.tick_params(length=0, labelsize=9.5, colors=INK, pad=8)
    for side in axes.spines.values():
        side.set_visible(False)
    title = f"Keys and objective of {len(complete)} complete trials"
    axes.set_title(title, fontsize=11.5, color=INK, loc="left", pad=10)
    shown = [Line2D([], [], color=VERMILLION, linewidth=2.4, label=f"best: trial {best.number}")] if best else []
    shown += [Line2D([], [], color=FAINT, linewidth=2, label="pruned")] if pruned else []
    if shown:
        figure.legend(handles=shown, loc="outside upper right", ncols=2, fontsize=8.5, frameon=False)
    return figure


def _line(axes: Axes, trial: TrialRecord, columns: Sequence[KeyAxis], **look: Any) -> None:
    """Draw a trial's line, smooth between columns, so that lines through one point can be followed."""
    places = _places(trial, columns)
    ease = _CURVE * _CURVE * (3 - 2 * _CURVE)
    for column, (start, end) in enumerate(pairwise(places)):
        if start is not None and end is not None:
            axes.plot(column + _CURVE, start + (end - start) * ease, solid_capstyle="round", **look)


def _places(trial: TrialRecord, columns: Sequence[KeyAxis]) -> list[float | None]:
    """Return the trial's position in each column, None where it does not have the key; others are its objective."""
    values = {axis.name: trial.value for axis in columns[-1:]} | trial.params
    return [axis.place(values[axis.name]) if axis.name in values else None for axis in columns]


def _rule(axes: Axes, column: int, axis: KeyAxis) -> None:
    axes.plot([column, column], [0, 1], color=GREY, linewidth=1.0, zorder=5)
    for place, text in zip(*axis.ticks(), strict=True):
        axes.plot([column - 0.015, column + 0.015], [place, place], color=GREY, linewidth=1.0, zorder=5)
        label = {
            "ha": "left",
            "zorder": 6,
            "bbox": {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
        }
        annotate(axes, column + 0.03, place, text, **label)
