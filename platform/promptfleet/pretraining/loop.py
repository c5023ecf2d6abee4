"""Pretraining loop of glyph-clip and its checkpoints, without Ray.

Every step draws its glyphs, distortions and captions from (seed, worker, step) alone; the checkpoint therefore needs no
generator state, and a resumed run with a given number of steps is the uninterrupted one.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from promptfleet.atomic_files import replacing
from promptfleet.clip.weight_files import read_file
from promptfleet.devices import set_arithmetic
from promptfleet.errors import ConfigError
from promptfleet.pretraining import captions, steps
from promptfleet.pretraining.bank import build_bank
from promptfleet.pretraining.model import PairEncoder, Vocabulary, build_model

CHECKPOINT, PROGRESS = "checkpoint.pt", "progress.jsonl"
PARTS = {"step", "elapsed_s", "recipe", "model", "average", "optimizers"}  # of a checkpoint


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run. steps or minutes (the other None) say how long; the learning rate follows either.

    batch: images per worker and step. threads: torch threads per worker. report_every, checkpoint_every: in steps.
    """

    out: str
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    workers: int = 1
    threads: int = 1
    batch: int = 256
    lr: float = 2e-3
    embedding_lr: float = 5e-4  # of the text tower's token and position embeddings
    muon_lr: float = 0.02
    weight_decay: float = 0.05
    warmup: float = 0.03  # share of the run
    plain_captions: float = 0.08  # share of the run, at its start, with class words only
    average: float = 0.998  # decay of the weight average that is evaluated and exported
    pen_share: float = 0.0  # share of the digits that is drawn by pen, the rest is print; letters are half and half
    pens_per_digit: int = 300  # no effect at pen_share 0
    report_every: int = 50
    checkpoint_every: int = 200

    def same_recipe(self) -> dict:
        """Return the settings that a resumed run must share with its checkpoint."""
        free = ("out", "threads", "report_every", "checkpoint_every", "minutes")
        return {name: value for name, value in asdict(self).items() if name not in free}


def train(
    config: PretrainConfig,
    rank: int,
    device: torch.device,
    *,
    distribute: Callable[[nn.Module], nn.Module],
    report: Callable[[dict], None],
) -> None:
    """Train from the checkpoint in ``config.out``, or from the start; worker 0 writes progress and checkpoints.

    ``distribute`` wraps the model for several workers; ``report`` is called with each progress record.
    """
    torch.set_num_threads(config.threads)
    set_arithmetic(device)
    out = Path(config.out)
    torch.manual_seed(config.seed)
    vocabulary = Vocabulary(captions.vocabulary())
    encoder = PairEncoder(build_model(len(vocabulary)).to(device))
    average = copy.deepcopy(encoder.clip).requires_grad_(False)
    rates = {name: getattr(config, name) for name in ("lr", "embedding_lr", "muon_lr", "weight_decay")}
    optimizers = steps.make_optimizers(encoder, **rates)
    step, before_s = 0, 0.0
    if (out / CHECKPOINT).exists():  # asked to resume, or restarted by Ray after a failure
        saved = read_checkpoint(out)
        encoder.clip.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step, before_s = saved["step"], saved["elapsed_s"]
    model = distribute(encoder)
    pens = config.pens_per_digit if config.pen_share else 0
    bank = build_bank(np.random.default_rng(config.seed), pens_per_digit=pens).to(device)
    weights = steps.sampling_weights(bank, config.pen_share)
    held_out = steps.held_out_digits(config.seed).to(device)
    start = time.monotonic() - before_s
    done = _done(config, step, before_s, device)
    while done < 1:
        step += 1
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * steps.schedule(done, config.warmup)
        key, plain = (config.seed, rank, step), done < config.plain_captions
        loss, train_acc = steps.train_step(model, optimizers, bank, weights, vocabulary, key, config.batch, plain=plain)
        decay = min(config.average, step / (step + 10))
        for kept, value in zip(average.parameters(), encoder.clip.parameters(), strict=True):
            kept.lerp_(value.detach(), 1 - decay)
        elapsed_s = time.monotonic() - start
        done = _done(config, step, elapsed_s, device)
        if rank == 0 and (step % config.checkpoint_every == 0 or done >= 1):
            _save(out, config, step, elapsed_s, encoder, average, optimizers)
        if step % config.report_every == 0 or done >= 1:
            record = {
                "step": step,
                "done": min(done, 1.0),
                "elapsed_s": elapsed_s,
                "loss": loss,
                "train_acc": train_acc,
            }
            record["held_out_acc"] = steps.held_out_accuracy(average, vocabulary, held_out)
            if rank == 0:
                with (out / PROGRESS).open("a") as file:
                    file.write(json.dumps(record) + "\n")
            report(record)


def read_checkpoint(out: Path) -> dict:
    """Read ``PARTS``; model and average are as open_clip.CLIP's state_dict, with the small token table."""
    try:
        content, _ = read_file(out / CHECKPOINT)
        missing = PARTS - content.keys()
    except Exception as error:  # a damaged file can fail in any part of its reader
        raise ConfigError(
            f"{out / CHECKPOINT} is damaged or not a checkpoint of this job; choose another --out"
        ) from error
    if missing:
        raise ConfigError(f"{out / CHECKPOINT} is not a checkpoint of this job: it lacks {', '.join(sorted(missing))}")
    return content


def _done(config: PretrainConfig, step: int, elapsed_s: float, device: torch.device) -> float:
    """Return the share of the run that is over; the same on every worker, so that all stop at the same step."""
    if config.steps:
        return step / config.steps
    done = torch.tensor(elapsed_s / (60 * config.minutes), device=device)
    if config.workers > 1:
        torch.distributed.broadcast(done, 0)
    return float(done)


def _save(out: Path, config: PretrainConfig, step: int, elapsed_s: float, encoder, average, optimizers) -> None:
    """Replace the checkpoint in one step."""
    state = {
        "step": step,
        "elapsed_s": elapsed_s,
        "recipe": config.same_recipe(),
        "model": encoder.clip.state_dict(),
        "average": average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    with replacing(out / CHECKPOINT) as partial:
        torch.save(state, partial)
