"""A plug-in over any prompt method: its classes become words in a template, and scores of words those of classes.

The formulas are those of ``openprompt``; see ``template`` for the language and ``verbalizers`` for the scores.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from promptfleet.class_texts import ClassTexts, texts_of, with_texts_of_files
from promptfleet.config import FederationConfig
from promptfleet.config_types import FilePath, Name
from promptfleet.errors import ConfigError
from promptfleet.methods.parts.framed_texts import in_template, template_texts
from promptfleet.methods.parts.plug_ins import also_stepping, finished
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.states import prefixed, unprefixed
from promptfleet.methods.parts.template import parse_template
from promptfleet.methods.parts.training import detached, leaves
from promptfleet.methods.parts.verbalizers import calibrated, memberships, verbalized
from promptfleet.methods.protocol import Arrived, Call, Message, Needs, Spec, State, Task, Update, Work, World

logger = logging.getLogger(__name__)

_OWN = "verbalizer."
_NEUTRAL = "verbalizer_neutral"  # the client's mean training feature, for an update or a prediction


class TemplateAndWordsConfig(FederationConfig):
    """Configuration of the plug-in."""

    template: Name = Field("{soft} {class}.", description="prompt of a class, in the language of docs/templates.md")
    words_file: FilePath | None = Field(None, description="file with the words of each class; null: the class names")
    words: ClassTexts | None = Field(
        None, description="each class and its words; filled in when words_file is first read"
    )
    verbalizer: Literal["manual", "knowledgeable", "soft"] = Field(
        "manual", description="scores of classes from words: their mean, a learned mean, or with a learned addition"
    )
    verbalizer_scope: Literal["private", "shared"] = Field(
        "private", description="a learned verbalizer stays with each client, or is averaged by the server"
    )
    verbalizer_lr: float = Field(0.01, gt=0, description="learning rate of the verbalizer (published: 0.01)")
    calibration: Literal["off", "mean_feature"] = Field(
        "off", description="divide the probability of a word by that for the client's mean training feature"
    )

    needs_vectors: ClassVar[bool] = True

    @model_validator(mode="before")
    @classmethod
    def _read_words_and_count_vectors(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        values = with_texts_of_files(values)
        try:
            vectors = parse_template(values.get("template", cls.model_fields["template"].default)).vectors
        except (ValueError, TypeError):  # the template's own check reports that
            return values
        if vectors is None or (vectors == 0 and cls.needs_vectors):
            return values
        if values.get("prompt_length", vectors) != vectors:
            raise ValueError(
                f"prompt_length={values['prompt_length']}: the template has {vectors} vectors; set it to that, or "
                "leave it out"
            )
        return {**values, "prompt_length": vectors}

    @field_validator("template")
    @classmethod
    def _check_template(cls, text: str) -> str:
        if parse_template(text).vectors == 0 and cls.needs_vectors:
            raise ValueError("there is no soft slot to train, such as {soft:4}")
        return text


class TemplateAndWords(PromptMethod):
    """A plug-in over the seams ``scores`` and ``class_scores``, in a world whose texts are words in a template.

    Server state, down and up with a shared verbalizer, private state with a private one: ``verbalizer.omega`` [words]
    (knowledgeable) or ``verbalizer.added`` [classes, dim] (soft).
    """

    Config = TemplateAndWordsConfig

    def texts(self, config: FederationConfig, class_names: Sequence[str]) -> Mapping[str, Sequence[str]]:
        template, words = parse_template(config.template), _words(config, class_names)
        return {**super().texts(config, class_names), **template_texts(template, class_names, words)}

    def own_world(self, world: World) -> World:
        words = _words(world.config, world.class_names)
        return in_template(super().own_world(world), parse_template(world.config.template), words)

    def check(self, world: World) -> None:
        super().check(world)
        config, classes = world.config, world.clip.classes
        context = len(classes.frame.sources) if classes.frame else config.prompt_length
        longest, positions = 1 + context + int(classes.lengths.max()), world.clip.tower.positions
        if longest > positions:
            raise ConfigError(
                f"template={config.template!r}: has {longest} tokens with the longest word, of class "
                f"{world.longest_class!r}, and the text tower of {config.backbone.label} has {positions} positions; "
                "shorten the template or the word"
            )
        if config.class_token_position != "end":
            raise ConfigError(
                f"class_token_position={config.class_token_position}: the template has the place of the class; leave "
                "class_token_position out"
            )
        _warn_of_common_words(world)
        if config.verbalizer == "knowledgeable" and world.text_classes is None:
            raise ConfigError("verbalizer=knowledgeable weighs the words of a class, and each has one; set words_file")
        if config.verbalizer == "soft" and Needs.PATCHES in super().needs_of(config):
            raise ConfigError("verbalizer=soft adds to one feature per image, and the method below compares patches")

    def scores(self, task: Task, features: Tensor, text: Tensor) -> Tensor:
        of_words = super().scores(task, features, text)
        if _NEUTRAL in task.private:
            with torch.no_grad():
                neutral = super().scores(task, task.private[_NEUTRAL], text)
            of_words = calibrated(of_words, neutral)
        return self.class_scores(task, features, of_words)

    def class_scores(self, task: Task, features: Tensor, of_texts: Tensor) -> Tensor:
        world, own = task.world, verbalizer_of(task)
        if world.text_classes is not None:
            of_class = memberships(world.text_classes, len(world.class_names))
            if task.config.verbalizer == "soft":
                of_texts = of_texts @ (of_class / of_class.sum(dim=0))
            else:
                of_texts = verbalized(of_texts, of_class, own.get("omega"))
        if "added" in own:
            of_texts = of_texts + world.clip.logit_scale * features @ own["added"].T
        return of_texts

    def init_server(self, world: World, rng: np.random.Generator) -> Work[State]:
        return {**(yield from finished(super().init_server(world, rng))), **_start(world, "shared")}

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        return {**super().init_client(world, client, rng), **_start(world, "private")}

    def select(self, server: State, call: Call) -> dict[int, Message]:
        shared = {name: server[name] for name in _start(call.world, "shared")}
        downloads = super().select(server, call)
        return {client: replace(one, tensors={**one.tensors, **shared}) for client, one in downloads.items()}

    def local_update(self, task: Task) -> Work[Update]:
        own = leaves(prefixed(_OWN, verbalizer_of(task)))
        optimizers = [self.optimizer(task, own, task.config.verbalizer_lr)] if own else []
        begun = super().local_update(replace(task, private={**task.private, **own, **self._neutral(task)}))
        update = yield from finished(also_stepping(begun, optimizers))
        private = {name: tensor for name, tensor in update.private.items() if name not in own and name != _NEUTRAL}
        if task.config.verbalizer_scope == "private":
            return replace(update, private={**private, **detached(own)})
        upload = replace(update.upload, tensors={**update.upload.tensors, **detached(own)})
        return replace(update, private=private, upload=upload)

    def personalize(self, task: Task) -> Work[State]:
        own = {**prefixed(_OWN, unprefixed(_OWN, task.private)), **self._neutral(task)}
        personal = yield from finished(super().personalize(replace(task, private={**task.private, **own})))
        return {**personal, **own}

    def uploads(self, world: World) -> dict[str, Spec]:
        shared = {name: Spec(tuple(tensor.shape)) for name, tensor in _start(world, "shared").items()}
        return {**super().uploads(world), **shared}

    def trained_parameters(self, world: World) -> int:
        own = sum(tensor.numel() for tensor in _start(world, "private").values())
        return super().trained_parameters(world) + own

    def aggregate(self, server: State, arrived: Arrived) -> Work[State]:
        names = _start(arrived.world, "shared").keys()
        uploads = {
            client: replace(one, tensors={name: tensor for name, tensor in one.tensors.items() if name not in names})
            for client, one in arrived.uploads.items()
        }
        below = yield from finished(super().aggregate(server, replace(arrived, uploads=uploads)))
        return {**below, **(arrived.mean(names=names) if names else {})}

    def reworded(self, task: Task, world: World) -> Work[Task]:
        """Start the verbalizer again: what it learned is of other words."""
        task = yield from super().reworded(task, world)
        start = {name: tensor.to(world.device) for name, tensor in _start(world, task.config.verbalizer_scope).items()}
        return replace(task, private={**task.private, **start})

    def _neutral(self, task: Task) -> State:
        if task.config.calibration == "off" or not len(task.train):
            return {}
        return {_NEUTRAL: F.normalize(self.features(task, task.train.images).mean(dim=0, keepdim=True), dim=-1)}


def _words(config: FederationConfig, class_names: Sequence[str]) -> list[list[str]] | None:
    """Return the words of each class; None if they are the class names."""
    return config.words and texts_of(config.words, class_names, key="words", path=config.words_file)


def _warn_of_common_words(world: World) -> None:
    classes_of: dict[str, list[str]] = {}
    for name, words in zip(world.class_names, _words(world.config, world.class_names) or (), strict=False):
        for word in words:
            classes_of.setdefault(word, []).append(name)
    for word, names in classes_of.items():
        if len(names) > 1:
            logger.warning("words: %r is a word of %s", word, " and of ".join(map(repr, names)))


def verbalizer_of(task: Task) -> State:
    """Return the verbalizer's tensors: the client's own, or else the downloaded ones."""
    return unprefixed(_OWN, task.private) or unprefixed(_OWN, task.download.tensors)


def _start(world: World, scope: str) -> State:
    """Return what the verbalizer learns at its start if its scope is this one, else nothing."""
    config, tower = world.config, world.clip.tower
    shapes = {
        "manual": {},
        "knowledgeable": {"omega": (len(world.clip.classes),)},
        "soft": {"added": (len(world.class_names), tower.dim)},
    }
    if config.verbalizer_scope != scope:
        return {}
    return prefixed(_OWN, {name: torch.zeros(shape) for name, shape in shapes[config.verbalizer].items()})
