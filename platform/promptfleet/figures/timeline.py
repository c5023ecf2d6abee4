"""Figure of when each trial of a sweep ran."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from promptfleet.figures.style import BLUE, GREY, ORANGE, VERMILLION, dress, legend, new_figure, whole_numbers
from promptfleet.trial_records import TrialRecord

_COLORS = {"complete": BLUE, "pruned": ORANGE, "failed": VERMILLION, "running": GREY}
_MOST_SECONDS = 300.0  # of a time axis in seconds; a longer one has minutes, and one of hours has hours
_TALLEST = 9.0  # inches


def timeline_figure(trials: Sequence[TrialRecord]) -> Figure | None:
    """Draw a bar per trial that has ended, from its proposal to its end. Return None without any."""
    ended = [one for one in trials if one.started_s is not None and one.ended_s is not None]
    if not ended:
        return None
    total = max(one.ended_s for one in ended)
    unit, divisor = ("seconds", 1.0) if total <= _MOST_SECONDS else ("minutes", 60.0)
    if total > 100 * 60.0 * 3:
        unit, divisor = "hours", 3600.0
    figure = new_figure(8.5, min(_TALLEST, 1.5 + 0.2 * len(ended)))
    axes = figure.subplots()
    for state, color in _COLORS.items():
        shown = [one for one in ended if one.state == state]
        if shown:
            widths = [(one.ended_s - one.started_s) / divisor for one in shown]
            left = [one.started_s / divisor for one in shown]
            axes.barh([one.number for one in shown], widths, left=left, height=0.8, color=color, label=state)
    dress(axes, title="Trials over time", x=f"{unit} since the first trial began", y="trial", grid="x")
    axes.set_ylim(max(one.number for one in ended) + 0.7, min(one.number for one in ended) - 0.7)
    axes.set_xlim(0, None)
    whole_numbers(axes.yaxis)
    legend(axes, beside=True)
    return figure
