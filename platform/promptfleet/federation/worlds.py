"""The worlds of a federation: its configuration, the frozen CLIP, and the texts that its method asks for."""

from collections.abc import Sequence
from typing import Any

from promptfleet.clip.frozen import FrozenClip
from promptfleet.clip.tokens import texts_key
from promptfleet.config import FederationConfig
from promptfleet.data.unseen import base_classes
from promptfleet.errors import MethodError
from promptfleet.federation.other_datasets import OtherDataset, config_of
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


def base_and_new(config: FederationConfig, classes: int) -> list[range]:
    """Return the labels of the base classes and, with ``partition.new_classes``, those of the new ones."""
    base = base_classes(config.partition, classes)
    return [range(base), range(base, classes)] if base < classes else [range(classes)]


def all_texts(config: FederationConfig, class_names: Sequence[str]) -> dict[tuple[str, ...], str]:
    """Return the lists of texts that the worlds of a configuration have, and the name of each."""
    worlds = [class_names[labels.start : labels.stop] for labels in base_and_new(config, len(class_names))]
    return {texts: name for names in worlds for name, texts in wanted_texts(config, names).items()}


def world_of(config: FederationConfig, clip: FrozenClip, class_names: Sequence[str], **more: Any) -> World:
    """Make the world that a configuration trains in, of the base classes; ``clip`` and ``class_names`` are of all.

    ``clip`` has the texts of its method, ``more`` are other fields of World.
    """
    return _world_among(base_and_new(config, len(class_names))[0], config, clip, class_names, **more)


def new_world_of(config: FederationConfig, clip: FrozenClip, class_names: Sequence[str], **more: Any) -> World | None:
    """Make the world of the new classes, with the arguments of ``world_of``; None if there are no new classes."""
    _, *new = base_and_new(config, len(class_names))
    return _world_among(new[0], config, clip, class_names, **more) if new else None


def other_world_of(config: FederationConfig, clip: FrozenClip, name: str, other: OtherDataset, **more: Any) -> World:
    """Make the world of another dataset, called ``name``; ``clip`` has the texts of the method for its classes."""
    names = other.class_names
    return _world_among(range(len(names)), config_of(config, name), other.clip(clip), names, **more)


def _world_among(
    labels: range, config: FederationConfig, clip: FrozenClip, class_names: Sequence[str], **more: Any
) -> World:
    if len(labels) < len(class_names):
        clip, class_names = clip.take(labels), class_names[labels.start : labels.stop]
    lists = wanted_texts(config, class_names)
    texts = {name: clip.texts[texts_key(listed)] for name, listed in lists.items()}
    return load_method(config.method).own_world(World(config, clip, tuple(class_names), texts=texts, **more))
