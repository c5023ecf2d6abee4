"""A method that does nothing, so that what remains of a round is the engine."""

import torch

from promptfleet.methods.protocol import Message, Method, Update

PROMPT = (16, 512)


class NoOp(Method):
    """Clients send back a prompt of the usual size, untouched."""

    def init_server(self, world, rng):
        return {"context": torch.zeros(PROMPT)}

    def init_client(self, world, client, rng):
        return {"trained": torch.tensor(0)}

    def select(self, world, server, cohort, rng):
        return {client: Message({"context": server["context"]}) for client in cohort}

    def local_update(self, world, private, download, examples, rng):
        return Update({"trained": private["trained"] + 1}, download, {})

    def upload_shapes(self, world):
        return {"context": PROMPT}

    def aggregate(self, world, server, uploads, num_examples, rng):
        return server

    def predict(self, world, private, download, images):
        return torch.zeros(len(images), len(world.class_names))
