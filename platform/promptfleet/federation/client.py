"""Simulated client: its own data, and pure functions of a private state and a download."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from promptfleet.data.client_split import ClientSplit
from promptfleet.data.feature_store import FeatureStore
from promptfleet.federation.client_examples import examples_of
from promptfleet.federation.conditions.adversaries import adversaries, attacked, flipped
from promptfleet.federation.conditions.privacy import private_upload
from promptfleet.federation.evaluation.answers import certainty_of, mean_right, server_model
from promptfleet.federation.evaluation.personalized import Personalized
from promptfleet.federation.evaluation.schedule import Plan
from promptfleet.federation.evaluation.scores import (
    CALIBRATION,
    LOCAL,
    TEST,
    UNSEEN_CLIENTS,
    UNSEEN_CLIENTS_TUNED,
    VAL,
    Evaluation,
    Score,
    set_name,
)
from promptfleet.federation.evaluation.shared_sets import Found, Model, SharedSets
from promptfleet.federation.reports import TrainReport
from promptfleet.methods.parts.side_by_side import run_together, side_by_side
from promptfleet.methods.parts.states import find_non_finite, to_device
from promptfleet.methods.protocol import (
    AttachesToUploads,
    Describes,
    Examples,
    Message,
    Method,
    PixelReader,
    State,
    Task,
    Update,
    Work,
    World,
)
from promptfleet.seeding import stream


@dataclass(frozen=True)
class ClientResult:
    """Result of one local update; ``problem`` is the reason if there is no usable upload.

    Private state and report stay with the client and the round loop, see ``for_server``.
    """

    upload: Message | None
    num_examples: int
    problem: str | None = None
    private: State = field(default_factory=dict)
    report: TrainReport | None = None

    def for_server(self) -> "ClientResult":
        """Return the part that the server gets."""
        return ClientResult(self.upload, self.num_examples, self.problem)


class Client:
    """Client without any state between calls: the private state is passed in and out, so any process can redo any call.

    The world's tensors decide the device; states and messages are passed in and out on the CPU.
    """

    def __init__(
        self,
        client_id: int,
        method: Method,
        world: World,
        store: FeatureStore,
        split: ClientSplit,
        read_pixels: PixelReader | None = None,
    ):
        self.id = client_id
        self._method = method
        self._world = world
        self._device = world.device
        self._read_pixels = read_pixels
        self._attacks = client_id in adversaries(world.config)
        self._train = self._examples(store, split.train, with_views=True)
        if self._attacks and world.config.adversary.kind == "label_flip":
            self._train = replace(self._train, labels=flipped(self._train.labels, len(world.class_names)))
        self._held_out = {VAL: self._examples(store, split.val), TEST: self._examples(store, split.test)}
        self._own = {VAL: split.val, TEST: split.test}

    def initial_state(self) -> State:
        """Return the private state before the first training."""
        rng = stream(self._world.config.seed, "init_client", client=self.id)
        return to_device(self._method.init_client(self._world, self.id, rng), "cpu")

    def train(self, round_index: int, private: State, download: Message) -> ClientResult:
        """Run the local update of this client alone. If it gives NaN or Inf, the state stays as it was."""
        return train_together([self], round_index, {self.id: private}, {self.id: download})[self.id]

    def evaluate(self, round_index: int, private: State, download: Message) -> Evaluation:
        """Evaluate the client on its own validation and test part."""
        plan = Plan((LOCAL,), self.id)
        return evaluate_together([self], round_index, {self.id: private}, {self.id: download}, plan)[0]

    def _evaluate(self, task: Task, plan: Plan) -> Evaluation:
        """Predict the client's own parts with a task whose private state is personalized, as far as ``plan`` says."""
        if LOCAL not in plan.sets:
            return Evaluation(self.id, {})
        val, test = self._held_out[VAL], self._held_out[TEST]
        with torch.inference_mode():
            described = {}
            if isinstance(self._method, Describes):
                described = self._method.describe(task.to_predict(), test.images)
            certainty = certainty_of(self._method, task, test) if CALIBRATION in plan.sets else None
            of_test = Score(sum(certainty.right) / len(test), len(test)) if certainty else self._score(task, test)
            return Evaluation(
                client=self.id,
                scores={set_name(VAL, LOCAL): self._score(task, val), set_name(TEST, LOCAL): of_test},
                described={name: tensor.tolist() for name, tensor in described.items()},
                certainty=certainty,
            )

    def _as_unseen(self, task: Task, plan: Plan) -> dict[str, Score]:
        """Score a client that never trains on its test part: by the server's model if there is one, and by its own."""
        models = {UNSEEN_CLIENTS: server_model(self._method, task) or task, UNSEEN_CLIENTS_TUNED: task}
        with torch.inference_mode():
            return {
                set_name(TEST, name): self._score(model, self._held_out[TEST])
                for name, model in models.items()
                if name in plan.sets
            }

    def _begin(self, round_index: int, private: State, download: Message) -> Update | Work[Update]:
        task = self._task("local_update", round_index, private, download)
        examples = replace(self._train, images=self._train.images.for_update())
        return self._method.local_update(replace(task, train=examples))

    def _task(self, role: str, round_index: int, private: State, download: Message) -> Task:
        return Task(
            world=self._world,
            client=self.id,
            round=round_index,
            private=to_device(private, self._device),
            download=to_device(download, self._device),
            train=self._train,
            val=self._held_out[VAL],
            rng=self._rng(role, round_index),
        )

    def _finish(
        self, round_index: int, private: State, download: Message, update: Update, seconds: float
    ) -> ClientResult:
        next_private, message = to_device(update.private, "cpu"), to_device(update.upload, "cpu")
        received = Message({**download.tensors, **to_device(update.fetched, "cpu")})
        bad = find_non_finite(next_private) or find_non_finite(message.tensors)
        upload = None if bad else self._sent(round_index, message, received)
        return ClientResult(
            upload=upload,
            num_examples=len(self._train),
            problem=f"{bad} is not finite after the local update" if bad else None,
            private=private if bad else next_private,
            report=TrainReport(
                metrics=update.metrics,
                downloaded_bytes=received.num_bytes,
                uploaded_bytes=0 if upload is None else upload.num_bytes,
                seconds=seconds,
            ),
        )

    def _sent(self, round_index: int, message: Message, download: Message) -> Message:
        """Return the message that leaves the client: its own, or one that an attack or privacy has altered."""
        config, tensors = self._world.config, message.tensors
        attacks = self._attacks and config.adversary.kind != "label_flip"
        if not tensors or not (attacks or config.privacy.epsilon != "none"):
            return message
        if attacks:
            rng = self._rng("attack", round_index)
            specs = self._method.uploads(self._world)
            points = {name: tensor for name, tensor in tensors.items() if name in specs and specs[name].is_point}
            tensors = tensors | attacked(config.adversary, points, download.tensors, rng)
        else:
            rng, clip_norm = self._rng("privacy", round_index), config.privacy.clip_norm
            tensors = private_upload(tensors, download.tensors, clip_norm, self._world.upload_noise, rng)
        if not isinstance(self._method, AttachesToUploads):
            return Message(tensors)
        attached = self._method.attachments(self._world, to_device(tensors, self._device))
        return Message(tensors, to_device(attached, "cpu"))

    def _score(self, task: Task, examples: Examples) -> Score:
        return Score(mean_right(self._method, task, examples), len(examples))

    def _examples(self, store: FeatureStore, indices: np.ndarray, *, with_views: bool = False) -> Examples:
        needs = self._method.needs_of(self._world.config)
        return examples_of(store, indices, needs, self._device, self._read_pixels, with_views=with_views)

    def _rng(self, role: str, round_index: int | None = None) -> np.random.Generator:
        return stream(self._world.config.seed, role, client=self.id, round_index=round_index)


