"""The world of a federation: its configuration, the frozen CLIP, and the texts that its method asks for."""

from collections.abc import Sequence
from typing import Any

from promptfleet.clip.frozen import FrozenClip
from promptfleet.clip.tokens import texts_key
from promptfleet.config import FederationConfig
from promptfleet.errors import MethodError
from promptfleet.methods import load_method
from promptfleet.methods.protocol import World


def wanted_texts(config: FederationConfig, class_names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the lists of texts that the configuration's method asks for, by name.

    Raises MethodError: a list is called ``classes``, or is empty.
    """
    lists = load_method(config.method).texts(config, tuple(class_names))
    for name, texts in lists.items():
        if name == "classes":
            raise MethodError(f"method {config.method}: texts() has a list 'classes', which is that of the class names")
        if not texts:
            raise MethodError(f"method {config.method}: the list of texts {name!r} is empty")
    return {name: tuple(texts) for name, texts in lists.items()}


def world_of(config: FederationConfig, clip: FrozenClip, class_names: Sequence[str], **more: Any) -> World:
    """Make the world of a configuration; ``clip`` has the texts of its method, ``more`` are other fields of World.

    For a world of some of the classes, take both: ``world_of(config, clip.take(labels), names_of_labels)``.
    """
    lists = wanted_texts(config, class_names)
    texts = {name: clip.texts[texts_key(listed)] for name, listed in lists.items()}
    return World(config, clip, tuple(class_names), texts=texts, **more)
