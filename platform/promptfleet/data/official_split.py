"""Division of a published validation and test part among clients, in the proportions of the training part."""

from collections.abc import Sequence

import numpy as np


def share_alike(groups: np.ndarray, owned_groups: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Give samples to clients in the proportions in which the clients own each group already.

    ``groups [samples]`` are the groups of the samples to give away, ``owned_groups[i]`` the groups of client ``i``'s
    samples; ints from 0. Returns each client's positions in ``groups``. In each group a client's share is within 1 of
    the exact one, and odd samples go to the clients with the largest deficit in the groups before, so that shares of
    many small groups add up to about the right size. Samples of a group that no client owns are left out.
    """
    size = 1 + max(int(found.max(initial=0)) for found in (groups, *owned_groups))
    owned = np.stack([np.bincount(found, minlength=size) for found in owned_groups])
    clients = np.arange(len(owned_groups))
    given_to = np.full(len(groups), -1)
    debts = np.zeros(len(owned_groups))
    for group in np.unique(groups):
        total = owned[:, group].sum()
        if not total:
            continue
        members = rng.permutation(np.flatnonzero(groups == group))
        share, remainder = np.divmod(len(members) * owned[:, group], total)
        debts += remainder / total
        most_owed_first = np.lexsort((rng.random(len(debts)), -debts, remainder == 0))
        lucky = most_owed_first[: len(members) - share.sum()]
        share[lucky] += 1
        debts[lucky] -= 1
        given_to[members] = np.repeat(clients, share)
    return [np.flatnonzero(given_to == client) for client in clients]
