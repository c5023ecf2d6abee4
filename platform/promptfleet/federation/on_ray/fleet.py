"""Fleet of Ray actors: one for the server, and one for each client or group of clients.

Results of the actors are in the object store, outside their processes, and belong to the process that drives the
rounds. So no result is lost with a process: another one starts in its place and repeats the same work.
"""

import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from promptfleet.cluster.node_files import NodeFile
from promptfleet.cluster.shared_memory import pack
from promptfleet.config import FederationConfig
from promptfleet.data.partition import ClientSplit, Partition
from promptfleet.errors import FederationError
from promptfleet.federation.evaluation.schedule import Plan
from promptfleet.federation.evaluation.scores import Evaluation
from promptfleet.federation.evaluation.shared_sets import SharedParts
from promptfleet.federation.failures import Failures, StatesLost
from promptfleet.federation.fleet import CohortUpdate, Intake
from promptfleet.federation.on_ray.actors import Frozen, FrozenImages, FrozenOther
from promptfleet.federation.on_ray.calls import DIED, NO_ANSWER, Call, ClientCalls, ServerFailed
from promptfleet.federation.on_ray.processes import Processes
from promptfleet.federation.on_ray.wire import join, stack, to_arrays, to_tensors, unstack
from promptfleet.federation.prepare import Prepared
from promptfleet.federation.reports import Event
from promptfleet.federation.resources import Shares
from promptfleet.methods.protocol import Purpose, State

MANY = 128  # clients of one actor; above this, it selects in parts and starts training with the first one
PART, GROWTH = 32, 3  # size of the first part, which it waits for; each further part is larger by this factor
SPARSE = 4  # a block is sparse if at most one of this many states still belongs to its clients

T = TypeVar("T")
Ask = Callable[[], Sequence[ObjectRef]]


def put_frozen(prepared: Prepared, *, shared_files: bool = False) -> ObjectRef:
    """Put the frozen inputs into the object store, once for all actors of all federations.

    A node takes one copy of them for all its processes. So it does with the files of the feature store, unless they are
    ``shared_files`` that every node sees.
    """
    tower = prepared.image_tower
    node = None if shared_files else ray.get_runtime_context().get_node_id()
    return ray.put(
        Frozen(
            packed=pack(prepared.clip.tensors()),
            settings=prepared.clip.settings(),
            files=_node_files(prepared.files(), node),
            class_names=prepared.class_names,
            domain_names=prepared.domain_names,
            image_tower=tower and FrozenImages(pack(tower.weights), tower.architecture, tower.preprocessing),
            others={
                name: FrozenOther(pack(other.tensors()), other.class_names, _node_files(other.files, node))
                for name, other in prepared.others.items()
            },
        )
    )


def _node_files(files: Mapping[str, Path], node: str | None) -> dict[str, NodeFile]:
    return {kind: NodeFile.of(path, node) for kind, path in files.items()}


@dataclass(frozen=True)
class Block:
    """Private states of some clients as one immutable object; ``size`` is the original number of clients."""

    ref: ObjectRef
    size: int


@dataclass(frozen=True)
class Selection:
    """Downloads for the clients of a cohort: calls of actors, each with the downloads of its clients."""

    server: Any
    round_index: int
    cohort: Sequence[int]
    purpose: Purpose
    calls: Sequence[Call]

    def of(self, clients: Container[int]) -> list[Call]:
        """Return the calls for those clients alone."""
        parts = [replace(call, clients=[client for client in call.clients if client in clients]) for call in self.calls]
        return [part for part in parts if part.clients]


