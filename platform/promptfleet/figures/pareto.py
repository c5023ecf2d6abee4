"""Figure of the trials of several objectives, and of those that no other one beats in each."""

from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptfleet.figures.style import BLUE, GREY, VERMILLION, annotate, as_label, dress, legend, new_figure
from promptfleet.trial_records import TrialRecord


def pareto_figure(
    trials: Sequence[TrialRecord], objectives: Mapping[str, str], front: Collection[int]
) -> Figure | None:
    """Draw every other objective against the first one; ``front`` are the numbers of the trials on the Pareto front.

    objectives: directions by name, ``maximize`` or ``minimize``. Return None for one objective, or without a trial.
    """
    complete = [one for one in trials if one.state == "complete" and one.values]
    if len(objectives) < 2 or not complete:
        return None
    first, *others = objectives
    figure = new_figure(1.2 + 5.6 * len(others), 4.6)
    for place, axes in enumerate(figure.subplots(1, len(others), squeeze=False)[0], start=1):
        _draw(axes, complete, place, front, is_step=len(others) == 1)
        title = "Pareto front: no other trial is better in every objective" if place == 1 else ""
        dress(axes, title=title, x=_label(others[place - 1], objectives), y=_label(first, objectives))
        axes.margins(0.1)
    legend(axes)
    return figure


def _draw(axes: Axes, trials: Sequence[TrialRecord], place: int, front: Collection[int], *, is_step: bool) -> None:
    """Draw the objective at ``place`` on the x axis against the first one."""
    kinds = (
        ("infeasible", [one for one in trials if not one.feasible], {"marker": "x", "color": GREY}),
        (
            "complete",
            [one for one in trials if one.feasible and one.number not in front],
            {"facecolor": "white", "edgecolor": BLUE, "linewidth": 1.2},
        ),
        ("on the front", [one for one in trials if one.number in front], {"color": VERMILLION, "zorder": 4}),
    )
    for label, shown, look in kinds:
        if shown:
            axes.scatter(
                [one.values[place] for one in shown], [one.values[0] for one in shown], s=44, label=label, **look
            )
    on_front = sorted(
        (one for one in trials if one.number in front), key=lambda one: (one.values[place], one.values[0])
    )
    if is_step and on_front:
        points = ([one.values[place] for one in on_front], [one.values[0] for one in on_front])
        axes.plot(*points, color=VERMILLION, linewidth=1.4, drawstyle="steps-post", zorder=3)
    for one in on_front:
        annotate(axes, one.values[place], one.values[0], f"  {one.number}", ha="left", va="bottom")


def _label(name: str, objectives: Mapping[str, str]) -> str:
    better = "higher" if objectives[name] == "maximize" else "lower"
    return f"{as_label(name, 44)} ({better} is better)"
