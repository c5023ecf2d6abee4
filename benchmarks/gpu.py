"""All measurements on a GPU that fit into eight minutes: python benchmarks/gpu.py

Each part is a separate process with its own time limit. It stores its rows in --out as soon as they are measured, so a
run that is cut off still leaves figures. A part whose modules (open_clip, Ray) are missing is left out, with the
reason. ``--device cpu --small`` rehearses every part in under two minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

HERE = Path(__file__).resolve().parent
LIMITS_S = {  # together eight minutes; what matters most comes first
    "card": 20,
    "encoder": 120,
    "federation": 90,
    "local_round": 60,
    "precision": 60,
    "actors": 80,
    "images": 50,
}
REHEARSAL_PATIENCE = 5  # a rehearsal may share a slow machine, and measures nothing
ENDED_FOR_TIME = 124
MODULE = "gpu_parts.{name}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny shapes: a rehearsal, no measurement")
    parser.add_argument(
        "--parts", nargs="+", choices=LIMITS_S, default=tuple(LIMITS_S), metavar="PART", help="only these"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/benchmarks/gpu"), help="folder of the parts' JSON files"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = {name: run_part(name, options) for name in options.parts}
    print_summary(found)
    return 0 if all(part.get("complete") or "left_out" in part for part in found.values()) else 1


def run_part(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one part until it ends or its time is up; return the content of its file, and how the process ended."""
    limit_s = LIMITS_S[name] * (REHEARSAL_PATIENCE if options.small else 1)
    path = (options.out / f"{name}.json").absolute()
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", MODULE.format(name=name), "--device", options.device, "--out", str(path)]
    inherited = os.environ.get("PYTHONPATH", "")
    search = [str(HERE), str(HERE.parent / "platform"), *([inherited] if inherited else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search)}
    print(f"{name}: at most {limit_s} s", file=sys.stderr, flush=True)
    started = time.perf_counter()
    status = _status([*command, *(["--small"] if options.small else [])], environment, limit_s)
    found = json.loads(path.read_text()) if path.exists() else {"part": name, "rows": []}
    if status == ENDED_FOR_TIME:
        found["stopped"] = f"its {limit_s} s were up"
    elif status:
        found["stopped"] = f"exit status {status}"
    return found | {"wall_s": time.perf_counter() - started}


def _status(command: Sequence[str], environment: dict[str, str], limit_s: float) -> int:
    """Return the exit status of a process; its whole group is ended when ``limit_s`` are over."""
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            return ENDED_FOR_TIME


def print_summary(found: dict[str, dict[str, Any]]) -> None:
    """Print each part's rows as tables, one per set of columns."""
    console = Console(width=180)
    for name, part in found.items():
        state = part.get("left_out") or part.get("stopped") or "complete"
        console.print(Text(f"\n{name}: {state}, {part['wall_s']:.1f} s", style="bold"))
        columns: tuple[str, ...] = ()
        table: Table | None = None
        for row in part["rows"]:
            if tuple(row) != columns:
                if table is not None:
                    console.print(table)
                columns, table = tuple(row), Table(*(key.replace("_", " ") for key in row))
            table.add_row(*(Text(_cell(value)) for value in row.values()))
        if table is not None:
            console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
