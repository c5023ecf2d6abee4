"""Figures of a sweep's trials: their history, importances, and each hyperparameter by itself."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from promptfleet.figures.style import (
    BLUE,
    INK,
    ORANGE,
    VERMILLION,
    annotate,
    as_label,
    dress,
    log_ticks,
    new_figure,
    spaced_ticks,
    whole_numbers,
)
from promptfleet.trial_records import Importances, TrialRecord
from promptfleet.yaml_files import as_yaml

VALUE = "validation accuracy (fraction correct)"
_MOST_COLUMNS = 3
_MARGIN = 0.06  # of an axis, below the smallest and above the largest value
_DECADES = 2  # a wider range of values gets a logarithmic axis
_MOST_BARS, _MOST_SLICES = 40, 12  # hyperparameters that a figure has room for
_MOST_TICKS = 16  # on an axis of choices


def history_figure(
    trials: Sequence[TrialRecord], *, zero_shot: float | None = None, label: str = VALUE
) -> Figure | None:
    """Draw the objective, called ``label``, by trial.

    Complete trials are filled, pruned ones hollow, failed ones crosses at the bottom. The line is the best complete
    trial so far, the ring the best one; zero_shot is untrained CLIP's mean test accuracy (dashed). Return None if no
    trial has a value or has failed.
    """
    complete, pruned = _with_value(trials, "complete"), _with_value(trials, "pruned")
    failed = [trial for trial in trials if trial.state == "failed"]
    if not (complete or pruned or failed):
        return None
    figure = new_figure(8.5, 4.4)
    axes = figure.subplots()
    if complete:
        numbers = [trial.number for trial in complete]
        so_far = np.maximum.accumulate([trial.value for trial in complete])
        until = max(trial.number for trial in trials)
        axes.step(
            [*numbers, until],
            [*so_far, so_far[-1]],
            where="post",
            color=ORANGE,
            linewidth=2,
            label="best so far",
            zorder=1,
        )
        axes.scatter(numbers, [trial.value for trial in complete], color=BLUE, s=34, label="complete", zorder=3)
        best = max(complete, key=lambda trial: (trial.value, -trial.number))
        ring = {"facecolor": "none", "edgecolor": INK, "linewidth": 1.4, "zorder": 4}
        axes.scatter([best.number], [best.value], s=130, label=f"best: trial {best.number}", **ring)
    if pruned:
        values = [trial.value for trial in pruned]
        hollow = {"facecolor": "white", "edgecolor": BLUE, "linewidth": 1.2, "zorder": 2}
        axes.scatter([trial.number for trial in pruned], values, s=30, label="pruned (value when stopped)", **hollow)
    if failed:
        numbers = [trial.number for trial in failed]
        bottom = axes.get_xaxis_transform()
        axes.scatter(
            numbers,
            [0.02] * len(failed),
            transform=bottom,
            marker="x",
            color=VERMILLION,
            s=34,
            label="failed",
            clip_on=False,
        )
    if zero_shot is not None:
        dashed = f"zero-shot CLIP, test accuracy {zero_shot:.3f}"
        axes.axhline(zero_shot, color=INK, linestyle="--", linewidth=1.2, label=dashed, zorder=1)
    title = f"Sweep history: {len(complete)} complete, {len(pruned)} pruned, {len(failed)} failed"
    dress(axes, title=title, x="trial number", y=as_label(label, 60))
    whole_numbers(axes.xaxis)
    axes.margins(y=0.12)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    return figure


def importances_figure(found: Importances | None) -> Figure | None:
    """Draw horizontal bars with their spread over trees, the most important of at most 40 on top; None without any."""
    if found is None or not found.shares:
        return None
    ordered = sorted(found.shares.items(), key=lambda item: (-item[1], item[0]))[:_MOST_BARS]
    figure = new_figure(7.5, 1.9 + 0.42 * len(ordered))
    axes = figure.subplots()
    rows, values = range(len(ordered)), [value for _, value in ordered]
    spreads = [found.spreads[name] for name, _ in ordered]
    ends = [min(1.0, value + spread) for value, spread in zip(values, spreads, strict=True)]
    bars = [[min(value, spread) for value, spread in zip(values, spreads, strict=True)], np.subtract(ends, values)]
    axes.barh(rows, values, color=BLUE, height=0.66, xerr=bars, ecolor=INK, capsize=3, error_kw={"linewidth": 1.0})
    for row, (value, spread, end) in enumerate(zip(values, spreads, ends, strict=True)):
        annotate(axes, end, row, f"  {value:.2f} ± {spread:.2f}", ha="left")
    title = f"Hyperparameter importance in {found.trials} complete trials{_shown(len(ordered), len(found.shares))}"
    x = "share of the objective's variance explained, ± standard deviation over trees"
    dress(axes, title=title, x=x, grid="x")
    axes.set_yticks(rows, [as_label(name, 36) for name, _ in ordered])
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    axes.set_xlim(0, max(1e-3, 1.25 * max(ends)))
    return figure


def slices_figure(
    trials: Sequence[TrialRecord],
    *,
    log_scale: Collection[str] = (),
    space: Mapping[str, Mapping[str, Any]] | None = None,
    importances: Mapping[str, float] | None = None,
    label: str = VALUE,
) -> Figure | None:
    """Draw one scatter plot per hyperparameter against the objective, called ``label``, with its standard error.

    Return None if no trial has a value.

    Of more than twelve hyperparameters, those of the highest ``importances`` are drawn, otherwise the first ones.
    log_scale names hyperparameters with a logarithmic axis; positive ones over more than two decades get one anyway.
    space has the entries of the search file: an axis shows the whole range that was searched, or each choice.
    """
    shown = [*_with_value(trials, "complete"), *_with_value(trials, "pruned")]
    names = list(dict.fromkeys(name for trial in shown for name in trial.params))
    if not names:
        return None
    total = len(names)
    ranked = sorted(names, key=lambda name: -(importances or {}).get(name, 0.0))
    names = [name for name in names if name in ranked[:_MOST_SLICES]]
    columns = min(_MOST_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = new_figure(max(5.5, 3.6 * columns), 0.9 + 3.0 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        entry = (space or {}).get(name, {})
        _draw_slice(axes, [trial for trial in shown if name in trial.params], name, name in log_scale, entry)
    grid[0, 0].margins(y=0.1)
    dots = [
        Line2D([], [], marker="o", linestyle="", color=BLUE, label="complete"),
        Line2D(
            [], [], marker="o", linestyle="", color=BLUE, markerfacecolor="white", label="pruned (value when stopped)"
        ),
    ]
    unused = grid.flat[len(names) :]
    for axes in unused:
        axes.set_axis_off()
    if len(unused):
        unused[0].legend(handles=dots, loc="center left", fontsize=9.5, frameon=False)
    else:
        figure.legend(handles=dots, loc="outside lower right", ncols=2, fontsize=8.5, frameon=False)
    title = f"{'Validation accuracy' if label == VALUE else 'Objective'} by hyperparameter{_shown(len(names), total)}"
    figure.suptitle(title, fontsize=11.5, x=0.01, ha="left")
    figure.supylabel(as_label(label, 60), fontsize=10.5)
    return figure


def _draw_slice(axes: Axes, trials: Sequence[TrialRecord], name: str, log: bool, entry: Mapping[str, Any]) -> None:
    values = [trial.params[name] for trial in trials]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    dress(axes, x=as_label(name, 30))
    if numeric and "choice" not in entry:
        searched = entry.get("int") or entry.get("float") or ()
        _dress_numbers(axes, [*values, *searched], log)
        positions = values
    else:
        chosen = sorted({as_yaml(value) for value in values})
        offered = [as_yaml(value) for value in entry.get("choice", ())]
        categories = list(dict.fromkeys([*offered, *chosen]))
        places = {category: place for place, category in enumerate(categories)}
        positions = [places[as_yaml(value)] for value in values]
        ticks = spaced_ticks(len(categories), most=_MOST_TICKS)
        axes.set_xticks(ticks, [as_label(categories[tick], 12) for tick in ticks])
        axes.set_xlim(-0.5, len(categories) - 0.5)
    for state, face in (("complete", BLUE), ("pruned", "white")):
        dots = [(at, trial.value) for trial, at in zip(trials, positions, strict=True) if trial.state == state]
        if dots:
            look = {"facecolor": face, "edgecolor": BLUE, "linewidth": 1.2, "alpha": 0.85, "zorder": 2}
            axes.scatter(*zip(*dots, strict=True), s=30, label=state, **look)
    errors = [
        (at, trial.value, trial.standard_error)
        for trial, at in zip(trials, positions, strict=True)
        if trial.state == "complete" and trial.standard_error is not None
    ]
    if errors:
        x, y, spread = zip(*errors, strict=True)
        axes.errorbar(x, y, spread, fmt="none", ecolor=BLUE, elinewidth=0.8, alpha=0.3, zorder=1)


def _dress_numbers(axes: Axes, values: Sequence[float], log: bool) -> None:
    """Set limits a little outside the values, and ticks at round numbers."""
    low, high = min(values), max(values)
    if low > 0 and (log or high / low > 10**_DECADES):
        around = (high / low) ** _MARGIN if high > low else 1.5
        axes.set_xscale("log")
        axes.set_xlim(low / around, high * around)
        ticks = log_ticks(low / around, high * around)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        return
    whole = all(isinstance(value, int) for value in values)
    around = max(_MARGIN * (high - low), 0.5 if whole else 0) or 0.1 * abs(high) or 1.0
    axes.set_xlim(low - around, high + around)
    if whole and high < 100:
        whole_numbers(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=whole, min_n_ticks=1 if whole else 2))


def _shown(drawn: int, total: int) -> str:
    return f" ({drawn} of {total})" if drawn < total else ""


def _with_value(trials: Sequence[TrialRecord], state: str) -> list[TrialRecord]:
    found = [trial for trial in trials if trial.state == state and trial.value is not None]
    return sorted(found, key=lambda trial: trial.number)
