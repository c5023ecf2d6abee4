"""A method whose server tunes the averaged prompt on public examples."""

from pydantic import Field

from promptfleet.methods import Needs, PromptFL, PromptFLConfig, context_with_text, encode_contexts, leaves
from tests.federation.described import Described, DescribedConfig


class ServedConfig(PromptFLConfig):
    server_lr: float = Field(0.1, ge=0)


class Served(PromptFL):
    Config = ServedConfig
    needs = Needs.PUBLIC

    def aggregate(self, server, arrived):
        world = arrived.world
        parameters = leaves(arrived.mean())
        context = parameters["context"].to(world.device)
        features, labels = world.public.images.features, world.public.labels
        text = encode_contexts(world, context.unsqueeze(0))[0]
        loss = -(features @ text.T)[range(len(labels)), labels].mean()
        loss.backward()
        tuned = parameters["context"].detach() - world.config.server_lr * parameters["context"].grad
        return context_with_text(world, tuned)

    def local_update(self, task):
        assert task.world.public is None
        return (yield from super().local_update(task))


class ServedAndDescribedConfig(ServedConfig, DescribedConfig):
    pass


class ServedAndDescribed(Described, Served):
    """Needs public examples on the server and texts on the clients."""

    Config = ServedAndDescribedConfig