def train_together(
    clients: Sequence[Client], round_index: int, privates: Mapping[int, State], downloads: Mapping[int, Message]
) -> dict[int, ClientResult]:
    """Train several clients of one world side by side, as ``Client.train``; the seconds are shared equally."""
    started = time.perf_counter()
    begun = (client._begin(round_index, privates[client.id], downloads[client.id]) for client in clients)
    updates = run_together(clients[0]._world, begun)
    seconds = (time.perf_counter() - started) / len(clients)
    return {
        client.id: client._finish(round_index, privates[client.id], downloads[client.id], update, seconds)
        for client, update in zip(clients, updates, strict=True)
    }


def evaluate_together(
    clients: Sequence[Client],
    round_index: int,
    privates: Mapping[int, State],
    downloads: Mapping[int, Message],
    plan: Plan,
    shared: SharedSets | None = None,
    personalized: Personalized | None = None,
) -> list[Evaluation]:
    """Evaluate several clients of one world, personalized side by side; ``shared`` has the sets of several clients.

    ``personalized`` keeps the states for a plan that evaluates ``again``.
    """
    personalized = personalized or Personalized()
    evaluations, together = [], side_by_side(clients[0]._world)
    for start in range(0, len(clients), together):  # which bounds the memory for personalized states
        group = clients[start : start + together]
        tasks = _personalized_tasks(group, round_index, privates, downloads, plan, personalized)
        models = [Model(task, client._own) for client, task in zip(group, tasks, strict=True)]
        everything = shared.evaluate(models, plan) if shared else [Found() for _ in models]
        for client, model, found in zip(group, models, everything, strict=True):
            own = client._evaluate(model.task, plan)
            scores = {**own.scores, **found.scores, **client._as_unseen(model.task, plan)}
            evaluations.append(replace(own, scores=scores, tallies=found.tallies))
    return evaluations


def _personalized_tasks(
    group: Sequence[Client],
    round_index: int,
    privates: Mapping[int, State],
    downloads: Mapping[int, Message],
    plan: Plan,
    kept: Personalized,
) -> list[Task]:
    """Return the clients' tasks to predict with; what is ``kept`` of a state is not computed again."""
    tasks = {one.id: one._task("personalize", round_index, privates[one.id], downloads[one.id]) for one in group}
    states = {one.id: kept.of(round_index, one.id) for one in group} if plan.again else {}
    todo = [one for one in group if states.get(one.id) is None]
    begun = (one._method.personalize(tasks[one.id]) for one in todo)
    for one, state in zip(todo, run_together(group[0]._world, begun, "personalize"), strict=True):
        kept.keep(round_index, one.id, None if state is tasks[one.id].private else state)
        states[one.id] = state
    return [replace(task, private=states[client]) for client, task in tasks.items()]
