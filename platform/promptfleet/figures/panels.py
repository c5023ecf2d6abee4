"""Small multiples: a panel per method with the same axes, best read row by row."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptfleet.figures.style import new_figure


def panels(count: int, *, side: float, most_columns: int, x: str, y: str) -> tuple[Figure, list[Axes]]:
    """Return a figure and ``count`` axes in rows of nearly equal length; ``x`` and ``y`` label all of them.

    side: width and height of a panel in inches. The lowest panel of each column has the ticks of x.
    """
    rows = math.ceil(count / most_columns)
    columns = math.ceil(count / rows)
    figure = new_figure(0.6 + side * columns, 0.6 + side * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    for column in range(columns):
        used = [row for row in range(rows) if row * columns + column < count]
        grid[used[-1], column].tick_params(labelbottom=True)
    figure.supxlabel(x, fontsize=10.5)
    figure.supylabel(y, fontsize=10.5)
    return figure, list(grid.flat[:count])
