"""Draw the measurements of the benchmarks: python benchmarks/figure.py FOLDER (with NAME.json of each) [--out FILE]"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from promptfleet.figures.style import BLUE, GREEN, ORANGE, VERMILLION, annotate, dress, legend, new_figure

COLORS = (BLUE, ORANGE, GREEN, VERMILLION)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks.png"))
    options = parser.parse_args()
    panels = {"encoder": draw_encoder, "round": draw_round, "engine": draw_engine}
    found = {name: options.folder / f"{name}.json" for name in panels if (options.folder / f"{name}.json").is_file()}
    if not found:
        raise SystemExit(f"{options.folder}: none of {', '.join(f'{name}.json' for name in panels)} is there")
    figure = new_figure(5.0 * len(found), 4.0)
    for axes, (name, path) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        panels[name](axes, json.loads(path.read_text().splitlines()[-1])["rows"])
    figure.savefig(options.out)


def draw_encoder(axes: Axes, rows: list[dict[str, Any]]) -> None:
    lines = sorted({(row["backbone"], row["context"]) for row in rows})
    for color, (backbone, context) in zip(COLORS, lines, strict=False):
        line = [row for row in rows if (row["backbone"], row["context"]) == (backbone, context)]
        label = f"{backbone}, {context} context tokens"
        axes.plot([row["classes"] for row in line], [row["ratio"] for row in line], "o-", color=color, label=label)
    axes.set_xscale("log")
    classes = sorted({row["classes"] for row in rows})
    axes.set_xticks(classes, [str(count) for count in classes], minor=False)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    dress(axes, title="Text encoder, forward + backward", x="classes", y="times faster than 77 tokens")
    legend(axes)


def draw_round(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for index, row in enumerate(rows):
        for shift, key, color in ((-0.2, "published_s", VERMILLION), (0.2, "ours_s", BLUE)):
            axes.bar(index + shift, row[key], 0.4, color=color)
            annotate(axes, index + shift, row[key] * 1.15, f"{row[key]:.3g} s", va="bottom")
        annotate(axes, index, max(row["published_s"], row["ours_s"]) * 1.9, f"{row['ratio']:.0f} times")
    axes.set_yscale("log")
    axes.set_ylim(top=axes.get_ylim()[1] * 3)
    axes.set_xticks(range(len(rows)), [f"{row['classes']} classes" for row in rows])
    dress(axes, title="One local round: published pattern, promptfleet", y="seconds", grid="y")


def draw_engine(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for color, mode in zip(COLORS, dict.fromkeys(row["mode"] for row in rows), strict=False):
        line = [row for row in rows if row["mode"] == mode]
        axes.plot([row["clients"] for row in line], [row["median_ms"] for row in line], "o-", color=color, label=mode)
    axes.set_xscale("log")
    axes.set_yscale("log")
    dress(axes, title="A round of clients that do nothing", x="clients", y="milliseconds")
    legend(axes)


if __name__ == "__main__":
    main()
