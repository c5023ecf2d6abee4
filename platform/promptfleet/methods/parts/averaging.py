"""Aggregation of a cohort's uploads: the mean or, if some uploads cannot be trusted, a robust alternative.

Source: the mean is FedAvg's (McMahan et al., arXiv:1602.05629), weighted by training examples. Coordinate-wise median
and trimmed mean are those of Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", arXiv:1803.01498: every upload counts the same, independent of its number of examples.
"""

from collections.abc import Mapping
from math import ceil

import torch
from torch import Tensor

from promptfleet.config import FederationConfig


def average(
    config: FederationConfig, uploads: Mapping[int, Mapping[str, Tensor]], num_examples: Mapping[int, float]
) -> dict[str, Tensor]:
    """Average each uploaded tensor over clients, by name, as ``config.aggregation`` says. At least one upload."""
    averaged = {}
    for name in next(iter(uploads.values())):
        tensors = {client: upload[name] for client, upload in uploads.items()}
        if config.aggregation == "mean":
            averaged[name] = mean_over_clients(tensors, num_examples)
        else:
            averaged[name] = trimmed_mean_over_clients(tensors, trimmed(config, len(tensors)))
    return averaged


def trimmed(config: FederationConfig, uploads: int) -> int:
    """Return how many of ``uploads`` values are left out at either end; the median leaves one or two in the middle."""
    most = (uploads - 1) // 2
    if config.aggregation == "median":
        return most
    return min(most, ceil(config.trim_fraction * uploads - 1e-9))  # 0.3 * 10 is no more than 3


def mean_over_clients(tensors: Mapping[int, Tensor], num_examples: Mapping[int, float]) -> Tensor:
    """Return the mean weighted by training examples (FedAvg), summed in the order of client ids.

    Counts and masks have a mean in float32; real numbers keep their type.
    """
    clients = sorted(tensors)
    stacked = _real(torch.stack([tensors[client] for client in clients]))
    weights = torch.tensor([num_examples[client] for client in clients], dtype=torch.float64)
    return torch.tensordot((weights / weights.sum()).to(stacked), stacked, dims=1)


def trimmed_mean_over_clients(tensors: Mapping[int, Tensor], trim: int) -> Tensor:
    """Return ``trimmed_mean`` in the tensors' own type, float32 for counts and masks; 2 * ``trim`` < clients."""
    stacked = _real(torch.stack(list(tensors.values())))
    return trimmed_mean(stacked, trim).to(stacked.dtype)


def trimmed_mean(values: Tensor, trim: int) -> Tensor:
    """Return the mean of each coordinate of ``values [n, ...]`` without the ``trim`` smallest and largest, in float64.

    Summed in the order of size, so that the order of the clients has no effect.
    """
    ordered = values.double().sort(dim=0).values
    return ordered[trim : len(ordered) - trim].mean(dim=0)


def median(values: Tensor) -> Tensor:
    """Return the median of each coordinate of ``values [n, ...]``, in float64; the middle two are averaged."""
    return trimmed_mean(values, (len(values) - 1) // 2)


def _real(values: Tensor) -> Tensor:
    return values if values.is_floating_point() else values.float()
