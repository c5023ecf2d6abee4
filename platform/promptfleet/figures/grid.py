"""Figure of a grid's trials: accuracy over one key, a line for each setting of the others, a band over seeds."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from promptfleet.figures.style import as_label, dress, legend, line_styles, new_figure, spaced_ticks
from promptfleet.trial_records import TrialRecord
from promptfleet.yaml_files import as_yaml

SEED, METHOD = "seed", "method"
_MOST_LINES, _MOST_TICKS = 24, 16


def grid_figure(trials: Sequence[TrialRecord], space: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """Draw mean test accuracy of the complete trials over the values of ``main_key``, evenly in the file's order.

    The band is one sample standard deviation over the trials of a point, which differ in their seed; values without an
    order get bars of that length instead of lines. Of more than 24 settings of the other keys, those of the highest
    mean are drawn. Return None without a key, or without a complete trial.
    """
    key = main_key(space)
    complete = [trial for trial in trials if trial.state == "complete" and trial.test_accuracy is not None]
    complete = [trial for trial in complete if key in trial.params]
    if key is None or not complete:
        return None
    others = [name for name in space if name not in (key, SEED)]
    lines: dict[str, dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial in complete:
        lines[_setting(trial.params, others)][trial.params[key]].append(trial.test_accuracy)
    settings = len(lines)
    best = sorted(lines, key=lambda setting: -np.mean([one for point in lines[setting].values() for one in point]))
    lines = {setting: points for setting, points in lines.items() if setting in best[:_MOST_LINES]}
    values = list(dict.fromkeys(trial.params[key] for trial in sorted(complete, key=lambda trial: trial.number)))

    figure = new_figure(7.5, 4.4)
    axes = figure.subplots()
    ordered = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    for line, ((setting, points), style) in enumerate(zip(lines.items(), line_styles(len(lines)), strict=True)):
        at = [position for position, value in enumerate(values) if value in points]
        mean = np.array([np.mean(points[values[position]]) for position in at])
        spread = np.array([_sample_std(points[values[position]]) for position in at])
        if ordered:
            axes.fill_between(at, mean - spread, mean + spread, color=style["color"], alpha=0.15, linewidth=0)
            axes.plot(at, mean, marker="o", ms=5, linewidth=2, label=as_label(setting, 60) or None, **style)
        else:
            beside = np.array(at) + 0.12 * (line - (len(lines) - 1) / 2)
            look = {"fmt": "o", "ms": 7, "capsize": 4, "linewidth": 1.6, "color": style["color"]}
            axes.errorbar(beside, mean, spread, label=as_label(setting, 60) or None, **look)
    seeds = len({trial.params[SEED] for trial in complete if SEED in trial.params})
    band = f", mean and standard deviation of {seeds} seeds" if seeds > 1 else ""
    few = f", best {len(lines)} of {settings} settings" if len(lines) < settings else ""
    dress(axes, title=f"Test accuracy by {key}{band}{few}", x=key, y="mean test accuracy over clients")
    ticks = spaced_ticks(len(values), most=_MOST_TICKS)
    axes.set_xticks(ticks, [as_label(_text(values[tick]), 14) for tick in ticks])
    axes.set_xlim(-0.3, len(values) - 0.7)
    axes.margins(y=0.12)
    if others:
        legend(axes, beside=True, title=", ".join(others))
    return figure


def main_key(space: Mapping[str, Any]) -> str | None:
    """Return the main key of a grid: the first that is neither the seed nor the method."""
    return next((key for key in space if key not in (SEED, METHOD)), None)


def _setting(params: Mapping[str, Any], keys: Sequence[str]) -> str:
    if list(keys) == [METHOD]:
        return str(params[METHOD])
    return "  ".join(f"{key.rsplit('.', 1)[-1]}={_text(params[key])}" for key in keys if key in params)


def _sample_std(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else as_yaml(value)
