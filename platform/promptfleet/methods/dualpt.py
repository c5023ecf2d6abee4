"""DuAl-PT: several prompts, aligned with descriptions of their class and with the patches of an image.

Source: Hu, Lin, Wang, Sun, Xu: "Context-Aware Prompt Tuning for Vision-Language Model with Dual-Alignment",
arXiv:2309.04158. Only its abstract was read and no code was found: that prompts are aligned with descriptions by a
language model and with local image features is the paper's, the equations are ours. With T_cn the text feature of class
c and prompt n of N, E_cj its description j, f an image, x_m its patches, and balanced transport plans G between the
prompts and descriptions of a class and P between prompts and patches, through which no gradient flows:
    explicit:  L = mean_c [1 - sum_nj G_nj <T_cn, E_cj>]
    implicit:  z_c = s ((1 - w) mean_n <f, T_cn> + w sum_mn P_mn <x_m, T_cn>)
    loss:      cross-entropy(z) + lambda L, over all classes: one without local images is aligned, too
Federated (ours): the server averages prompt n with prompt n; the last ``personal_prompts`` stay with the client.
Without a file of descriptions they are templates, and L only pulls prompts towards hand-written ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from promptfleet.class_texts import ClassTexts, texts_of, with_texts_of_files
from promptfleet.clip.tokens import class_texts
from promptfleet.config import FederationConfig
from promptfleet.config_types import FilePath
from promptfleet.methods.parts.described_alignment import Alignment
from promptfleet.methods.parts.optimal_transport import transport_scores
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.prompts import context_shape, encode_frozen, init_context, similarity_logits
from promptfleet.methods.parts.states import prefixed
from promptfleet.methods.parts.training import detached, leaves, train_steps
from promptfleet.methods.protocol import (
    Arrived,
    Call,
    Encode,
    Examples,
    Images,
    Message,
    Needs,
    Spec,
    State,
    Task,
    Update,
    Work,
    World,
)

TEMPLATES = ("a photo of a {}.", "a close-up photo of a {}.", "a drawing of a {}.", "an image of the {}.", "a {}.")
_OWN, _OWN_TEXT = "own.contexts", "own.text"
_UNIFORM = "uniform_plans"  # images and classes of a local update without a finite plan
_IMAGES = 64  # images whose patches are in memory at a time in prediction


class DuAlPTConfig(FederationConfig):
    """Configuration of DuAl-PT; the values of the paper are not known."""

    prompt_lr: float = Field(0.003, gt=0, description="learning rate of the prompts")
    prompts: int = Field(4, ge=1, description="N, prompts that predict together")
    personal_prompts: int = Field(0, ge=0, description="the last prompts, which stay with the client")
    descriptions_file: FilePath | None = Field(
        None, description="file with descriptions of each class; null: generic templates"
    )
    descriptions: ClassTexts | None = Field(
        None, description="each class and its descriptions; filled in when descriptions_file is first read"
    )
    alignment_weight: float = Field(1.0, ge=0, description="lambda, weight of the alignment with descriptions")
    alignment: Literal["transport", "mean"] = Field(
        "transport", description="pairs of prompts and descriptions by a transport plan, or all of them equally"
    )
    alignment_epsilon: float = Field(0.1, gt=0, description="entropy regularization of the plan with descriptions")
    patch_weight: float = Field(0.5, ge=0, le=1, description="w, weight of patches in the scores; 0: needs none")
    transport_epsilon: float = Field(0.1, gt=0, description="entropy regularization of the plan with patches")
    transport_iterations: int = Field(100, ge=1, description="largest number of scaling iterations per transport plan")

    @model_validator(mode="before")
    @classmethod
    def _read_descriptions(cls, values: Any) -> Any:
        return with_texts_of_files(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _check(self) -> "DuAlPTConfig":
        if self.personal_prompts >= self.prompts:
            raise ValueError(
                f"personal_prompts={self.personal_prompts} leaves nothing to share of prompts={self.prompts}; "
                "coop shares none"
            )
        return self


class DuAlPT(PromptMethod):
    """Averaged prompts, and private ones if ``personal_prompts``.

    Server state: ``contexts`` [prompts, tokens, width] and their ``text`` [prompts, classes, dim], and the features of
    all ``descriptions`` [texts, dim], which follow from the configuration. Private state: ``own.contexts`` and their
    ``own.text``. Down and up: ``contexts``. With class-specific contexts these are [prompts, classes, tokens, width].
    """

    Config = DuAlPTConfig
    context_names = ("contexts",)
    needs = Needs.PATCHES

    def needs_of(self, config: DuAlPTConfig) -> Needs:
        return Needs.PATCHES if config.patch_weight else Needs.GLOBAL

    def texts(self, config: DuAlPTConfig, class_names: Sequence[str]) -> Mapping[str, Sequence[str]]:
        return {"descriptions": [text for of_class in _descriptions(config, class_names) for text in of_class]}

    def features(self, task: Task, images: Images) -> Tensor:
        """Return features ``[images, dim]`` or, where patches count, ``[images, 1 + patches, dim]``."""
        if not task.config.patch_weight:
            return images.features
        return torch.cat([images.features.unsqueeze(1), images.patches], dim=1)

    def scores(self, task: Task, features: Tensor, text: Tensor) -> Tensor:
        """Return the logits of ``features``, with ``text [prompts, classes, dim]``."""
        config, weight = task.config, task.config.patch_weight
        if not weight:
            return similarity_logits(task.world, features, text.mean(dim=0))
        of_image = similarity_logits(task.world, features[:, 0], text.mean(dim=0))
        of_patches, finite = transport_scores(
            features[:, 1:],
            text,
            mass=1.0,
            epsilon=config.transport_epsilon,
            iterations=config.transport_iterations,
        )
        if _UNIFORM in task.private:
            task.private[_UNIFORM].add_((~finite).sum())
        return (1 - weight) * of_image + weight * task.world.clip.logit_scale * of_patches

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        shared = _start(world, world.config.prompts - world.config.personal_prompts, rng)
        nothing = torch.zeros(0, world.clip.tower.width)
        return {**shared, "descriptions": encode_frozen(world, nothing, "descriptions")}

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        own = world.config.personal_prompts
        return prefixed("own.", _start(world, own, rng)) if own else {}

    def select(self, server: State, call: Call) -> dict[int, Message]:
        attached = {name: server[name] for name in ("text", "descriptions")}
        return call.to_all(Message({"contexts": server["contexts"]}, attached))

    def local_update(self, task: Task) -> Work[Update]:
        config, aligned = task.config, self._alignment(task)
        own = {_OWN: task.private[_OWN]} if config.personal_prompts else {}
        parameters = leaves({"contexts": task.download.tensors["contexts"], **own})
        uniform = torch.zeros((), dtype=torch.int64, device=task.world.device)
        counting = replace(task, private={**task.private, _UNIFORM: uniform})

        def loss(text: Tensor, batch: Examples) -> Tensor:
            of_images = self.cross_entropy(counting, text, batch)
            return of_images + config.alignment_weight * aligned.loss(text) if config.alignment_weight else of_images

        metrics = yield from train_steps(
            task,
            optimizers=[self.optimizer(task, parameters, config.prompt_lr)],
            contexts=lambda: torch.cat(list(parameters.values())),
            loss=loss,
        )
        trained = detached(parameters)
        upload = Message({"contexts": trained.pop("contexts")})
        own = (yield from _encoded(trained[_OWN])) if trained else {}
        return Update({**task.private, **own}, upload, {**metrics, _UNIFORM: float(uniform)})

    def _alignment(self, task: Task) -> Alignment:
        config, world = task.config, task.world
        return Alignment.of(
            task.download.attached["descriptions"],
            [len(of_class) for of_class in _descriptions(config, world.class_names)],
            world.text_classes,
            epsilon=config.alignment_epsilon if config.alignment == "transport" else None,
            iterations=config.transport_iterations,
        )

    def uploads(self, world: World) -> dict[str, Spec]:
        config = world.config
        return {"contexts": Spec((config.prompts - config.personal_prompts, *context_shape(world)))}

    def trained_parameters(self, world: World) -> int:
        return world.config.prompts * prod(context_shape(world))

    def aggregate(self, server: State, arrived: Arrived) -> State:
        return {**server, **_with_text(arrived.world, arrived.mean()["contexts"])}

    def predict(self, task: Task, images: Images) -> Tensor:
        own = [task.private[_OWN_TEXT]] if _OWN_TEXT in task.private else []
        text = torch.cat([task.download.attached["text"], *own])
        batches = torch.arange(len(images)).split(_IMAGES)
        return torch.cat([self.logits(task, images[chosen], text) for chosen in batches])

    def reworded(self, task: Task, world: World) -> Work[Task]:
        attached = {**task.download.attached, "text": (yield Encode(task.download.tensors["contexts"]))}
        own = (yield from _encoded(task.private[_OWN])) if _OWN in task.private else {}
        download = replace(task.download, attached=attached)
        return replace(task, world=world, private={**task.private, **own}, download=download)

    def server_model(self, task: Task) -> State:
        """Return an empty state: the shared prompts alone."""
        return {}


def _descriptions(config: DuAlPTConfig, class_names: Sequence[str]) -> list[list[str]]:
    """Return the descriptions of each class, or the templates with its name."""
    if config.descriptions is None:
        return [list(texts) for texts in zip(*(class_texts(class_names, one) for one in TEMPLATES), strict=True)]
    return texts_of(config.descriptions, class_names, key="descriptions", path=config.descriptions_file)


def _start(world: World, count: int, rng: np.random.Generator) -> State:
    """Draw ``count`` contexts; each has its own draw, as equal ones would stay equal."""
    return _with_text(world, torch.stack([init_context(world, rng) for _ in range(count)]))


def _with_text(world: World, contexts: Tensor) -> State:
    return {"contexts": contexts, "text": torch.stack([encode_frozen(world, context) for context in contexts])}


def _encoded(own: Tensor) -> Work[State]:
    """Return a client's private contexts as state, with their text features."""
    return {_OWN: own, _OWN_TEXT: (yield Encode(own))}
