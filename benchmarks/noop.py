"""A method that does nothing, so that what remains of a round is the engine."""

import torch

from promptfleet.methods.protocol import Message, Method, Spec, Update

PROMPT = (16, 512)


class NoOp(Method):
    """Clients send back a prompt of the usual size, untouched."""

    def init_server(self, world, rng):
        return {"context": torch.zeros(PROMPT)}

    def init_client(self, world, client, rng):
        return {"trained": torch.tensor(0)}

    def select(self, server, call):
        return call.to_all(Message({"context": server["context"]}))

    def local_update(self, task):
        return Update({"trained": task.private["trained"] + 1}, task.download, {})

    def uploads(self, world):
        return {"context": Spec(PROMPT)}

    def aggregate(self, server, arrived):
        return server

    def predict(self, task, images):
        return torch.zeros(len(images), len(task.world.class_names))
