"""A method that compares images with descriptions of the classes, from texts that it asks for."""

from pydantic import Field

from promptfleet.methods import PromptFL, PromptFLConfig, encode_frozen


class DescribedConfig(PromptFLConfig):
    template: str = Field("{}, a digit.", description="description of a class")


class Described(PromptFL):
    Config = DescribedConfig

    def texts(self, config, class_names):
        return {"described": [config.template.format(name) for name in class_names], "start": ["a photo of a"]}

    def predict(self, task, images):
        context = task.download.tensors["context"]
        return self.logits(task, images, encode_frozen(task.world, context, "described"))


class Unnamed(PromptFL):
    def texts(self, config, class_names):
        return {"classes": list(class_names)}


class Empty(PromptFL):
    def texts(self, config, class_names):
        return {"words": []}
