"""Markdown tables of the scripts in this folder."""

from collections.abc import Iterable, Sequence

import numpy as np


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; all columns but the first are of numbers."""
    print("| " + " | ".join(header) + " |")
    print("| --- |" + " ---: |" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def mean_and_std(fractions: Sequence[float]) -> str:
    """Return mean and sample standard deviation of fractions, one per seed, in %."""
    percent = 100 * np.asarray(fractions)
    return f"{percent.mean():.1f} ± {percent.std(ddof=1):.1f}"
