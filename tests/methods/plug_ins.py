"""Three plug-ins, one per seam, and what they make of a few methods."""

from dataclasses import replace

import torch
from pydantic import Field

from promptfleet.config import FederationConfig
from promptfleet.methods import METHODS, load_method
from promptfleet.methods.parts.optimizers import SGD, AMSGrad
from promptfleet.methods.parts.plug_ins import also_stepping, finished
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.states import prefixed, unprefixed
from promptfleet.methods.parts.training import detached, leaves
from promptfleet.methods.protocol import Spec, Update

_MOMENTS, _CHANNELS = "moments.", "channels."


class MomentsConfig(FederationConfig):
    beta1: float = Field(0.9, ge=0, lt=1)
    floor: float = Field(1e-4, gt=0)


class Moments(PromptMethod):
    """Seam ``optimizer``: AMSGrad whose state travels with the parameters, as FedLALR has it."""

    Config = MomentsConfig

    def optimizer(self, task, parameters, lr):
        state = unprefixed(_MOMENTS, task.private)
        return AMSGrad(parameters, lr=lr, betas=(task.config.beta1, 0.99), eps=task.config.floor, state=state)

    def init_server(self, world, rng):
        moments = {}
        for name, spec in super().uploads(world).items():
            moments[f"mean.{name}"] = torch.zeros(spec.shape)
            moments[f"largest.{name}"] = torch.full(spec.shape, world.config.floor**2)
        return {**super().init_server(world, rng), **prefixed(_MOMENTS, moments)}

    def select(self, server, call):
        moments = prefixed(_MOMENTS, unprefixed(_MOMENTS, server))
        downloads = super().select(server, call)
        return {client: replace(one, tensors={**one.tensors, **moments}) for client, one in downloads.items()}

    def local_update(self, task):
        moments = {name: tensor.clone() for name, tensor in unprefixed(_MOMENTS, task.download.tensors).items()}
        own = {**task.private, **prefixed(_MOMENTS, moments)}
        update = yield from finished(super().local_update(replace(task, private=own)))
        private = {name: tensor for name, tensor in update.private.items() if not name.startswith(_MOMENTS)}
        upload = replace(update.upload, tensors={**update.upload.tensors, **prefixed(_MOMENTS, moments)})
        return Update(private, upload, update.metrics)

    def uploads(self, world):
        shared = super().uploads(world)
        moments = {
            f"{kind}.{name}": Spec(spec.shape, trained=False)
            for name, spec in shared.items()
            for kind in ("mean", "largest")
        }
        return {**shared, **prefixed(_MOMENTS, moments)}

    def aggregate(self, server, arrived):
        moments = prefixed(_MOMENTS, unprefixed(_MOMENTS, arrived.mean("equal")))
        return {**super().aggregate(server, arrived), **moments}


class ChannelsConfig(FederationConfig):
    channel_lr: float = Field(0.5, ge=0)


class Channels(PromptMethod):
    """Seam ``features``: each client weighs the channels of its images by weights that it trains and keeps."""

    Config = ChannelsConfig

    def features(self, task, images):
        return super().features(task, images) * task.private["channels.weight"]

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


for _plug_in in (Moments, Channels, Offsets):  # so that ``tests.methods.plug_ins:Moments_promptfl`` is a method
    globals().update({f"{_plug_in.__name__}_{name}": plugged(_plug_in, name) for name in METHODS})
