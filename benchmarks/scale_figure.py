"""Draw docs/scale.png: python benchmarks/scale_figure.py FILE... (output of python benchmarks/scale.py --json)"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from promptfleet.figures.style import BLUE, GREEN, ORANGE, VERMILLION, dress, legend, new_figure

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs/scale.png")
    options = parser.parse_args()
    measured = [json.loads(path.read_text().splitlines()[-1]) for path in options.files]
    jobs = [{**row, "peak_gib": row["peak_pss_mib"] / 1024} for one in measured for row in one["rows"]]
    jobs.sort(key=lambda row: row["clients"])
    rounds = sorted((row for one in measured for row in one["where_a_round_goes"]), key=lambda row: row["clients"])
    packed = [row for row in jobs if row["clients_per_actor"] > 1]
    single = [row for row in jobs if row["clients_per_actor"] == 1]
    figure = new_figure(12.0, 3.8)
    times, memory, parts = figure.subplots(1, 3)

    draw(times, packed, "round_s", "o-", color=BLUE, label="an actor per core")
    draw(times, single, "round_s", "s-", color=ORANGE, label="an actor per client")
    times.set_yscale("log")
    times.set_ylim(0.05, 20)
    dress(times, title="One round, a tenth of the clients", x="clients", y="seconds")
    draw(memory, packed, "peak_gib", "o-", color=BLUE, label="an actor per core")
    draw(memory, single, "peak_gib", "s-", color=ORANGE, label="an actor per client")
    memory.set_ylim(bottom=0)
    dress(memory, title="Memory of all processes at its peak", x="clients", y="GiB (PSS)")
    for key, label, color in (
        ("round_s", "the round", BLUE),
        ("clients_s", "clients' own computing", GREEN),
        ("server_s", "selection and aggregation", VERMILLION),
        ("write_s", "a checkpoint, during the next round", ORANGE),
    ):
        draw(parts, rounds, key, "o-", color=color, label=label)
    parts.set_yscale("log")
    parts.set_ylim(top=12 * max(row["round_s"] for row in rounds))  # room for the legend
    dress(parts, title="Where a round goes, an actor per core", x="clients", y="seconds")
    legend(times)
    legend(memory, loc="lower right")
    legend(parts, loc="upper left")
    figure.savefig(options.out)


def draw(axes: Axes, rows: list[Row], key: str, marks: str, **options: str) -> None:
    """Draw one line over the number of clients, on a logarithmic axis."""
    clients = [row["clients"] for row in rows]
    axes.plot(clients, [row[key] for row in rows], marks, **options)
    axes.set_xscale("log")
    axes.set_xticks([10, 100, 1000], ["10", "100", "1,000"])
    axes.minorticks_off()


if __name__ == "__main__":
    main()
