"""Draw docs/partitions.png, every scheme on ten clients with digits: python docs/partitions_figure.py"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from promptfleet.config import PartitionConfig
from promptfleet.data.datasets import load_dataset
from promptfleet.data.partition import make_partition
from promptfleet.data.partition_counts import PartitionCounts, count_partition
from promptfleet.data.samples import Samples
from promptfleet.figures.style import annotate, class_colors, dress, new_figure

CLIENTS = 10
PANELS = {
    "iid": ("digits", {"kind": "iid"}),
    "quantity, alpha 0.5": ("digits", {"kind": "quantity", "alpha": 0.5}),
    "dirichlet, alpha 1.0": ("digits", {"kind": "dirichlet", "alpha": 1.0}),
    "dirichlet, alpha 0.1": ("digits", {"kind": "dirichlet", "alpha": 0.1}),
    "pathological, 2 classes": ("digits", {"kind": "pathological", "classes_per_client": 2}),
    "disjoint": ("digits", {"kind": "disjoint"}),
    "domain": ("digits_styles", {"kind": "domain"}),
    "domain_dirichlet, alpha 0.3": ("digits_styles", {"kind": "domain_dirichlet", "alpha": 0.3}),
}


def main() -> None:
    figure = new_figure(11.5, 5.2)
    datasets = {name: load_dataset(name, ".") for name, _ in PANELS.values()}
    panels = figure.subplots(2, 4, sharey=True)
    for axes, (title, (dataset, settings)) in zip(panels.flat, PANELS.items(), strict=True):
        samples = Samples.of_dataset(datasets[dataset])
        made = make_partition(samples, clients=CLIENTS, settings=PartitionConfig(**settings), seed=0)
        _draw(axes, title, count_partition(made, samples))
    for axes in panels[:, 0]:
        axes.set_ylabel("client")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=10, fontsize=8.5, frameon=False)
    figure.savefig(Path(__file__).with_name("partitions.png"), dpi=90)


def _draw(axes: Axes, title: str, counts: PartitionCounts) -> None:
    start = np.zeros(CLIENTS)
    held = np.asarray(counts.label_counts)
    for label, color in enumerate(class_colors(len(counts.class_names))):
        axes.barh(range(CLIENTS), held[:, label], left=start, height=0.82, color=color, label=counts.class_names[label])
        start += held[:, label]
    dress(axes, title=title, x="samples", grid="x")
    axes.set_ylim(CLIENTS - 0.5, -0.5)
    axes.set_yticks(range(0, CLIENTS, 3))
    for client, domains in enumerate(counts.domain_counts):
        if domains:
            name = counts.domain_names[int(np.argmax(domains))]
            annotate(axes, start[client], client, f" {name}", ha="left")
    if any(counts.domain_counts):
        axes.set_xlim(0, 1.35 * start.max())


if __name__ == "__main__":
    main()
