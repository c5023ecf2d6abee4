"""Server: the method's server state, the clients' downloads, and the check of uploads."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from promptfleet.federation.client import ClientResult
from promptfleet.methods.parts.side_by_side import run_alone
from promptfleet.methods.parts.states import find_non_finite
from promptfleet.methods.protocol import (
    Arrived,
    Call,
    ExcludesClients,
    KeepsRows,
    Message,
    Method,
    Purpose,
    State,
    World,
)
from promptfleet.seeding import stream


class Server:
    """Holder of the state of the end of the last round; ``select`` reads nothing else."""

    def __init__(self, method: Method, world: World):
        self._method = method
        self._world = world

    @cached_property
    def state(self) -> State:
        """State of the method: the first one until a round is done, computed only if no other one is loaded."""
        rng = stream(self._world.config.seed, "init_server")
        return run_alone(self._world, self._method.init_server(self._world, rng), "init_server")

    def load(self, state: State) -> None:
        """Resume from ``state``. Raises DataError: rows that it refers to are missing on disk."""
        if isinstance(self._method, KeepsRows):
            self._method.check_rows(self._world, state)
        self.state = state

    def select(self, round_index: int, cohort: Sequence[int], purpose: Purpose = "train") -> dict[int, Message]:
        """Return the download of each client of ``cohort``, to train in a round or to be evaluated after it."""
        rng = stream(self._world.config.seed, "select", round_index=round_index)
        return self._method.select(self.state, Call(self._world, round_index, cohort, purpose, rng))

    def aggregate(self, round_index: int, results: Mapping[int, ClientResult]) -> dict[int, str]:
        """Aggregate one round's uploads, in the order of client ids. Return the reason for each rejected one.

        An upload with a wrong name, shape or type, a NaN, an Inf or an enormous norm never enters the state; without
        any other upload it stays as it was.
        """
        problems = {client: self._problem(results[client]) for client in sorted(results)}
        accepted = [client for client, problem in problems.items() if problem is None]
        if accepted:
            arrived = Arrived(
                self._world,
                round_index,
                {client: results[client].upload for client in accepted},
                {client: results[client].num_examples for client in accepted},
                stream(self._world.config.seed, "aggregate", round_index=round_index),
            )
            self.state = run_alone(self._world, self._method.aggregate(self.state, arrived), "aggregate")
        return {client: problem for client, problem in problems.items() if problem is not None}

    def excluded(self) -> dict[int, str]:
        """Return the reason for each client whose uploads the method does not give to others."""
        return self._method.excluded(self._world, self.state) if isinstance(self._method, ExcludesClients) else {}

    def _problem(self, result: ClientResult) -> str | None:
        upload = result.upload
        if upload is None:
            return result.problem
        shapes = {name: tuple(tensor.shape) for name, tensor in upload.tensors.items()}
        promised = self._method.uploads(self._world)
        if shapes.keys() != promised.keys() or not all(promised[name].fits(shape) for name, shape in shapes.items()):
            return f"uploaded {shapes}, should be { {name: spec.shape for name, spec in promised.items()} }"
        for name, tensor in sorted(upload.tensors.items()):
            if tensor.dtype != promised[name].dtype:
                return f"{name} is of type {tensor.dtype}, should be {promised[name].dtype}"
        bad = find_non_finite(upload.tensors) or find_non_finite(upload.attached)
        if bad:
            return f"{bad} is not finite"
        return self._too_unusual(upload.tensors)

    def _too_unusual(self, tensors: State) -> str | None:
        """Name real numbers of enormous norm, which no client shall learn from; masks and counts have no limit."""
        limit = self._world.config.max_upload_norm
        for name, tensor in sorted(tensors.items()):
            if not tensor.is_floating_point():
                continue
            norm = float(tensor.double().norm())
            if norm > limit:
                return f"{name} has norm {norm:.3g}, max_upload_norm is {limit:g}"
        return None
