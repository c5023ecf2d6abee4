"""Pretrain glyph-clip, the embedded backbone, on rendered glyphs.

python jobs/pretrain.py --out results/pretrain --steps 3000            # train; progress on stderr
python jobs/pretrain.py --out results/pretrain --steps 3000 --resume   # resume after an interruption

The weights end up in OUT/glyph-clip.safetensors; stdout gets one JSON line with their size and accuracy.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path

from promptfleet.command_line import ArgumentParser, path_argument, run
from promptfleet.disks import check_writable
from promptfleet.errors import ConfigError, ResourceError
from promptfleet.limits import check_threads, memory_bytes, size_text
from promptfleet.terminal import LiveLine

WORKER_BYTES, IMAGE_BYTES = 500 * 10**6, 800_000  # least memory of a worker, and of each image of its batch


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="training steps (default 3000, about 35 minutes on one free core)")
    length.add_argument("--minutes", type=float, help="train for this long instead; not reproducible to the bit")
    parser.add_argument(
        "--out", type=path_argument, default="results/pretrain", help="folder for checkpoint, progress and weights"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=256, help="images per step and worker")
    parser.add_argument(
        "--pen-share", type=float, default=0.0, help="share of digits drawn by pen instead of print, 0..1"
    )
    parser.add_argument("--workers", type=int, default=1, help="Ray Train workers (data parallel)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads, and CPUs reserved, per worker")
    parser.add_argument("--report-every", type=int, default=50, metavar="STEPS")
    parser.add_argument("--checkpoint-every", type=int, default=200, metavar="STEPS")
    options = parser.parse_args(arguments)
    for name in ("steps", "minutes", "batch", "workers", "threads", "report_every", "checkpoint_every"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"--{name.replace('_', '-')} must be positive, got {value}")
    if not 0 <= options.pen_share <= 1:
        raise ConfigError(f"--pen-share must be in 0..1, got {options.pen_share:g}")
    if not 0 <= options.seed < 2**63:
        raise ConfigError(f"--seed must be in 0..2**63-1, got {options.seed}")
    check_threads(options.threads, os.cpu_count() or 1, "--threads")
    _check_memory(options.workers, options.batch)
    check_writable(options.out, named=f"--out {options.out}")
    return options


def _check_memory(workers: int, batch: int) -> None:
    """Raise ResourceError: the workers, all on this machine unless RAY_ADDRESS names a cluster, do not fit it."""
    here = 1 if os.environ.get("RAY_ADDRESS") else workers
    needed, there = here * (WORKER_BYTES + batch * IMAGE_BYTES), memory_bytes()
    if needed > there:
        raise ResourceError(
            f"--workers {workers} --batch {batch}: they take at least {size_text(needed)} of memory, this machine has "
            f"{size_text(there)}; lower --batch, or --workers"
        )


def progress_line(record: dict) -> str:
    """Return ``step 150 (4 %)  loss 2.31  train_acc 0.41  held_out_acc 0.52  93 s  eta 38m10s``."""
    done = record["done"]
    eta_s = round(record["elapsed_s"] * (1 - done) / done)
    return (
        f"step {record['step']} ({done:.0%})  loss {record['loss']:.3f}  train_acc {record['train_acc']:.3f}  "
        f"held_out_acc {record['held_out_acc']:.3f}  {record['elapsed_s']:.0f} s  eta {eta_s // 60}m{eta_s % 60:02d}s"
    )


def main() -> None:
    options = parse()
    # Slow to import, so only once the arguments are known to be good.
    from promptfleet.pretraining import captions, evaluation, model, trainer

    steps = options.steps or (None if options.minutes else 3000)
    settings = {name: value for name, value in vars(options).items() if name not in ("resume", "steps")}
    config = trainer.PretrainConfig(steps=steps, **settings)
    state = trainer.fit(
        config,
        resume=options.resume,
        on_progress=lambda record: LiveLine(sys.stderr).say(progress_line(record)),
    )
    path = Path(options.out) / model.WEIGHTS.name
    size = model.export_weights(state, model.Vocabulary(captions.vocabulary()), path)
    clip = model.load_model(path)
    images, labels = evaluation.handwritten_digits()
    features = evaluation.image_features(clip, images)
    result = {
        "weights": str(path),
        "compressed_bytes": size,
        "zero_shot_accuracy": evaluation.zero_shot_accuracy(clip, features, labels),
        "linear_probe_accuracy": evaluation.linear_probe_accuracy(features, labels),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    run(main)
