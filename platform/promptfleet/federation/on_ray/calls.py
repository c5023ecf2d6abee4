"""Calls of client actors that finish even if the actors' processes die.

Private states are passed in and out with each call, and values of a call stay in the object store when their process
has died. So any failed work can be repeated by another process, with the same result.
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from promptfleet.cluster.ray_internals import actor_id
from promptfleet.config import RuntimeConfig
from promptfleet.errors import FederationError
from promptfleet.federation.failures import Failure, Failures, StatesLost
from promptfleet.federation.on_ray.processes import Processes

DIED = "the server's process died"
NO_ANSWER = "the server gave no answer within {:g} s"


class ServerFailed(Exception):
    """Death of the server's process, and with it of the clients' downloads; or it ``hangs``."""

    def __init__(self, what: str, *, hangs: bool = False):
        super().__init__(what)
        self.hangs = hangs


@dataclass(frozen=True)
class Call:
    """One call of one client actor for some of its clients, with its inputs from the server."""

    actor: int
    clients: Sequence[int]
    inputs: ObjectRef | None = None
    failed_before: int = 0


Submit = Callable[[Call], Sequence[ObjectRef]]


@dataclass(frozen=True)
class Outcome:
    """References to the values that a call returned; ``value`` is the first of them."""

    call: Call
    refs: Sequence[ObjectRef]
    value: Any


@dataclass(frozen=True)
class _Running:
    """A running call; without ``refs`` its actor is still starting."""

    call: Call
    refs: Sequence[ObjectRef]
    deadline: float


class ClientCalls:
    """Runner of calls, those of one actor one after the other; ``failures`` decide about those that fail.

    ``begin(actor)`` prepares a newly started process like the lost one; its answer is waited for.
    """

    def __init__(
        self, processes: Processes, runtime: RuntimeConfig, failures: Failures, begin: Callable[[int], ObjectRef]
    ):
        self.processes, self.runtime, self.failures, self.begin = processes, runtime, failures, begin

    def run(
        self, stage: str, calls: Iterable[Call], submit: Submit, *, may_drop: bool = False
    ) -> tuple[list[Outcome], dict[int, str]]:
        """Return outcomes in the order of client ids, and by client the reason why its work was dropped.

        Clients that share a failed call are redone one by one, so that a failure counts against the client that caused
        it; if the process died, which may be no client's fault, they first get another chance together.

        Raises:
            ServerFailed: the inputs of a call are lost, or the server hangs.
            StatesLost: clients' states were lost with their node.
            FederationError: the work failed too often.
        """
        submitted = [(call, submit(call)) for call in calls]
        self._wait_for_server([call.inputs for call, _ in submitted if call.inputs is not None])
        started, clients = [], Counter[int]()
        for call, refs in submitted:
            clients[call.actor] += len(call.clients)
            started.append(_Running(call, refs, self.deadline(clients[call.actor])))
        try:
            firsts = [running.refs[0] for running in started]
            last = max((running.deadline for running in started), default=0.0)
            values = ray.get(firsts, timeout=max(0.0, last - time.monotonic()))
        except RayError:
            return _Rescue(self, stage, submit, may_drop).run(started)
        return [Outcome(one.call, one.refs, value) for one, value in zip(started, values, strict=True)], {}

    def _wait_for_server(self, inputs: Sequence[ObjectRef]) -> None:
        """Wait for the inputs first, so that a slow server counts against no client; the last input is made last."""
        timeout = self.runtime.server_timeout_s
        if inputs and not ray.wait([inputs[-1]], timeout=timeout, fetch_local=False)[0]:
            raise ServerFailed(NO_ANSWER.format(timeout), hangs=True)

    def deadline(self, clients: int) -> float:
        """Return the deadline for an idle actor to serve this many clients."""
        return time.monotonic() + self.runtime.client_timeout_s * clients


class _Rescue:
    """Rescue of calls of which at least one has failed, one by one, those of an actor in their order."""

    def __init__(self, owner: ClientCalls, stage: str, submit: Submit, may_drop: bool):
        self._owner, self._stage, self._submit, self._may_drop = owner, stage, submit, may_drop
        self._processes, self._runtime, self._failures = owner.processes, owner.runtime, owner.failures
        self._running: dict[ObjectRef, _Running] = {}
        self._waiting: dict[int, deque[Call]] = defaultdict(deque)
        self._outcomes: list[Outcome] = []
        self._dropped: dict[int, str] = {}

    def run(self, started: Sequence[_Running]) -> tuple[list[Outcome], dict[int, str]]:
        self._running = {running.refs[0]: running for running in started}
        while self._running:
            oldest = list({running.call.actor: ref for ref, running in reversed(self._running.items())}.values())
            nearest = min(self._running[ref].deadline for ref in oldest)
            ready, _ = ray.wait(oldest, num_returns=1, timeout=max(0.0, nearest - time.monotonic()))
            for ref in ready:
                self._finished(ref, self._running.pop(ref))
            now = time.monotonic()
            for ref in [ref for ref in oldest if not ready and self._running[ref].deadline <= now]:
                self._overdue(self._running.pop(ref))
        return sorted(self._outcomes, key=lambda outcome: outcome.call.clients[0]), self._dropped

    def _finished(self, ref: ObjectRef, running: _Running) -> None:
        call = running.call
        try:
            value = ray.get(ref)
        except RayActorError as error:
            if error.actor_id not in (None, actor_id(self._processes.clients[call.actor])):
                raise ServerFailed(DIED) from None
            if running.refs:
                self._failed(call, Failure("its process died"), died=True)
            self._restart(call.actor, 0 if running.refs else call.failed_before + 1)
        except ObjectLostError:
            self._require_inputs(call)
            raise StatesLost(f"states of clients {list(call.clients)} were lost with their node") from None
        except RayTaskError as error:
            if not running.refs:
                raise self._failures.code_raised("a process that begins", error.cause, str(error)) from None
            self._require_served(call)
            self._failed(call, Failure.of(error.cause, str(error)))
            self._next(call.actor)
        else:
            if running.refs:
                self._outcomes.append(Outcome(call, running.refs, value))
            self._next(call.actor)

    def _require_served(self, call: Call) -> None:
        """Raise the server's own error, if the server raised one."""
        try:
            ray.get([] if call.inputs is None else call.inputs)
        except RayTaskError as error:
            raise self._failures.code_raised("the server", error.cause, str(error)) from None

    def _require_inputs(self, call: Call) -> None:
        try:
            ray.get([] if call.inputs is None else call.inputs)
        except ObjectLostError:
            raise ServerFailed("what the server sent was lost with its node") from None

    def _overdue(self, running: _Running) -> None:
        call, runtime = running.call, self._runtime
        if not running.refs:
            raise FederationError(
                f"{self._stage}: a client's process that died could not be replaced within "
                f"runtime.start_timeout_s={runtime.start_timeout_s:g}"
            )
        self._failed(call, Failure(f"no answer within {runtime.client_timeout_s * len(call.clients):g} s"))
        self._restart(call.actor)

    def _failed(self, call: Call, failure: Failure, *, died: bool = False) -> None:
        again = replace(call, failed_before=call.failed_before + 1)
        waiting = self._waiting[call.actor]
        if len(call.clients) == 1:
            (client,) = call.clients
            failed_before, may_drop = call.failed_before, self._may_drop
            if self._failures.do_again(self._stage, client, failure, failed_before, may_drop=may_drop):
                waiting.appendleft(again)
            else:
                self._dropped[client] = failure.what
        elif died and not call.failed_before:
            self._failures.record(self._stage, call.clients, failure.what, "done again")
            waiting.append(again)
        else:
            self._failures.record(self._stage, call.clients, failure.what, "done again one by one")
            waiting.extend(replace(call, clients=[client], failed_before=0) for client in call.clients)

    def _restart(self, actor: int, failed_starts: int = 0) -> None:
        """Start another process; it gets no call before it is up, since starting has its own time limit.

        It also gets the calls that the lost process had not reached.
        """
        for ref in [ref for ref, running in self._running.items() if running.call.actor == actor]:
            self._waiting[actor].append(self._running.pop(ref).call)
        if failed_starts > self._runtime.retries:
            raise FederationError(f"{self._stage}: a client's process died {failed_starts} times while it started")
        self._processes.replace_client(actor)
        up = self._owner.begin(actor)
        deadline = time.monotonic() + self._runtime.start_timeout_s
        self._running[up] = _Running(Call(actor, [], failed_before=failed_starts), (), deadline)

    def _next(self, actor: int) -> None:
        if self._waiting[actor] and all(running.call.actor != actor for running in self._running.values()):
            call = self._waiting[actor].popleft()
            running = _Running(call, self._submit(call), self._owner.deadline(len(call.clients)))
            self._running[running.refs[0]] = running