class RayFleet:
    """Actors in one placement group, one bundle each; handles are references into the object store.

    The handle of a private state is its block, which it shares with other clients of the same actor.
    """

    def __init__(
        self, frozen: ObjectRef, shares: Shares, *, start_timeout_s: float, own_group: bool, first_bundle: int = 1
    ):
        self.shares = shares
        place = {"own_group": own_group, "first_bundle": first_bundle}
        self._processes = Processes(frozen, shares, start_timeout_s=start_timeout_s, **place)

    def begin(
        self, config: FederationConfig, partition: Partition, upload_noise: float = 0.0, rows: Path | None = None
    ) -> None:
        self._config, self._partition, self._upload_noise, self._rows = config, partition, upload_noise, rows
        self._everyone, self._new = ray.put(SharedParts.of(partition)), ray.put(partition.new)
        self._groups = self._by_actor(range(config.clients))
        self._failures = Failures(config.runtime)
        self._calls = ClientCalls(self._processes, config.runtime, self._failures, self._begin_client)
        self._server_state: ObjectRef | None = None
        self._aggregate: Ask | None = None  # until its answer is here
        self._intake = Intake({}, {})
        for begun in [self._begin_server(), *map(self._begin_client, self._groups)]:
            try:
                ray.get(begun, timeout=config.runtime.start_timeout_s)
            except (RayActorError, GetTimeoutError):
                continue  # the next call to this process will notice, and replace it
            except RayTaskError as error:
                raise self._failures.code_raised("a process that begins", error.cause, str(error)) from None

    def initial_states(self) -> dict[int, Block]:
        def submit(call: Call) -> Sequence[ObjectRef]:
            return [self._processes.clients[call.actor].initial_states.remote(call.clients)]

        calls = [Call(actor, clients) for actor, clients in self._groups.items()]
        outcomes, _ = self._calls.run("begin", calls, submit)
        return _in_blocks((outcome.call.clients, outcome.refs[0]) for outcome in outcomes)

    def select(self, round_index: int, cohort: Sequence[int], purpose: Purpose = "train") -> Selection:
        groups, calls = self._evened(self._by_actor(cohort)), []
        for chosen in _parts(max(map(len, groups.values()), default=0)):
            parts = {actor: part for actor, clients in groups.items() if (part := clients[chosen])}
            select = self._processes.server.select.options(num_returns=len(parts))
            downloads = _listed(select.remote(round_index, list(parts.values()), purpose))
            calls += [Call(actor, parts[actor], ref) for actor, ref in zip(parts, downloads, strict=True)]
        return Selection(self._processes.server, round_index, cohort, purpose, calls)

    def train(self, round_index: int, privates: Mapping[int, Block], downloads: Selection) -> CohortUpdate:
        def submit(call: Call) -> Sequence[ObjectRef]:
            train = self._processes.clients[call.actor].train
            held, refs = _by_block(privates, call.clients)
            return train.remote(round_index, call.inputs, self._guests(call), held, *refs)

        outcomes, dropped = self._served(
            downloads, lambda selection: self._calls.run("train", selection.of(privates), submit, may_drop=True)
        )
        return CohortUpdate(
            privates=_in_blocks((outcome.call.clients, outcome.refs[2]) for outcome in outcomes),
            uploads=[outcome.refs[1] for outcome in outcomes],
            reports=[report for outcome in outcomes for report in outcome.value],
            dropped=dropped,
        )

    def aggregate(self, round_index: int, uploads: Sequence[ObjectRef]) -> None:
        self._aggregate = lambda: self._processes.server.aggregate.remote(round_index, *uploads)
        self._aggregated = self._aggregate()

    def evaluate(
        self, round_index: int, privates: Mapping[int, Block], downloads: Selection, plan: Plan
    ) -> list[Evaluation]:
        def submit(call: Call) -> Sequence[ObjectRef]:
            evaluate = self._processes.clients[call.actor].evaluate
            held, refs = _by_block(privates, call.clients)
            return [evaluate.remote(round_index, plan, call.inputs, self._guests(call), held, *refs)]

        outcomes, _ = self._served(
            downloads, lambda selection: self._calls.run("evaluate", selection.of(privates), submit)
        )
        evaluations = [evaluation for outcome in outcomes for evaluation in outcome.value]
        return sorted(evaluations, key=lambda evaluation: evaluation.client)

    def intake(self) -> Intake:
        self._await_aggregate()
        return self._intake

    def fetch(self, server: ObjectRef, privates: Mapping[int, Block]) -> tuple[State, dict[int, State]]:
        return to_tensors(*_get([server])), _fetch(privates)

    def put(self, privates: Mapping[int, State]) -> dict[int, Block]:
        groups = self._by_actor(privates).values()
        return _in_blocks((group, ray.put(stack({client: privates[client] for client in group}))) for group in groups)

    def repack(self, privates: Mapping[int, Block]) -> dict[int, Block]:
        left = Counter(privates.values())
        sparse = {client: block for client, block in privates.items() if SPARSE * left[block] <= block.size}
        return {**privates, **self.put(_fetch(sparse))} if sparse else dict(privates)

    def server_state(self) -> ObjectRef:
        self._await_aggregate()
        if self._server_state is None:
            (self._server_state,) = self._ask_server(lambda: [self._processes.server.state.remote()])
        return self._server_state

    def load_server_state(self, state: State) -> None:
        loaded = self._server_state = ray.put(to_arrays(state))
        self._ask_server(lambda: [self._processes.server.load_state.remote(loaded)])

    def take_events(self) -> list[Event]:
        return self._failures.take()

    def whereabouts(self) -> list[Mapping[str, Any]]:
        """Return process, node and resources of each client actor, in the order of the clients they host."""
        return ray.get([actor.whereabouts.remote() for actor in self._processes.clients])

    def close(self) -> None:
        self._processes.close()

    def _begin_server(self) -> ObjectRef:
        return self._processes.server.begin.remote(self._config, self._rows, self._partition.public)

    def _begin_client(self, actor: int) -> ObjectRef:
        splits = {client: self._partition.clients[client] for client in self._groups.get(actor, ())}
        begin = self._processes.clients[actor].begin
        return begin.remote(self._config, splits, self._everyone, self._new, self._upload_noise)

    def _served(self, selection: Selection, work: Callable[[Selection], T]) -> T:
        """Do ``work`` with a selection, or with the same one from another server if the first server failed."""
        for attempt in count():
            try:
                return work(selection)
            except ServerFailed as failure:
                replaced = selection.server is not self._processes.server
                if not replaced and not self._await_aggregate(after_waiting=failure.hangs):
                    self._restart_server("select", str(failure), attempt)
                selection = self.select(selection.round_index, selection.cohort, selection.purpose)
        raise AssertionError

    def _await_aggregate(self, *, after_waiting: bool = False) -> bool:
        """Wait for the server to aggregate all uploads; return True if that took another server."""
        if self._aggregate is None:
            return False
        for attempt in count():
            timeout = 1.0 if after_waiting and not attempt else self._config.runtime.server_timeout_s
            try:
                self._intake, _ = self._answers(self._aggregated, timeout)
            except ServerFailed as failure:
                self._restart_server("aggregate", str(failure), attempt)
                self._aggregated = self._aggregate()
            else:
                self._aggregate, self._server_state = None, self._aggregated[1]
                return attempt > 0
        raise AssertionError

    def _ask_server(self, ask: Ask) -> Sequence[ObjectRef]:
        """Return references to the answers of the server, or of its replacement."""
        for attempt in count():
            refs = ask()
            try:
                self._answers(refs, self._config.runtime.server_timeout_s)
            except ServerFailed as failure:
                self._restart_server("state", str(failure), attempt)
            else:
                return refs
        raise AssertionError

    def _answers(self, refs: Sequence[ObjectRef], timeout: float) -> Sequence[Any]:
        """Return the values that the server returned.

        Raises ServerFailed, StatesLost if its inputs are lost, or the server's own error.
        """
        try:
            return ray.get(list(refs), timeout=timeout)
        except RayActorError:
            raise ServerFailed(DIED) from None
        except GetTimeoutError:
            raise ServerFailed(NO_ANSWER.format(self._config.runtime.server_timeout_s), hangs=True) from None
        except ObjectLostError:
            raise StatesLost("what clients sent, or the server's state, was lost with its node") from None
        except RayTaskError as error:
            raise self._failures.code_raised("the server", error.cause, str(error)) from None

    def _restart_server(self, stage: str, what: str, attempt: int) -> None:
        """Replace the failed server by another one, with the state of the last aggregated round.

        Raises:
            StatesLost: that state was lost with its node.
            FederationError: it failed too often, or no other one starts.
        """
        self._failures.server_failed(stage, what, attempt)
        self._processes.replace_server()
        begun = [self._begin_server()]
        if self._server_state is not None:
            begun.append(self._processes.server.load_state.remote(self._server_state))
        try:
            self._answers(begun, timeout := self._config.runtime.start_timeout_s)
        except ServerFailed as failure:
            if failure.hangs:
                raise FederationError(
                    f"{stage}: {what}, and it could not be replaced within runtime.start_timeout_s={timeout:g}"
                ) from None  # the next call to a server that died will notice, and replace it

    def _by_actor(self, clients: Iterable[int]) -> dict[int, list[int]]:
        """Return clients by actor. Clients of one actor are neighbours: ids 0..n-1 are in the first one, and so on."""
        groups: dict[int, list[int]] = {}
        for client in sorted(clients):
            groups.setdefault(client // self._config.runtime.clients_per_actor, []).append(client)
        return groups

    def _guests(self, call: Call) -> dict[int, ClientSplit]:
        """Return the splits of the clients of a call that another actor hosts otherwise."""
        guests = set(call.clients).difference(self._groups[call.actor])
        return {client: self._partition.clients[client] for client in guests}

    def _evened(self, groups: Mapping[int, Sequence[int]]) -> dict[int, list[int]]:
        """Return the same clients, at most an equal share per actor; a surplus client is a guest of another actor."""
        share = math.ceil(sum(map(len, groups.values())) / len(self._groups))
        surplus = [client for clients in groups.values() for client in clients[share:]]
        evened = {}
        for actor in self._groups:
            own = groups.get(actor, [])[:share]
            guests = [surplus.pop() for _ in range(min(share - len(own), len(surplus)))]
            if own or guests:
                evened[actor] = sorted([*own, *guests])
        return evened


def _parts(length: int) -> Iterator[slice]:
    """Yield slices of a sequence, ever larger ones."""
    start, size = 0, PART if length > MANY else length
    while start < length:
        yield slice(start, start + size)
        start, size = start + size, GROWTH * size


def _in_blocks(given: Iterable[tuple[Sequence[int], ObjectRef]]) -> dict[int, Block]:
    """Return blocks by client id, from the clients of each block and its reference."""
    return {client: Block(ref, len(clients)) for clients, ref in given for client in clients}


def _by_block(privates: Mapping[int, Block], clients: Iterable[int]) -> tuple[list[list[int]], list[ObjectRef]]:
    """Return ``clients`` grouped by their blocks, and the blocks' references."""
    held: dict[Block, list[int]] = {}
    for client in clients:
        held.setdefault(privates[client], []).append(client)
    return list(held.values()), [block.ref for block in held]


def _fetch(privates: Mapping[int, Block]) -> dict[int, State]:
    held, refs = _by_block(privates, privates)
    return unstack(join(_get(refs), held), list(privates))


def _get(refs: Sequence[ObjectRef]) -> list[Any]:
    try:
        return ray.get(refs)
    except ObjectLostError:
        raise StatesLost("states were lost with their node") from None


def _listed(refs: ObjectRef | list[ObjectRef]) -> list[ObjectRef]:
    """Return a list also for a single reference, which Ray returns as it is."""
    return refs if isinstance(refs, list) else [refs]
