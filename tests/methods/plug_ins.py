"""Plug-ins over every method: of the package LocalAMSGrad and TemplateAndWords, and one each for two more seams."""

from dataclasses import replace

import torch
from pydantic import Field

from promptfleet.config import FederationConfig
from promptfleet.methods import METHODS, load_method
from promptfleet.methods.fedlalr import LocalAMSGrad
from promptfleet.methods.parts.optimizers import SGD
from promptfleet.methods.parts.plug_ins import also_stepping, finished
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.states import prefixed, unprefixed
from promptfleet.methods.parts.template_and_words import TemplateAndWords
from promptfleet.methods.parts.training import detached, leaves

_CHANNELS = "channels."


class ChannelsConfig(FederationConfig):
    channel_lr: float = Field(0.5, ge=0)


class Channels(PromptMethod):
    """Seam ``features``: each client weighs the channels of its images by weights that it trains and keeps."""

    Config = ChannelsConfig

    def features(self, task, images):
        features, weight = super().features(task, images), task.private.get("channels.weight")
        return features if weight is None else features * weight

    def init_client(self, world, client, rng):
        weight = torch.ones(world.clip.tower.dim)
        return {**super().init_client(world, client, rng), "channels.weight": weight}

    def local_update(self, task):
        own = leaves(prefixed(_CHANNELS, unprefixed(_CHANNELS, task.private)))
        begun = super().local_update(replace(task, private={**task.private, **own}))
        update = yield from also_stepping(begun, [SGD(own, lr=task.config.channel_lr)])
        return replace(update, private={**update.private, **detached(own)})

    def personalize(self, task):
        personal = yield from finished(super().personalize(task))
        return {**personal, "channels.weight": task.private["channels.weight"]}


class OffsetsConfig(FederationConfig):
    offset: float = 0.0


class Offsets(PromptMethod):
    """Seam ``scores``: label k is worth k times ``offset`` more."""

    Config = OffsetsConfig

    def scores(self, task, features, text):
        scores = super().scores(task, features, text)
        return scores + task.config.offset * torch.arange(scores.shape[1])


def plugged(plug_in, name):
    """Make the class of the plug-in over the method of that name, as a file would spell it out."""
    base = type(load_method(name))
    config = type("Config", (plug_in.Config, base.Config), {"__module__": __name__})
    return type(f"{plug_in.__name__}_{name}", (plug_in, base), {"Config": config, "__module__": __name__})


for _plug_in in (
    LocalAMSGrad,
    TemplateAndWords,
    Channels,
    Offsets,
):  # ``tests.methods.plug_ins:LocalAMSGrad_promptfl`` is a method
    for _name in METHODS:
        if not issubclass(type(load_method(_name)), _plug_in):
            globals()[f"{_plug_in.__name__}_{_name}"] = plugged(_plug_in, _name)
