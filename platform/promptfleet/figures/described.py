"""Figures of what a method describes of its clients, found by the names that it gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from promptfleet.figures.experts import experts_figure
from promptfleet.figures.gate import gate_figure, weight_matrix
from promptfleet.figures.style import FAINT, dress, new_figure, spaced_ticks

Described = Sequence[float | None]
SPECIAL: dict[str, tuple[str, Callable[[Sequence[Described]], Figure | None]]] = {  # described name -> figure
    "experts": ("experts", experts_figure),
    "gate_weights": ("gate", gate_figure),
}


def described_figures(
    clients: Sequence[Mapping[str, Described]],
) -> Iterator[tuple[str, Callable[[], Figure | None]]]:
    """Yield name and drawing function of the figure of each name in ``clients``, what the method describes of each.

    A name without a special figure gets a heat map. A function gives None without data.
    """
    for name in dict.fromkeys(name for client in clients for name in client):
        shown, draw = SPECIAL.get(name, (name, lambda rows, name=name: heat_map(name, rows)))
        yield shown, lambda draw=draw, name=name: draw([client.get(name, ()) for client in clients])


def heat_map(name: str, rows: Sequence[Described]) -> Figure | None:
    """Draw the values of each client as one row; gaps are grey. Return None if no client has a value."""
    values = weight_matrix(rows)
    if np.isnan(values).all():
        return None
    clients, width = values.shape
    figure = new_figure(7.6, 5.2)
    axes = figure.subplots()
    colors = colormaps["viridis"].with_extremes(bad=FAINT)
    image = axes.imshow(values, cmap=colors, aspect="auto", interpolation="nearest")
    dress(axes, title=f"{name} after the last round", x=f"position in {name}", y="client", grid=None)
    axes.set_xticks(spaced_ticks(width, most=14))
    axes.set_yticks(spaced_ticks(clients, most=26))
    figure.colorbar(image, ax=axes, pad=0.02).set_label(name, fontsize=10.5)
    return figure
