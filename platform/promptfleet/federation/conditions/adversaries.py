"""Simulated attacks: the choice of the attacking clients, and their altered uploads.

The attackers are drawn from the seed once. They train like all other clients, on wrong labels if that is the attack,
and are evaluated like all others; their private states are not altered.
"""

from functools import lru_cache

import torch
from numpy.random import Generator
from torch import Tensor

from promptfleet.config import AdversaryConfig, FederationConfig
from promptfleet.federation.conditions.cohort import training_clients
from promptfleet.federation.conditions.steps import after_step, step_norm, step_of
from promptfleet.methods.protocol import State
from promptfleet.seeding import stream


def adversaries(config: FederationConfig) -> frozenset[int]:
    """Return the ids of the clients that attack; at least one is honest.

    They are ``adversary.fraction`` of those that may train, rounded.
    """
    clients = tuple(training_clients(config))
    count = min(round(config.adversary.fraction * len(clients)), len(clients) - 1)
    return _drawn(config.seed, clients, count)


@lru_cache(maxsize=8)
def _drawn(seed: int, clients: tuple[int, ...], count: int) -> frozenset[int]:
    drawn = stream(seed, "adversaries").choice(len(clients), size=count, replace=False)
    return frozenset(clients[place] for place in drawn)


def flipped(labels: Tensor, classes: int) -> Tensor:
    """Return the labels that ``label_flip`` trains on: the last class for the first, and so on (arXiv:1911.11815)."""
    return classes - 1 - labels


def attacked(adversary: AdversaryConfig, upload: State, download: State, rng: Generator) -> State:
    """Return the upload that an adversary sends in place of its own.

    ``sign_flip``: ``scale`` times its own step from the download, in the opposite direction. ``noise``: a step of
    ``scale`` times the length of its own, in a random direction. Counts and masks are sent as they are,
    and so is an upload without numbers.
    """
    step = step_of(upload, download)
    if not any(tensor.numel() for tensor in step.values()):
        return upload
    if adversary.kind == "sign_flip":
        return after_step(upload, download, {name: -adversary.scale * tensor for name, tensor in step.items()})
    noise = {name: torch.from_numpy(rng.normal(size=tuple(tensor.shape))) for name, tensor in step.items()}
    size = adversary.scale * step_norm(step) / step_norm(noise)
    return after_step(upload, download, {name: size * tensor for name, tensor in noise.items()})
