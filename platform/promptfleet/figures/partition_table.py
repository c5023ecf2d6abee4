"""A partition as text."""

from statistics import median

from rich.table import Table

from promptfleet.data.partition_counts import PartitionCounts
from promptfleet.escaping import printable
from promptfleet.text_tables import render

_MOST_NAMED = 3  # classes and domains of a client that are named


def partition_table(counts: PartitionCounts) -> str:
    """Return a row per client: the sizes of its parts, its classes and domains by size, as ``name count``."""
    table = Table(title="clients", title_justify="left")
    for name in ("client", "train", "validation", "test", "classes"):
        table.add_column(name, justify="right")
    table.add_column("largest classes")
    if counts.domain_names:
        table.add_column("domains")
    for client, sizes in enumerate(counts.part_sizes):
        labels = counts.label_counts[client]
        cells = [str(value) for value in (client, *sizes, sum(count > 0 for count in labels))]
        cells.append(_largest(labels, counts.class_names))
        if counts.domain_names:
            cells.append(_largest(counts.domain_counts[client], counts.domain_names))
        table.add_row(*cells)
    return render(table)


def partition_summary(counts: PartitionCounts) -> str:
    """Return sizes over clients, one line per part."""
    lines = [f"{'part':<12}{'samples':>9}{'smallest':>10}{'median':>9}{'largest':>9}"]
    for part, sizes in zip(("train", "validation", "test"), zip(*counts.part_sizes, strict=True), strict=True):
        lines.append(f"{part:<12}{sum(sizes):>9}{min(sizes):>10}{median(sizes):>9g}{max(sizes):>9}")
    return "\n".join(lines)


def _largest(counts: list[int], names: list[str]) -> str:
    order = sorted((index for index, count in enumerate(counts) if count), key=lambda index: -counts[index])
    named = [f"{printable(names[index])} {counts[index]}" for index in order[:_MOST_NAMED]]
    return ", ".join([*named, *(["..."] if len(order) > _MOST_NAMED else [])])
