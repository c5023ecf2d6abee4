"""Fed-MP: an adapter of image features, averaged by its clients' nearness to the classes in question, and prototypes.

Source: Zeng, Yue, Wang, "Open-Vocabulary Federated Learning with Multimodal Prototyping", NAACL 2024
(arXiv:2404.01232).
a(x) = norm(softmax(W2 tanh(W1 x + b1) + b2) * x) is the adapter, u_c = norm(T_c + alpha R_c) the text feature of one of
a client's classes with its private residual R, and z = s a(x) u^T. The server weighs the adapter of client i by
w_i = mean over the query classes q and the client's classes c of <T_q, u_c>. Prediction: see ``prototypes.py``.
Differs: x and T have unit norm before the adapter and the residual, so residuals start at another size; cross-entropy
over the client's classes is the default loss, since the published one counts images of one class as each other's
negatives; w_i is clamped at 0, and if no client is near, examples count; a mean over a client's classes takes the place
of the sum; residuals stay with the client, where the published code starts them again in each round.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.methods.parts.averaging import average
from promptfleet.methods.parts.channel_gate import channel_gate_shapes, gated, init_channel_gate
from promptfleet.methods.parts.optimizers import Adam, Optimizer
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.prompts import local_batches, require_a_text_per_class
from promptfleet.methods.parts.prototypes import Prototypes
from promptfleet.methods.parts.states import prefixed, unprefixed
from promptfleet.methods.parts.training import detached, leaves, loss_metrics
from promptfleet.methods.protocol import (
    Arrived,
    Backward,
    Call,
    Examples,
    Images,
    Message,
    Spec,
    State,
    Task,
    Update,
    UpTo,
    Work,
    World,
)

_SENT = "sent."  # prefix of what the server keeps of each client for queries about other classes
_SOFTNESS = 0.1  # temperature of ``weighting: softmax``


class FedMPConfig(FederationConfig):
    """A federation that runs Fed-MP."""

    adapter_lr: float = Field(5e-5, gt=0, description="learning rate of adapter and residual (published: 5e-5)")
    adapter_decay: float = Field(0.2, ge=0, description="weight decay of both (published: 0.2)")
    residual_weight: float = Field(0.3, ge=0, description="alpha, weight of the residual in a text feature")
    residual_init: Literal["zeros", "normal", "uniform"] = Field(
        "normal", description="start of a residual: 0, of standard deviation 0.02, or from -5 to 5 (published)"
    )
    keep_residual: bool = Field(True, description="residuals stay over rounds; false: they start again (published)")
    adapter_loss: Literal["classes", "pairs"] = Field(
        "classes", description="cross-entropy over the client's classes, or over the pairs of a batch (published)"
    )
    weighting: Literal["similarity", "softmax"] = Field(
        "similarity", description="weight of a client's adapter: its nearness w, or softmax(w / 0.1)"
    )
    class_weighting: Literal["mean", "sum"] = Field(
        "mean", description="nearness over a client's classes; a sum favours clients with many (published)"
    )
    uncertainty: float = Field(
        0.1, ge=0, le=1, description="u: predictions of less entropy than u ln(classes) make visual prototypes"
    )


class FedMP(PromptMethod):
    """Adapter of image features, private residuals of text features, and visual prototypes of the images predicted.

    Server state: ``adapter.*`` and, if other classes are to be predicted, those of the last cohort with their mean
    text features, ``sent.*``. Private state: ``residual [classes, dim]``. Up: the adapter, and ``text [own classes,
    dim]``; down: the adapter. It has no prompt: the keys about one have no effect. All clients predict alike.
    """

    Config = FedMPConfig
    has_memory = True

    def optimizer(self, task: Task, parameters: Mapping[str, Tensor], lr: float) -> Optimizer:
        """Make the published Adam."""
        return Adam(parameters, lr=lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=task.config.adapter_decay)

    def has_prompt(self, config: FedMPConfig) -> bool:
        return False

    def check(self, world: World) -> None:
        super().check(world)
        require_a_text_per_class(world)

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        return prefixed("adapter.", init_channel_gate(world.clip.tower.dim, rng))

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        shape, kind = world.clip.zero_shot_text.shape, world.config.residual_init
        draw = {
            "zeros": lambda: np.zeros(shape),
            "normal": lambda: rng.normal(0.0, 0.02, shape),
            "uniform": lambda: rng.uniform(-5.0, 5.0, shape),
        }
        start = torch.from_numpy(draw[kind]().astype(np.float32))
        return {"residual": start} | ({} if world.config.keep_residual else {"start": start.clone()})

    def select(self, server: State, call: Call) -> dict[int, Message]:
        kept = {name: tensor for name, tensor in server.items() if name.startswith(_SENT)}
        adapter = prefixed("adapter.", unprefixed("adapter.", server))
        return call.to_all(Message(adapter, kept if call.purpose == "evaluate" else {}))

    def local_update(self, task: Task) -> Work[Update]:
        config, classes, losses = task.config, task.classes, []
        adapter = leaves(unprefixed("adapter.", task.download.tensors))
        residual = leaves({"residual": task.private.get("start", task.private["residual"])[classes]})
        optimizer = self.optimizer(task, {**prefixed("adapter.", adapter), **residual}, config.adapter_lr)
        known = task.val[torch.isin(task.val.labels, classes).nonzero().flatten()]
        best, most_right = detached({**adapter, **residual}), torch.zeros((), device=known.labels.device)
        for step, batch in enumerate(local_batches(task), start=1):
            loss = self._loss(task, adapter, classes, residual["residual"], batch)
            yield Backward(loss)
            optimizer.step()
            losses.append(loss.detach())
            if step % ceil(len(task.train) / config.batch_size) == 0:  # an epoch ends
                right = self._share_right(task, adapter, classes, residual["residual"], known)
                now = detached({**adapter, **residual})
                best = {name: torch.where(right >= most_right, now[name], tensor) for name, tensor in best.items()}
                most_right = torch.maximum(right, most_right)
        own = best.pop("residual")
        rows = task.private["residual"].clone()
        rows[classes] = own
        upload = {**prefixed("adapter.", best), "text": _text(task, classes, own)}
        return Update({**task.private, "residual": rows}, Message(upload), loss_metrics(losses))

    def uploads(self, world: World) -> dict[str, Spec]:
        classes, dim = world.clip.zero_shot_text.shape
        adapter = {name: Spec(shape) for name, shape in channel_gate_shapes(dim).items()}
        return {**prefixed("adapter.", adapter), "text": Spec((UpTo(classes), dim))}

    def aggregate(self, server: State, arrived: Arrived) -> State:
        world, names = arrived.world, [f"adapter.{name}" for name in channel_gate_shapes(arrived.world.clip.tower.dim)]
        unit = [F.normalize(text, dim=-1) for text in arrived.sent("text").values()]  # none counts more by its length
        texts = torch.stack([_over_classes(world.config, text) for text in unit])
        weights = _weights(world, texts, torch.tensor([float(arrived.num_examples[i]) for i in arrived.uploads]))
        state = arrived.mean(dict(zip(arrived.uploads, weights.tolist(), strict=True)), names)
        if not _has_other_classes(world.config):
            return state
        sent = {name: torch.stack(list(arrived.sent(name).values())) for name in names}
        examples = torch.tensor([arrived.num_examples[i] for i in arrived.uploads])
        return {**state, **prefixed(_SENT, {**sent, "texts": texts, "examples": examples})}

    def reworded(self, task: Task, world: World) -> Task:
        """Return the task with the classes of ``world``, and the adapter of the clients that are near to these."""
        sent = unprefixed(_SENT, task.download.attached)
        if not sent:
            return replace(task, world=world)
        texts, examples = sent.pop("texts"), sent.pop("examples")
        weights = _weights(world, texts, examples.float()).tolist()
        uploads = {i: {name: tensor[i] for name, tensor in sent.items()} for i in range(len(texts))}
        adapter = average(world.config, uploads, dict(enumerate(weights)))
        return replace(task, world=world, download=replace(task.download, tensors=adapter))

    def server_model(self, task: Task) -> State:
        """Return nothing: each client predicts with the server's model."""
        return {}

    def predictor(self, task: Task) -> Callable[[Images], Tensor]:
        """Return a function that learns prototypes from the images it is given, in their order."""
        adapter = unprefixed("adapter.", task.download.tensors)
        prototypes = Prototypes(task.world.clip.zero_shot_text, task.candidates, task.config.uncertainty)
        return lambda images: prototypes.logits_of(
            gated(adapter, self.features(task, images)), lambda features, text: self.scores(task, features, text)
        )

    def predict(self, task: Task, images: Images) -> Tensor:
        """Return the logits of ``images`` as the first of a stream."""
        return self.predictor(task)(images)

    def _loss(self, task: Task, adapter: State, classes: Tensor, residual: Tensor, batch: Examples) -> Tensor:
        features, text = gated(adapter, self.features(task, batch.images)), _text(task, classes, residual)
        own = torch.searchsorted(classes, batch.labels)
        if task.config.adapter_loss == "classes":
            return F.cross_entropy(self.scores(task, features, text), own)
        pairs, diagonal = self.scores(task, features, text[own]), torch.arange(len(batch), device=own.device)
        return (F.cross_entropy(pairs, diagonal) + F.cross_entropy(pairs.T, diagonal)) / 2

    @torch.no_grad()
    def _share_right(self, task: Task, adapter: State, classes: Tensor, residual: Tensor, examples: Examples) -> Tensor:
        """Return the share of ``examples`` that are predicted right among the client's classes, 0 without any."""
        text = _text(task, classes, residual)
        logits = self.scores(task, gated(adapter, self.features(task, examples.images)), text)
        right = logits.argmax(dim=1) == torch.searchsorted(classes, examples.labels)
        return right.sum() / max(1, len(examples))


def _text(task: Task, classes: Tensor, residual: Tensor) -> Tensor:
    """Return the text features ``[own classes, dim]`` with the ``residual`` of the client's ``classes``."""
    return F.normalize(task.world.clip.zero_shot_text[classes] + task.config.residual_weight * residual, dim=-1)


def _over_classes(config: FederationConfig, text: Tensor) -> Tensor:
    return text.mean(dim=0) if config.class_weighting == "mean" else text.sum(dim=0)


def _weights(world: World, texts: Tensor, examples: Tensor) -> Tensor:
    """Return the weights ``[clients]`` of adapters for the classes of ``world``; ``texts [clients, dim]``."""
    nearness = texts.to(world.device) @ world.clip.zero_shot_text.mean(dim=0)
    if world.config.weighting == "softmax":
        return torch.softmax(nearness / _SOFTNESS, dim=0)
    nearness = nearness.clamp(min=0.0)
    return nearness if nearness.sum() >= 1e-8 else examples.to(nearness)


def _has_other_classes(config: FederationConfig) -> bool:
    return config.partition.new_classes > 0 or bool(config.evaluation.transfer)
