"""Anchor clients: clients whose classes differ most, one for each expert."""

import torch
from torch import Tensor


def with_anchors(anchors: Tensor, counts: Tensor) -> Tensor:
    """Return ``anchors [experts]`` with clients for experts that have none, up to half of all clients.

    ``counts [clients, classes]`` are zeros for clients that never trained. The first anchor is the client whose class
    shares are farthest from the mean, in total variation; each next one is farthest from the anchors so far.
    """
    shares = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    known, chosen = counts.sum(dim=1) > 0, [client for client in anchors.tolist() if client >= 0]
    most = min(len(anchors), len(counts) // 2, int(known.sum()))
    while len(chosen) < most:
        reference = shares[chosen] if chosen else shares[known].mean(dim=0, keepdim=True)
        away = (shares.unsqueeze(1) - reference).abs().sum(dim=-1).min(dim=1).values
        taken = torch.zeros_like(known).index_fill(0, torch.tensor(chosen, dtype=torch.int64), True)
        chosen.append(int(away.masked_fill(~known | taken, -1.0).argmax()))
    return torch.tensor([*chosen, *[-1] * (len(anchors) - len(chosen))])
