"""Pretraining run of glyph-clip by Ray Train's TorchTrainer, on GPUs where each worker can have one."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from torch import Tensor

from promptfleet.devices import CUBLAS_WORKSPACE
from promptfleet.disks import disk_errors
from promptfleet.errors import ConfigError, PromptfleetError
from promptfleet.pretraining.loop import CHECKPOINT, PROGRESS, PretrainConfig, read_checkpoint, train
from promptfleet.pretraining.model import WEIGHTS


def fit(config: PretrainConfig, *, resume: bool, on_progress: Callable[[dict], None]) -> dict[str, Tensor]:
    """Train, calling ``on_progress`` with each progress record, and return the averaged weights.

    Raises:
        PromptfleetError: if torch is too old, or training fails.
        ConfigError: if ``out`` holds a checkpoint and ``resume`` is false, or the reverse, or the recipes differ, or
            ``out`` holds weights.
        StorageError: if the disk refuses ``out``.
    """
    if not hasattr(torch.optim, "Muon"):
        raise PromptfleetError(
            f"pretraining needs torch.optim.Muon, found torch {torch.__version__}; install 2.9 or newer"
        )
    out = Path(config.out).resolve()
    check_resume(out, config, resume=resume)
    started_ray = not ray.is_initialized()
    if started_ray:
        _start_ray(cpus=config.workers * config.threads + 1)
    try:
        _train(config, out, on_progress)
    finally:
        if started_ray:
            ray.shutdown()
    return read_checkpoint(out)["average"]


def _train(config: PretrainConfig, out: Path, on_progress: Callable[[dict], None]) -> None:
    with disk_errors():
        out.mkdir(parents=True, exist_ok=True)
        (out / PROGRESS).touch()
    done = threading.Event()
    follower = threading.Thread(target=_follow, args=(out / PROGRESS, done, on_progress), daemon=True)
    follower.start()
    try:
        trainer = ray.train.torch.TorchTrainer(
            train_loop,
            train_loop_config=asdict(config) | {"out": str(out)},
            scaling_config=scaling(config, gpus=ray.cluster_resources().get("GPU", 0)),
            run_config=RunConfig(
                name=f"run-{time.time_ns()}",
                storage_path=str(out / "ray"),
                failure_config=FailureConfig(max_failures=2),
            ),
        )
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise PromptfleetError(f"pretraining failed: {str(error).strip().splitlines()[-1]}") from error
    finally:
        done.set()
        follower.join()


def check_resume(out: Path, config: PretrainConfig, *, resume: bool) -> None:
    """Refuse to overwrite a run or its weights, to resume none, or to resume one with another recipe."""
    if not resume and (out / CHECKPOINT).exists():
        raise ConfigError(f"{out} already holds a checkpoint; add --resume, or choose another --out")
    if not resume and (out / WEIGHTS.name).exists():
        raise ConfigError(f"{out} already holds {WEIGHTS.name}; choose another --out")
    if resume:
        if not (out / CHECKPOINT).exists():
            raise ConfigError(f"nothing to resume: {out / CHECKPOINT} does not exist")
        before, now = read_checkpoint(out)["recipe"], config.same_recipe()
        changed = [f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]
        if changed:
            raise ConfigError(f"the checkpoint in {out} was made with other settings ({', '.join(changed)})")


def train_loop(settings: dict) -> None:
    """Train in one of Ray Train's workers."""
    os.environ.setdefault(*CUBLAS_WORKSPACE)
    train(
        PretrainConfig(**settings),
        ray.train.get_context().get_world_rank(),
        ray.train.torch.get_device(),
        distribute=ray.train.torch.prepare_model,
        report=ray.train.report,
    )


def scaling(config: PretrainConfig, gpus: float) -> ScalingConfig:
    """Give each worker its threads, and a GPU if there are ``gpus`` enough for all."""
    use_gpu = gpus >= config.workers
    resources = {"CPU": config.threads} | ({"GPU": 1} if use_gpu else {})
    return ScalingConfig(num_workers=config.workers, use_gpu=use_gpu, resources_per_worker=resources)


def _start_ray(cpus: int) -> None:
    """Join the cluster that RAY_ADDRESS names, or start one of our own on this machine."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 would starve the only busy process
        gpus = torch.cuda.device_count()  # Ray also counts cards that this torch cannot use
        ray.init(address="local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False, **quiet)


def _follow(path: Path, done: threading.Event, on_progress: Callable[[dict], None]) -> None:
    """Hand every line that is appended to ``path`` from now on to ``on_progress``, until ``done``."""
    with path.open() as file:
        file.seek(0, os.SEEK_END)
        while True:
            last = done.is_set()
            while (line := file.readline()).endswith("\n"):
                on_progress(json.loads(line))
            if last:
                return
            done.wait(0.5)
