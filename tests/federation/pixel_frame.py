"""A method from outside the package that learns pixels: a frame around every image, shared by all clients.

Source: Bahng et al., *Exploring Visual Prompts for Adapting Large-Scale Models*, 2022, section 3 (padding prompt).
"""

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from promptfleet.config import FederationConfig
from promptfleet.methods.parts.optimizers import SGD
from promptfleet.methods.protocol import Backward, Message, Method, Needs, Spec, Update


class PixelFrameConfig(FederationConfig):
    frame_width: int = Field(4, ge=1, description="pixels on each side")
    frame_lr: float = Field(10.0, gt=0)


class PixelFrame(Method):
    Config = PixelFrameConfig
    needs = Needs.PIXELS

    def init_server(self, world, rng):
        return {"frame": torch.zeros(3, *world.image_tower.image_size)}

    def select(self, server, call):
        return call.to_all(Message({"frame": server["frame"]}))

    def local_update(self, task):
        config, frame = task.config, task.download.tensors["frame"].clone().requires_grad_()
        optimizer = SGD({"frame": frame}, lr=config.frame_lr, momentum=config.momentum)
        losses = []
        for _ in range(config.local_epochs):
            for chosen in torch.from_numpy(task.rng.permutation(len(task.train))).split(config.batch_size):
                batch = task.train[chosen]
                loss = F.cross_entropy(logits(task.world, frame, batch.images), batch.labels)
                yield Backward(loss)
                optimizer.step()
                losses.append(loss.item())
        frame = frame.detach()
        return Update({}, Message({"frame": frame}), {"loss": float(np.mean(losses))})

    def uploads(self, world):
        return {"frame": Spec((3, *world.image_tower.image_size))}

    def aggregate(self, server, arrived):
        return arrived.mean()

    def predict(self, task, images):
        return logits(task.world, task.download.tensors["frame"], images)


def logits(world, frame, images):
    width = world.config.frame_width
    border = torch.ones_like(frame)
    border[:, width:-width, width:-width] = 0
    features = world.image_tower(images.pixels.load() + border * frame)
    return world.clip.logit_scale * features @ world.clip.zero_shot_text.T
