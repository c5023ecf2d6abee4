"""Peers of a client: the clients that it exchanges messages with in a round."""

from typing import Literal

from promptfleet.methods.protocol import Call

Topology = Literal["random", "ring", "full"]


def peers_of(call: Call, client: int, topology: Topology, count: int) -> list[int]:
    """Return the peers in ascending order: ``count`` random ones, the two next to it in a ring, or all others."""
    clients = call.world.config.clients
    others = [peer for peer in range(clients) if peer != client]
    if topology == "random":
        return sorted(call.rng(client).choice(others, count, replace=False).tolist()) if others else []
    next_to_it = {(client + step) % clients for step in (-1, 1)}
    return [peer for peer in others if topology == "full" or peer in next_to_it]
