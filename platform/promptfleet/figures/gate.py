"""Figure of the gates' weights for a client's own expert and for the downloaded ones."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptfleet.figures.style import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
    annotate,
    dress,
    legend,
    new_figure,
    spaced_ticks,
)

_MOST_WRITTEN = (14, 10)  # clients and experts up to which weights are written into the cells
_LEAST_REACH = 0.02  # distance from equal weights that gets the strongest colour, so that noise stays pale


def gate_figure(gate_weights: Sequence[Sequence[float]]) -> Figure | None:
    """Draw the mean gate weight of the local and of each non-local expert: over clients (left) and per client (right).

    gate_weights lists, per client, the local expert's weight, then the non-local ones', nearest first; empty for a
    client whose gate has not been used. Return None if no client has any.
    """
    weights = weight_matrix(gate_weights)
    if np.isnan(weights).all():
        return None
    figure = new_figure(11.0, 4.8)
    left, right = figure.subplots(1, 2, width_ratios=[1.1, 1])
    _draw_means(left, weights)
    _draw_clients(figure, right, weights)
    names = ["local", *(str(rank) for rank in range(1, weights.shape[1]))]
    ticks = spaced_ticks(len(names), most=14)
    for axes in (left, right):
        axes.set_xticks(ticks, [names[tick] for tick in ticks])
        axes.set_xlim(-0.5, len(names) - 0.5)
    return figure


def weight_matrix(gate_weights: Sequence[Sequence[float]]) -> np.ndarray:
    """Return ``[clients, 1 + most experts]``, NaN where a client has fewer."""
    width = max((len(weights) for weights in gate_weights), default=0)
    matrix = np.full((len(gate_weights), width), np.nan)
    for client, weights in enumerate(gate_weights):
        matrix[client, : len(weights)] = weights
    return matrix


def _draw_means(axes: Axes, weights: np.ndarray) -> None:
    clients, experts = weights.shape
    means = np.nanmean(weights, axis=0)
    axes.bar(range(experts), means, color=[BLUE] + [ORANGE] * (experts - 1), width=0.7, alpha=0.85)
    # side by side in the order of ids, so that equal weights do not hide one another
    shift = np.linspace(-0.25, 0.25, clients) if clients > 1 else np.zeros(1)
    for expert in range(experts):
        label = "one client" if expert == 0 else None
        axes.scatter(
            expert + shift,
            weights[:, expert],
            s=12 if clients <= 30 else 5,
            color="white",
            edgecolor=INK,
            linewidth=0.6,
            label=label,
            zorder=3,
        )
    axes.axhline(1 / experts, color=INK, linestyle="--", linewidth=1.2, label=f"equal weights, 1/{experts}")
    users = int((~np.isnan(weights[:, 0])).sum())
    dress(axes, title=f"Mean gate weight over {users} clients", x=_EXPERTS, y="gate weight (sums to 1)", grid="y")
    axes.set_ylim(0, min(1.02, 1.3 * float(np.nanmax(weights))))
    legend(axes, loc="upper right")


def _draw_clients(figure: Figure, axes: Axes, weights: np.ndarray) -> None:
    clients, experts = weights.shape
    equal = 1 / experts
    farthest = float(np.nanmax(np.abs(weights - equal)))
    reach = max(_LEAST_REACH, farthest)
    image = axes.imshow(
        weights,
        cmap=colormaps["PuOr_r"].with_extremes(bad=FAINT),
        vmin=equal - reach,
        vmax=equal + reach,
        aspect="auto",
        interpolation="nearest",
    )
    if clients <= _MOST_WRITTEN[0] and experts <= _MOST_WRITTEN[1]:
        for client, expert in np.argwhere(~np.isnan(weights)):
            weight = weights[client, expert]
            annotate(
                axes, expert, client, f"{weight:.3f}", color="white" if abs(weight - equal) > 0.7 * reach else "black"
            )
    title = f"Gate weights per client, up to {farthest:.2g} from 1/{experts}"
    dress(axes, title=title, x=_EXPERTS, y="client", grid=None)
    axes.set_yticks(spaced_ticks(clients, most=26))
    scale = figure.colorbar(image, ax=axes, pad=0.02)
    scale.set_label("gate weight (white: equal weights)", fontsize=10.5)
    scale.ax.tick_params(labelsize=9.5)
    scale.ax.set_ylim(max(0.0, equal - reach), min(1.0, equal + reach))


_EXPERTS = "expert (non-local ones by rank, 1 = nearest)"
