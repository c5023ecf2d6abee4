"""Figure of the experts that each client was given."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from promptfleet.figures.style import BLUE, FAINT, GREY, annotate, dress, new_figure, spaced_ticks

_MOST_WRITTEN = 14  # clients up to which ranks are written into the cells


def experts_figure(experts: Sequence[Sequence[int]]) -> Figure | None:
    """Draw clients by experts, shaded by rank (1 is the nearest); above it, the number of selections of each.

    experts lists, per client, the ids of its non-local experts, nearest first; empty for a client without any. Return
    None if no client has one.
    """
    ranks = expert_ranks(experts)
    if np.isnan(ranks).all():
        return None
    clients, most = len(ranks), int(np.nanmax(ranks))
    figure = new_figure(7.6, 7.6)
    top, matrix = figure.subplots(2, 1, sharex=True, height_ratios=[1, 5])
    top.bar(np.arange(clients), (~np.isnan(ranks)).sum(axis=0), color=BLUE, width=0.8)
    dress(top, title="Experts selected after the last round", y="times\nselected", grid="y")
    top.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    top.tick_params(labelbottom=False)

    shades = ListedColormap([colormaps["viridis"](0.1 + 0.85 * rank / max(most, 2)) for rank in range(most)])
    image = matrix.imshow(ranks, cmap=shades, vmin=0.5, vmax=most + 0.5, aspect="auto", interpolation="nearest")
    matrix.plot([-0.5, clients - 0.5], [-0.5, clients - 0.5], color=GREY, linewidth=1, linestyle=":")
    dress(matrix, x="expert (client id; dotted: the client itself)", y="client", grid=None)
    _mark_cells(matrix, ranks, shades)
    ticks = spaced_ticks(clients, most=26)
    matrix.set_xticks(ticks)
    matrix.set_yticks(ticks)
    scale = figure.colorbar(image, ax=matrix, pad=0.02, ticks=[tick + 1 for tick in spaced_ticks(most, most=12)])
    scale.set_label("rank (1 = nearest)", fontsize=10.5)
    scale.ax.tick_params(labelsize=9.5)
    scale.ax.invert_yaxis()
    return figure


def expert_ranks(experts: Sequence[Sequence[int]]) -> np.ndarray:
    """Return ``[clients, clients]``: rank of the column's client among the row's experts, NaN for all others."""
    ranks = np.full((len(experts), len(experts)), np.nan)
    for client, selected in enumerate(experts):
        for rank, expert in enumerate(selected, start=1):
            ranks[client, int(expert)] = rank
    return ranks


def _mark_cells(axes: Axes, ranks: np.ndarray, shades: ListedColormap) -> None:
    """Draw lines between cells and the ranks in them, if they are large enough."""
    clients = len(ranks)
    if clients > _MOST_WRITTEN:
        return
    for line in range(1, clients):
        axes.axhline(line - 0.5, color=FAINT, linewidth=0.6)
        axes.axvline(line - 0.5, color=FAINT, linewidth=0.6)
    for client, expert in np.argwhere(~np.isnan(ranks)):
        rank = int(ranks[client, expert])
        bright = sum(shades(rank - 1)[:3]) > 1.5
        annotate(axes, expert, client, str(rank), color="black" if bright else "white")
