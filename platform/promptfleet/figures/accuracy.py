"""Accuracy by round, with its spread over clients."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptfleet.figures.style import (
    BLUE,
    GREY,
    INK,
    VERMILLION,
    dress,
    legend,
    new_figure,
    whole_numbers,
)

_MOST_LINES = 20  # clients drawn one by one; more become a second band
_HIGHEST_FLOOR = 0.9
_MOST_MARKED = 30  # rounds that are marked one by one


def accuracy_figure(
    rounds: Sequence[int],
    *,
    val: Sequence[Sequence[float | None]],
    test: Sequence[Sequence[float | None]],
    zero_shot: float | None = None,
    best_round: int | None = None,
) -> Figure:
    """Draw the mean accuracy over clients by round, validation left, test right, the clients behind it.

    val and test are ``[rounds][clients]``, fractions, None for a client that was not evaluated; zero_shot is untrained
    CLIP's mean test accuracy (dashed); best_round is the round of the highest validation accuracy (dotted). The y axis
    ends at 1 and starts below the smallest value.
    """
    figure = new_figure(10.5, 4.4)
    parts = [np.asarray(part, dtype=float) for part in (val, test)]
    lowest = min(*(float(np.nanmin(part)) for part in parts), 1.0 if zero_shot is None else zero_shot)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, part, color, name in zip((left, right), parts, (BLUE, VERMILLION), ("Validation", "Test"), strict=True):
        _draw(axes, rounds, part, color, name)
    if zero_shot is not None:
        right.axhline(
            zero_shot, color=INK, linestyle="--", linewidth=1.4, label=f"zero-shot CLIP, mean {zero_shot:.3f}"
        )
    for axes in (left, right):
        if best_round is not None and len(rounds) > 1:
            label = f"best validation mean: round {best_round}"
            axes.axvline(best_round, color=GREY, linestyle=":", linewidth=1.4, label=label)
        axes.set_ylim(_floor(lowest), 1.02)
        legend(axes)
    right.set_ylabel("")
    return figure


def _floor(lowest: float) -> float:
    """Return a value a little below the lowest, so low that differences of a single image do not look like more."""
    return max(-0.02, min(lowest - 0.05 * (1 - lowest), _HIGHEST_FLOOR) - 0.01)


def _draw(axes: Axes, rounds: Sequence[int], accuracy: np.ndarray, color: str, part: str) -> None:
    """Draw one part; accuracy is ``[rounds, clients]``, NaN for a client that was not evaluated."""
    clients = accuracy.shape[1]
    marker = "o" if len(rounds) <= _MOST_MARKED else None
    lowest, highest = np.nanmin(accuracy, axis=1), np.nanmax(accuracy, axis=1)
    axes.fill_between(rounds, lowest, highest, color=color, alpha=0.12, linewidth=0)
    if clients <= _MOST_LINES:
        for client in range(clients):
            label = "one client" if client == 0 else None
            small = 4 if len(rounds) == 1 else 2
            axes.plot(
                rounds,
                accuracy[:, client],
                color=color,
                alpha=0.35,
                linewidth=0.8,
                marker=marker,
                ms=small,
                label=label,
            )
    else:
        low, high = np.nanpercentile(accuracy, [25, 75], axis=1)
        axes.collections[-1].set_label("worst to best client")
        axes.fill_between(rounds, low, high, color=color, alpha=0.28, linewidth=0, label="middle half of the clients")
    mean = np.nanmean(accuracy, axis=1)
    label = f"mean of {clients} clients, last {mean[-1]:.3f}"
    axes.plot(rounds, mean, color=color, linewidth=2.4, marker=marker, ms=4, label=label)
    dress(axes, title=f"{part} accuracy by round", x="communication round", y="accuracy (fraction correct)")
    whole_numbers(axes.xaxis)
    axes.set_xlim(min(rounds) - 0.5, max(rounds) + 0.5)
