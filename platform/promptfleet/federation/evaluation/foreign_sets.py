"""Evaluation sets of classes that no client has: new classes of the dataset, and those of other datasets."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from promptfleet.clip.frozen import FrozenClip
from promptfleet.clip.image_tower import ImageTower
from promptfleet.config import FederationConfig
from promptfleet.data.feature_store import FeatureStore
from promptfleet.federation.evaluation.scores import NEW, transfer_to
from promptfleet.federation.other_datasets import OtherDataset
from promptfleet.federation.worlds import new_world_of, other_world_of
from promptfleet.methods.protocol import World


@dataclass(frozen=True)
class ForeignSet:
    """Set of test samples at ``indices`` of a ``store``, and the world that has the names of their classes.

    ``first_label`` is the label of the world's first class.
    """

    name: str
    world: World
    store: FeatureStore
    indices: np.ndarray
    first_label: int = 0


def foreign_sets(
    config: FederationConfig,
    clip: FrozenClip,
    class_names: tuple[str, ...],
    store: FeatureStore,
    new: np.ndarray,
    others: Mapping[str, OtherDataset],
    *,
    image_tower: ImageTower | None = None,
) -> list[ForeignSet]:
    """Return the set of the ``new`` samples, if there are new classes, and one per dataset of ``evaluation.transfer``.

    ``clip`` and ``class_names`` are those of all classes of the dataset.
    """
    sets = []
    if world := new_world_of(config, clip, class_names, image_tower=image_tower):
        sets.append(ForeignSet(NEW, world, store, new, len(class_names) - len(world.class_names)))
    for name in config.evaluation.transfer:
        world = other_world_of(config, clip, name, others[name], image_tower=image_tower)
        sets.append(ForeignSet(transfer_to(name), world, *others[name].test_part()))
    return sets
