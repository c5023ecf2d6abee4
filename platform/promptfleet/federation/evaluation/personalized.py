"""Personalized states of the clients of one process, for a second evaluation after the same round."""

from promptfleet.methods.protocol import State

MOST_KEPT = 64  # clients of a process
MOST_BYTES = 2**28  # of their states: 13 of 10 sampled prompts with 1,000 classes of 512 features


class Personalized:
    """States that clients predict with after one round, within limits of memory; an earlier round's are forgotten."""

    def __init__(self) -> None:
        self._round = 0
        self._states: dict[int, State] = {}

    def keep(self, round_index: int, client: int, state: State | None) -> None:
        """Keep a client's state, or none, in place of an older one; beyond the limits it is not kept."""
        if round_index != self._round:
            self._round, self._states = round_index, {}
        self._states.pop(client, None)
        if state is not None and len(self._states) < MOST_KEPT and self._bytes() + _bytes(state) <= MOST_BYTES:
            self._states[client] = state

    def of(self, round_index: int, client: int) -> State | None:
        """Return the state that is kept for the client after this round, if any."""
        return self._states.get(client) if round_index == self._round else None

    def _bytes(self) -> int:
        return sum(map(_bytes, self._states.values()))


def _bytes(state: State) -> int:
    return sum(tensor.nbytes for tensor in state.values())
