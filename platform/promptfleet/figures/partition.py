"""Figure of the clients' samples: by class, by part and, if there are any, by domain."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.transforms import ScaledTranslation

from promptfleet.data.partition_counts import PartitionCounts
from promptfleet.figures.style import (
    BLUE,
    CLASS_COLORS,
    FAINT,
    ORANGE,
    VERMILLION,
    annotate,
    as_label,
    class_colors,
    domain_colors,
    dress,
    legend,
    new_figure,
    spaced_ticks,
)

PARTS = {"train": BLUE, "validation": ORANGE, "test": VERMILLION}
_MOST_CLIENTS = 100
_MOST_NAMED = 2 * len(CLASS_COLORS)  # classes with a colour each; more are columns of a heat map
_MOST_WRITTEN = 12  # classes that all get a name, and whose counts are written into the heat map of domains


def partition_figure(counts: PartitionCounts) -> Figure:
    """Draw a row per client: its samples by class, by part and by domain if there are any; below, domains by class.

    Bars are stacked; more than 20 classes are a heat map instead. Of more than 100 clients, 100 at equal distances are
    shown.
    """
    total = len(counts.label_counts)
    clients = np.arange(total)
    if total > _MOST_CLIENTS:
        clients = np.linspace(0, total - 1, _MOST_CLIENTS).round().astype(int)
    domains = len(counts.domain_names)
    height = float(np.clip(1.6 + 0.3 * len(clients), 3.4, 9.0))
    figure = new_figure(13.5 if domains else 12.0, height + (1.2 + 0.32 * domains if domains else 0))
    rows = figure.subfigures(2, 1, height_ratios=[height, 1.2 + 0.32 * domains]) if domains else [figure]

    panels = rows[0].subplots(1, 3 if domains else 2, sharey=True, width_ratios=[2.4, 1, 1] if domains else [2.4, 1])
    labels, parts, *rest = panels
    shown = "" if len(clients) == total else f" ({len(clients)} of {total} clients)"
    dress(labels, title=f"Samples of each client by class{shown}", x="samples (all parts)", y="client", grid="x")
    _draw_labels(rows[0], labels, np.asarray(counts.label_counts)[clients], counts.class_names)
    _draw_bars(parts, np.asarray(counts.part_sizes)[clients], list(PARTS), list(PARTS.values()))
    dress(parts, title="by part", x="samples", grid="x")
    _legend_below(parts, columns=3)
    for axes in rest:
        _draw_bars(axes, np.asarray(counts.domain_counts)[clients], counts.domain_names, domain_colors(domains))
        dress(axes, title="by domain", x="samples", grid="x")
        _legend_below(axes, columns=2)
    ticks = spaced_ticks(len(clients), most=26)
    labels.set_yticks(ticks, [str(clients[tick]) for tick in ticks])
    labels.set_ylim(len(clients) - 0.5, -0.5)
    if domains:
        _draw_domains(rows[1], np.asarray(counts.domain_label_counts), counts)
    return figure


def _draw_labels(figure: Figure | SubFigure, axes: Axes, counts: np.ndarray, class_names: Sequence[str]) -> None:
    if len(class_names) <= _MOST_NAMED:
        _draw_bars(axes, counts, class_names, class_colors(len(class_names)))
        legend(axes, beside=True, title="class")
        return
    image = _draw_heat_map(axes, counts, class_names, norm=PowerNorm(0.5, vmin=0))
    figure.colorbar(image, ax=axes, pad=0.02, label="samples (all parts)").outline.set_edgecolor(FAINT)


def _draw_bars(axes: Axes, counts: np.ndarray, names: Sequence[str], colors: Sequence) -> None:
    """Draw horizontal bars of ``counts [clients, names]``; repeated colours are hatched."""
    rows = np.arange(len(counts))
    edge = 0.4 if len(counts) <= 40 and len(names) <= _MOST_NAMED else 0.0
    start = np.zeros(len(counts))
    for index, (name, color) in enumerate(zip(names, colors, strict=True)):
        again = len(CLASS_COLORS) <= index < _MOST_NAMED and len(names) <= _MOST_NAMED
        axes.barh(
            rows,
            counts[:, index],
            left=start,
            height=0.82,
            color=color,
            edgecolor="white",
            linewidth=edge,
            hatch="////" if again else None,
            label=as_label(name),
        )
        start += counts[:, index]


def _legend_below(axes: Axes, *, columns: int) -> None:
    below = axes.transAxes + ScaledTranslation(0, -0.55, axes.get_figure(root=True).dpi_scale_trans)
    legend(
        axes,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        bbox_transform=below,
        ncols=columns,
        handlelength=1.2,
        columnspacing=1.0,
    )


def _draw_heat_map(axes: Axes, counts: np.ndarray, class_names: Sequence[str], **colours) -> AxesImage:
    """Draw counts ``[rows, classes]`` as shades of blue, the classes along the x axis."""
    image = axes.imshow(counts, cmap="Blues", aspect="auto", interpolation="nearest", **colours)
    ticks = spaced_ticks(len(class_names), most=_MOST_WRITTEN)
    crowded = len(class_names) > _MOST_WRITTEN
    names = [f"{tick}  {as_label(class_names[tick], 14)}" if crowded else as_label(class_names[tick]) for tick in ticks]
    slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(ticks, names, **slanted)
    axes.set_xlabel("class")
    axes.grid(visible=False)
    return image


def _draw_domains(figure: SubFigure, counts: np.ndarray, names: PartitionCounts) -> None:
    axes = figure.subplots()
    dress(axes, title="Samples of each domain by class, all clients together", grid=None)
    image = _draw_heat_map(axes, counts, names.class_names, vmin=0)
    axes.set_yticks(range(len(counts)), [as_label(name) for name in names.domain_names])
    figure.colorbar(image, ax=axes, pad=0.01).outline.set_edgecolor(FAINT)
    if counts.shape[1] <= _MOST_WRITTEN:
        for (domain, label), count in np.ndenumerate(counts):
            annotate(axes, label, domain, str(count), color="white" if count > 0.55 * counts.max() else "black")
